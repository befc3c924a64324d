package node

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport/client"
)

// counting is load: callers that increment counters one after the other, and notice every call that fails or loses something.
type counting struct {
	cl      *client.Client
	stop    chan struct{}
	wg      sync.WaitGroup
	acked   atomic.Int64
	failed  atomic.Int64
	lastErr atomic.Pointer[error]
	longest atomic.Int64
	keys    [16]int64 // by caller: acknowledged
}

func startCounting(t *testing.T, seeds ...string) *counting {
	t.Helper()
	cl, err := client.Dial(t.Context(), seeds, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{cl: cl, stop: make(chan struct{})}
	for i := range c.keys {
		c.wg.Go(func() { c.caller(i) })
	}
	t.Cleanup(func() { c.end(t) })
	return c
}

// caller alone increments its counters, so each call must return one more than the one before.
func (c *counting) caller(i int) {
	counts := [20]int64{}
	for k := 0; ; k = (k + 1) % len(counts) {
		select {
		case <-c.stop:
			return
		default:
		}
		began := time.Now()
		got, err := actor.Call[int64](context.Background(), c.cl.Object("Counter", fmt.Sprintf("m-%d-%d", i, k)), "Increment", 1)
		if d := int64(time.Since(began)); d > c.longest.Load() {
			c.longest.Store(d)
		}
		if err == nil && got != counts[k]+1 {
			err = fmt.Errorf("counter %d of caller %d went from %d to %d", k, i, counts[k], got)
		}
		if err != nil {
			c.failed.Add(1)
			c.lastErr.Store(&err)
			return
		}
		counts[k] = got
		c.acked.Add(1)
	}
}

// more waits until n more calls have been answered, or one has failed.
func (c *counting) more(t *testing.T, n int64) {
	t.Helper()
	goal := c.acked.Load() + n
	until(t, fmt.Sprintf("%d more calls", n), func() bool { return c.acked.Load() >= goal || c.failed.Load() > 0 })
	c.check(t)
}

func (c *counting) check(t *testing.T) {
	t.Helper()
	if c.failed.Load() > 0 {
		t.Fatalf("%d callers failed, the last one: %v", c.failed.Load(), *c.lastErr.Load())
	}
}

func (c *counting) end(t *testing.T) {
	select {
	case <-c.stop:
		return
	default:
	}
	close(c.stop)
	c.wg.Wait()
	c.cl.Close()
	t.Logf("%d calls, the longest %v", c.acked.Load(), time.Duration(c.longest.Load()).Round(time.Millisecond))
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// settledRing waits until the ring of nodes[0] is what its members call for, on all nodes, with every shard at its preferred owner.
func settledRing(t *testing.T, nodes ...*running) *ring.Ring {
	t.Helper()
	var why string
	var r *ring.Ring
	good := func() bool {
		r = nodes[0].Ring()
		if r == nil {
			why = "there is no ring"
			return false
		}
		if len(r.Members()) != len(nodes) {
			why = fmt.Sprintf("%d members", len(r.Members()))
			return false
		}
		var ids []ring.NodeID
		for _, m := range r.Members() {
			if m.State != ring.Up {
				why = fmt.Sprintf("%s is %s", m.ID, m.State)
				return false
			}
			ids = append(ids, m.ID)
		}
		placed, err := ring.Place(ids, r.Shards(), r.Replicas())
		if err != nil {
			t.Fatal(err)
		}
		for s, want := range placed {
			a := r.Shard(ring.ShardID(s))
			if len(a.Replicas) != len(want) {
				why = fmt.Sprintf("shard %d has replicas %v, want %v", s, a.Replicas, want)
				return false
			}
			for i, rep := range a.Replicas {
				if rep.Node != want[i] || rep.Role != ring.Voter {
					why = fmt.Sprintf("shard %d has replicas %v, want %v", s, a.Replicas, want)
					return false
				}
			}
			for _, n := range nodes {
				if h, ok := n.driver.Load().Hint(ring.ShardID(s).Group()); ok && (h.Node != want[0] || h.Token == 0) {
					why = fmt.Sprintf("node %s knows %s as the owner of shard %d, want %s", n.id, h.Node, s, want[0])
					return false
				}
			}
		}
		for _, n := range nodes {
			if n.epoch() != r.Epoch() {
				why = fmt.Sprintf("node %s has epoch %d, want %d", n.id, n.epoch(), r.Epoch())
				return false
			}
		}
		system, _ := r.Group(ring.SystemGroup)
		if v := len(system.Voters()); v != ring.SystemVoters(len(nodes)) || v != len(system.Replicas) {
			why = fmt.Sprintf("the system shard has replicas %v", system.Replicas)
			return false
		}
		return true
	}
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the cluster does not become what it should be: %s", why)
		}
	}
	return r
}

func joiner(t *testing.T, seeds ...string) *running {
	cfg := quietConfig(t, t.TempDir())
	cfg.Join = seeds
	return launch(t, cfg)
}

