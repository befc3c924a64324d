package tcp

import (
	"bufio"
	"errors"
	"io"
	"net"
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
	// Frame takes one frame. On a connection for calls the body belongs to the handler; otherwise it is valid only during the call. What is sent
	// on the connection meanwhile leaves when all frames that have come are taken: who takes long, or waits, calls Conn.Yield.
	Frame(c *Conn, h transport.Header, body []byte)
	// Closed is called once, last, but for Frames that have yielded and are not over.
	Closed(c *Conn, err error)
}

// Peer is who is at the other end, as the handshake told.
type Peer struct {
	Cluster ring.ClusterID
	Node    ring.NodeID // 0: a client
	Boot    ring.BootID
	Version uint8 // of the protocol, which both sides speak
}

// Conn is one connection after its handshake. All methods are safe for concurrent use.
type Conn struct {
	nc      net.Conn
	purpose transport.Purpose
	peer    Peer
	times   times
	epoch   func() ring.Epoch // newest ring known here, for headers; may be nil
	handler Handler
	raw     *socketWriter // used by who has set writing; nil unless nc is a TCP connection without anything around it

	mu      sync.Mutex
	buf     []byte // frames that wait to be written
	spare   []byte // takes the place of buf when that is being written
	rest    []byte // what a system call has left of what is being written; then writing is set, and the writer goes on
	writing bool   // somebody writes what was taken from buf: nobody else may
	batch   bool   // the reader is at work on frames that came together, and will flush when it is through
	room    chan struct{}
	err     error
	told    bool        // GoAway was called
	cutoff  *time.Timer // of CloseAfterFlush
	wake    chan struct{}
	closed  chan struct{}
	over    chan struct{} // closed after Handler.Closed has returned

	turn     atomic.Uint64 // whose turn it is to read, see Yield
	readOver chan struct{} // closed when nobody reads any more
	reading                // of whose turn it is

	closing atomic.Bool // CloseAfterFlush was called: nothing more is taken, in either direction
	lastID  atomic.Uint64
	waiting sync.Mutex
	pending map[uint64]chan roundtrip
}

// WriteThrough is a net.Conn around another that leaves writing alone: what is written to the other is as good.
type WriteThrough interface{ WritesTo() net.Conn }

type roundtrip struct {
	resp transport.Response
	err  error
}

func newConn(nc net.Conn, br *bufio.Reader, p transport.Purpose, peer Peer, epoch func() ring.Epoch, h Handler) *Conn {
	c := &Conn{nc: nc, purpose: p, peer: peer, epoch: epoch, handler: h, times: defaultTimes, wake: make(chan struct{}, 1), closed: make(chan struct{}),
		over: make(chan struct{}), pending: make(map[uint64]chan roundtrip), readOver: make(chan struct{}), reading: reading{br: br}}
	if w, ok := nc.(WriteThrough); ok {
		nc = w.WritesTo()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil { // without it, the writer does all the writing
			c.raw = newSocketWriter(raw)
		}
	}
	return c
}

// run runs reader and writer until the connection ends. It returns when both have.
func (c *Conn) run() {
	defer close(c.over)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.write()
	}()
	go c.read(0)
	<-c.readOver
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

// ended reports whether err is just how connections end.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, ErrClosed) || errors.Is(err, ErrIdle)
}
