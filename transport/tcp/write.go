package tcp

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// Who writes: the connection's writer, a goroutine that is woken when something has gathered, or whoever has just put in the last of what
// is to leave together, with one system call that does not wait (flush): the reader, when it has taken all frames that came, and a sender who
// sends nothing else (SendNow). One of them at a time (writing), and what does not fit into the socket is left to the writer.

// writeEnough is how much is worth a system call of its own.
const writeEnough = 16 << 10

// Send puts a frame into the send buffer, waiting for room until ctx ends. encode appends the body; it is called under the connection's
// lock, so it must not block or use the connection; nil is an empty body. An error means that the frame has not left and will not.
func (c *Conn) Send(ctx context.Context, h transport.Header, encode func([]byte) []byte) error {
	for {
		room, err := c.put(h, encode, false)
		if !errors.Is(err, errFull) {
			return err
		}
		select {
		case <-room:
		case <-c.closed:
			return c.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// TrySend is Send without waiting. It reports false if there is no room or the connection has ended.
func (c *Conn) TrySend(h transport.Header, encode func([]byte) []byte) bool {
	_, err := c.put(h, encode, false)
	return err == nil
}

// TrySendNow is TrySend by one who has nothing else to send and waits for the answer: the frame leaves before it returns, if the socket takes it.
func (c *Conn) TrySendNow(h transport.Header, encode func([]byte) []byte) bool {
	if c.raw == nil {
		return c.TrySend(h, encode)
	}
	if _, err := c.put(h, encode, true); err != nil {
		return false
	}
	c.flush()
	return true
}

// put gathers a frame; flushed: by one who will flush.
func (c *Conn) put(h transport.Header, encode func([]byte) []byte, flushed bool) (room <-chan struct{}, err error) {
	if c.epoch != nil {
		h.Epoch = c.epoch()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ended(); err != nil {
		return nil, err
	}
	if len(c.buf) >= sendBuffer {
		if c.room == nil {
			c.room = make(chan struct{})
		}
		return c.room, errFull
	}
	return nil, c.gather(h, encode, flushed)
}

// gather appends a frame to what waits to be written. Called with the lock.
func (c *Conn) gather(h transport.Header, encode func([]byte) []byte, flushed bool) error {
	start := len(c.buf)
	b := transport.AppendHeader(c.buf, h)
	if encode != nil {
		b = encode(b)
	}
	if n := len(b) - start - transport.HeaderSize; n > transport.BodyLimit(c.purpose, h.Kind) {
		c.buf = b[:start]
		return fmt.Errorf("tcp: a body of %d bytes; at most %d are allowed", n, transport.BodyLimit(c.purpose, h.Kind))
	}
	transport.FinishFrame(b[start:])
	c.buf = b
	switch {
	case c.writing, flushed: // wrote looks for more
	case !c.batch && start == 0, c.batch && start < writeEnough && len(b) >= writeEnough: // the second: more than the reader should let wait
		c.wakeWriter()
	}
	return nil
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends what has gathered, again and again.
func (c *Conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.closed:
			return
		}
		if c.littleWaits() {
			// Others that are about to send something get the processor first: then one system call takes all of it. Who is alone does not wait.
			runtime.Gosched()
		}
		b := c.takeRest()
		if b == nil {
			b = c.take()
		}
		if b != nil {
			if err := c.writeAll(b); err != nil {
				c.close(fmt.Errorf("tcp: writing: %w", err))
				return
			}
			c.wrote()
		}
		if c.flushed() {
			c.hangUp()
			return
		}
	}
}

// littleWaits reports whether a system call should take more than what has gathered.
func (c *Conn) littleWaits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.buf) < writeEnough && c.rest == nil
}

// take hands over what has gathered, to be written, and leaves spare to gather in: the two change places, so neither is in use twice.
// It is nil if there is nothing, or somebody writes already.
func (c *Conn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing || len(c.buf) == 0 {
		return nil
	}
	b := c.buf
	c.buf, c.spare, c.writing = c.spare[:0], b, true
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
	return b
}

// takeRest hands over what flush has not got rid of.
func (c *Conn) takeRest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.rest
	c.rest = nil
	return b
}

// wrote: what was taken has been written.
func (c *Conn) wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if cap(c.spare) > keepBuffer {
		c.spare = nil
	}
	if len(c.buf) > 0 && !c.batch || c.closing.Load() {
		c.wakeWriter()
	}
}

func (c *Conn) writeAll(b []byte) error {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.times.write))
		if _, err := c.nc.Write(piece); err != nil {
			return err
		}
		b = b[len(piece):]
	}
	return nil
}

// flush writes what has gathered, as much as the socket takes without waiting; the writer does the rest.
func (c *Conn) flush() {
	if c.raw == nil {
		c.wakeIfGathered()
		return
	}
	b := c.take()
	if b == nil {
		return
	}
	n := c.raw.write(b)
	if n == len(b) {
		c.wrote()
		return
	}
	c.mu.Lock()
	c.rest = b[n:]
	c.mu.Unlock()
	c.wakeWriter() // an error, too, is for the writer to meet
}

func (c *Conn) wakeIfGathered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.buf) > 0 {
		c.wakeWriter()
	}
}
