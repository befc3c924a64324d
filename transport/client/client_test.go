package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

var discard = slog.New(slog.DiscardHandler)

func dial(t testing.TB, f *fakeCluster, o *Options) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if f.net != nil {
		var with Options
		if o != nil {
			with = *o
		}
		with.Net = f.net.dial
		o = &with
	}
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
	wantError(t, r.Call(ctx, "Riddle", nil, nil), actor.ErrInternal, actor.DidNotRun, "did not understand the call", "what is this")
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
	long := context.WithValue(t.Context(), key{}, make([]string, transport.MaxChain+1))
	wantError(t, c.Object("T", "k").Call(long, "Shape", nil, nil), actor.ErrCallCycle, actor.DidNotRun, "65 objects")
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

// A higher epoch in any frame makes the client fetch the ring, once; a node that joined with it is found by its address.
func TestRingNews(t *testing.T) {
	f := newFakeCluster(t, 2)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	asked := f.asked.Load()
	f.start(3, "127.0.0.1:0")
	f.remake(3)
	f.move(s, 3) // the old owner's hint names a node that the client's ring does not have
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := c.Object("T", "k").Call(t.Context(), "Echo", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if c.epoch() != 2 {
		t.Errorf("epoch %d", c.epoch())
	}
	// Fetches are coalesced; a pair can follow one another if hints and epoch news arrive apart.
	if n := f.asked.Load() - asked; n < 1 || n > 5 {
		t.Errorf("the ring was asked for %d times", n)
	}
	// An older ring does not replace a newer one.
	if err := c.SetRing(atEpoch(t, f.ring(), 1)); err != nil || c.epoch() != 2 {
		t.Error(err, c.epoch())
	}
	more, err := ring.First(f.id, f.ring().Members(), 16, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetRing(atEpoch(t, more, 3)); err == nil || !strings.Contains(err.Error(), "16 shards") {
		t.Error(err)
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

func TestDeadlines(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	refusedUntil(t, func() error { return c.Object("T", "k").Call(short(), "Ghost", nil, nil) }, "tried", "last on node")
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil { // the connection stands
		t.Fatal(err)
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

// refusedUntil makes calls that are refused until their deadline. That can come at a moment when the call is underway again: then
// it may have run, as far as the client knows, and another is made.
func refusedUntil(t *testing.T, call func() error, parts ...string) {
	t.Helper()
	for n := 0; ; n++ {
		err := call()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		var e *actor.Error
		if n < 20 && errors.As(err, &e) && e.Outcome == actor.MayHaveRun {
			continue
		}
		wantError(t, err, actor.ErrDeadline, actor.DidNotRun, parts...)
		return
	}
}

func TestDefaultTimeout(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, &Options{Timeout: 50 * time.Millisecond})
	r := c.Object("T", "k")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Call(ctx, "Echo", nil, nil); err != nil { // the connection stands
		t.Fatal(err)
	}
	wantError(t, r.Call(context.Background(), "Park", nil, nil), actor.ErrDeadline, actor.MayHaveRun)
	refusedUntil(t, func() error {
		return c.Object("T", "k").Start(context.Background(), "Ghost", nil).Wait(t.Context(), nil)
	},
		"last on node", "not the owner")
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

// Arguments that do not fit into the send buffer all at once wait for room, in order.
func TestSendBufferFull(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	big := bytes.Repeat([]byte{7}, 512<<10)
	var ps []*actor.Pending
	for i := range 20 {
		ps = append(ps, r.Start(t.Context(), "Size", big), r.Start(t.Context(), "Add", i))
	}
	for _, p := range ps {
		if err := p.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	got := f.log("k")
	if len(got) != 20 || !slices.IsSorted(got) {
		t.Fatal(got)
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
