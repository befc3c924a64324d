package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

var discard = slog.New(slog.DiscardHandler)

func dial(t testing.TB, f *fakeCluster, o *Options) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, f.addrs(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func wantError(t *testing.T, err error, code error, outcome actor.Outcome, parts ...string) *actor.Error {
	t.Helper()
	var e *actor.Error
	if !errors.As(err, &e) || !errors.Is(err, code) || e.Outcome != outcome {
		t.Fatalf("error %v (%T), want %v, %v", err, err, code, outcome)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Fatalf("error %q does not mention %q", err, p)
		}
	}
	return e
}

func TestCallAndResults(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	ctx := t.Context()
	r := c.Object("Thing", "a/b")
	if r.ID() != (actor.ID{Class: "Thing", Key: "a/b"}) {
		t.Fatal(r.ID())
	}
	type point struct {
		X int
		S []string
		B []byte
	}
	in := point{-5, []string{"x"}, []byte{0, 1}}
	out, err := actor.Call[point](ctx, r, "Echo", in)
	if err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
		t.Fatalf("%v, %v", out, err)
	}
	if b, err := actor.Call[[]byte](ctx, r, "Echo", []byte("bytes")); err != nil || string(b) != "bytes" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := r.Call(ctx, "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	n := 7
	if err := r.Call(ctx, "Echo", nil, &n); err != nil || n != 7 {
		t.Fatalf("no result changed n to %d, %v", n, err)
	}
	e := wantError(t, r.Call(ctx, "Boom", nil, nil), actor.Fail("sold-out", ""), actor.Ran, "none left")
	if !e.Remote || e.Object != r.ID() || e.Token == 0 || e.Epoch != 1 {
		t.Fatalf("%+v", e)
	}
	wantError(t, r.Call(ctx, "Fail", nil, nil), actor.ErrUnknownMethod, actor.DidNotRun, "no such method")
	if e := wantError(t, r.Call(ctx, "Busy", nil, nil), actor.ErrOverloaded, actor.DidNotRun); !e.Overloaded || !e.Retryable {
		t.Fatalf("%+v", e)
	}
	wantError(t, r.Call(ctx, "Echo", "text", &n), actor.ErrBadArgument, actor.Ran, "Echo ran", "*int")
	var m map[string]any
	wantError(t, r.Call(ctx, "Bomb", nil, &m), actor.ErrBadArgument, actor.Ran)
	wantError(t, r.Call(ctx, "Echo", make(chan int), nil), actor.ErrBadArgument, actor.DidNotRun, "Echo")
	wantError(t, r.Call(ctx, "Echo", panicking{}, nil), actor.ErrBadArgument, actor.DidNotRun, "panicked")
	wantError(t, r.Call(ctx, "", nil, nil), actor.ErrBadArgument, actor.DidNotRun)
	_, err = r.(*ref).enter(ctx, "Echo", transport.EncodingMsgpack, make([]byte, transport.MaxCallBody), nil, false)
	wantError(t, err, actor.ErrBadArgument, actor.DidNotRun, "at most")
	wantError(t, c.Object("9x", "k").Call(ctx, "Echo", nil, nil), actor.ErrBadArgument, actor.DidNotRun, "9x")
	wantError(t, r.Start(ctx, "Echo", make(chan int)).Wait(ctx, nil), actor.ErrBadArgument, actor.DidNotRun)
	wantError(t, c.Object("C", "").Start(ctx, "Echo", nil).Wait(ctx, nil), actor.ErrBadArgument, actor.DidNotRun, "key is empty")
}

type panicking struct{}

func (panicking) MarshalMsgpack() ([]byte, error) { panic("no") }

func TestCallJSON(t *testing.T) {
	c := dial(t, newFakeCluster(t, 1), nil)
	ctx := t.Context()
	got, err := c.CallJSON(ctx, "Thing", "a", "Echo", []byte(`{"x": [1, "é"]}`))
	if err != nil || string(got) != `{"x": [1, "é"]}` {
		t.Fatalf("%s, %v", got, err)
	}
	if got, err := c.CallJSON(ctx, "Thing", "a", "Echo", nil); err != nil || len(got) != 0 {
		t.Fatalf("%q, %v", got, err)
	}
	_, err = c.CallJSON(ctx, "Thing", "a", "Echo", []byte(`hello`))
	wantError(t, err, actor.ErrBadArgument, actor.DidNotRun, "quotes")
	_, err = c.CallJSON(ctx, "Thing", "a", "Shape", nil)
	wantError(t, err, actor.ErrInternal, actor.Ran)
	_, err = c.CallJSON(ctx, "Thing", "a", "Boom", nil)
	wantError(t, err, actor.Fail("sold-out", ""), actor.Ran)
}

