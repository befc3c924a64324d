package tcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// echo answers calls with their body and requests with their name; it counts frames.
type echo struct {
	frames atomic.Int64
	closed chan error
}

func (e *echo) Frame(c *Conn, h transport.Header, body []byte) {
	e.frames.Add(1)
	switch h.Kind {
	case transport.KindCall:
		c.TrySend(transport.Header{Kind: transport.KindReply, ID: h.ID}, func(b []byte) []byte { return append(b, body...) })
	case transport.KindRequest:
		var q transport.Request
		if err := transport.DecodeRequest(body, &q); err != nil {
			c.Refuse(h.ID, err.Error())
			return
		}
		if q.Name == "fail" {
			c.Respond(h.ID, transport.Response{Error: "no such thing"})
			return
		}
		c.Respond(h.ID, transport.Response{Body: append([]byte(q.Name+":"), q.Body...)})
	case transport.KindChunk:
		c.Respond(h.ID, transport.Response{})
	case transport.KindRaft, transport.KindError:
	default:
		c.Refuse(h.ID, "unknown kind")
	}
}

func (e *echo) Closed(_ *Conn, err error) {
	if e.closed != nil {
		e.closed <- err
	}
}

var myCluster = ring.ClusterID{7}

// serve starts an echo server and returns its address.
func serve(t testing.TB) (addr string, h *echo) {
	addr, h, _ = serveWith(t, ServerConfig{})
	return addr, h
}

// serveWith is serve with limits.
func serveWith(t testing.TB, cfg ServerConfig) (addr string, h *echo, s *Server) {
	h = &echo{}
	ln, err := Listen(context.Background(), "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Epoch = func() ring.Epoch { return 42 }
	cfg.Handshake = func(h transport.Hello) transport.HelloReply {
		r := transport.HelloReply{Cluster: myCluster, Node: 1}
		if h.Cluster != myCluster && !h.Cluster.IsZero() {
			r.Error = "this is another cluster: check the address"
		}
		return r
	}
	if cfg.Handler == nil {
		cfg.Handler = func(*Conn) Handler { return h }
	}
	s = NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), h, s
}

// collector gathers replies on the dialing side.
type collector struct{ got chan frame }

type frame struct {
	h    transport.Header
	body []byte
}

func (c *collector) Frame(_ *Conn, h transport.Header, body []byte) { c.got <- frame{h, body} }
func (c *collector) Closed(*Conn, error)                            {}

