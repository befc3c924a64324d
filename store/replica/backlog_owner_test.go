package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// ownerRig is a driver that nobody runs, with one group of which its replica is the only voter. Nothing happens but what the test asks for: rounds, ticks, and
// the appender's work.
type ownerRig struct {
	*backlogRig
	owner  *openings
	append *store.Batch  // the appender's
	clock  time.Duration // goes on with the ticks
}

// openings is an owner that lets a test look at a lease at the moment at which it is opened.
type openings struct {
	*follower
	look func(l *lease)
}

func (o *openings) Opened(l store.Lease) {
	if o.look != nil {
		o.look(l.(*lease))
	}
	o.follower.Opened(l)
}

// alone is the group as a ring has it in which only replica 2 votes; more comes with its learners.
func alone(owner store.Owner, epoch ring.Epoch, learners ...ring.ReplicaID) GroupSpec {
	s := GroupSpec{Group: ring.ShardID(0).Group(), Epoch: epoch, Replicas: []ring.Replica{{Node: 2, ID: 2}}, Founders: []ring.ReplicaID{2}, Owner: owner}
	for _, l := range learners {
		s.Replicas = append(s.Replicas, ring.Replica{Node: ring.NodeID(l), ID: l, Role: ring.Learner})
	}
	return s
}

// newOwnerRig is of a replica that fs holds, or of a new one, with its lease open.
func newOwnerRig(t *testing.T, fs *vfs.MemFS, look func(*lease)) *ownerRig {
	t.Helper()
	e := openEngine(t, fs)
	r := &ownerRig{backlogRig: &backlogRig{t: t, fs: fs, e: e}, owner: &openings{newFollower(), look}, append: e.NewBatch()}
	d := NewDriver(DriverConfig{Engine: e, Node: 2, Boot: ring.BootID(rand.Uint64()), Timing: LANTiming, LogBytes: 4 << 10, Now: func() time.Duration { return r.clock },
		Network: port{&wire{nodes: map[ring.NodeID]*Driver{}}, 2}, Logger: slog.New(slog.DiscardHandler)})
	r.d = d
	t.Cleanup(func() { d.wm.finish(d.watermarks()) }) // one may be under way
	t.Cleanup(func() { noErr(t, r.append.Close()) })
	spec := alone(r.owner, 0)
	noErr(t, d.add(spec))
	r.m = d.groups[spec.Group]
	r.open()
	return r
}

// run does rounds, and writes the log in between, until nothing is left to do.
func (r *ownerRig) run() {
	for r.d.round(work{}, 0); r.write(); {
		r.d.round(work{}, 0)
	}
}

// write does what the appender would, and reports whether that was anything.
func (r *ownerRig) write() bool {
	a := r.d.disk
	jobs := a.pending
	if a.pending = nil; len(jobs) == 0 {
		return false
	}
	a.write(r.append, jobs)
	a.inbox.appended(jobs)
	return true
}

func (r *ownerRig) ticks(n int) {
	for range n {
		r.clock += LANTiming.Tick
		r.d.round(work{}, 1)
		r.run()
	}
}

// open waits for a lease.
func (r *ownerRig) open() {
	r.t.Helper()
	for range 100 {
		if r.run(); r.m.lease != nil {
			return
		}
		r.ticks(1)
	}
	r.t.Fatal("the only voter does not get a lease")
}

func set(key string, n uint64) store.Write {
	return store.Write{Key: []byte(key), Value: binary.BigEndian.AppendUint64(nil, n)}
}

func remove(key string) store.Write { return store.Write{Key: []byte(key), Delete: true} }

func removeRange(from, to string) store.Write {
	return store.Write{Key: []byte(from), End: []byte(to), Delete: true}
}

// commit submits a batch and checks that the owner is told of it.
func (r *ownerRig) commit(ws ...store.Write) {
	r.t.Helper()
	l := r.m.lease
	pos, err := l.Commit(ws)
	noErr(r.t, err)
	r.run()
	if got := r.owner.applied[tenure{l.shard, l.token}]; got != pos {
		r.t.Fatalf("the owner was told up to batch %d, want %d", got, pos)
	}
}

