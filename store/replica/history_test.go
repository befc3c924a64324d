package replica

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// auditLive holds the histories of all groups of running nodes against each other, until they are known to be equal to their ends.
func auditLive(t *testing.T, nodes ...*driverNode) [testGroups]store.GroupAudit {
	t.Helper()
	var out [testGroups]store.GroupAudit
	deadline := time.Now().Add(20 * time.Second)
	for g := range testGroups {
		id := ring.ShardID(g).Group()
		for {
			var all []store.ReplicaHistory
			for _, n := range nodes {
				h, err := n.d.History(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, h)
			}
			a := store.Audit(id, all)
			if len(a.Violations) > 0 {
				t.Fatalf("%v:\n%s\n%+v", id, strings.Join(a.Violations, "\n"), all)
			}
			if out[g] = a; a.Equal == a.Last {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", a)
			}
		}
	}
	return out
}

// inspect opens the directories of nodes that have stopped.
func inspect(t *testing.T, nodes ...*driverNode) (engines []*store.Engine) {
	t.Helper()
	for _, n := range nodes {
		e, err := store.OpenReadOnly("data", store.Options{FS: n.fs, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	t.Cleanup(func() {
		for _, e := range engines {
			_ = e.Close()
		}
	})
	return engines
}

// auditStopped does with directories what a verification does: histories, logs and states.
func auditStopped(t *testing.T, engines []*store.Engine) (bad []string, keys uint64) {
	t.Helper()
	for g := range testGroups {
		var copies []*Inspection
		var all []store.ReplicaHistory
		for _, e := range engines {
			i, ok, err := Inspect(e, ring.ShardID(g).Group())
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			bad = append(bad, i.Violations...)
			if len(i.Notes) > 0 {
				t.Errorf("%q", i.Notes)
			}
			copies, all = append(copies, i), append(all, i.ReplicaHistory)
		}
		bad = append(bad, store.Audit(ring.ShardID(g).Group(), all).Violations...)
		d, err := CompareStates(copies, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Compared != len(engines) {
			t.Errorf("group %d: %+v", g, d)
		}
		bad, keys = append(bad, d.Violations...), keys+d.Keys
	}
	return bad, keys
}

// Owners are cut off, logs truncated, a node filled by snapshots, all restarted: the histories tell of all of it, and agree, running and stopped.
func TestHistoriesOfDrivers(t *testing.T) {
	const logBytes = 16 << 10
	w, nodes := startDrivers(t, logBytes, Limits{Entry: 1}) // each batch is an entry: there are more than a window has
	at := owned(t, nodes...)
	for g, n := range at {
		n.put(t, g, "a", 100)
	}
	first := auditLive(t, nodes...)
	w.mu.Lock()
	w.cut[3] = true
	w.mu.Unlock()
	nodes[2].owner.wait(t, "the cut-off owner to lose all", func() bool { return len(nodes[2].owner.leases) == 0 })
	nodes[2].stop(t, w)
	nodes[2].d = nil
	for g, n := range owned(t, nodes[:2]...) {
		count := 300 // more than the log keeps
		if g == 0 {
			count = store.HistoryWindow + 50
		}
		n.put(t, g, "a", count)
		n.removeAll(t, g, "a")
		n.put(t, g, "b", 300)
		truncated(t, n, ring.ShardID(g).Group())
	}
	w.mu.Lock()
	w.cut[3] = false
	w.mu.Unlock()
	startDriver(t, w, nodes[2], logBytes)
	caughtUp(t, nodes[2], 300)
	for g, a := range auditLive(t, nodes...) {
		if a.From != 1 || a.Batches < 701 || a.Tenures < first[g].Tenures || a.EqualFrom != 1 || a.Since == 0 {
			t.Errorf("group %d: %+v", g, a)
		}
		h, err := nodes[2].d.History(t.Context(), ring.ShardID(g).Group())
		if err != nil {
			t.Fatal(err)
		}
		// It was filled by a snapshot: it remembers nothing from before, and says so; but its prints go back to the beginning.
		if h.Head.Since <= first[g].Last || h.Head.Origin != 1 {
			t.Errorf("group %d: since %d, origin %d", g, h.Head.Since, h.Head.Origin)
		}
	}
	for _, n := range nodes {
		n.stop(t, w)
		n.d = nil
	}
	engines := inspect(t, nodes...)
	if bad, keys := auditStopped(t, engines); len(bad) > 0 || keys < testGroups*300 {
		t.Fatalf("%d keys\n%s", keys, strings.Join(bad, "\n"))
	}
	for _, e := range engines {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		startDriver(t, w, n, logBytes)
	}
	for g, n := range owned(t, nodes...) {
		n.put(t, g, "c", 50)
	}
	again := auditLive(t, nodes...)
	if h, err := nodes[0].d.History(t.Context(), ring.ShardID(0).Group()); err != nil || len(h.Checkpoints) == 0 {
		t.Errorf("%d checkpoints, %v", len(h.Checkpoints), err)
	}
	for g, a := range again {
		if a.From != 1 || a.Batches < 751 || a.EqualFrom != 1 {
			t.Errorf("group %d after a restart: %+v", g, a)
		}
	}
}

// One node is behind the others when all stop: its state is brought to theirs by their log, and nothing differs.
func TestStatesAreComparedAtOneIndex(t *testing.T) {
	w, nodes := startDrivers(t, 0)
	for g, n := range owned(t, nodes...) {
		n.put(t, g, "a", 100)
		n.put(t, g, "b", 30)
	}
	for _, n := range nodes {
		caughtUp(t, n, 30)
	}
	nodes[1].stop(t, w)
	nodes[1].d = nil
	for g, n := range owned(t, nodes[0], nodes[2]) {
		n.put(t, g, "c", 40)
		n.removeAll(t, g, "a")
		n.put(t, g, "a", 3)
		n.removeAll(t, g, "c")
		n.put(t, g, "b", 50)
	}
	for _, i := range []int{0, 2} {
		nodes[i].stop(t, w)
		nodes[i].d = nil
	}
	if bad, keys := auditStopped(t, inspect(t, nodes...)); len(bad) > 0 || keys == 0 {
		t.Fatalf("%d keys\n%s", keys, strings.Join(bad, "\n"))
	}
}

// damage changes a stopped node's directory through the store's own API.
func damage(t *testing.T, n *driverNode, f func(b *store.Batch)) {
	t.Helper()
	e, err := store.Open("data", store.Options{FS: n.fs, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := e.NewBatch()
	f(b)
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsFound(t *testing.T) {
	w, nodes := startDrivers(t, 0)
	for g, n := range owned(t, nodes...) {
		n.put(t, g, "a", 50)
		n.put(t, g, "b", 20)
	}
	for _, n := range nodes {
		caughtUp(t, n, 20)
	}
	auditLive(t, nodes...)
	for _, n := range nodes {
		n.stop(t, w)
		n.d = nil
	}
	const g = ring.GroupID(3)
	entry := func(n *driverNode) (uint64, []byte) {
		e := inspect(t, n)[0]
		defer e.Close()
		i, _, err := Inspect(e, g)
		if err != nil {
			t.Fatal(err)
		}
		v, ok, err := e.Entry(g, i.Applied)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return i.Applied, v
	}
	for _, c := range []struct {
		name, want string
		damage     func(b *store.Batch, n *driverNode)
	}{
		{"nothing", "", func(*store.Batch, *driverNode) {}},
		{"a value is flipped", `differ in key 612d30303037`, func(b *store.Batch, _ *driverNode) {
			b.ApplyWrites(g, []store.Write{{Key: []byte("a-0007"), Value: []byte("x")}})
		}},
		{"a key is gone", "has none", func(b *store.Batch, _ *driverNode) {
			b.ApplyWrites(g, []store.Write{{Key: []byte("a-0007"), Delete: true}})
		}},
		{"a key is new", "has none", func(b *store.Batch, _ *driverNode) {
			b.ApplyWrites(g, []store.Write{{Key: []byte("zz"), Value: []byte("x")}})
		}},
		{"another entry in the log", "do not fit together", func(b *store.Batch, n *driverNode) {
			index, v := entry(n)
			old, err := decodeEntry(g, index, v)
			if err != nil {
				t.Fatal(err)
			}
			old.Data = store.AppendBatchHead(nil, 2, 9999, 1)
			b.SetEntry(g, index, appendEntryHead(nil, g, old), old.Data)
		}},
		{"another value in the log", "differ in what took effect lately", func(b *store.Batch, n *driverNode) {
			index, v := entry(n)
			old, err := decodeEntry(g, index, v)
			if err != nil {
				t.Fatal(err)
			}
			old.Data[len(old.Data)-1]++
			b.SetEntry(g, index, appendEntryHead(nil, g, old), old.Data)
		}},
		{"another fence", "do not fit together", func(b *store.Batch, _ *driverNode) {
			b.SetRecord(g, store.RecordFence, store.AppendFence(nil, store.Fence{Token: 99, Seq: 3}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bent := &driverNode{id: nodes[1].id, fs: nodes[1].fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})}
			damage(t, bent, func(b *store.Batch) { c.damage(b, nodes[1]) })
			engines := inspect(t, nodes[0], bent, nodes[2])
			node := engines[1].Identity().Node
			bad, _ := auditStopped(t, engines)
			if c.want == "" && len(bad) > 0 {
				t.Fatalf("%q", bad)
			}
			if !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, c.want) && strings.HasPrefix(s, "shard-2: ") }) && c.want != "" {
				t.Fatalf("want %q, got %q", c.want, bad)
			}
			if c.want != "" && !strings.Contains(strings.Join(bad, "\n"), node.String()) {
				t.Errorf("the node is not named: %q", bad)
			}
		})
	}
}
