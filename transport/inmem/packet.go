package inmem

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// packet is one that has arrived.
type packet struct {
	from *net.UDPAddr
	data []byte
}

// packetConn is a net.PacketConn.
type packetConn struct {
	h        *Host
	addr     *net.UDPAddr
	queue    []packet
	flight   int // packets on the way here
	closed   bool
	readable *sync.Cond
	reading  deadline
}

// ListenPacket opens a port for packets at an address of the host, HOST:PORT; port 0 is any free one. Packets that find no room are lost.
func (h *Host) ListenPacket(addr string) (net.PacketConn, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	a, err := h.bind(addr, func(p uint16) bool { return h.packets[p] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: text(addr), Err: err}
	}
	p := &packetConn{h: h, addr: net.UDPAddrFromAddrPort(a), readable: sync.NewCond(&h.n.mu)}
	p.reading.cond = p.readable
	h.packets[a.Port()] = p
	return p, nil
}

func (p *packetConn) LocalAddr() net.Addr { return p.addr }

func (p *packetConn) fails(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: p.addr, Err: err}
}

// ReadFrom waits for a packet. What does not fit into b is lost, as with UDP.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.h.n.mu.Lock()
	defer p.h.n.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, nil, p.fails("read", net.ErrClosed)
		case p.reading.over:
			return 0, nil, p.fails("read", os.ErrDeadlineExceeded)
		case len(p.queue) > 0:
			got := p.queue[0]
			p.queue[0] = packet{}
			p.queue = p.queue[1:]
			return copy(b, got.data), got.from, nil
		}
		p.readable.Wait()
	}
}

// WriteTo sends a packet; it does not wait, and nobody hears whether it arrives.
func (p *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n := p.h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case p.closed:
		return 0, p.fails("write", net.ErrClosed)
	case len(b) > maxPacket:
		return 0, p.fails("write", os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	a, err := addrOf(to.String())
	if err != nil {
		return 0, p.fails("write", err)
	}
	dest := n.hosts[a.Addr()]
	if dest == nil {
		return 0, p.fails("write", os.NewSyscallError("sendto", syscall.EHOSTUNREACH))
	}
	way := n.path(p.h, dest)
	target := dest.packets[a.Port()]
	if target == nil || way.blocked() || target.flight >= packetFlight || n.rng.Float64() < way.loss {
		return len(b), nil
	}
	target.flight++
	got := packet{p.addr, append([]byte(nil), b...)}
	delay := n.delay(way)
	if delay == 0 {
		target.arrive(way, got)
		return len(b), nil
	}
	time.AfterFunc(delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		target.arrive(way, got)
	})
	return len(b), nil
}

// arrive takes a packet in, if it still can. Called with the lock.
func (p *packetConn) arrive(way *path, got packet) {
	p.flight--
	if p.closed || way.blocked() || len(p.queue) >= packetQueue {
		return
	}
	p.queue = append(p.queue, got)
	p.readable.Broadcast()
}

func (p *packetConn) Close() error {
	p.h.n.mu.Lock()
	defer p.h.n.mu.Unlock()
	if p.closed {
		return p.fails("close", net.ErrClosed)
	}
	p.close()
	return nil
}

// close is called with the lock.
func (p *packetConn) close() {
	p.closed, p.queue = true, nil
	p.reading.stop()
	delete(p.h.packets, uint16(p.addr.Port))
	p.readable.Broadcast()
}

func (p *packetConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.h.n.mu.Lock()
	defer p.h.n.mu.Unlock()
	if p.closed {
		return p.fails("set", net.ErrClosed)
	}
	p.reading.set(&p.h.n.mu, t)
	return nil
}

// SetWriteDeadline has nothing to do: writing does not wait.
func (p *packetConn) SetWriteDeadline(time.Time) error {
	p.h.n.mu.Lock()
	defer p.h.n.mu.Unlock()
	if p.closed {
		return p.fails("set", net.ErrClosed)
	}
	return nil
}