// dump is what a reader has, in order.
func dump(t *testing.T, r store.Reader) (got []string) {
	t.Helper()
	noErr(t, r.Scan(nil, nil, false, func(k, v []byte) bool {
		got = append(got, fmt.Sprint(string(k), "=", binary.BigEndian.Uint64(v)))
		return true
	}))
	return got
}

// reads checks what the lease reads, by a scan and by single keys.
func (r *ownerRig) reads(when string, want ...string) {
	r.t.Helper()
	if got := dump(r.t, r.m.lease); !slices.Equal(got, want) {
		r.t.Errorf("%s: the lease reads %q, want %q", when, got, want)
	}
	for _, kv := range want {
		k, v, _ := strings.Cut(kv, "=")
		if got, ok, err := r.m.lease.Get([]byte(k)); err != nil || !ok || fmt.Sprint(binary.BigEndian.Uint64(got)) != v {
			r.t.Errorf("%s: the lease reads %s=%x, %v, %v; want %s", when, k, got, ok, err, kv)
		}
	}
}

func (r *ownerRig) storedIndex() uint64 {
	r.t.Helper()
	index, _, err := r.m.state.Load()
	noErr(r.t, err)
	return index
}

// allStored checks that storage has all of which the group has heard, that the view is empty, and what storage holds.
func (r *ownerRig) allStored(when string, want ...string) {
	r.t.Helper()
	if got := r.storedIndex(); got != r.m.g.Applied() || len(r.m.backlog) > 0 || r.m.told > 0 || r.m.backlogBytes > 0 {
		r.t.Errorf("%s: index %d of %d is stored; %d tasks wait, %d of them told, %d bytes", when, got, r.m.g.Applied(), len(r.m.backlog), r.m.told, r.m.backlogBytes)
	}
	if r.m.lease != nil && len(r.m.lease.view.writes) > 0 {
		r.t.Errorf("%s: %d writes are in the view", when, len(r.m.lease.view.writes))
	}
	if got := dump(r.t, r.m.state.Reader()); !slices.Equal(got, want) {
		r.t.Errorf("%s: %q is stored, want %q", when, got, want)
	}
}

// notStored checks that nothing was stored since the index was.
func (r *ownerRig) notStored(when string, index uint64) {
	r.t.Helper()
	if got := r.storedIndex(); got != index || r.m.g.Applied() <= index || r.m.told == 0 {
		r.t.Fatalf("%s: index %d is stored and %d told, want %d stored and more told: this test holds nothing", when, got, r.m.g.Applied(), index)
	}
}

// crash is the rig of what a loss of power leaves of what was not synced: percent of it.
func (r *ownerRig) crash(percent int) *ownerRig {
	r.t.Helper()
	fs := r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(percent), 3))})
	e := openEngine(r.t, fs)
	i, ok, err := Inspect(e, r.m.id)
	if noErr(r.t, err); !ok || len(i.Violations) > 0 {
		r.t.Errorf("after a crash, %d%% of what was not synced kept: %v, %q", percent, ok, i.Violations)
	}
	noErr(r.t, e.Close())
	return newOwnerRig(r.t, fs, nil)
}

// An owner is told before its writes are stored, and reads them; they are stored a few ticks later, and then the view is empty.
func TestOwnerIsToldBeforeItsWritesAreStored(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.commit(set("a", 1), set("b", 1), set("c", 1))
	r.ticks(backlogTicks)
	r.allStored("at first", "a=1", "b=1", "c=1")
	before := r.storedIndex()
	r.commit(set("a", 2), remove("b"))
	r.commit(set("d", 1), set("a", 3))
	r.notStored("after two batches", before)
	r.reads("before they are stored", "a=3", "c=1", "d=1")
	if _, ok, err := r.m.lease.Get([]byte("b")); ok || err != nil {
		t.Errorf("what was removed is there, %v", err)
	}
	for n := 0; r.storedIndex() == before; n++ {
		if n == backlogTicks {
			t.Fatalf("not stored after %d ticks", n)
		}
		r.reads("between ticks", "a=3", "c=1", "d=1")
		r.ticks(1)
	}
	r.allStored("after a few ticks", "a=3", "c=1", "d=1")
	r.reads("when they are stored", "a=3", "c=1", "d=1")
}

