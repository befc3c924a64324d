package tcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// handshakeTime is for connecting and shaking hands.
const handshakeTime = 5 * time.Second

// times are the time limits of a connection after its handshake.
type times struct {
	frame time.Duration // for a frame whose first byte has come
	write time.Duration // for one piece of at most writePiece bytes
	idle  time.Duration // for a frame to begin; 0 is for ever
}

var defaultTimes = times{frame: 10 * time.Second, write: 10 * time.Second}

// sendBuffer is how many bytes may wait to be written; one frame may exceed it if nothing else waits.
const sendBuffer = 4 << 20

// writePiece is how much one deadline is for: a slow peer that takes what it is sent stays, one that takes nothing is cut off.
const writePiece = 256 << 10

// keepBuffer is how large a buffer is kept for reuse.
const keepBuffer = 512 << 10

// ErrClosed is why a connection ended that its own side closed.
var ErrClosed = errors.New("tcp: connection closed")

// ErrIdle is why a connection ended on which no frame came for ServerConfig.IdleTimeout.
var ErrIdle = errors.New("tcp: no frame came for the idle timeout")

// errFull refuses a frame for which there is no room.
var errFull = errors.New("tcp: send buffer is full")

// Handler hears what a connection receives, on its reading goroutine.
type Handler interface {
	// Frame takes one frame. On a connection for calls the body belongs to the handler; otherwise it is valid only during the call.
	Frame(c *Conn, h transport.Header, body []byte)
	// Closed is called once, last.
	Closed(c *Conn, err error)
}

// Peer is who is at the other end, as the handshake told.
type Peer struct {
	Cluster ring.ClusterID
	Node    ring.NodeID // 0: a client
	Boot    ring.BootID
}

// Conn is one connection after its handshake. All methods are safe for concurrent use.
type Conn struct {
	nc      net.Conn
	purpose transport.Purpose
	peer    Peer
	times   times
	epoch   func() ring.Epoch // newest ring known here, for headers; may be nil
	handler Handler
	br      *bufio.Reader

	mu     sync.Mutex
	buf    []byte // frames that wait to be written
	room   chan struct{}
	err    error
	told   bool        // GoAway was called
	cutoff *time.Timer // of CloseAfterFlush
	wake   chan struct{}
	closed chan struct{}
	over   chan struct{} // closed after Handler.Closed has returned

	closing atomic.Bool // CloseAfterFlush was called: nothing more is taken, in either direction
	lastID  atomic.Uint64
	waiting sync.Mutex
	pending map[uint64]chan roundtrip
}

type roundtrip struct {
	resp transport.Response
	err  error
}

func newConn(nc net.Conn, br *bufio.Reader, p transport.Purpose, peer Peer, epoch func() ring.Epoch, h Handler) *Conn {
	return &Conn{nc: nc, br: br, purpose: p, peer: peer, epoch: epoch, handler: h, times: defaultTimes, wake: make(chan struct{}, 1), closed: make(chan struct{}),
		over: make(chan struct{}), pending: make(map[uint64]chan roundtrip)}
}

// run runs the writer, then reads until the connection ends. It returns when both have.
func (c *Conn) run() {
	defer close(c.over)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.write()
	}()
	c.close(c.read())
	<-done
	c.failPending()
	c.handler.Closed(c, c.Err())
}

// Peer is who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// Purpose is what the connection is for.
func (c *Conn) Purpose() transport.Purpose { return c.purpose }

// RemoteAddr is the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// Err is why the connection ended, nil while it works. One that only flushes ([Conn.CloseAfterFlush]) has ended in this respect.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended()
}

// ended is why nothing more can be sent. Called with the lock.
func (c *Conn) ended() error {
	if c.err == nil && c.closing.Load() {
		return ErrClosed
	}
	return c.err
}

// NextID is a frame ID that this side has not used on this connection.
func (c *Conn) NextID() uint64 { return c.lastID.Add(1) }

// Close ends the connection. Frames that wait may or may not leave.
func (c *Conn) Close() { c.close(ErrClosed) }

func (c *Conn) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.closed)
		_ = c.nc.Close()
		if c.cutoff != nil {
			c.cutoff.Stop()
		}
	}
}

// Send puts a frame into the send buffer, waiting for room until ctx ends. encode appends the body; it is called under the connection's
// lock, so it must not block or use the connection; nil is an empty body. An error means that the frame has not left and will not.
func (c *Conn) Send(ctx context.Context, h transport.Header, encode func([]byte) []byte) error {
	for {
		room, err := c.put(h, encode)
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
	_, err := c.put(h, encode)
	return err == nil
}

func (c *Conn) put(h transport.Header, encode func([]byte) []byte) (room <-chan struct{}, err error) {
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
	return nil, c.gather(h, encode)
}

// gather appends a frame to what waits to be written. Called with the lock.
func (c *Conn) gather(h transport.Header, encode func([]byte) []byte) error {
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
	if start == 0 {
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
	var spare []byte
	for {
		select {
		case <-c.wake:
		case <-c.closed:
			return
		}
		b := c.take(spare)
		if err := c.writeAll(b); err != nil {
			c.close(fmt.Errorf("tcp: writing: %w", err))
			return
		}
		if spare = b; cap(spare) > keepBuffer {
			spare = nil
		}
		if c.flushed() {
			c.hangUp()
			return
		}
	}
}

// take hands over what has gathered and leaves spare to gather in: the two change places, so neither is in use twice.
func (c *Conn) take(spare []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buf
	c.buf = spare[:0]
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
	return b
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

func (c *Conn) read() error {
	limit := func(k transport.Kind) int { return transport.BodyLimit(c.purpose, k) }
	var reuse []byte
	for {
		if err := c.awaitFrame(); err != nil {
			return err
		}
		h, body, err := transport.ReadFrame(c.br, limit, reuse)
		if err != nil {
			return err
		}
		if c.purpose != transport.PurposeCalls && cap(body) <= keepBuffer {
			reuse = body[:0]
		}
		switch h.Kind {
		case transport.KindResponse, transport.KindError:
			if c.answered(h, body) {
				continue
			}
		}
		if !c.closing.Load() {
			c.handler.Frame(c, h, body)
		}
	}
}

// awaitFrame waits for a frame to begin, as long as the idle time allows, and then gives the rest of it its time to arrive. Every frame
// that is not wholly in the buffer gets a time of its own: on a busy connection the buffer may never run empty.
func (c *Conn) awaitFrame() error {
	if c.br.Buffered() < transport.HeaderSize {
		var until time.Time
		if c.times.idle > 0 {
			until = time.Now().Add(c.times.idle)
		}
		_ = c.nc.SetReadDeadline(until)
		if _, err := c.br.Peek(1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("%w of %v", ErrIdle, c.times.idle)
			}
			return err
		}
	} else if b, err := c.br.Peek(transport.HeaderSize); err == nil && c.br.Buffered() >= transport.FrameSize(b) {
		return nil
	}
	return c.nc.SetReadDeadline(time.Now().Add(c.times.frame))
}

// ended reports whether err is just how connections end.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, ErrClosed) || errors.Is(err, ErrIdle)
}
