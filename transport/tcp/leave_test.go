package tcp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// hear waits for one frame.
func hear(t *testing.T, col *collector) transport.Header {
	t.Helper()
	select {
	case f := <-col.got:
		return f.h
	case <-time.After(10 * time.Second):
		t.Fatal("nothing comes")
		return transport.Header{}
	}
}

// callConns are the connections for calls that a server has accepted.
func (s *Server) callConns() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func newCollector() *collector { return &collector{got: make(chan frame, 100)} }

func (c *Conn) sendTest(k transport.Kind, id uint64) {
	c.TrySend(transport.Header{Kind: k, ID: id}, func(b []byte) []byte { return append(b, "x"...) })
}

// Callers hear go-away once, those that come later hear it first, calls are answered all the same; other connections hear nothing.
func TestGoAwayIsForCallers(t *testing.T) {
	addr, _, s := serveWith(t, ServerConfig{})
	a, b, raft, bulk := newCollector(), newCollector(), newCollector(), newCollector()
	ca, cb := dial(t, addr, transport.PurposeCalls, a), dial(t, addr, transport.PurposeCalls, b)
	cr, ck := dial(t, addr, transport.PurposeRaft, raft), dial(t, addr, transport.PurposeBulk, bulk)
	eventually(t, "all are accepted", func() bool { return s.Stats().Accepted == 4 && s.callConns() == 2 })
	s.GoAway()
	s.GoAway()
	late := newCollector()
	cl := dial(t, addr, transport.PurposeCalls, late)
	for i, col := range []*collector{a, b, late} {
		[]*Conn{ca, cb, cl}[i].sendTest(transport.KindCall, 7)
		if h := hear(t, col); h.Kind != transport.KindGoAway || h.Epoch != 42 {
			t.Fatalf("connection %d heard %+v first", i, h)
		}
		if h := hear(t, col); h.Kind != transport.KindReply || h.ID != 7 {
			t.Fatalf("connection %d heard %+v then", i, h)
		}
	}
	cr.sendTest(77, 5)
	if h := hear(t, raft); h.Kind != transport.KindError {
		t.Fatalf("the connection for Raft heard %+v", h)
	}
	if err := ck.SendChunk(t.Context(), []byte("x")); err != nil || len(bulk.got) != 0 {
		t.Fatal(err, len(bulk.got))
	}
}

// A peer that does not read hears of it behind what waits for it.
func TestGoAwayNeedsNoRoom(t *testing.T) {
	peer, c, _ := pipeConn(transport.PurposeCalls)
	defer peer.Close()
	big := func(b []byte) []byte { return append(b, make([]byte, sendBuffer)...) }
	if !c.TrySend(transport.Header{Kind: transport.KindReply, ID: 1}, big) || c.TrySend(transport.Header{Kind: transport.KindReply, ID: 2}, nil) {
		t.Fatal("the buffer should be full now")
	}
	c.GoAway()
	c.GoAway()
	go c.run()
	br := bufio.NewReader(peer)
	for i, want := range []transport.Kind{transport.KindReply, transport.KindGoAway} {
		h, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil)
		if err != nil || h.Kind != want {
			t.Fatalf("frame %d: %+v, %v", i, h, err)
		}
	}
	c.sendTest(transport.KindReply, 3) // and not another one
	h, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil)
	if err != nil || h.Kind != transport.KindReply || h.ID != 3 {
		t.Fatalf("%+v, %v", h, err)
	}
	c.Close()
	c.GoAway() // has no effect, and does not fail
	<-c.over
}