func dial(t testing.TB, addr string, p transport.Purpose, h Handler) *Conn {
	t.Helper()
	c, err := Dial(context.Background(), addr, transport.Hello{Purpose: p, Cluster: myCluster}, DialOptions{Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPipelinedInOrder(t *testing.T) {
	addr, _ := serve(t)
	col := &collector{got: make(chan frame, 100)}
	c := dial(t, addr, transport.PurposeCalls, col)
	const n = 20000
	go func() {
		for i := range n {
			if err := c.Send(context.Background(), transport.Header{Kind: transport.KindCall, ID: uint64(i)},
				func(b []byte) []byte { return fmt.Append(b, i) }); err != nil {
				return
			}
		}
	}()
	for i := range n {
		f := <-col.got
		if f.h.ID != uint64(i) || string(f.body) != fmt.Sprint(i) || f.h.Epoch != 42 {
			t.Fatalf("reply %d: %+v %q", i, f.h, f.body)
		}
	}
}

func TestRoundtripsAtOnce(t *testing.T) {
	addr, _ := serve(t)
	c := dial(t, addr, transport.PurposeCalls, &collector{got: make(chan frame, 1)})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r, err := c.Roundtrip(context.Background(), transport.Request{Name: "q", Body: fmt.Append(nil, i)})
			if err != nil || string(r.Body) != fmt.Sprintf("q:%d", i) {
				t.Errorf("%q, %v", r.Body, err)
			}
		})
	}
	wg.Wait()
	if r, err := c.Roundtrip(context.Background(), transport.Request{Name: "fail"}); err != nil || r.Error != "no such thing" {
		t.Errorf("%+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Roundtrip(ctx, transport.Request{Name: "q"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.Close()
	if _, err := c.Roundtrip(context.Background(), transport.Request{Name: "q"}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestBulkChunks(t *testing.T) {
	addr, h := serve(t)
	c := dial(t, addr, transport.PurposeBulk, &collector{got: make(chan frame, 1)})
	for range 20 {
		if err := c.SendChunk(context.Background(), make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if h.frames.Load() != 20 {
		t.Fatal(h.frames.Load())
	}
	if err := c.SendChunk(context.Background(), make([]byte, transport.MaxBulkBody+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Fatalf("a chunk that is too long: %v", err)
	}
	if c.TrySend(transport.Header{Kind: transport.KindCall}, func(b []byte) []byte { return append(b, 1) }) {
		t.Fatal("a call on a connection for bulk data")
	}
}

func TestHandshakeRefuses(t *testing.T) {
	addr, _ := serve(t)
	_, err := Dial(context.Background(), addr, transport.Hello{Purpose: transport.PurposeCalls, Cluster: ring.ClusterID{9}}, DialOptions{Handler: &echo{}})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), addr+" refused the connection: this is another cluster") {
		t.Fatal(err)
	}
	if _, err := Dial(context.Background(), addr, transport.Hello{Purpose: 9}, DialOptions{Handler: &echo{}}); !errors.As(err, &refused) || !strings.Contains(refused.Text, "purpose 9") {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hello := transport.Hello{MinVersion: 7, MaxVersion: 9, Purpose: transport.PurposeCalls}
	if _, err := nc.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello))); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if err != nil || !strings.Contains(string(b), fmt.Sprintf("versions 7 to 9 and this node %d to %d", MinVersion, MaxVersion)) {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := Listen(context.Background(), "--listen", addr); err == nil || !strings.Contains(err.Error(), "in use by another process: stop it, or give another address with --listen") {
		t.Fatal(err)
	}
}

// TestGarbage: whatever is thrown at the port, the server goes on, and nothing of it stays.
func TestGarbage(t *testing.T) {
	addr, _, s := serveWith(t, ServerConfig{})
	before := runtime.NumGoroutine()
	rng := rand.New(rand.NewPCG(1, 1))
	valid := transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &transport.Hello{MinVersion: 1, MaxVersion: 1, Purpose: 1}))
	for i := range 1000 {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rng.IntN(200))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		switch i % 5 {
		case 1:
			b = append([]byte("GET / HTTP/1.1\r\n\r\n"), b...)
		case 2:
			b = append(append([]byte(nil), valid...), b...)
		case 3:
			b = append(append([]byte(nil), valid[:rng.IntN(len(valid))]...), b...)
		case 4:
			b = []byte{0x16, 3, 1, 0, 5, 1, 2, 3}
		}
		_, _ = nc.Write(b)
		_ = nc.Close()
	}
	col := &collector{got: make(chan frame, 1)}
	c := dial(t, addr, transport.PurposeCalls, col)
	c.TrySend(transport.Header{Kind: transport.KindCall, ID: 9}, func(b []byte) []byte { return append(b, "alive"...) })
	if f := <-col.got; string(f.body) != "alive" {
		t.Fatal("the server does not answer any more")
	}
	eventually(t, "the goroutines of closed connections to end", func() bool { return runtime.NumGoroutine() < before+20 })
	eventually(t, "every connection to be counted", func() bool {
		st := s.Stats()
		return st.Open == 1 && st.Accepted+st.Garbage+st.Refused == 1001 && st.Garbage >= 600
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestSilentPeerIsCutOff: who connects and says nothing, or a byte now and then, is gone after the handshake's time.
func TestSilentPeerIsCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the 5 s of the handshake; .ci/run runs it")
	}
	t.Parallel()
	addr, _ := serve(t)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := nc.Read(make([]byte, 1)); err == nil || time.Since(begin) > 2*handshakeTime {
		t.Fatalf("still there after %v: %v", time.Since(begin), err)
	}
}

// TestBusyConnectionOutlivesTheFrameTime: the time for one frame must not end a connection on which frames keep coming and the
// buffer always holds the beginning of the next one.
func TestBusyConnectionOutlivesTheFrameTime(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	h := &echo{closed: make(chan error, 1)}
	c := newConn(server, bufio.NewReaderSize(server, 64<<10), transport.PurposeRaft, Peer{}, nil, h)
	const frameTime = 200 * time.Millisecond
	c.times.frame = frameTime
	go c.run()
	defer func() {
		c.Close()
		<-h.closed
	}()
	one := transport.AppendFrame(nil, transport.Header{Kind: transport.KindRaft}, make([]byte, 100))
	stream := append([]byte(nil), one...)
	for begin := time.Now(); time.Since(begin) < 4*frameTime; {
		stream = append(stream, one...)
		n := len(stream) - 50 // always within a frame, its header sent already
		if _, err := client.Write(stream[:n]); err != nil {
			t.Fatalf("the connection ended after %v: %v", time.Since(begin), err)
		}
		stream = append([]byte(nil), stream[n:]...)
		before := h.frames.Load()
		eventually(t, "a frame", func() bool { return h.frames.Load() >= before })
	}
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
}

// TestNeverReadingPeer: what waits for a peer that does not read is bounded, and TrySend says so at once.
func TestNeverReadingPeer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	defer close(done)
	go func() { // a server that shakes hands and then reads no more
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := transport.HelloReply{Version: 1, Node: 1}
		_, _ = nc.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHelloReply}, transport.AppendHelloReply(nil, &r)))
		<-done
	}()
	c := dial(t, ln.Addr().String(), transport.PurposeRaft, &collector{})
	body := make([]byte, 1<<20)
	encode := func(b []byte) []byte { return append(b, body...) }
	for sent := 0; ; sent++ {
		if sent > 200 {
			t.Fatal("200 MB wait for a peer that does not read")
		}
		// The kernel takes some, so one refusal may be followed by room; a wait in vain is the end.
		if c.TrySend(transport.Header{Kind: transport.KindRaft}, encode) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := c.Send(ctx, transport.Header{Kind: transport.KindRaft}, encode)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLinkComesBack(t *testing.T) {
	h := &echo{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	start := func(ln net.Listener) context.CancelFunc {
		ctx, cancel := context.WithCancel(context.Background())
		s := NewServer(ServerConfig{Logger: slog.New(slog.DiscardHandler), Handler: func(*Conn) Handler { return h },
			Handshake: func(transport.Hello) transport.HelloReply { return transport.HelloReply{Node: 1} }})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(ctx, ln)
		}()
		return func() { cancel(); <-done }
	}
	stop := start(ln)
	ups := make(chan bool, 10)
	l := NewLink(LinkConfig{Addr: func() string { return addr }, Hello: func() transport.Hello { return transport.Hello{Purpose: transport.PurposeRaft} },
		Dial: DialOptions{Handler: h}, Up: func(up bool) { ups <- up }})
	defer l.Close()
	if !<-ups {
		t.Fatal("down before it was up")
	}
	stop()
	if <-ups {
		t.Fatal("up twice")
	}
	if l.TrySendNow(transport.Header{Kind: transport.KindRaft}, nil) {
		t.Fatal("sent without a connection")
	}
	// The link's own tries, or another process, may have the port for a moment.
	eventually(t, "the port to be free again", func() bool {
		ln, err = net.Listen("tcp", addr)
		return err == nil
	})
	defer start(ln)()
	if !<-ups {
		t.Fatal("down twice")
	}
	before := h.frames.Load()
	if !l.TrySendNow(transport.Header{Kind: transport.KindRaft}, nil) {
		t.Fatal("not sent")
	}
	eventually(t, "the frame", func() bool { return h.frames.Load() > before })
}

func BenchmarkPingPong(b *testing.B) {
	for _, inFlight := range []int{1, 256} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			addr, _ := serve(b)
			col := &collector{got: make(chan frame, inFlight)}
			c := dial(b, addr, transport.PurposeCalls, col)
			send := func() {
				c.TrySend(transport.Header{Kind: transport.KindCall}, func(b []byte) []byte { return append(b, "0123456789abcdef"...) })
			}
			for range inFlight {
				send()
			}
			for b.Loop() {
				<-col.got
				send()
			}
		})
	}
}

// BenchmarkOneWay is frames of 64 bytes in one direction, as Raft's.
func BenchmarkOneWay(b *testing.B) {
	addr, h := serve(b)
	c := dial(b, addr, transport.PurposeRaft, &collector{})
	body := make([]byte, 64)
	encode := func(b []byte) []byte { return append(b, body...) }
	b.ReportAllocs()
	sent := int64(0)
	for b.Loop() {
		if err := c.Send(context.Background(), transport.Header{Kind: transport.KindRaft}, encode); err != nil {
			b.Fatal(err)
		}
		sent++
	}
	for h.frames.Load() < sent && c.Err() == nil {
		runtime.Gosched()
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "frames/s")
}