func TestDeadlineAndChainTravel(t *testing.T) {
	f := newFakeCluster(t, 1)
	type key struct{}
	c := dial(t, f, &Options{Timeout: 20 * time.Second, Chain: func(ctx context.Context) []string { s, _ := ctx.Value(key{}).([]string); return s }})
	var millis int
	var chain string
	ask := func(ctx context.Context) {
		t.Helper()
		s, err := actor.Call[string](ctx, c.Object("T", "k"), "Shape", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(s, "T/k %d %s", &millis, &chain); err != nil {
			t.Fatal(s, err)
		}
	}
	if ask(t.Context()); millis < 10_000 || millis > 20_000 || chain != "[]" {
		t.Fatal(millis, chain)
	}
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, []string{"A/1"}), 5*time.Second)
	defer cancel()
	if ask(ctx); millis < 2_000 || millis > 5_000 || chain != "[A/1]" {
		t.Fatal(millis, chain)
	}
}

func TestRedirectIsFollowedAndLearned(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	f.move(s, f.ring().Owner(s)%3+1) // not the preferred one
	for range 2 {
		if got, err := actor.Call[int](t.Context(), c.Object("T", "k"), "Echo", 4); err != nil || got != 4 {
			t.Fatal(got, err)
		}
	}
	if f.calls != 3 {
		t.Errorf("%d calls reached the nodes: want one redirect for the first and none for the second", f.calls)
	}
}

// Owners move all the time, also to nobody and to who has not heard of it, while several Refs pipeline their calls: every call
// that is reported ok ran once, and in order.
func TestOrderWhileOwnersMove(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	stop := make(chan struct{})
	var mover sync.WaitGroup
	mover.Go(func() {
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for s := range 8 {
				f.move(ring.ShardID(s), ring.NodeID((n+s)%4)) // 0 is nobody
			}
			f.mu.Lock()
			f.silent = n%3 == 0
			f.mu.Unlock()
		}
	})
	var callers sync.WaitGroup
	for k := range 8 {
		callers.Go(func() {
			r := c.Object("T", fmt.Sprint(k))
			var window []*actor.Pending
			for i := range 400 {
				window = append(window, r.Start(t.Context(), "Add", i))
				if len(window) < 32 && i < 399 {
					continue
				}
				for _, p := range window {
					if err := p.Wait(t.Context(), nil); err != nil {
						t.Errorf("ref %d: %v", k, err)
						return
					}
				}
				window = window[:0]
			}
		})
	}
	callers.Wait()
	close(stop)
	mover.Wait()
	for k := range 8 {
		if got := f.log(fmt.Sprint(k)); len(got) != 400 || got[0] != 0 || got[399] != 399 {
			t.Fatalf("ref %d: %d ran: %v", k, len(got), got)
		} else {
			for i, v := range got {
				if i != v {
					t.Fatalf("ref %d: call %d ran as number %d", k, v, i)
				}
			}
		}
	}
}

func TestConnectionCutMidFlight(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	e := wantError(t, r.Call(t.Context(), "Cut", nil, nil), actor.ErrUnreachable, actor.MayHaveRun, "lost before the answer", "node 00000000")
	if !e.Retryable {
		t.Errorf("%+v", e)
	}
	if got, err := actor.Call[int](t.Context(), r, "Echo", 4); err != nil || got != 4 {
		t.Fatal(got, err)
	}
	// Many connections die under pipelined calls: each call fails as may-have-run or is ok, and what is ok ran in order.
	var ps []*actor.Pending
	owner := f.nodes[f.ring().Owner(f.shard("T", "k"))]
	for i := range 1000 {
		ps = append(ps, r.Start(t.Context(), "Add", i))
		if i%100 == 99 {
			owner.cut()
		}
	}
	ran := map[int]bool{}
	last := -1
	for _, v := range f.waitLog(t, ps, r) {
		if ran[v] || v <= last {
			t.Fatalf("call %d ran twice or late", v)
		}
		ran[v], last = true, v
	}
	for i, p := range ps {
		if err := p.Wait(t.Context(), nil); err == nil && !ran[i] {
			t.Fatalf("call %d reported ok did not run", i)
		} else if err != nil {
			wantError(t, err, actor.ErrUnreachable, actor.MayHaveRun)
		}
	}
}