func TestQuiesceWaitsForThePeers(t *testing.T) {
	addr, _, s := serveWith(t, ServerConfig{})
	if err := NewServer(ServerConfig{}).Quiesce(t.Context()); err != nil {
		t.Fatal("there is nobody to wait for:", err)
	}
	cr := dial(t, addr, transport.PurposeRaft, newCollector())
	var cols []*collector
	var conns []*Conn
	for range 3 {
		col := newCollector()
		cols, conns = append(cols, col), append(conns, dial(t, addr, transport.PurposeCalls, col))
	}
	eventually(t, "all are accepted", func() bool { return s.callConns() == 3 })
	var wg sync.WaitGroup
	for range 2 { // both are told
		wg.Go(func() {
			if err := s.Quiesce(t.Context()); err != nil {
				t.Error(err)
			}
			if n := s.callConns(); n != 0 {
				t.Errorf("%d connections are open", n)
			}
		})
	}
	for i, col := range cols {
		if h := hear(t, col); h.Kind != transport.KindGoAway {
			t.Fatalf("%+v", h)
		}
		conns[i].sendTest(transport.KindCall, 1) // the server still answers, and waits
		if h := hear(t, col); h.Kind != transport.KindReply {
			t.Fatalf("%+v", h)
		}
		conns[i].Close()
	}
	wg.Wait()
	if err := s.Quiesce(t.Context()); err != nil {
		t.Error("it is over:", err)
	}
	if err := cr.Err(); err != nil {
		t.Error("the connection for Raft has ended:", err)
	}
	dial(t, addr, transport.PurposeRaft, newCollector())
	_, err := Dial(t.Context(), addr, transport.Hello{Purpose: transport.PurposeCalls}, DialOptions{Handler: newCollector()})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Text, "stopping") {
		t.Error("after Quiesce callers are refused before they could send:", err)
	}
}

// answered waits for a reply, whatever comes before it.
func answered(col *collector) bool {
	deadline := time.After(10 * time.Second)
	for {
		select {
		case f := <-col.got:
			if f.h.Kind == transport.KindReply {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

// Callers come all the time while the server stops: each call on a connection whose handshake succeeded is answered.
func TestQuiesceLosesNobody(t *testing.T) {
	for range 20 {
		addr, _, s := serveWith(t, ServerConfig{})
		begun := make(chan struct{}, 64)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				defer func() { begun <- struct{}{} }()
				for n := 0; ; n++ {
					col := newCollector()
					c, err := Dial(t.Context(), addr, transport.Hello{Purpose: transport.PurposeCalls}, DialOptions{Handler: col})
					if err != nil {
						var refused *RefusedError
						if !errors.As(err, &refused) {
							t.Error(err)
						}
						return
					}
					c.sendTest(transport.KindCall, 1)
					if !answered(col) {
						t.Error("a call was not answered:", c.Err())
						return
					}
					c.Close()
					if n == 3 {
						begun <- struct{}{}
					}
				}
			})
		}
		<-begun
		if err := s.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// A peer that is being let in when the others have gone may send calls as soon as it has read the answer: it is waited for, too.
func TestQuiesceWaitsForTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(ServerConfig{Handshake: func(transport.Hello) transport.HelloReply { return transport.HelloReply{} },
			Handler: func(*Conn) Handler { return &echo{} }, Logger: slog.New(slog.DiscardHandler)})
		peer, nc := net.Pipe()
		s.accept(nc)
		hello := transport.Hello{MinVersion: 1, MaxVersion: 1, Purpose: transport.PurposeCalls}
		if _, err := peer.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the answer is on its way: nobody has read it
		quiet := make(chan error, 1)
		go func() { quiet <- s.Quiesce(t.Context()) }()
		synctest.Wait()
		if len(quiet) != 0 {
			t.Fatal("a peer is being let in, and the server is quiet")
		}
		br := bufio.NewReader(peer)
		for _, want := range []transport.Kind{transport.KindHelloReply, transport.KindGoAway} {
			if h, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxHelloBody }, nil); err != nil || h.Kind != want {
				t.Fatal(h, err)
			}
		}
		_ = peer.Close()
		if err := <-quiet; err != nil {
			t.Error(err)
		}
		// One whose handshake fails is not waited for either.
		s = NewServer(s.cfg)
		peer, nc = net.Pipe()
		s.accept(nc)
		go func() {
			_, _ = peer.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello)))
		}()
		synctest.Wait()
		go func() { quiet <- s.Quiesce(t.Context()) }()
		synctest.Wait()
		_ = peer.Close()
		if err := <-quiet; err != nil {
			t.Error(err)
		}
	})
}

