package inmem

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// firstPort is where ports begin that nobody asked for by number.
const firstPort = 49152

// Host is one machine of a network.
type Host struct {
	n         *Network
	ip        netip.Addr
	off       bool // PowerOff
	unplugged bool
	next      uint16
	listeners map[uint16]*listener
	packets   map[uint16]*packetConn
	conns     map[*conn]struct{} // ends here that are not closed
}

// IP is the host's address.
func (h *Host) IP() string { return h.ip.String() }

// Unplug cuts the host off from all others; it goes on running. See Network.Cut.
func (h *Host) Unplug() { h.n.change(func() { h.unplugged = true }) }

// Plug connects it again. Cuts between two hosts stay.
func (h *Host) Plug() { h.n.change(func() { h.unplugged = false }) }

// PowerOff ends the machine: all that it had open is closed, what it had on its way is lost, and the others hear nothing of it. Nothing can
// be opened while it is off.
func (h *Host) PowerOff() {
	h.n.change(func() {
		h.off = true
		for _, l := range h.listeners {
			l.close(true)
		}
		for _, p := range h.packets {
			p.close()
		}
		for c := range h.conns {
			c.vanish()
		}
		for r, p := range h.n.paths {
			if r.from != h {
				continue
			}
			for s := range p.pipes { // of streams that were closed here before, too
				s.drop()
				s.send(nil, reset)
			}
		}
	})
}

// PowerOn starts the machine again. The streams that it had are gone, and whoever can reach it and still has an end of one learns so.
func (h *Host) PowerOn() { h.n.change(func() { h.off = false }) }

// addrOf reads HOST:PORT; the host must be an address.
func addrOf(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "invalid port", Addr: s}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "no address, and there are no names here", Addr: s}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), nil
}

// bind finds the port for an address of this host; 0 is any free one. Called with the lock.
func (h *Host) bind(s string, taken func(uint16) bool) (netip.AddrPort, error) {
	a, err := addrOf(s)
	switch {
	case err != nil:
		return a, err
	case h.off:
		return a, os.NewSyscallError("bind", syscall.ENETDOWN)
	case a.Addr() != h.ip && !a.Addr().IsUnspecified():
		return a, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	case a.Port() != 0 && taken(a.Port()):
		return a, os.NewSyscallError("bind", syscall.EADDRINUSE)
	case a.Port() != 0:
		return netip.AddrPortFrom(h.ip, a.Port()), nil
	}
	for range 65536 - firstPort {
		p := h.next
		if h.next++; h.next == 0 {
			h.next = firstPort
		}
		if !taken(p) {
			return netip.AddrPortFrom(h.ip, p), nil
		}
	}
	return a, os.NewSyscallError("bind", syscall.EADDRINUSE)
}

// Listen accepts streams at an address of the host, HOST:PORT; port 0 is any free one. Errors are *net.OpError, as of package net.
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	a, err := h.bind(addr, func(p uint16) bool { return h.listeners[p] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: text(addr), Err: err}
	}
	l := &listener{h: h, addr: net.TCPAddrFromAddrPort(a), arrived: sync.NewCond(&h.n.mu)}
	h.listeners[a.Port()] = l
	return l, nil
}

// text is an address that could not be read, for errors.
type text string

func (text) Network() string  { return "tcp" }
func (t text) String() string { return string(t) }

// Dial connects to HOST:PORT. It waits until ctx ends, two minutes at most, for a host that is cut off or switched off; one that does not
// listen refuses. Errors are *net.OpError, as of package net.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := h.dial(ctx, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: text(addr), Err: err}
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, addr string) (*conn, error) {
	a, err := addrOf(addr)
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(connectTime)
	defer limit.Stop()
	wait := func(c <-chan struct{}, t <-chan time.Time) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return os.NewSyscallError("connect", syscall.ETIMEDOUT)
		case <-c:
		case <-t:
		}
		return nil
	}
	for ctx.Err() == nil {
		changed, delay, err := h.reach(a)
		if err != nil {
			return nil, err
		}
		if changed == nil {
			t := time.NewTimer(delay) // there and back
			err = wait(nil, t.C)
			t.Stop()
		} else {
			err = wait(changed, nil)
		}
		if err != nil {
			return nil, err
		}
		if changed == nil {
			if c, err := h.connect(a); c != nil || err != nil {
				return c, err
			}
		}
	}
	return nil, ctx.Err()
}

// reach is how long it takes to a host and back; changed is not nil if it cannot be reached now.
func (h *Host) reach(a netip.AddrPort) (changed <-chan struct{}, delay time.Duration, err error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	to := h.n.hosts[a.Addr()]
	switch {
	case h.off:
		return nil, 0, os.NewSyscallError("connect", syscall.ENETUNREACH)
	case to == nil:
		return nil, 0, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	}
	p := h.n.path(h, to)
	if l := to.listeners[a.Port()]; p.blocked() || p.back.blocked() || l != nil && len(l.queue) >= backlog {
		return h.n.changed, 0, nil
	}
	return nil, h.n.delay(p) + h.n.delay(p.back), nil
}

// connect makes a stream, if the host can be reached still; nil if not.
func (h *Host) connect(a netip.AddrPort) (*conn, error) {
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[a.Addr()]
	there := n.path(h, to)
	l := to.listeners[a.Port()]
	switch {
	case there.blocked() || there.back.blocked() || l != nil && len(l.queue) >= backlog:
		return nil, nil
	case l == nil:
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	ours, err := h.bind(netip.AddrPortFrom(h.ip, 0).String(), func(uint16) bool { return false }) // a port may have many streams
	if err != nil {
		return nil, err
	}
	near, far := pair(n, h, to, net.TCPAddrFromAddrPort(ours), l.addr)
	l.queue = append(l.queue, far)
	l.arrived.Broadcast()
	return near, nil
}

// listener is a net.Listener.
type listener struct {
	h       *Host
	addr    *net.TCPAddr
	queue   []*conn
	closed  bool
	arrived *sync.Cond
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) fails(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.addr, Err: err}
}

// Accept waits for the next stream.
func (l *listener) Accept() (net.Conn, error) {
	l.h.n.mu.Lock()
	defer l.h.n.mu.Unlock()
	for !l.closed && len(l.queue) == 0 {
		l.arrived.Wait()
	}
	if l.closed {
		return nil, l.fails("accept", net.ErrClosed)
	}
	c := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.h.n.tryAgain()
	return c, nil
}

// Close ends it. Streams that nobody has accepted are reset.
func (l *listener) Close() error {
	l.h.n.mu.Lock()
	defer l.h.n.mu.Unlock()
	if l.closed {
		return l.fails("close", net.ErrClosed)
	}
	l.close(false)
	return nil
}

// close ends it, silently or not. Called with the lock.
func (l *listener) close(silent bool) {
	l.closed = true
	delete(l.h.listeners, uint16(l.addr.Port))
	for _, c := range l.queue {
		if !silent { // else PowerOff makes them vanish with the others
			c.abort()
		}
	}
	l.queue = nil
	l.arrived.Broadcast()
	l.h.n.tryAgain()
}
