package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// wire connects drivers of one process: frames and snapshot chunks go through their codecs.
type wire struct {
	mu    sync.Mutex
	nodes map[ring.NodeID]*Driver
	cut   map[ring.NodeID]bool
	held  chan *SnapshotSource // if not nil, snapshots are given to the test and not sent
	wg    sync.WaitGroup
}

type port struct {
	w    *wire
	from ring.NodeID
}

func (w *wire) get(from, to ring.NodeID) *Driver {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut[from] || w.cut[to] {
		return nil
	}
	return w.nodes[to]
}

func (p port) SendRaft(to ring.NodeID, body []byte) {
	if d := p.w.get(p.from, to); d != nil {
		if err := d.Receive(p.from, body); err != nil {
			panic(err)
		}
	}
}

// FrameVersion is odd nodes' the present one, even ones' the one before: they understand each other.
func (p port) FrameVersion(to ring.NodeID) byte { return FrameVersion - byte(to+1)%2 }

func (p port) SendSnapshot(to ring.NodeID, src *SnapshotSource, done func(error)) {
	p.w.wg.Go(func() {
		done(p.stream(to, src))
	})
}

func (p port) stream(to ring.NodeID, src *SnapshotSource) error {
	defer src.Close()
	p.w.mu.Lock()
	held := p.w.held
	p.w.mu.Unlock()
	if held != nil {
		held <- src
		<-src.Context().Done()
		return context.Cause(src.Context())
	}
	for {
		b, err := src.Next()
		if err != nil || b == nil {
			return err
		}
		d := p.w.get(p.from, to)
		if d == nil {
			return fmt.Errorf("cut")
		}
		if err := d.ReceiveChunk(p.from, b); err != nil {
			return err
		}
	}
}

// follower is an owner that keeps the newest lease of each shard and what was applied under it.
type follower struct {
	mu      sync.Mutex
	leases  map[ring.ShardID]store.Lease
	applied map[tenure]uint64
	round   map[tenure]uint64
	news    chan struct{} // replaced at each change
}

// tenure is one token of one shard: tokens are log indices, so those of two shards may be equal.
type tenure struct {
	s ring.ShardID
	t store.Token
}

func newFollower() *follower {
	return &follower{leases: map[ring.ShardID]store.Lease{}, applied: map[tenure]uint64{}, round: map[tenure]uint64{}, news: make(chan struct{})}
}

func (f *follower) change(do func()) {
	f.mu.Lock()
	do()
	close(f.news)
	f.news = make(chan struct{})
	f.mu.Unlock()
}

func (f *follower) Opened(l store.Lease) { f.change(func() { f.leases[l.Shard()] = l }) }
func (f *follower) Applied(s ring.ShardID, t store.Token, pos uint64) {
	f.change(func() { f.applied[tenure{s, t}] = pos })
}
func (f *follower) Confirmed(s ring.ShardID, t store.Token, n uint64) {
	f.change(func() { f.round[tenure{s, t}] = n })
}
func (f *follower) Lost(s ring.ShardID, t store.Token, _ *store.MovedError) {
	f.change(func() {
		if l := f.leases[s]; l != nil && l.Token() == t {
			delete(f.leases, s)
		}
	})
}

