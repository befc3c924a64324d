package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// backlogRig is a driver that nobody runs, with one group in which its replica follows.
type backlogRig struct {
	t  *testing.T
	fs *vfs.MemFS
	e  *store.Engine
	d  *Driver
	m  *member
}

func newBacklogRig(t *testing.T) *backlogRig {
	fs := vfs.NewCrashableMem()
	e, err := store.Open("data", store.Options{FS: fs, Logger: slog.New(slog.DiscardHandler), Fatal: func(msg string) { panic(msg) }})
	noErr(t, err)
	t.Cleanup(func() { noErr(t, e.Close()) })
	d := NewDriver(DriverConfig{Engine: e, Node: 2, Boot: 1, Timing: LANTiming, Network: port{&wire{nodes: map[ring.NodeID]*Driver{}}, 2}, Logger: slog.New(slog.DiscardHandler)})
	group := ring.ShardID(0).Group()
	noErr(t, d.add(GroupSpec{Group: group, Replicas: firstReplicas(0), Founders: []ring.ReplicaID{1, 2, 3}, Owner: newFollower()}))
	r := &backlogRig{t: t, fs: fs, e: e, d: d, m: d.groups[group]}
	r.run()
	return r
}

// run has done what a round without ticks does.
func (r *backlogRig) run() {
	r.d.round(work{}, 0)
}

// decided is an Output of a replica that was told of a committed entry.
func decided(index uint64, key string, conf *raftpb.ConfState) *Output {
	typ := raftpb.MsgStorageApplyResp
	return &Output{Apply: []*ApplyTask{{Index: index, Fence: store.Fence{Token: 3, Seq: index}, Conf: conf, done: &raftpb.Message{Type: &typ},
		Writes: []store.Write{{Key: []byte(key), Value: binary.BigEndian.AppendUint64(nil, index)}}}}}
}

// stored checks what a state on some disk reflects.
func (r *backlogRig) stored(when string, e *store.Engine, index uint64, keys map[string]uint64) {
	r.t.Helper()
	s := NewStateStore(e, r.m.id)
	applied, fence, err := s.Load()
	if err != nil || applied != index || fence.Seq != index {
		r.t.Errorf("%s: index %d and fence %+v are stored, %v; want %d", when, applied, fence, err, index)
	}
	for k, want := range keys {
		v, _, err := s.Reader().Get([]byte(k))
		if err != nil || len(v) != 8 || binary.BigEndian.Uint64(v) != want {
			r.t.Errorf("%s: %s is %x, %v; want %d", when, k, v, err, want)
		}
	}
}

// A follower stores what it decides after a few ticks, all of it as of the last entry.
func TestBacklogIsStoredAfterAFewTicks(t *testing.T) {
	r := newBacklogRig(t)
	before := r.m.g.Applied()
	r.m.act(decided(2, "a", nil))
	r.m.act(decided(3, "b", nil))
	r.m.act(decided(4, "a", nil))
	r.run()
	if got, _, err := r.m.state.Load(); got != before || err != nil {
		t.Fatalf("index %d is stored at once, %v; it was %d", got, err, before)
	}
	if got := r.m.g.Applied(); got != before {
		t.Fatalf("the group was told that %d is stored", got)
	}
	for range backlogTicks {
		r.d.tick(r.d.now())
	}
	r.stored("after a few ticks", r.e, 4, map[string]uint64{"a": 4, "b": 3})
	if got := r.m.g.Applied(); got != 4 || len(r.m.backlog) != 0 || r.m.backlogBytes != 0 {
		t.Fatalf("the group has applied %d, %d tasks are left with %d bytes", got, len(r.m.backlog), r.m.backlogBytes)
	}
}

// A backlog does not grow beyond its limit.
func TestBacklogHasALimit(t *testing.T) {
	r := newBacklogRig(t)
	for i := uint64(2); ; i++ {
		r.m.act(decided(i, "k", nil))
		if len(r.d.due) > 0 {
			break
		}
		if r.m.backlogBytes >= backlogBytes {
			t.Fatalf("%d bytes are left for later", r.m.backlogBytes)
		}
	}
	last := r.m.backlog[len(r.m.backlog)-1].Index
	r.d.apply()
	r.stored("above the limit", r.e, last, map[string]uint64{"k": last})
}

// A change of the configuration is stored at once, with all before it, and survives a loss of power.
func TestBacklogEndsWithAChangeOfTheConfiguration(t *testing.T) {
	r := newBacklogRig(t)
	r.m.act(decided(2, "a", nil))
	r.m.act(decided(3, "b", &raftpb.ConfState{Voters: []uint64{1, 2}}))
	r.m.act(decided(4, "a", nil))
	r.d.apply()
	crashed, err := store.Open("data", store.Options{FS: r.fs.CrashClone(vfs.CrashCloneCfg{}), Logger: slog.New(slog.DiscardHandler), Fatal: func(msg string) { panic(msg) }})
	noErr(t, err)
	defer func() { noErr(t, crashed.Close()) }()
	r.stored("after a crash", crashed, 4, map[string]uint64{"a": 4, "b": 3})
	if m, err := loadMeta(r.m.id, func(rec store.GroupRecord) ([]byte, bool, error) { return crashed.GroupRecord(r.m.id, rec) }); err != nil || len(m.Conf.GetVoters()) != 2 {
		t.Errorf("the configuration is %v, %v", m.Conf, err)
	}
}

