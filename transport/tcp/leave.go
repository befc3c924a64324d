package tcp

import (
	"context"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// flushTime is how long a server that must close connections waits for what they still have to say.
const flushTime = 200 * time.Millisecond

// GoAway tells the peer, once, to start nothing new here; what it has sent is still answered, and the peer is expected to close. It does not
// wait: the frame goes behind what waits to be sent, even if there is no room for more.
func (c *Conn) GoAway() {
	h := transport.Header{Kind: transport.KindGoAway}
	if c.epoch != nil {
		h.Epoch = c.epoch()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told || c.ended() != nil {
		return
	}
	c.told = true
	_ = c.gather(h, nil, false) // only a body could be refused
	c.wakeWriter()              // also if the reader is at work, however long
}

// CloseAfterFlush ends the connection without losing what waits to be sent: nothing more is taken from now on, in either direction; once
// all is written the peer is told that no more will come, and when it has closed its side too, or after timeout, the connection ends.
// It does not wait; Done tells. Closing at once could destroy what the peer has not read yet: the kernel answers what comes for a
// closed socket with a reset.
func (c *Conn) CloseAfterFlush(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended() != nil {
		return
	}
	c.closing.Store(true)
	c.cutoff = time.AfterFunc(timeout, c.Close)
	c.wakeWriter()
}

// flushed reports whether all is written after which nothing may come.
func (c *Conn) flushed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing.Load() && len(c.buf) == 0 && !c.writing
}

// hangUp ends the sending direction; a transport that cannot do that is closed.
func (c *Conn) hangUp() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		c.Close()
	}
}

// GoAway begins a graceful stop: every accepted connection for calls, and each that is accepted from now on, is told to start nothing
// new. Connections for Raft and bulk data are not. It does not wait. The server goes on reading and answering; what it answers is its
// handler's affair.
func (s *Server) GoAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	for c := range s.calls {
		c.GoAway()
	}
}

// Quiesce is GoAway, and waits until no accepted connection for calls is open: a peer closes its own when everything that it sent is
// answered. When ctx ends, those that are left are flushed and closed, which takes at most a moment; the error says how many. After it
// no connection for calls is accepted any more: whoever comes is refused in the handshake, before it could send a call.
func (s *Server) Quiesce(ctx context.Context) error {
	s.GoAway()
	s.mu.Lock()
	if s.quiet == nil {
		s.quiet = make(chan struct{})
	}
	quiet := s.quiet
	s.checkQuiet()
	s.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
	}
	left := s.close()
	for _, c := range left {
		c.CloseAfterFlush(flushTime)
	}
	for _, c := range left {
		<-c.Done()
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("tcp: %d connections were not closed by their peers: %w", len(left), context.Cause(ctx))
}

// close lets no more connections for calls in and returns those that are open.
func (s *Server) close() (list []*Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	for c := range s.calls {
		list = append(list, c)
	}
	return list
}

// arrive lets a connection for calls in, before its handshake is answered: from then on the peer may send calls, and they must be
// answered. enter or depart follows.
func (s *Server) arrive() (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.arriving++
	}
	return !s.shut
}

// enter notes a connection for calls that was let in. One that comes while the server leaves is told so first of all.
func (s *Server) enter(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arriving--
	s.calls[c] = struct{}{}
	if s.leaving {
		c.GoAway()
	}
}

// depart forgets a connection that was let in; nil is one whose handshake then failed.
func (s *Server) depart(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		s.arriving--
	}
	delete(s.calls, c)
	s.checkQuiet()
}

// checkQuiet ends the waiting of Quiesce. Called with the lock.
func (s *Server) checkQuiet() {
	if s.quiet == nil || len(s.calls)+s.arriving > 0 {
		return
	}
	s.shut = true
	select {
	case <-s.quiet:
	default:
		close(s.quiet)
	}
}