// wait blocks until ok, which is called under the lock, holds.
func (f *follower) wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		f.mu.Lock()
		good, news := ok(), f.news
		f.mu.Unlock()
		if good {
			return
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

type driverNode struct {
	id     ring.NodeID
	fs     *vfs.MemFS
	e      *store.Engine
	d      *Driver
	owner  *follower
	limits Limits
	fatal  func(msg string) // nil: the test ends
	net    Network          // nil: its port of the wire
	cancel context.CancelFunc
	done   chan struct{}
}

const testGroups = 5

func startDriver(t testing.TB, w *wire, n *driverNode, logBytes int) {
	t.Helper()
	startEmpty(t, w, n, logBytes)
	for g := range testGroups {
		if err := n.d.Start(t.Context(), GroupSpec{Group: ring.ShardID(g).Group(), Replicas: firstReplicas(g), Founders: []ring.ReplicaID{1, 2, 3}, Owner: n.owner}); err != nil {
			t.Fatal(err)
		}
	}
}

// firstReplicas are those of a group as all begin; each node is preferred for some groups.
func firstReplicas(g int) []ring.Replica {
	reps := make([]ring.Replica, 3)
	for i := range reps {
		id := (g+i)%3 + 1
		reps[i] = ring.Replica{Node: ring.NodeID(id), ID: ring.ReplicaID(id)}
	}
	return reps
}

// startEmpty starts a node's driver without groups.
func startEmpty(t testing.TB, w *wire, n *driverNode, logBytes int) {
	t.Helper()
	var err error
	n.e, err = store.Open("data", store.Options{FS: n.fs, Logger: slog.New(slog.DiscardHandler), JournalBytes: int(n.id%2) * smallJournal,
		Fatal: func(msg string) {
			if n.fatal == nil {
				panic(msg)
			}
			n.fatal(msg)
		}})
	if err != nil {
		t.Fatal(err)
	}
	n.owner = newFollower()
	network := n.net
	if network == nil {
		network = port{w, n.id}
	}
	n.d = NewDriver(DriverConfig{Engine: n.e, Node: n.id, Boot: ring.BootID(time.Now().UnixNano()), LogBytes: logBytes, Limits: n.limits,
		Timing:  Timing{Tick: 10 * time.Millisecond, HeartbeatTicks: 2, ElectionTicks: 20, CommitTicks: 1000},
		Network: network, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan struct{})
	go func() {
		defer close(n.done)
		_ = n.d.Run(ctx)
	}()
	w.mu.Lock()
	w.nodes[n.id] = n.d
	w.mu.Unlock()
}

func (n *driverNode) stop(t testing.TB, w *wire) {
	t.Helper()
	w.mu.Lock()
	delete(w.nodes, n.id)
	w.mu.Unlock()
	n.cancel()
	<-n.done
	if err := n.e.Close(); err != nil {
		t.Fatal(err)
	}
}

func startDrivers(t testing.TB, logBytes int, limits ...Limits) (*wire, []*driverNode) {
	return startDriversWith(t, logBytes, func(_ *wire, n *driverNode) {
		for _, l := range limits {
			n.limits = l
		}
	})
}

// startDriversWith lets set change each node before it starts.
func startDriversWith(t testing.TB, logBytes int, set func(*wire, *driverNode)) (*wire, []*driverNode) {
	w := &wire{nodes: map[ring.NodeID]*Driver{}, cut: map[ring.NodeID]bool{}}
	var nodes []*driverNode
	for i := range 3 {
		n := &driverNode{id: ring.NodeID(i + 1), fs: vfs.NewCrashableMem()}
		set(w, n)
		nodes = append(nodes, n)
		startDriver(t, w, n, logBytes)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			if n.d != nil {
				n.stop(t, w)
			}
		}
		w.wg.Wait()
	})
	return w, nodes
}

