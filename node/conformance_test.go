package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport/client"
)

// part is an object of the conformance tests. What its method Do does is the test's to say.
type part struct {
	s     *actor.State
	h     *parts
	nonce int64 // of the activation
	n     int64
}

// parts is what all of them share, on all nodes: they are in one process.
type parts struct {
	made, ran atomic.Int64 // activations; calls of Do
	mu        sync.Mutex
	do        map[string]func(ctx context.Context, p *part) (string, error)
}

func (h *parts) does(name string, fn func(ctx context.Context, p *part) (string, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.do[name] = fn
}

func (h *parts) classes() []actor.Class {
	make := func(_ context.Context, s *actor.State) (*part, error) {
		if s.ID().Key == "unborn" {
			return nil, errors.New("on purpose")
		}
		return &part{s: s, h: h, nonce: h.made.Add(1)}, nil
	}
	return []actor.Class{actor.Define("Part", make, actor.MailboxLimit(2000)), actor.Define("Stale", make, actor.AllowStaleReplies()), actor.Define("Idle", make, actor.IdleTimeout(time.Second)),
		actor.Define("Inter", make, actor.Interleaved()), actor.Define("Back", make, actor.Reentrant()), actor.Define("Tight", make, actor.MailboxLimit(1))}
}

func (p *part) Do(ctx context.Context, name string) (string, error) {
	p.h.ran.Add(1)
	p.h.mu.Lock()
	fn := p.h.do[name]
	p.h.mu.Unlock()
	if fn == nil {
		return "", actor.Fail("unknown", "nothing is called %.40q", name)
	}
	return fn(ctx, p)
}

type tally struct{ Nonce, N int64 }

// Count counts in memory.
func (p *part) Count(context.Context) (tally, error) {
	p.n++
	return tally{p.nonce, p.n}, nil
}

func (p *part) Nonce(context.Context) (int64, error) { return p.nonce, nil }

func (p *part) Name(context.Context) (actor.ID, error) { return p.s.ID(), nil }

func (p *part) Narrow(_ context.Context, n int8) (int8, error) { return n, nil }

func (p *part) Unsigned(_ context.Context, n uint) (uint, error) { return n, nil }

func (p *part) Size(_ context.Context, b []byte) (int, error) { return len(b), nil }

type keyValue struct {
	Key   string
	Value int64
}

func (p *part) Put(ctx context.Context, kv keyValue) error {
	return p.s.Storage().Put(ctx, kv.Key, kv.Value)
}

func (p *part) Get(ctx context.Context, key string) (int64, error) {
	v, _, err := actor.Get[int64](ctx, p.s.Storage(), key)
	return v, err
}

// blocks has Do(name) say that it is there and wait, and then do what then does.
func (h *parts) blocks(name string, then func(ctx context.Context, p *part) (string, error)) (reached <-chan struct{}, release func()) {
	there, goOn := make(chan struct{}, 16), make(chan struct{})
	h.does(name, func(ctx context.Context, p *part) (string, error) {
		there <- struct{}{}
		<-goOn
		return then(ctx, p)
	})
	return there, sync.OnceFunc(func() { close(goOn) })
}

// stage is the cluster on which the rows are tested.
type stage struct {
	h        *parts
	nodes    []*running
	switches []*Switch
	cl       *client.Client
}

func newStage(t *testing.T) *stage {
	c := &stage{h: &parts{do: map[string]func(context.Context, *part) (string, error){}}, switches: []*Switch{{}, {}, {}}}
	c.nodes = trio(t, func(i int, cfg *Config) { cfg.Switch = c.switches[i] }, c.h.classes()...)
	waitServing(t, c.nodes...)
	settledRing(t, c.nodes...)
	c.cl = dialTo(t, c.nodes...)
	return c
}

func (c *stage) shard(class, key string) ring.ShardID { return c.nodes[0].Ring().ShardOf(class, key) }

// owner is the node, other than not, that runs an object.
func (c *stage) owner(t *testing.T, class, key string, not *running) (n *running) {
	t.Helper()
	s := c.shard(class, key)
	until(t, fmt.Sprintf("an owner of %s/%s", class, key), func() bool {
		for _, n = range c.nodes {
			if n != not && n.host.Owns(s) {
				return true
			}
		}
		return false
	})
	return n
}

// keyOn is a key, beginning with name, whose object n runs.
func (c *stage) keyOn(t *testing.T, n *running, class, name string) string {
	t.Helper()
	for i := range 10_000 {
		if key := fmt.Sprintf("%s-%d", name, i); n.host.Owns(c.shard(class, key)) {
			return key
		}
	}
	t.Fatalf("node %s owns nothing", n.ID())
	return ""
}

// move hands an object's shard to another node.
func (c *stage) move(t *testing.T, class, key string) {
	s := c.shard(class, key)
	from := c.owner(t, class, key, nil)
	until(t, "a node that takes the shard", func() bool {
		to := from.mover.successor(t.Context(), s.Group())
		return to != 0 && from.mover.move(t.Context(), s, to) == nil
	})
	c.owner(t, class, key, from)
}

func call[R any](t *testing.T, cl *client.Client, class, key, method string, arg any) R {
	t.Helper()
	r, err := actor.Call[R](t.Context(), cl.Object(class, key), method, arg)
	if err != nil {
		t.Fatalf("%s/%s %s: %v", class, key, method, err)
	}
	return r
}

func put(t *testing.T, cl *client.Client, class, key, name string, v int64) {
	t.Helper()
	if err := cl.Object(class, key).Call(t.Context(), "Put", keyValue{name, v}, nil); err != nil {
		t.Fatal(err)
	}
}

// failure is the *actor.Error that err must be, of the code of want.
func failure(t *testing.T, err, want error, o actor.Outcome) *actor.Error {
	t.Helper()
	var e *actor.Error
	if !errors.As(err, &e) || !errors.Is(err, want) || e.Outcome != o {
		t.Fatalf("%v (%+v), want %v, %v", err, e, want, o)
	}
	return e
}

func receive(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
}

// TestConformanceCluster tests the rows of the conformance list that need nodes, on one cluster; the last ones stop it.
func TestConformanceCluster(t *testing.T) {
	c := newStage(t)
	for _, r := range []struct {
		name string
		test func(t *testing.T, c *stage)
	}{
		{"C-96 idle eviction", testIdleEviction},
		{"C-04 own name inside the object", testOwnName},
		{"C-06 no phantom objects", testNoPhantoms},
		{"C-08 every node reaches the object", testEveryNode},
		{"C-09 one instance under a creation race", testCreationRace},
		{"C-10 FIFO per Ref, C-11 across owner changes", testFIFO},
		{"C-13 a Ref outlives a reset", testRefOutlivesReset},
		{"C-16 message cap", testMessageCap},
		{"C-17 unknown outcome, C-18 the handler runs on, C-34 the text, C-36 no blind retry", testLostConnection},
		{"C-36 what has a key is sent again", testSentAgain},
		{"C-30 flag semantics", testFlags},
		{"calls between objects", testObjectCalls},
		{"stale owner", testStaleOwner},
		{"C-97 graceful shutdown", testShutdown},
		{"C-05 a Ref is lazy", testLazyRef},
	} {
		t.Run(r.name, func(t *testing.T) { r.test(t, c) })
	}
}

func testIdleEviction(t *testing.T, c *stage) {
	s := c.shard("Idle", "a")
	put(t, c.cl, "Idle", "a", "x", 7)
	before := call[tally](t, c.cl, "Idle", "a", "Count", nil)
	n := c.owner(t, "Idle", "a", nil)
	until(t, "the eviction", func() bool { return !n.host.Active(s, actor.ID{Class: "Idle", Key: "a"}) })
	after := call[tally](t, c.cl, "Idle", "a", "Count", nil)
	if before.N != 1 || after.N != 1 || after.Nonce == before.Nonce {
		t.Errorf("%+v, then %+v: want a new activation", before, after)
	}
	if v := call[int64](t, c.cl, "Idle", "a", "Get", "x"); v != 7 {
		t.Errorf("storage has %d, want 7", v)
	}
}

func testOwnName(t *testing.T, c *stage) {
	key := "Ω a/b " + fmt.Sprintf("%01000d", 7)
	want := actor.ID{Class: "Part", Key: key}
	first := call[int64](t, c.cl, "Part", key, "Nonce", nil)
	if got := call[actor.ID](t, c.cl, "Part", key, "Name", nil); got != want {
		t.Fatalf("its own name is %v", got)
	}
	c.move(t, "Part", key)
	if got := call[actor.ID](t, c.cl, "Part", key, "Name", nil); got != want || call[int64](t, c.cl, "Part", key, "Nonce", nil) == first {
		t.Fatalf("on another node its own name is %v", got)
	}
}

// storeAll has a node store what the owner of an object's shard has been told of: who asks for the history has that done first.
func storeAll(t *testing.T, n *running, class, key string) (group ring.GroupID) {
	t.Helper()
	group = n.Ring().ShardOf(class, key).Group()
	if _, err := n.driver.Load().History(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	return group
}

// stored is what a node's replica holds of an object's shard, once all is stored.
func stored(t *testing.T, n *running, class, key string) (keys []string) {
	t.Helper()
	group := storeAll(t, n, class, key)
	err := n.engine.StateReader(group).Scan(nil, nil, false, func(k, _ []byte) bool {
		keys = append(keys, string(k))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func testNoPhantoms(t *testing.T, c *stage) {
	const key = "phantom"
	n := c.owner(t, "Part", key, nil)
	before := stored(t, n, "Part", key)
	call[tally](t, c.cl, "Part", key, "Count", nil)
	call[int64](t, c.cl, "Part", key, "Get", "x")
	if after := stored(t, n, "Part", key); len(after) != len(before) {
		t.Errorf("a call that only reads left %q beside %q", after, before)
	}
	put(t, c.cl, "Part", key, "x", 1)
	if after := stored(t, n, "Part", key); len(after) != len(before)+1 {
		t.Errorf("a write left %q beside %q", after, before)
	}
}

func testEveryNode(t *testing.T, c *stage) {
	for i := range 6 {
		key := fmt.Sprint("reach", i)
		want := call[int64](t, c.cl, "Part", key, "Nonce", nil)
		for _, n := range c.nodes {
			if got := call[int64](t, dialTo(t, n), "Part", key, "Nonce", nil); got != want {
				t.Errorf("%s: a client of node %s reached activation %d, not %d", key, n.ID(), got, want)
			}
			if got := call[int64](t, n.Client(), "Part", key, "Nonce", nil); got != want {
				t.Errorf("%s: node %s itself reached activation %d, not %d", key, n.ID(), got, want)
			}
		}
	}
}

func testCreationRace(t *testing.T, c *stage) {
	var clients []*client.Client
	for _, n := range c.nodes {
		clients = append(clients, n.Client(), dialTo(t, n))
	}
	const racers = 100
	var wg sync.WaitGroup
	got := make([]tally, racers)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = actor.Call[tally](t.Context(), clients[i%len(clients)].Object("Part", "race"), "Count", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, g := range got {
		if g.Nonce != got[0].Nonce || g.N < 1 || g.N > racers || seen[g.N] {
			t.Fatalf("%+v: want 1 to %d, each once, of one activation", got, racers)
		}
		seen[g.N] = true
	}
}

func testLazyRef(t *testing.T, c *stage) {
	for _, n := range c.nodes {
		n.stop(t)
	}
	ref := c.cl.Object("Part", "lazy")
	if ref.ID() != (actor.ID{Class: "Part", Key: "lazy"}) {
		t.Error(ref.ID())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	failure(t, ref.Call(ctx, "Nonce", nil, nil), actor.ErrDeadline, actor.DidNotRun)
	if _, err := client.Dial(ctx, []string{c.nodes[0].Addr()}, &client.Options{Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a client found nodes that are not there")
	}
}
