package node

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Switch cuts a node off from all others, and from its callers, without a firewall: the network falls silent, as when every packet is
// dropped. It is for demonstrations and tests; a node without one (Config.Switch nil) has nothing between it and its sockets. The zero
// value is connected. All methods are safe for concurrent use; one Switch serves one node.
type Switch struct {
	mu     sync.Mutex
	cut    bool
	change chan struct{} // closed at the next change; nil: nobody has asked yet
	conns  map[*switchConn]struct{}
}

// switchConnectTime bounds one attempt to connect, as of a link.
const switchConnectTime = 2 * time.Second

// Cut makes the network silent: connections stay open, but nothing comes in and what is written is lost.
func (s *Switch) Cut() { s.set(true) }

// Heal connects the node again. What arrived meanwhile is read now, as if it had been sent again; a connection that has lost written bytes
// is closed, since its stream has a hole.
func (s *Switch) Heal() {
	for _, c := range s.set(false) {
		_ = c.Close()
	}
}

// set changes the state and returns the connections that have lost bytes.
func (s *Switch) set(cut bool) (broken []*switchConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut == cut {
		return nil
	}
	s.cut = cut
	if s.change != nil {
		close(s.change)
		s.change = nil
	}
	for c := range s.conns {
		if c.lost {
			broken = append(broken, c)
		}
	}
	return broken
}

// Open reports whether packets pass.
func (s *Switch) Open() bool {
	cut, _ := s.state()
	return !cut
}

// state is the state and what is closed when it changes.
func (s *Switch) state() (cut bool, change <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change == nil {
		s.change = make(chan struct{})
	}
	return s.cut, s.change
}

// Dial connects over TCP. While the node is cut off it waits, as for packets that are dropped.
func (s *Switch) Dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, switchConnectTime)
	defer cancel()
	for {
		cut, change := s.state()
		if !cut {
			break
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		}
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return s.Conn(nc), nil
}

// Listener passes on what ln accepts behind the switch. The kernel accepts even while the node is cut off; the caller hears silence.
func (s *Switch) Listener(ln net.Listener) net.Listener { return switchListener{ln, s} }

type switchListener struct {
	net.Listener
	s *Switch
}

func (l switchListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.s.Conn(nc), nil
}

// Conn puts a connection behind the switch, which closes it when it has to.
func (s *Switch) Conn(nc net.Conn) net.Conn {
	c := &switchConn{Conn: nc, s: s, closed: make(chan struct{}), moved: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = make(map[*switchConn]struct{})
	}
	s.conns[c] = struct{}{}
	return c
}

// switchConn is a connection behind a switch. One goroutine reads at a time, as everywhere in this module.
type switchConn struct {
	net.Conn
	s    *Switch
	lost bool // written bytes were lost; under s.mu

	held   []byte // read from below and not yet passed on; the reader's
	heldAt error  // that came with held

	mu       sync.Mutex
	deadline time.Time     // for reads
	moved    chan struct{} // closed when deadline changes
	closed   chan struct{}
	once     sync.Once
}

// Read passes on what came while the network is connected. What the kernel delivers during a cut is held back until it is over.
func (c *switchConn) Read(b []byte) (int, error) {
	if len(c.held) == 0 && c.heldAt == nil {
		buf := b
		if len(buf) == 0 {
			return 0, nil
		}
		n, err := c.Conn.Read(buf)
		if cut, _ := c.s.state(); !cut || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return n, err
		}
		c.held, c.heldAt = append([]byte(nil), buf[:n]...), err
	}
	if err := c.await(); err != nil {
		return 0, err
	}
	n := copy(b, c.held)
	if c.held = c.held[n:]; len(c.held) > 0 {
		return n, nil
	}
	err := c.heldAt
	c.held, c.heldAt = nil, nil
	return n, err
}

// await waits until the cut is over, the connection is closed or the reader's time is up.
func (c *switchConn) await() error {
	for {
		cut, change := c.s.state()
		if !cut {
			return nil
		}
		c.mu.Lock()
		deadline, moved := c.deadline, c.moved
		c.mu.Unlock()
		var up <-chan time.Time
		var t *time.Timer
		if !deadline.IsZero() {
			t = time.NewTimer(time.Until(deadline))
			up = t.C
		}
		var err error
		select {
		case <-change:
		case <-moved:
		case <-c.closed:
			err = net.ErrClosed
		case <-up:
			err = os.ErrDeadlineExceeded
		}
		if t != nil {
			t.Stop()
		}
		if err != nil {
			return err
		}
	}
}

// Write loses what is written while the node is cut off, and says nothing: so does a network.
func (c *switchConn) Write(b []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	c.s.mu.Lock()
	cut := c.s.cut
	c.lost = c.lost || cut && len(b) > 0
	lost := c.lost
	c.s.mu.Unlock()
	if lost {
		return len(b), nil // also after the cut, until Heal has closed the connection: nothing may follow a hole
	}
	return c.Conn.Write(b)
}

func (c *switchConn) SetDeadline(t time.Time) error {
	c.move(t)
	return c.Conn.SetDeadline(t)
}

func (c *switchConn) SetReadDeadline(t time.Time) error {
	c.move(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *switchConn) move(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *switchConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.s.mu.Lock()
		delete(c.s.conns, c)
		c.s.mu.Unlock()
	})
	return c.Conn.Close()
}
