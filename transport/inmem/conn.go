package inmem

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a stream: a net.Conn with CloseWrite.
type conn struct {
	n             *Network
	host          *Host
	peer          *conn
	local, remote *net.TCPAddr
	in, out       *pipe
	closed        bool  // by this side's Close, or with its host
	gone          bool  // nobody is here any more: closed, or failed
	finished      bool  // by this side's CloseWrite or Close
	failed        error // why nothing passes any more

	readable, writable *sync.Cond
	reading, writing   deadline
}

// pair makes a stream. Called with the lock.
func pair(n *Network, from, to *Host, a, b *net.TCPAddr) (near, far *conn) {
	end := func(h *Host, local, remote *net.TCPAddr) *conn {
		c := &conn{n: n, host: h, local: local, remote: remote, readable: sync.NewCond(&n.mu), writable: sync.NewCond(&n.mu)}
		c.reading, c.writing = deadline{cond: c.readable}, deadline{cond: c.writable}
		h.conns[c] = struct{}{}
		return c
	}
	near, far = end(from, a, b), end(to, b, a)
	near.peer, far.peer = far, near
	there := n.path(from, to)
	near.out = &pipe{path: there, from: near, to: far}
	far.out = &pipe{path: there.back, from: far, to: near}
	near.in, far.in = far.out, near.out
	return near, far
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) fails(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read waits for bytes, the end of the stream or the deadline.
func (c *conn) Read(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fails("read", net.ErrClosed)
		case c.reading.over:
			return 0, c.fails("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case c.in.ready.Len() > 0:
			k, _ := c.in.ready.Read(b)
			c.peer.writable.Broadcast()
			return k, nil
		case c.failed != nil:
			return 0, c.fails("read", c.failed)
		case c.in.ended:
			return 0, io.EOF
		}
		c.readable.Wait()
	}
}

// Write returns when all is on its way, which needs room, or at the deadline.
func (c *conn) Write(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for done := 0; ; {
		switch {
		case c.closed:
			return done, c.fails("write", net.ErrClosed)
		case c.writing.over:
			return done, c.fails("write", os.ErrDeadlineExceeded)
		case c.failed != nil:
			return done, c.fails("write", c.failed)
		case c.finished:
			return done, c.fails("write", os.NewSyscallError("write", syscall.EPIPE))
		case done == len(b):
			return done, nil
		}
		if room := c.out.room(); room > 0 {
			k := min(room, len(b)-done)
			c.out.send(b[done:done+k], more)
			done += k
			if done == len(b) {
				return done, nil // also if it has met a closed end: the next Write hears of that
			}
			continue
		}
		c.writable.Wait()
	}
}

// CloseWrite ends the sending direction: the peer reads what is on its way and then the end.
func (c *conn) CloseWrite() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch {
	case c.closed:
		return c.fails("close", net.ErrClosed)
	case c.failed != nil:
		return c.fails("close", c.failed)
	}
	c.finish(fin)
	c.writable.Broadcast()
	return nil
}

// finish sends the last segment. Called with the lock.
func (c *conn) finish(m mark) {
	if c.failed == nil && (!c.finished || m == reset) {
		c.finished = true
		c.out.send(nil, m)
	}
}

// Close ends this side. What was written still arrives, unless there is something unread here: then the peer is told, as by TCP, that the
// connection was reset.
func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.fails("close", net.ErrClosed)
	}
	if c.in.ready.Len() > 0 {
		c.abort()
		return nil
	}
	c.end()
	c.finish(fin)
	return nil
}

// abort closes this side and resets the stream. Called with the lock.
func (c *conn) abort() {
	c.end()
	c.finish(reset)
}

// end closes this side without a word. Called with the lock.
func (c *conn) end() {
	c.closed, c.gone = true, true
	c.in.ready.Reset()
	c.reading.stop()
	c.writing.stop()
	delete(c.host.conns, c)
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.peer.writable.Broadcast() // there is room now
}

// vanish ends this side with its machine: the peer hears of it when the machine is there again, as if a keep-alive had asked. Called with the lock.
func (c *conn) vanish() {
	c.end()
	c.out.drop()
	c.finish(reset)
}

// fail ends the stream on this side because of err. Called with the lock.
func (c *conn) fail(err error) {
	if c.failed != nil {
		return
	}
	c.failed, c.gone = err, true
	c.out.drop()
	delete(c.host.conns, c)
	c.readable.Broadcast()
	c.writable.Broadcast()
}

func (c *conn) SetDeadline(t time.Time) error { return c.set(t, &c.reading, &c.writing) }

func (c *conn) SetReadDeadline(t time.Time) error { return c.set(t, &c.reading) }

func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(t, &c.writing) }

func (c *conn) set(t time.Time, which ...*deadline) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.fails("set", net.ErrClosed)
	}
	for _, d := range which {
		d.set(&c.n.mu, t)
	}
	return nil
}

// deadline is a time after which waiting ends.
type deadline struct {
	cond  *sync.Cond // of who waits
	over  bool
	timer *time.Timer
	turn  int // of set: a timer that was stopped too late does nothing
}

// set is called with the lock, which is mu.
func (d *deadline) set(mu *sync.Mutex, t time.Time) {
	d.stop()
	left := time.Until(t)
	d.over = !t.IsZero() && left <= 0
	if d.over {
		d.cond.Broadcast()
	}
	if t.IsZero() || d.over {
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(left, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.turn == turn {
			d.over = true
			d.cond.Broadcast()
		}
	})
}

func (d *deadline) stop() {
	d.turn++
	stopTimer(&d.timer)
}
