package replica

import (
	"context"
	"encoding/binary"
	"log/slog"
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

// A follower stores what it decides with the next tick, all of it as of the last entry.
func TestBacklogIsStoredWithTheTick(t *testing.T) {
	r := newBacklogRig(t)
	before := r.m.g.Applied()
	r.m.act(decided(2, "a", nil))
	r.m.act(decided(3, "b", nil))
	r.m.act(decided(4, "a", nil))
	r.run()
	if got, _, err := r.m.state.Load(); got != before || err != nil {
		t.Fatalf("index %d is stored before the tick, %v; it was %d", got, err, before)
	}
	if got := r.m.g.Applied(); got != before {
		t.Fatalf("the group was told that %d is stored", got)
	}
	r.d.tick(r.d.now())
	r.stored("after the tick", r.e, 4, map[string]uint64{"a": 4, "b": 3})
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
			t.Fatalf("%d bytes are left for the tick", r.m.backlogBytes)
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

// What is not yet stored when a driver stops is stored by then.
func TestBacklogIsStoredAtTheEnd(t *testing.T) {
	r := newBacklogRig(t)
	r.m.act(decided(2, "a", nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	noErr(t, r.d.Run(ctx))
	r.stored("after the end", r.e, 2, map[string]uint64{"a": 2})
}