// waitLog is the object's log after all calls have come to an end.
func (f *fakeCluster) waitLog(t *testing.T, ps []*actor.Pending, r actor.Ref) []int {
	for _, p := range ps {
		_ = p.Wait(t.Context(), nil)
	}
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	return f.log(r.ID().Key)
}

func TestNodeDiesAndAnotherTakesOver(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	owner := f.ring().Owner(s)
	r := c.Object("T", "k")
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	f.nodes[owner].stop()
	eventually(t, "the client notices", func() bool { return !c.links[linkKey{owner, 0}].usable() })
	f.mu.Lock()
	f.silent = true
	f.mu.Unlock()
	f.move(s, 0)
	p := r.Start(t.Context(), "Add", 1)
	seen := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }
	before := seen()
	eventually(t, "the others are asked in turn", func() bool { return seen() > before+3 })
	f.move(s, owner%3+1)
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.log("k"); len(got) != 1 {
		t.Fatal(got)
	}
}

func TestDeadlines(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	err := r.Call(short(), "Ghost", nil, nil)
	wantError(t, err, actor.ErrDeadline, actor.DidNotRun, "tried", "last on node", "not the owner")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	wantError(t, r.Call(short(), "Park", nil, nil), actor.ErrDeadline, actor.MayHaveRun, "underway on node")
	wantError(t, r.Start(short(), "Park", nil).Wait(t.Context(), nil), actor.ErrDeadline, actor.MayHaveRun)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, r.Call(ended, "Echo", nil, nil), actor.ErrCanceled, actor.DidNotRun)
	// Parked calls were given up, but the order of the Ref goes on behind them.
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	(<-f.parked)()
	(<-f.parked)()
	// Waiting may end before the call does.
	p := r.Start(t.Context(), "Park", nil)
	wantError(t, p.Wait(short(), nil), actor.ErrDeadline, actor.MayHaveRun, "goes on")
	(<-f.parked)()
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ended, nil); err != nil {
		t.Fatal("a call that has ended does not depend on the context:", err)
	}
	// Cancelling what was started.
	ctx, cancel := context.WithCancel(t.Context())
	p = r.Start(ctx, "Park", nil)
	park := <-f.parked
	cancel()
	wantError(t, p.Wait(t.Context(), nil), actor.ErrCanceled, actor.MayHaveRun)
	park()
	eventually(t, "no call is underway", func() bool { return c.calls.Load() == 0 })
}

func TestDefaultTimeout(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, &Options{Timeout: 50 * time.Millisecond})
	r := c.Object("T", "k")
	wantError(t, r.Call(context.Background(), "Park", nil, nil), actor.ErrDeadline, actor.MayHaveRun)
	wantError(t, r.Start(context.Background(), "Ghost", nil).Wait(t.Context(), nil), actor.ErrDeadline, actor.DidNotRun)
}