// A snapshot is newer than the backlog: stored over it, the backlog would take the state back.
func TestBacklogIsStoredBeforeASnapshot(t *testing.T) {
	r := newBacklogRig(t)
	r.m.act(decided(2, "a", nil))
	index, term := uint64(9), uint64(2)
	r.m.act(&Output{Append: []*raftpb.Message{{Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term}}}}})
	r.stored("when the snapshot is handed to the appender", r.e, 2, map[string]uint64{"a": 2})
}

// Who asks for the history gets rows that go as far as its head: those of a backlog are stored first.
func TestBacklogIsStoredBeforeTheHistoryIsRead(t *testing.T) {
	r := newBacklogRig(t)
	o := decided(2, "a", nil)
	h := store.NewHistory(1, store.Fence{}, nil)
	h.Conf(2, 3, []byte("change"), 5, 0)
	h.Take(2, o.Apply[0].Fence)
	o.Apply[0].History = h.Flush()
	r.m.act(o)
	got := make(chan error, 1)
	go func() {
		_, err := r.d.History(t.Context(), r.m.id)
		got <- err
	}()
	<-r.d.inbox.wake
	r.run()
	noErr(t, <-got)
	r.stored("after somebody asked", r.e, 2, map[string]uint64{"a": 2})
	if head, ok, err := r.e.HistoryHead(r.m.id); !ok || err != nil || head.Index != 2 {
		t.Errorf("the history is stored up to %d, %v, %v", head.Index, ok, err)
	}
}

// A state may be stored before anything was worth a row of the history. When the process has ended there, the history still begins where the group does: else
// copies that ended elsewhere could not be compared with it any more.
func TestHistoryBeginsWithTheGroup(t *testing.T) {
	r := newBacklogRig(t)
	b := r.e.NewBatch()
	entry := &raftpb.Entry{Index: new(uint64(2)), Term: new(uint64(2))} // of a new leader: empty
	noErr(t, r.m.log.Stage(b, nil, []*raftpb.Entry{entry}))
	_, err := r.m.state.StageApply(b, &ApplyTask{Index: 2})
	noErr(t, err)
	noErr(t, b.Commit(true))
	if _, ok, err := r.e.HistoryHead(r.m.id); ok || err != nil {
		t.Fatalf("a history is stored, %v: this test holds nothing", err)
	}
	h, err := loadHistory(r.e, r.m.log, 2, store.Fence{})
	noErr(t, err)
	if head := h.Head(); head.Origin != bootIndex || head.Since != bootIndex || head.Index != 2 {
		t.Errorf("the history begins at %d, its prints at %d, and it stands at %d", head.Since, head.Origin, head.Index)
	}
}

// What is not yet stored when a driver stops is stored by then.
func TestBacklogIsStoredAtTheEnd(t *testing.T) {
	r := newBacklogRig(t)
	r.m.act(decided(2, "a", nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	noErr(t, r.d.Run(ctx))
	r.stored("after the end", r.e, 2, map[string]uint64{"a": 2})
}

// Tasks stored in one batch leave what they leave when each is stored by itself.
func TestTasksInOneBatchLeaveWhatEachWouldLeave(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rng.IntN(20)) }
	for round := range 200 {
		var tasks []*ApplyTask
		want := map[string]string{}
		skipped := 0
		for i := range 1 + rng.IntN(8) {
			task := &ApplyTask{Index: uint64(2 + i), Fence: store.Fence{Token: 2, Seq: uint64(i)}}
			for range rng.IntN(6) {
				w := store.Write{Key: key()}
				switch what := rng.IntN(20); {
				case what == 0 && round%4 == 0:
					w.End, w.Delete = key(), true
					maps.DeleteFunc(want, func(k, _ string) bool { return k >= string(w.Key) && k < string(w.End) })
				case what < 5:
					w.Delete = true
					delete(want, string(w.Key))
				default:
					w.Value = fmt.Append(nil, round, i, skipped)
					want[string(w.Key)] = string(w.Value)
				}
				task.Writes = append(task.Writes, w)
				skipped++
			}
			tasks = append(tasks, task)
		}
		r := newBacklogRig(t)
		b := r.e.NewBatch()
		if _, err := r.m.state.StageApply(b, tasks...); err != nil {
			t.Fatal(err)
		}
		noErr(t, b.Commit(false))
		got := map[string]string{}
		noErr(t, r.m.state.Reader().Scan([]byte("k"), []byte("l"), false, func(k, v []byte) bool {
			got[string(k)] = string(v)
			return true
		}))
		if applied, fence, err := r.m.state.Load(); !maps.Equal(got, want) || err != nil || applied != tasks[len(tasks)-1].Index || fence != tasks[len(tasks)-1].Fence {
			t.Fatalf("round %d: %v are stored at %d, fence %+v, %v; want %v", round, got, applied, fence, err, want)
		}
	}
}
