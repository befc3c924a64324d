package tcp

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringfence/ringfence/transport"
)

// yielder answers each call when it may; those with flag 1 wait first, and say so, those with flag 2 end their goroutine.
type yielder struct {
	free   chan struct{}
	mu     sync.Mutex
	order  []uint64
	ended  atomic.Int64
	closed chan error
}

func (y *yielder) Frame(c *Conn, h transport.Header, _ []byte) {
	y.mu.Lock()
	y.order = append(y.order, h.ID)
	y.mu.Unlock()
	defer c.TrySend(transport.Header{Kind: transport.KindReply, ID: h.ID}, nil)
	switch h.Flags {
	case 1:
		c.Yield()
		c.Yield() // the second does nothing
		<-y.free
	case 2:
		defer y.ended.Add(1)
		runtime.Goexit()
	}
}

func (y *yielder) Closed(_ *Conn, err error) { y.closed <- err }

// TestYield: frames behind one that waits are taken, and answered, meanwhile, in order, each once; so are those behind one whose handler ends
// its goroutine; and the connection ends as any other.
func TestYield(t *testing.T) {
	y := &yielder{free: make(chan struct{}), closed: make(chan error, 1)}
	addr, _, _ := serveWith(t, ServerConfig{Handler: func(*Conn) Handler { return y }})
	nc, br := shake(t, addr, transport.PurposeCalls)
	const n = 300
	var wire []byte
	waiting := map[uint64]bool{}
	for id := uint64(1); id <= n; id++ {
		h := transport.Header{Kind: transport.KindCall, ID: id}
		switch {
		case id%7 == 0:
			h.Flags, waiting[id] = 1, true
		case id%11 == 0:
			h.Flags = 2
		}
		wire = transport.AppendFrame(wire, h, []byte("x"))
	}
	if _, err := nc.Write(wire); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	read := func(want int) {
		for range want {
			h, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil)
			if err != nil || h.Kind != transport.KindReply || seen[h.ID] {
				t.Fatalf("%+v, %v", h, err)
			}
			seen[h.ID] = true
		}
	}
	read(n - len(waiting))
	for id := range waiting {
		if seen[id] {
			t.Errorf("%d was answered before its time", id)
		}
	}
	close(y.free)
	read(len(waiting))
	_ = nc.Close()
	<-y.closed
	for i, id := range y.order {
		if id != uint64(i+1) {
			t.Fatalf("frame %d came as number %d", id, i+1)
		}
	}
	if len(y.order) != n || y.ended.Load() == 0 {
		t.Errorf("%d frames, %d goroutines ended", len(y.order), y.ended.Load())
	}
}

// TestGoAwayDoesNotWaitForFrames: what the reader's handler sends waits until it is through; that the server stops is said at once.
func TestGoAwayDoesNotWaitForFrames(t *testing.T) {
	began, free := make(chan struct{}), make(chan struct{})
	h := frameFunc(func(*Conn, transport.Header) { close(began); <-free })
	addr, _, s := serveWith(t, ServerConfig{Handler: func(*Conn) Handler { return h }})
	nc, br := shake(t, addr, transport.PurposeCalls)
	if _, err := nc.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindCall, ID: 1}, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	<-began
	s.GoAway()
	if got, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil); err != nil || got.Kind != transport.KindGoAway {
		t.Errorf("%+v, %v", got, err)
	}
	close(free)
}

// frameFunc is a handler that hears of nothing but frames.
type frameFunc func(c *Conn, h transport.Header)

func (f frameFunc) Frame(c *Conn, h transport.Header, _ []byte) { f(c, h) }
func (f frameFunc) Closed(*Conn, error)                         {}