func TestLimits(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, &Options{MaxPerRef: 2, MaxInflight: 3, MaxCalls: 4})
	ctx := t.Context()
	a, b, d := c.Object("T", "a"), c.Object("T", "b"), c.Object("T", "d")
	p1, p2 := a.Start(ctx, "Park", nil), a.Start(ctx, "Park", nil)
	wantError(t, a.Call(ctx, "Echo", nil, nil), actor.ErrOverloaded, actor.DidNotRun, "MaxPerRef")
	p3 := b.Start(ctx, "Park", nil)
	wantError(t, b.Call(ctx, "Echo", nil, nil), actor.ErrOverloaded, actor.DidNotRun, "MaxInflight")
	c.calls.Add(1)
	wantError(t, d.Call(ctx, "Echo", nil, nil), actor.ErrOverloaded, actor.DidNotRun, "MaxCalls")
	c.calls.Add(-1)
	for _, p := range []*actor.Pending{p1, p2, p3} {
		(<-f.parked)()
		if err := p.Wait(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []actor.Ref{a, b, d} {
		if err := r.Call(ctx, "Echo", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A connection that swallows everything is noticed, and its calls end, without any deadline.
func TestSilentNode(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, &Options{KeepAlive: 50 * time.Millisecond})
	s := f.shard("T", "k")
	owner := f.ring().Owner(s)
	r := c.Object("T", "k")
	// Alive but slow: a call may take longer than KeepAlive.
	p := r.Start(t.Context(), "Park", nil)
	slow := <-f.parked
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantError(t, p.Wait(ctx, nil), actor.ErrDeadline, actor.MayHaveRun, "goes on")
	slow()
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	f.nodes[owner].setDeaf(true)
	wantError(t, r.Call(t.Context(), "Echo", nil, nil), actor.ErrUnreachable, actor.MayHaveRun, "no sign of life")
	f.move(s, owner%3+1)
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestGoAway(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	owner := f.nodes[f.ring().Owner(s)]
	r := c.Object("T", "k")
	p := r.Start(t.Context(), "Park", nil)
	park := <-f.parked
	for conn := range owner.conns() {
		conn.TrySend(transport.Header{Kind: transport.KindGoAway}, nil)
	}
	eventually(t, "the client has heard it", func() bool { return !c.links[linkKey{owner.id, 0}].usable() })
	f.move(s, owner.id%3+1)
	q := r.Start(t.Context(), "Add", 1)
	park()
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal("a call in flight is still answered:", err)
	}
	if err := q.Wait(t.Context(), nil); err != nil {
		t.Fatal("a call behind it goes elsewhere:", err)
	}
}

func (n *fakeNode) conns() map[*tcp.Conn]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.open)
}

func TestClose(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	p := r.Start(t.Context(), "Park", nil)
	<-f.parked
	g := c.Object("T", "g").Start(t.Context(), "Ghost", nil)
	eventually(t, "it is refused", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.calls > 3 })
	c.Close()
	c.Close()
	wantError(t, p.Wait(t.Context(), nil), actor.ErrStopping, actor.MayHaveRun)
	var e *actor.Error // the refused one waits or is in flight at this moment
	if err := g.Wait(t.Context(), nil); !errors.As(err, &e) || e.Code != actor.CodeStopping {
		t.Fatal(err)
	}
	wantError(t, r.Call(t.Context(), "Echo", nil, nil), actor.ErrStopping, actor.DidNotRun)
}