// What an owner was told of does not wait beyond its limit.
func TestToldHasALimit(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	before := r.storedIndex()
	for i := uint64(1); r.storedIndex() == before; i++ {
		if r.m.backlogBytes >= backlogBytes {
			t.Fatalf("%d bytes wait", r.m.backlogBytes)
		}
		r.commit(set("k", i), store.Write{Key: []byte("large"), Value: make([]byte, 1000)})
	}
	if got := r.storedIndex(); got != r.m.g.Applied() || len(r.m.lease.view.writes) > 0 {
		t.Errorf("%d of %d is stored, %d writes are in the view", got, r.m.g.Applied(), len(r.m.lease.view.writes))
	}
}

// committed is called when a batch has taken effect, before Commit returns.
type committed func()

func (f committed) Committed(bool) { f() }

// A batch that removes a range is stored at once, behind what was told before it. Nobody sees a part of it: not even who scans at the moment at which it is
// stored, and the view has not been cleared yet.
func TestRangeIsStoredAtOnce(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.commit(set("a1", 1), set("a2", 1))
	r.ticks(backlogTicks)
	before := r.storedIndex()
	r.commit(set("a2", 2), set("a3", 2))
	r.notStored("before the range", before)

	l := r.m.lease
	pos, err := l.Commit([]store.Write{removeRange("a", "b"), set("a9", 3), set("c", 3)})
	noErr(t, err)
	r.d.round(work{}, 0) // proposed
	r.write()
	for _, j := range r.d.inbox.take(work{}).appended {
		r.d.appended(r.d.now(), j)
	}
	var seen [][]string
	look := committed(func() { seen = append(seen, dump(t, l)) })
	r.d.batch.Notify(look)
	r.m.act(r.m.g.Ready())
	r.d.batch.Notify(look)
	r.d.apply()
	r.run()
	r.allStored("after the range", "a9=3", "c=3")
	r.reads("after the range", "a9=3", "c=3")
	if got := r.owner.applied[tenure{l.shard, l.token}]; got != pos {
		t.Errorf("the owner was told up to batch %d, want %d", got, pos)
	}
	old, now := []string{"a1=1", "a2=2", "a3=2"}, []string{"a9=3", "c=3"}
	for _, s := range seen {
		if !slices.Equal(s, old) && !slices.Equal(s, now) {
			t.Errorf("while it is stored the lease reads %q: neither %q nor %q", s, old, now)
		}
	}
	if len(seen) != 2 {
		t.Errorf("looked %d times: this test holds nothing", len(seen))
	}
}

// What comes behind a task that no view shows is not told before it.
func TestNothingOvertakesARange(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.ticks(backlogTicks)
	first := r.m.g.Applied() + 1
	o := &Output{}
	for i, ws := range [][]store.Write{{set("a1", 1)}, {removeRange("a", "b"), set("a2", 2)}, {set("a1", 3)}, {remove("a2")}} {
		task := decided(first+uint64(i), "", nil).Apply[0]
		task.Writes = ws
		o.Apply = append(o.Apply, task)
	}
	r.m.act(o)
	if got := r.m.g.Applied(); got != first || r.storedIndex() != first || len(r.m.lease.view.writes) > 0 {
		t.Errorf("%d is told and %d stored, %d writes are in the view; want %d, and none", got, r.storedIndex(), len(r.m.lease.view.writes), first)
	}
	r.reads("behind the range", "a1=1")
	r.d.apply()
	r.allStored("in the same round", "a1=3")
	if got := r.m.g.Applied(); got != first+3 {
		t.Errorf("%d is applied, want %d", got, first+3)
	}
}