func (r *running) request(t *testing.T, name string, id ring.NodeID) error {
	t.Helper()
	body, err := NodeRequest(id.String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.atSequencer(t.Context(), name, body)
	return err
}

// unhurried lets nodes take one another for dead only after seconds. Where a test says that no call fails, a machine that is busy for half a second
// with something else must not be able to begin an election: that may fail a call, as it should.
func unhurried(_ int, c *Config) { c.Timing = "slow" }

// TestNodesJoinAndLeaveUnderLoad grows a cluster from three nodes to five, and takes two away again: no call fails.
func TestNodesJoinAndLeaveUnderLoad(t *testing.T) {
	nodes := trio(t, unhurried)
	waitServing(t, nodes...)
	c := startCounting(t, nodes[0].Addr(), nodes[1].Addr(), nodes[2].Addr())
	c.more(t, 500)
	for range 2 {
		nodes = append(nodes, joiner(t, nodes[0].GossipAddr()))
		r := settledRing(t, nodes...)
		c.more(t, 500)
		t.Logf("%d nodes: epoch %d, longest call so far %v", len(nodes), r.Epoch(), time.Duration(c.longest.Load()).Round(time.Millisecond))
	}
	for _, leaver := range []*running{nodes[0], nodes[4]} { // a founder, and one that came later
		if err := nodes[1].request(t, requestLeave, leaver.ID()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-leaver.done:
			if err != nil {
				t.Fatalf("a node that left ended with %v", err)
			}
			leaver.done = nil
		case <-time.After(60 * time.Second):
			t.Fatalf("a node that was asked to leave is still there; ring: %+v", nodes[1].Ring())
		}
		var rest []*running
		for _, n := range nodes {
			if n != leaver {
				rest = append(rest, n)
			}
		}
		nodes = rest
		r := settledRing(t, nodes...)
		c.more(t, 500)
		t.Logf("%d nodes: epoch %d, longest call so far %v", len(nodes), r.Epoch(), time.Duration(c.longest.Load()).Round(time.Millisecond))
	}
	c.end(t)
	c.check(t)
}

// TestOneNodeGrowsToThree: replicas and the system shard grow with the cluster, from one copy.
func TestOneNodeGrowsToThree(t *testing.T) {
	cfg := quietConfig(t, t.TempDir())
	cfg.Shards = 16
	unhurried(0, &cfg)
	nodes := []*running{launch(t, cfg)}
	waitServing(t, nodes...)
	c := startCounting(t, nodes[0].Addr())
	c.more(t, 200)
	for range 2 {
		nodes = append(nodes, joiner(t, nodes[0].GossipAddr()))
		settledRing(t, nodes...)
		c.more(t, 200)
	}
	c.end(t)
	c.check(t)
	// Three copies survive the first node.
	nodes[0].stop(t)
	cl, err := client.Dial(t.Context(), []string{nodes[1].Addr(), nodes[2].Addr()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if got, err := actor.Call[int64](t.Context(), cl.Object("Counter", "m-0-0"), "Get", nil); err != nil || got == 0 {
		t.Fatalf("the counter is %d, %v", got, err)
	}
}

// TestDeadNodesAreReplaced: of five nodes two die, one after the other; each is replaced, and nothing is lost.
func TestDeadNodesAreReplaced(t *testing.T) {
	nodes := trio(t, func(_ int, c *Config) { c.ReplaceAfter = 4 * time.Second })
	waitServing(t, nodes...)
	for range 2 {
		cfg := quietConfig(t, t.TempDir())
		cfg.Join, cfg.ReplaceAfter = []string{nodes[0].GossipAddr()}, 4*time.Second
		nodes = append(nodes, launch(t, cfg))
	}
	settledRing(t, nodes...)
	c := startCounting(t, nodes[1].Addr(), nodes[2].Addr(), nodes[3].Addr())
	c.more(t, 500)
	for _, dead := range []*running{nodes[0], nodes[4]} {
		dir := dead.cfg.Data
		dead.stop(t) // as good as dead: it does not come back in time
		var rest []*running
		for _, n := range nodes {
			if n != dead {
				rest = append(rest, n)
			}
		}
		nodes = rest
		settledRing(t, nodes...)
		c.more(t, 500)
		// Back too late, it is told so.
		cfg := quietConfig(t, dir)
		cfg.Join = []string{nodes[0].GossipAddr(), nodes[1].GossipAddr()}
		late, err := New(cfg, stock.Counter())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := late.Run(ctx); err == nil || !strings.Contains(err.Error(), "wipe its data directory to join as a new node") || !strings.Contains(err.Error(), dir) {
			t.Fatalf("a node that was given up came back and was told %v", err)
		}
		cancel()
	}
	c.end(t)
	c.check(t)
}

func TestRefusedChanges(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	until(t, "reports of all", func() bool {
		err := nodes[0].request(t, requestRemove, nodes[1].ID())
		return err != nil && strings.Contains(err.Error(), "is alive: let it leave instead")
	})
	if err := nodes[2].request(t, requestLeave, 12345); err == nil || !strings.Contains(err.Error(), "is no member of this cluster") {
		t.Fatal(err)
	}
	cfg := quietConfig(t, t.TempDir())
	cfg.Join, cfg.Shards, cfg.ShardsSet = []string{nodes[0].GossipAddr()}, 32, true
	n, err := New(cfg, stock.Counter())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := n.Run(ctx); err == nil || !strings.Contains(err.Error(), "--shards 32: cluster ") {
		t.Fatal(err)
	}
}

// TestCopyOfADirectoryIsRefused: a second process with one identity ends by itself, and the first goes on.
func TestCopyOfADirectoryIsRefused(t *testing.T) {
	cfg := quietConfig(t, t.TempDir())
	cfg.Listen, cfg.Gossip = freeAddr(t), "127.0.0.1:0"
	original := launch(t, cfg)
	waitServing(t, original)
	original.stop(t)
	copied := quietConfig(t, t.TempDir())
	if err := os.CopyFS(copied.Data, os.DirFS(cfg.Data)); err != nil {
		t.Fatal(err)
	}
	original = launch(t, cfg)
	waitServing(t, original)
	second, err := New(copied, stock.Counter())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := second.Run(ctx); err == nil || !strings.Contains(err.Error(), "data directory "+copied.Data+" is a copy") {
		t.Fatalf("a copy was served: %v", err)
	}
	// The other way about: moved to another address while nobody else runs, it is the same node.
	original.stop(t)
	cfg.Listen = freeAddr(t)
	waitServing(t, launch(t, cfg))
}