func TestRequest(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	for _, to := range []string{"", f.nodes[2].addr, f.nodes[2].id.String()} {
		b, err := c.Request(t.Context(), to, "status", []byte("x"))
		if err != nil || !strings.HasPrefix(string(b), "status of ") || to != "" && string(b) != "status of 0000000000000002 x" {
			t.Errorf("%q: %q, %v", to, b, err)
		}
	}
	if _, err := c.Request(t.Context(), ring.NodeID(99).String(), "status", nil); err == nil || !strings.Contains(err.Error(), "not in the ring") {
		t.Error(err)
	}
	f.nodes[1].setDeaf(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Request(ctx, f.nodes[1].addr, "status", nil); err == nil || !strings.Contains(err.Error(), "in time") {
		t.Error(err)
	}
}

// listen opens a port and gives each connection to serve.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				go func() { <-stop; nc.Close() }()
				serve(nc)
			})
		}
	})
	t.Cleanup(func() { close(stop); ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestSeeds(t *testing.T) {
	mute := listen(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	garbage := listen(t, func(nc net.Conn) { _, _ = nc.Write(bytes.Repeat([]byte("HTTP/1.1 400 Bad Request\r\n"), 10)) })
	closed := listen(t, func(net.Conn) {})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	f := newFakeCluster(t, 1)
	bad := []string{mute, garbage, closed, nobody}

	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, append(bad, f.addrs()...), &Options{Cluster: ring.ClusterID{9}, DialTimeout: 100 * time.Millisecond})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		mute + ": " + mute + " did not answer the handshake",
		garbage + ": " + garbage + " does not speak Ringfence's protocol",
		closed + ": " + closed + " does not speak Ringfence's protocol, or closed at once",
		nobody + ": dial tcp",
		f.nodes[1].addr + ": " + f.nodes[1].addr + " refused the connection: this is cluster " + f.id.String(),
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}

	// The same seeds are no obstacle to who belongs to the cluster.
	c, err := Dial(t.Context(), append(bad, f.addrs()...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Object("T", "k").Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), nil, nil); err == nil {
		t.Error("no seeds, no error")
	}
	if _, err := Dial(t.Context(), bad, &Options{MaxCalls: -1}); err == nil || !strings.Contains(err.Error(), "MaxCalls") {
		t.Error(err)
	}
}

// A cluster that starts after its client is found.
func TestSeedComesLater(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	got := make(chan error, 1)
	go func() {
		c, err := Dial(t.Context(), []string{addr}, nil)
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	f := &fakeCluster{t: t, id: ring.ClusterID{1}, nodes: map[ring.NodeID]*fakeNode{}}
	f.mu.Lock() // nobody is served before the ring is there
	ms := []ring.Member{{ID: 1, Addr: addr, GossipAddr: addr}}
	if f.table, err = ring.First(f.id, ms, 8, 1); err != nil {
		t.Fatal(err)
	}
	f.mu.Unlock()
	f.start(1, addr)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// A node that turns into something else, and sends garbage where replies should be, costs its own calls and nothing more.
func TestGarbageFromANode(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	owner := f.nodes[f.ring().Owner(f.shard("T", "k"))]
	p := r.Start(t.Context(), "Park", nil)
	<-f.parked
	for conn := range owner.conns() {
		conn.TrySend(transport.Header{Kind: transport.KindReply, ID: 1 << 60}, func(b []byte) []byte {
			return transport.AppendReply(b, &transport.Reply{}) // to nothing that was asked: ignored
		})
		conn.TrySend(transport.Header{Kind: 77, ID: 5}, nil) // of a later version: ignored
		conn.TrySend(transport.Header{Kind: transport.KindReply, ID: 1}, func(b []byte) []byte { return append(b, 0xdd, 0xff, 0xff, 0xff, 0xff) })
	}
	wantError(t, p.Wait(t.Context(), nil), actor.ErrUnreachable, actor.MayHaveRun, "no reply")
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// The ring says that a node listens where now another one does: that one is not called.
func TestAddressChangedHands(t *testing.T) {
	f := newFakeCluster(t, 2)
	addr := f.nodes[1].addr
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	f.nodes[1].stop()
	delete(f.nodes, 1)
	f.start(3, addr)
	f.move(s, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := c.Object("T", "k").Call(ctx, "Echo", nil, nil)
	var e *actor.Error
	if !errors.As(err, &e) || e.Code != actor.CodeDeadline || e.Outcome != actor.DidNotRun {
		t.Fatal(err)
	}
	f.move(s, 2)
	if err := c.Object("T", "k").Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestThousandCallers(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, &Options{ConnsPerNode: 2})
	refs := make([]actor.Ref, 100)
	for i := range refs {
		refs[i] = c.Object("T", fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	var ok atomic.Int64
	for i := range 1000 {
		wg.Go(func() {
			for n := range 5 {
				got, err := actor.Call[int](t.Context(), refs[(i+n)%len(refs)], "Echo", i)
				if err != nil || got != i {
					t.Errorf("caller %d: %d, %v", i, got, err)
					return
				}
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 5000 || c.calls.Load() != 0 {
		t.Fatalf("%d ok, %d underway", ok.Load(), c.calls.Load())
	}
}

// localNode answers at once, in the call, or later, from a goroutine.
type localNode struct {
	f    *fakeCluster
	id   ring.NodeID
	sync bool
	seen atomic.Int64
}

func (l *localNode) Node() ring.NodeID { return l.id }

func (l *localNode) Call(c transport.Call, done func(transport.Reply)) {
	l.seen.Add(1)
	r := transport.Reply{Outcome: uint8(actor.Ran), Encoding: c.Encoding, Result: c.Arg, Token: 1, Epoch: 1}
	if l.seen.Load()%10 == 0 {
		r = transport.Reply{Code: uint16(actor.CodeMoved), Outcome: uint8(actor.DidNotRun), Flags: transport.FlagRetryable, Hint: l.id, Token: 1}
	}
	if l.sync {
		done(r)
		return
	}
	go done(r)
}

func (l *localNode) Request(context.Context, transport.Request) (transport.Response, error) {
	return transport.Response{Body: l.f.ring().Encode()}, nil
}

func TestLocal(t *testing.T) {
	f := newFakeCluster(t, 1)
	for _, sync := range []bool{true, false} {
		l := &localNode{f: f, id: 1, sync: sync}
		c, err := New(&Options{Local: l})
		if err != nil {
			t.Fatal(err)
		}
		r := c.Object("T", "k") // before the ring is known
		for i := range 100 {
			if got, err := actor.Call[int](t.Context(), r, "Echo", i); err != nil || got != i {
				t.Fatal(got, err)
			}
		}
		if l.seen.Load() < 100 || f.calls != 0 {
			t.Errorf("%d local calls, %d over sockets", l.seen.Load(), f.calls)
		}
		other, err := ring.First(ring.ClusterID{7}, f.ring().Members(), 8, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetRing(other); err == nil {
			t.Error("a ring of another cluster was taken")
		}
		c.Close()
	}
}