// A change of the configuration is stored at once, synced, with all that was told before it.
func TestConfigurationIsStoredWithWhatWasTold(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.ticks(backlogTicks)
	r.commit(set("a", 1))
	before := r.storedIndex()
	noErr(t, r.d.add(alone(r.owner, 7, 5)))
	for n := 0; len(r.m.g.conf.GetLearners()) == 0; n++ {
		if n == 100 {
			t.Fatal("the configuration does not change")
		}
		r.commit(set("a", uint64(10+n)))
		r.m.guard(r.m.g.changeConf) // as a tick would: a tick might store
		r.d.mark(r.m)
		r.run()
	}
	if before == r.storedIndex() {
		t.Fatal("the change is not stored")
	}
	r.allStored("after the change", "a=10")
	e := openEngine(t, r.fs.CrashClone(vfs.CrashCloneCfg{}))
	m, err := loadMeta(r.m.id, func(rec store.GroupRecord) ([]byte, bool, error) { return e.GroupRecord(r.m.id, rec) })
	if err != nil || !slices.Equal(m.Conf.GetLearners(), []uint64{5}) || m.Fence.Epoch != 7 {
		t.Errorf("after a crash: %v, fence %+v, %v", m.Conf, m.Fence, err)
	}
	if got := dump(t, NewStateStore(e, r.m.id).Reader()); !slices.Equal(got, []string{"a=10"}) {
		t.Errorf("after a crash: %q", got)
	}
}

// A leader that holds no lease stores at once: whoever gets the next one begins with all stored.
func TestLeaderWithoutALeaseStoresAtOnce(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.ticks(backlogTicks)
	before := r.storedIndex()
	r.commit(set("a", 1))
	r.notStored("under the lease", before)
	l := r.m.lease
	_, err := l.Commit([]store.Write{set("b", 1)})
	noErr(t, err)
	r.d.round(work{}, 0) // proposed, not written
	r.m.guard(func() { r.m.g.endToken("the test says so") })
	r.m.g.lead.holdUntil = r.m.g.ticks + 100
	r.d.mark(r.m)
	r.d.round(work{}, 0)
	if r.m.lease != nil || !r.m.g.Leads() || r.owner.leases[0] != nil {
		t.Fatal("the lease is not over, or the leadership is as well")
	}
	r.run()
	r.allStored("without a lease", "a=1", "b=1")
	if got := r.owner.applied[tenure{0, l.token}]; got != 1 {
		t.Errorf("the owner was told of batch %d of a token that was over, want 1", got)
	}
}

// A lease begins with all stored, its own acquire too, and an empty view; also if the same replica held the one before, and not all of that was stored.
func TestLeaseBeginsWithAllStored(t *testing.T) {
	var r *ownerRig
	opened := 0
	look := func(l *lease) {
		opened++
		index, fence, err := l.group.state.Load()
		if err != nil || index < uint64(l.token) || index != l.group.g.Applied() || fence.Token != l.token || len(l.view.writes) > 0 || l.group.told > 0 {
			t.Errorf("lease %d, of token %d: index %d of %d is stored with token %d, %v; %d writes are in the view", opened, l.token, index, l.group.g.Applied(), fence.Token, err, len(l.view.writes))
		}
		if r != nil {
			if got := dump(t, l); !slices.Equal(got, []string{"a=2", "c=2"}) {
				t.Errorf("lease %d reads %q", opened, got)
			}
		}
	}
	r = newOwnerRig(t, vfs.NewCrashableMem(), look)
	r.commit(set("a", 1), set("b", 1))
	r.ticks(backlogTicks)
	before := r.storedIndex()
	r.commit(set("a", 2), remove("b"), set("c", 2))
	r.notStored("under the first lease", before)
	first := r.m.lease
	r.m.guard(func() { r.m.g.endToken("the test says so") })
	r.d.mark(r.m)
	r.run()
	if opened != 2 || r.m.lease == nil || r.m.lease.token <= first.token {
		t.Fatalf("%d leases were opened, now it is %+v", opened, r.m.lease)
	}
	r.allStored("under the second lease", "a=2", "c=2")
	r.commit(set("a", 3))
	r.reads("under the second lease", "a=3", "c=2")
	if _, err := first.Commit([]store.Write{set("a", 9)}); !errors.Is(err, store.ErrTokenEnded) {
		t.Errorf("the first lease takes a batch: %v", err)
	}
}