// What does not close is closed, after it got what was still to be sent.
func TestQuiesceEnds(t *testing.T) {
	addr, _, s := serveWith(t, ServerConfig{})
	cr := dial(t, addr, transport.PurposeRaft, newCollector())
	stubborn, br := shake(t, addr, transport.PurposeCalls) // reads, and never closes
	deaf, _ := shake(t, addr, transport.PurposeCalls)      // does not even read
	defer deaf.Close()
	eventually(t, "both are accepted", func() bool { return s.callConns() == 2 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	err := s.Quiesce(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "2 connections") {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Error("it took", took)
	}
	h, _, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil)
	if err != nil || h.Kind != transport.KindGoAway {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("more came")
	}
	_ = stubborn.Close()
	eventually(t, "they are gone", func() bool { return s.callConns() == 0 })
	if err := s.Quiesce(t.Context()); err != nil {
		t.Error("it is over:", err)
	}
	if err := cr.Err(); err != nil {
		t.Error("the connection for Raft has ended:", err)
	}
}

// closer answers each call with a lot and then closes.
type closer struct {
	echo
	size int
}

func (cl *closer) Frame(c *Conn, h transport.Header, _ []byte) {
	cl.frames.Add(1)
	c.TrySend(transport.Header{Kind: transport.KindReply, ID: h.ID}, func(b []byte) []byte { return append(b, make([]byte, cl.size)...) })
	c.CloseAfterFlush(10 * time.Second)
	c.CloseAfterFlush(time.Nanosecond) // the first counts
}

// The peer gets all that was to be sent although it goes on sending meanwhile, which nobody reads after a plain close.
func TestCloseAfterFlush(t *testing.T) {
	cl := &closer{size: 8 << 20}
	var server *Conn
	accepted := make(chan struct{})
	addr, _, _ := serveWith(t, ServerConfig{Handler: func(c *Conn) Handler { server = c; close(accepted); return cl }})
	nc, br := shake(t, addr, transport.PurposeCalls)
	<-accepted
	call := transport.AppendFrame(nil, transport.Header{Kind: transport.KindCall, ID: 1}, make([]byte, 64<<10))
	for range 4 {
		if _, err := nc.Write(call); err != nil {
			t.Fatal(err)
		}
	}
	h, body, err := transport.ReadFrame(br, func(transport.Kind) int { return transport.MaxCallBody }, nil)
	if err != nil || h.Kind != transport.KindReply || len(body) != cl.size {
		t.Fatalf("%+v, %d bytes, %v", h, len(body), err)
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatal("after the last frame comes the end:", err)
	}
	if !errors.Is(server.Err(), ErrClosed) || server.TrySend(transport.Header{Kind: transport.KindReply}, nil) {
		t.Error("the connection takes more:", server.Err())
	}
	if err := server.Send(t.Context(), transport.Header{Kind: transport.KindReply}, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	select {
	case <-server.Done():
		t.Error("the connection does not wait for its peer")
	default:
	}
	_ = nc.Close()
	<-server.Done()
	if n := cl.frames.Load(); n != 1 {
		t.Errorf("%d frames were handed over; nothing can be answered after the first", n)
	}
}

func TestCloseAfterFlushIsCutOff(t *testing.T) {
	peer, c, _ := pipeConn(transport.PurposeCalls)
	defer peer.Close()
	go c.run()
	c.sendTest(transport.KindReply, 1)
	c.CloseAfterFlush(20 * time.Millisecond) // nobody reads
	<-c.over
	if !errors.Is(c.Err(), ErrClosed) {
		t.Error(c.Err())
	}
	c.CloseAfterFlush(time.Hour)
}
