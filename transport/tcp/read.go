package tcp

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// reading is what belongs to the goroutine whose turn it is to read.
type reading struct {
	br    *bufio.Reader
	timed bool   // a deadline for reads is set
	reuse []byte // for the next body, where bodies are the handler's only during Frame
	slab  []byte // room for small bodies, where they are the handler's for ever
	next  int    // length of the next body
	taken int    // frames since the last flush
}

// Small bodies share pieces of memory: most calls are small, and a piece of memory for each is what costs most about them. A body that
// somebody keeps keeps its whole slab, so that is not much larger than what a call costs in any case.
const (
	slabSize  = 2 << 10
	slabShare = 256
)

// flushEvery is after how many frames what is to be sent leaves though more have come.
const flushEvery = 64

// yieldBit of Conn.turn: the reader is in Handler.Frame. The bits above it number the turns.
const yieldBit = 1

// Yield lets another goroutine go on reading, while Handler.Frame is running: for a handler that waits, or takes long. The present one ends when
// Frame returns. Any goroutine may call it, any number of times; when no Frame is running it does nothing.
func (c *Conn) Yield() {
	if s := c.turn.Load(); s&yieldBit != 0 && c.turn.CompareAndSwap(s, s&^yieldBit+2) {
		go c.read(s&^yieldBit + 2)
	}
}

// read reads until the connection ends, or the turn goes to another goroutine.
func (c *Conn) read(turn uint64) {
	returned := false
	defer func() {
		if !returned { // Frame has ended the goroutine
			c.Yield()
		}
	}()
	err, mine := c.readFrames(turn)
	returned = true
	if mine {
		c.close(err)
		close(c.readOver)
	}
}

func (c *Conn) readFrames(turn uint64) (err error, mine bool) {
	limit := func(k transport.Kind) int { return transport.BodyLimit(c.purpose, k) }
	for {
		if err := c.awaitFrame(); err != nil {
			return err, true
		}
		h, body, err := transport.ReadFrame(c.br, limit, c.memory())
		if err != nil {
			return err, true
		}
		body = c.keep(body)
		switch h.Kind {
		case transport.KindResponse, transport.KindError:
			if c.answered(h, body) {
				continue
			}
		}
		if c.closing.Load() {
			continue
		}
		c.begin()
		c.turn.Store(turn | yieldBit)
		c.handler.Frame(c, h, body)
		if !c.turn.CompareAndSwap(turn|yieldBit, turn) {
			return nil, false
		}
	}
}

// memory is where the next body may go; ReadFrame makes more where that is not enough.
func (c *Conn) memory() []byte {
	switch {
	case c.purpose != transport.PurposeCalls:
		return c.reuse
	case c.next > slabShare:
		return nil
	case cap(c.slab)-len(c.slab) < c.next:
		c.slab = make([]byte, 0, slabSize)
	}
	return c.slab[len(c.slab):]
}

// keep notes what a body has taken of the memory.
func (c *Conn) keep(body []byte) []byte {
	switch {
	case c.purpose != transport.PurposeCalls:
		if cap(body) <= keepBuffer {
			c.reuse = body[:0]
		}
	case c.next <= slabShare:
		c.slab = c.slab[:len(c.slab)+len(body)]
	}
	return body[:len(body):len(body)]
}

// begin notes that the reader is at work: what is sent from now on waits for flushBatch.
func (c *Conn) begin() {
	switch c.taken++; c.taken {
	case 1:
		c.mu.Lock()
		c.batch = true
		c.mu.Unlock()
	case flushEvery:
		c.taken = 1
		c.flush()
	}
}

// flushBatch sends what has gathered while frames were taken.
func (c *Conn) flushBatch() {
	if c.taken == 0 {
		return
	}
	c.taken = 0
	c.mu.Lock()
	c.batch = false
	c.mu.Unlock()
	c.flush()
}

// awaitFrame waits for a frame to begin, as long as the idle time allows, and then gives the rest of it its time to arrive. Every frame
// that is not wholly in the buffer gets a time of its own: on a busy connection the buffer may never run empty.
func (c *Conn) awaitFrame() error {
	if c.whole() {
		return nil
	}
	c.flushBatch()
	if c.br.Buffered() == 0 {
		if err := c.awaitByte(); err != nil || c.whole() {
			return err
		}
	}
	c.timed = true
	return c.nc.SetReadDeadline(time.Now().Add(c.times.frame))
}

// whole reports whether all of the next frame is in the buffer, and notes the length of its body; that of one whose header is not there yet is
// not known, and counts as large.
func (c *Conn) whole() bool {
	c.next = slabShare + 1
	n := c.br.Buffered()
	if n < transport.HeaderSize {
		return false
	}
	b, _ := c.br.Peek(transport.HeaderSize)
	size := transport.FrameSize(b)
	c.next = size - transport.HeaderSize
	return n >= size
}

// awaitByte waits for the first byte of a frame.
func (c *Conn) awaitByte() error {
	if c.times.idle > 0 {
		c.timed = true
		_ = c.nc.SetReadDeadline(time.Now().Add(c.times.idle))
	} else if c.timed {
		c.timed = false
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	_, err := c.br.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w of %v", ErrIdle, c.times.idle)
	}
	return err
}