// A snapshot holds all of which the owner was told, and carries the history up to there.
func TestSnapshotHoldsWhatWasTold(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.commit(set("a", 1), set("b", 1))
	r.ticks(backlogTicks)
	before := r.storedIndex()
	r.commit(set("a", 2), remove("b"))
	r.commit(set("c", 2))
	r.notStored("before the snapshot", before)
	told := r.m.g.Applied()
	s, err := r.m.log.Snapshot()
	noErr(t, err)
	fence, payload, err := SplitSnapshotData(s.GetData())
	noErr(t, err)
	if s.GetMetadata().GetIndex() != told || r.m.frozen.Index != told || fence != r.m.g.Fence() {
		t.Errorf("the snapshot is of %d, with fence %+v; told were %d, with %+v", s.GetMetadata().GetIndex(), fence, told, r.m.g.Fence())
	}
	if head, err := store.DecodeHistoryHead(payload); err != nil || head.Index != told || head.Now != r.m.g.History().Head().Now {
		t.Errorf("it carries the history up to %d, %v", head.Index, err)
	}
	var got []string
	noErr(t, r.m.frozen.Export(nil, func(k, v []byte) error {
		got = append(got, fmt.Sprint(string(k), "=", binary.BigEndian.Uint64(v)))
		return nil
	}))
	if want := []string{"a=2", "c=2"}; !slices.Equal(got, want) {
		t.Errorf("the snapshot holds %q, want %q", got, want)
	}
	r.allStored("after the snapshot", "a=2", "c=2")
	r.commit(set("a", 3))
	r.reads("after the snapshot", "a=3", "c=2")
}

// A snapshot may be asked for when the group's writes are to be stored in this round anyway: there is then nothing left to store, and nothing is.
func TestNothingToStoreChangesNothing(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.commit(set("a", 1))
	r.m.settle()
	r.m.storeTold()
	r.d.apply()
	r.allStored("afterwards", "a=1")
	if _, fence, err := r.m.state.Load(); err != nil || fence != r.m.g.Fence() {
		t.Errorf("fence %+v is stored, %v; want %+v", fence, err, r.m.g.Fence())
	}
}

// What was acknowledged survives a loss of power, though it was not stored: the log has it. The log is not truncated beyond what is stored, nor does the
// history go beyond.
func TestWhatWasToldSurvivesACrash(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
		r.commit(set("a", 1), set("b", 1))
		r.ticks(backlogTicks)
		before := r.storedIndex()
		r.commit(set("a", 2), remove("b"))
		r.commit(set("c", 2))
		r.notStored("before the crash", before)
		for i := range 100 { // so that the log is truncated, if that is asked for
			r.commit(set("d", uint64(i)), store.Write{Key: []byte("z"), Value: make([]byte, 100)})
		}
		r.d.compact(r.m)
		r.d.disk.submit()
		first, _ := r.m.log.FirstIndex()
		r.run()
		if now, err := r.m.log.FirstIndex(); err != nil || now <= first {
			t.Fatalf("the log begins at %d, before that at %d, %v: this test holds too little", now, first, err)
		}
		r.commit(remove("z"), set("e", 2))
		if r.storedIndex() == r.m.g.Applied() {
			t.Fatal("all is stored: this test holds nothing")
		}
		r.reads("before the crash", "a=2", "c=2", "d=99", "e=2")
		again := r.crash(percent)
		again.reads(fmt.Sprintf("%d%% kept", percent), "a=2", "c=2", "d=99", "e=2")
	}
}