// owned waits until every group has an owner among nodes and returns the owners.
func owned(t testing.TB, nodes ...*driverNode) [testGroups]*driverNode {
	t.Helper()
	var at [testGroups]*driverNode
	deadline := time.Now().Add(20 * time.Second)
	for missing := testGroups; missing > 0; {
		missing = 0
		for g := range at {
			at[g] = nil
			for _, n := range nodes {
				n.owner.mu.Lock()
				if l := n.owner.leases[ring.ShardID(g)]; l != nil && l.Valid() {
					at[g] = n
				}
				n.owner.mu.Unlock()
			}
			if at[g] == nil {
				missing++
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d groups have no owner", missing)
		}
	}
	return at
}

func (n *driverNode) put(t *testing.T, g int, key string, count int) {
	t.Helper()
	n.owner.mu.Lock()
	l := n.owner.leases[ring.ShardID(g)]
	n.owner.mu.Unlock()
	var pos uint64
	for i := range count {
		var err error
		pos, err = l.Commit([]store.Write{{Key: []byte(key), Value: binary.BigEndian.AppendUint64(nil, uint64(i+1))},
			{Key: fmt.Appendf(nil, "%s-%04d", key, i), Value: bytes.Repeat([]byte{byte(i)}, 200)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	n.owner.wait(t, "a commit", func() bool { return n.owner.applied[tenure{l.Shard(), l.Token()}] >= pos })
}

// removeAll removes what put wrote beside key, in one batch that writes one of the keys again.
func (n *driverNode) removeAll(t *testing.T, g int, key string) {
	t.Helper()
	n.owner.mu.Lock()
	l := n.owner.leases[ring.ShardID(g)]
	n.owner.mu.Unlock()
	pos, err := l.Commit([]store.Write{{Key: []byte(key + "-"), End: []byte(key + "."), Delete: true}, {Key: []byte(key + "-again"), Value: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	n.owner.wait(t, "a commit", func() bool { return n.owner.applied[tenure{l.Shard(), l.Token()}] >= pos })
}

// removed checks that removeAll has left what it should.
func (n *driverNode) removed(t *testing.T, g int, key string) {
	t.Helper()
	var left []string
	err := n.e.StateReader(ring.ShardID(g).Group()).Scan([]byte(key+"-"), []byte(key+"."), false, func(k, _ []byte) bool {
		left = append(left, string(k))
		return true
	})
	if err != nil || len(left) != 1 || left[0] != key+"-again" {
		t.Fatalf("group %d: %q are left, %v", g, left, err)
	}
}

func (n *driverNode) value(t *testing.T, g int, key string) uint64 {
	t.Helper()
	v, ok, err := n.e.StateReader(ring.ShardID(g).Group()).Get([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// TestLostLogEndsTheProcess lets a node come back with its disk as it was a moment ago, watermark and all: a leader that goes on counts on entries that
// are gone. The node must not stay half dead, without those groups and without a word that helps.
func TestLostLogEndsTheProcess(t *testing.T) {
	w, nodes := startDrivers(t, 0)
	at := owned(t, nodes...)
	victim, leader := nodes[2], at[0]
	if leader == victim {
		victim = nodes[0]
	}
	leader.put(t, 0, "a", 5)
	before := victim.fs.CrashClone(vfs.CrashCloneCfg{})
	leader.put(t, 0, "b", 50)
	for deadline := time.Now().Add(20 * time.Second); victim.value(t, 0, "b") != 50; {
		if time.Now().After(deadline) {
			t.Fatal("the follower does not follow")
		}
	}
	victim.stop(t, w)
	heard := make(chan string, 1)
	victim.fs, victim.fatal = before, func(msg string) {
		select {
		case heard <- msg:
		default:
		}
		runtime.Goexit()
	}
	startEmpty(t, w, victim, 0)
	if err := victim.d.Start(t.Context(), GroupSpec{Group: ring.ShardID(0).Group(), Replicas: firstReplicas(0), Founders: []ring.ReplicaID{1, 2, 3}, Owner: victim.owner}); err != nil {
		t.Fatal(err)
	}
	select {
	case msg := <-heard:
		if !strings.Contains(msg, "data directory data is damaged") || !strings.Contains(msg, "lost") {
			t.Errorf("the process ends with %q", msg)
		}
	case <-time.After(20 * time.Second):
		t.Error("a node that has lost acknowledged entries goes on")
	}
	w.mu.Lock()
	delete(w.nodes, victim.id)
	w.mu.Unlock()
	victim.d = nil // nothing of it is left to be stopped
}

func TestDriversServeLoseAndTakeOver(t *testing.T) {
	w, nodes := startDrivers(t, 0)
	at := owned(t, nodes...)
	for g, n := range at {
		n.put(t, g, "a", 500)
		n.removeAll(t, g, "a")
		n.owner.mu.Lock()
		l := n.owner.leases[ring.ShardID(g)]
		n.owner.mu.Unlock()
		l.Confirm(1)
		n.owner.wait(t, "a confirming round", func() bool { return n.owner.round[tenure{l.Shard(), l.Token()}] == 1 })
	}
	old := nodes[0].owner
	w.mu.Lock()
	w.cut[1] = true
	w.mu.Unlock()
	old.wait(t, "the cut-off owner to lose all", func() bool { return len(old.leases) == 0 })
	at = owned(t, nodes[1:]...)
	for g, n := range at {
		n.put(t, g, "b", 100)
		if got := n.value(t, g, "a"); got != 500 {
			t.Fatalf("group %d: the new owner has a=%d, want 500", g, got)
		}
		n.removed(t, g, "a")
	}
	w.mu.Lock()
	w.cut[1] = false
	w.mu.Unlock()
	caughtUp(t, nodes[0], 100)
	for g := range at {
		nodes[0].removed(t, g, "a")
	}
}

// caughtUp waits until the node has applied b=want in every group.
func caughtUp(t *testing.T, n *driverNode, want uint64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for g := 0; g < testGroups; {
		if n.value(t, g, "b") == want {
			g++
		} else if time.Now().After(deadline) {
			t.Fatalf("group %d: b=%d, want %d", g, n.value(t, g, "b"), want)
		}
	}
}

func TestDriversFillAStoppedNodeBySnapshot(t *testing.T) {
	w, nodes := startDrivers(t, 16<<10) // logs are cut short, so who was away needs a snapshot
	owned(t, nodes...)
	nodes[2].stop(t, w)
	at := owned(t, nodes[:2]...)
	for g, n := range at {
		n.put(t, g, "a", 300)
		n.removeAll(t, g, "a")
		n.put(t, g, "b", 300)
	}
	startDriver(t, w, nodes[2], 16<<10)
	caughtUp(t, nodes[2], 300)
	for g := range at {
		if got := nodes[2].value(t, g, "a"); got != 300 {
			t.Fatalf("group %d: a=%d after the snapshot, want 300", g, got)
		}
		nodes[2].removed(t, g, "a")
	}
	for _, n := range nodes {
		n.stop(t, w)
	}
	for _, n := range nodes {
		startDriver(t, w, n, 16<<10)
	}
	for g, n := range owned(t, nodes...) {
		n.put(t, g, "c", 10)
		if got := n.value(t, g, "b"); got != 300 {
			t.Fatalf("group %d: b=%d after all restarted, want 300", g, got)
		}
		n.removed(t, g, "a")
	}
}