// Nothing of a replica is stored any more once it was removed.
func TestRemovedReplicaStoresNothing(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	before := r.storedIndex()
	r.commit(set("a", 1))
	r.notStored("before it is removed", before)
	l, flushed := r.m.lease, false
	r.d.drop(r.m.id, func() { flushed = true })
	r.run()
	if !flushed || l.why.Load() == nil {
		t.Fatal("the replica was not let go, or its lease lives")
	}
	noErr(t, r.e.RemoveReplica(r.m.id, r.m.self+1))
	r.ticks(2 * backlogTicks)
	if _, ok, err := r.e.GroupRecord(r.m.id, store.RecordApplied); ok || err != nil {
		t.Errorf("something was stored since, %v", err)
	}
}

// A replica that halts stores what its owner was told of: the state is not behind what other replicas have heard of it for longer than it must.
func TestHaltedReplicaStoresWhatWasTold(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	before := r.storedIndex()
	r.commit(set("a", 1))
	r.notStored("before it halts", before)
	l := r.m.lease
	r.m.guard(func() { panic("the test says so") })
	if l.Valid() || r.owner.leases[0] != nil {
		t.Error("the lease of a halted replica lives")
	}
	r.ticks(backlogTicks)
	r.allStored("after it halted", "a=1")
}

// Who asks for the history gets rows that go as far as its head; what was told is stored first. The same holds for a driver's end.
func TestToldIsStoredForTheHistoryAndAtTheEnd(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	before := r.storedIndex()
	r.commit(set("a", 1))
	r.notStored("before somebody asks", before)
	type answer struct {
		h   store.ReplicaHistory
		err error
	}
	got := make(chan answer, 1)
	select {
	case <-r.d.inbox.wake:
	default:
	}
	go func() {
		h, err := r.d.History(t.Context(), r.m.id)
		got <- answer{h, err}
	}()
	<-r.d.inbox.wake
	r.run()
	a := <-got
	if noErr(t, a.err); a.h.Head.Index != r.m.g.Applied() || a.h.Head.Tenure.Batches != 1 {
		t.Errorf("the history goes to %d, with %d batches; want %d, with 1", a.h.Head.Index, a.h.Head.Tenure.Batches, r.m.g.Applied())
	}
	r.allStored("after somebody asked", "a=1")

	before = r.storedIndex()
	r.commit(set("a", 2))
	r.notStored("before the end", before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	noErr(t, r.d.Run(ctx))
	r.allStored("after the end", "a=2")
}

// A snapshot that Raft takes when it hears of what was told leaves with the next messages.
func TestSnapshotTakenOnTheWordOfTheOwnerIsSent(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	held := make(chan *SnapshotSource, 10)
	r.d.cfg.Network.(port).w.held = held
	noErr(t, r.d.add(alone(r.owner, 7, 5)))
	r.ticks(2)
	for i := range 100 {
		r.commit(set("a", uint64(i)), store.Write{Key: []byte("z"), Value: make([]byte, 100)})
	}
	r.ticks(2 * compactTicks)
	if first, err := r.m.log.FirstIndex(); err != nil || first < 20 || len(r.m.g.conf.GetLearners()) != 1 {
		t.Fatalf("the log begins at %d, %v, configuration %v: this test holds nothing", first, err, r.m.g.conf)
	}
	// The learner is heard, and needs what the log does not hold any more.
	o := decided(r.m.g.Applied(), "b", nil)
	o.Apply[0].Fence = r.m.g.Fence()
	o.Apply[0].done = &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: new(uint64(5)), To: new(uint64(2)), Term: new(r.m.g.Term())}
	r.m.act(o)
	r.d.mark(r.m)
	r.run()
	select {
	case src := <-held:
		if src.state.Index != r.m.g.Applied() {
			t.Errorf("a snapshot of %d, want %d", src.state.Index, r.m.g.Applied())
		}
	case <-time.After(5 * time.Second):
		t.Error("no snapshot is sent")
	}
	r.d.endAll("the test ends")
	r.d.cfg.Network.(port).w.wg.Wait()
}

// TestLeaseReadsOneMomentAtATime scans, and gets, from other goroutines while the driver tells, stores and clears. Each batch moves something from one account to
// another and counts itself; now and then one removes all and writes all anew, which no view can show. A scan sees all accounts as they were after the batch that it sees
// last, and that is one of which the owner was told, or a later one.
func TestLeaseReadsOneMomentAtATime(t *testing.T) {
	const accounts, batches = 8, 1500
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	l := r.m.lease
	key := func(i int) string { return fmt.Sprint("k", i) }
	var after [batches + 1][accounts]uint64 // each batch; written before it is submitted
	var told atomic.Uint64
	all := func(n uint64) []store.Write {
		ws := []store.Write{removeRange("k", "l"), set("k", n)}
		for i := range accounts {
			if after[n][i] != 0 {
				ws = append(ws, set(key(i), after[n][i]))
			}
		}
		return ws
	}
	after[1] = [accounts]uint64{1: 100, 3: 100}
	r.commit(all(1)...)
	told.Store(1)

	var wg sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	defer end()
	var scans atomic.Uint64
	reader := func(reverse bool) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			least := told.Load()
			var n uint64
			var got [accounts]uint64
			err := l.Scan([]byte("k"), []byte("l"), reverse, func(k, v []byte) bool {
				if x := binary.BigEndian.Uint64(v); len(k) == 1 {
					n = x
				} else {
					got[k[1]-'0'] += x
				}
				return true
			})
			if err != nil || n < least || n > batches || got != after[n] {
				t.Errorf("a scan, reverse %v, sees batch %d and %v; want at least %d, and %v; %v", reverse, n, got, least, after[min(n, batches)], err)
				return
			}
			v, ok, err := l.Get([]byte("k"))
			if err != nil || !ok || binary.BigEndian.Uint64(v) < n {
				t.Errorf("%x, %v, %v is read after a scan has seen %d", v, ok, err, n)
				return
			}
			scans.Add(1)
		}
	}
	for i := range 4 {
		wg.Go(func() { reader(i%2 == 1) })
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for n := uint64(2); n <= batches && !t.Failed(); n++ {
		after[n] = after[n-1]
		from, to := rng.IntN(accounts), rng.IntN(accounts)
		some := after[n][from] / 3
		after[n][from] -= some
		after[n][to] += some
		var ws []store.Write
		switch rng.IntN(12) {
		case 0:
			ws = all(n)
		default:
			ws = []store.Write{set(key(from), after[n][from]), set(key(to), after[n][to])}
			for i := range ws {
				if after[n][[]int{from, to}[i]] == 0 {
					ws[i] = remove(string(ws[i].Key))
				}
			}
			ws = append(ws, set("k", n))
		}
		r.commit(ws...)
		told.Store(n)
		if rng.IntN(4) == 0 {
			r.ticks(1)
		}
	}
	for scans.Load() < 100 && !t.Failed() { // on a machine that is busy with other things
		r.ticks(1)
	}
	end()
}

// A replica that halts gives back the state that it had frozen for a snapshot: it would keep files on disk for as long as the process lives.
func TestHaltGivesTheFrozenStateBack(t *testing.T) {
	r := newOwnerRig(t, vfs.NewCrashableMem(), nil)
	r.commit(set("a", 1))
	if _, err := r.m.log.Snapshot(); err != nil || r.m.frozen == nil {
		t.Fatalf("frozen: %v, %v", r.m.frozen, err)
	}
	r.m.halt(errors.New("a test's"))
	if r.m.frozen != nil {
		t.Error("it is still held")
	}
}
