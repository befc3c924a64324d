package replica

import (
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"testing"
	"testing/cryptotest"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
)

// coreRig is three cores, on memory storage, of which each does the next of what it was asked for when chance says so.
type coreRig struct {
	t                *testing.T
	r                *mrand.Rand
	c                map[uint64]*core
	disk             map[uint64]*raft.MemoryStorage
	appends          map[uint64][]*raftpb.Message // not stored yet
	applies          map[uint64][]*raftpb.Message // not applied yet
	net              []*raftpb.Message
	applied          int                          // entries, on all replicas
	changes          int                          // of the configuration
	paused           int                          // times in which more was committed than one Ready may hand out
	cut              uint64                       // this replica neither hears nor is heard
	conf             map[uint64]*raftpb.ConfState // as of what was handed out
	installed, joint int                          // snapshots, and of them those of a joint configuration
}

func newCoreRig(t *testing.T, seed uint64) *coreRig {
	x := &coreRig{t: t, r: mrand.New(mrand.NewPCG(seed, 1)), c: map[uint64]*core{}, disk: map[uint64]*raft.MemoryStorage{},
		appends: map[uint64][]*raftpb.Message{}, applies: map[uint64][]*raftpb.Message{}, conf: map[uint64]*raftpb.ConfState{}}
	for id := uint64(1); id <= 3; id++ {
		ms := raft.NewMemoryStorage()
		noErr(t, ms.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(1), Term: proto.Uint64(1),
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}))
		noErr(t, ms.SetHardState(newHardState(1, 0, 1)))
		c, err := newCore(&raft.Config{ID: id, ElectionTick: 8, HeartbeatTick: 2, Storage: ms, Applied: 1, AsyncStorageWrites: true, MaxSizePerMsg: 300,
			MaxCommittedSizePerReady: 300, MaxInflightMsgs: 4, CheckQuorum: true, PreVote: true, Logger: RaftLogger(slog.New(slog.DiscardHandler))})
		noErr(t, err)
		x.disk[id], x.c[id] = ms, &c
		x.conf[id] = &raftpb.ConfState{Voters: []uint64{1, 2, 3}}
	}
	return x
}

// step lets one thing happen, and says what it was.
func (x *coreRig) step(id uint64) string {
	c := x.c[id]
	switch x.r.IntN(13) {
	case 0:
		c.Tick()
		return "tick"
	case 1:
		_ = c.Propose(make([]byte, 20+x.r.IntN(80)))
		return "propose"
	case 2:
		if x.r.IntN(10) > 0 || len(x.changes3()) == 0 {
			return "nothing"
		}
		_ = c.ProposeConfChange(&raftpb.ConfChangeV2{Changes: x.changes3()})
		return "propose a change"
	case 3, 4, 5:
		if len(x.net) == 0 {
			return "nothing"
		}
		k := x.r.IntN(min(len(x.net), 4)) // not quite in order
		m := x.net[k]
		x.net = append(x.net[:k:k], x.net[k+1:]...)
		if x.r.IntN(300) == 0 {
			x.cut = x.r.Uint64N(5) // nobody, as a rule not for long
		}
		if x.r.IntN(50) == 0 || m.GetTo() == x.cut || m.GetFrom() == x.cut {
			return "lose"
		}
		_ = x.c[m.GetTo()].Step(m)
		if m.GetType() == raftpb.MsgSnap {
			x.c[m.GetFrom()].ReportSnapshot(m.GetTo(), raft.SnapshotFinish)
		}
		return "deliver"
	case 6, 7:
		if x.store(id) {
			return "stored"
		}
		return "nothing"
	case 8, 9:
		if x.apply(id) {
			return "applied"
		}
		return "nothing"
	case 10: // up to what is applied, and sooner while the configuration is joint: that does not last
		if first, err := x.disk[id].FirstIndex(); err != nil || len(x.applies[id]) > 0 || c.handed <= first || x.r.IntN(10) > 0 && !isJoint(x.conf[id]) {
			return "nothing"
		}
		_, err := x.disk[id].CreateSnapshot(c.handed, x.conf[id], nil)
		noErr(x.t, err)
		noErr(x.t, x.disk[id].Compact(c.handed))
		return "compacted"
	default:
		if c.HasReady() {
			x.take(id, c.Ready())
		}
		return "ready"
	}
}

// next takes the first of what a replica was asked for, nil if there is nothing.
func next(asked map[uint64][]*raftpb.Message, id uint64) (m *raftpb.Message) {
	if len(asked[id]) > 0 {
		m, asked[id] = asked[id][0], asked[id][1:]
	}
	return m
}

// store does the next append.
func (x *coreRig) store(id uint64) bool {
	m := next(x.appends, id)
	if m == nil {
		return false
	}
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		noErr(x.t, x.disk[id].ApplySnapshot(s))
		x.conf[id] = s.GetMetadata().GetConfState()
		if x.installed++; isJoint(x.conf[id]) {
			x.joint++
		}
	}
	if m.Term != nil {
		noErr(x.t, x.disk[id].SetHardState(newHardState(m.GetTerm(), m.GetVote(), m.GetCommit())))
	}
	noErr(x.t, x.disk[id].Append(m.GetEntries()))
	for _, r := range m.GetResponses() {
		x.pass(id, r)
	}
	return true
}

// apply does the next application of entries.
func (x *coreRig) apply(id uint64) bool {
	m := next(x.applies, id)
	if m == nil {
		return false
	}
	x.applied += len(m.GetEntries())
	x.pass(id, m.GetResponses()[0])
	return true
}

// changes3 makes one of three replicas a learner and another one a voter, in two steps, of which Raft takes the second by itself.
func (x *coreRig) changes3() []*raftpb.ConfChangeSingle {
	a, b := x.r.Uint64N(3)+1, x.r.Uint64N(3)+1
	if a == b {
		return nil
	}
	return []*raftpb.ConfChangeSingle{
		{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &a}, {Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &b}}
}

func (x *coreRig) pass(id uint64, m *raftpb.Message) {
	if m.GetTo() == id {
		_ = x.c[id].Step(m)
	} else {
		x.net = append(x.net, m)
	}
}

func (x *coreRig) take(id uint64, rd raft.Ready) {
	if n := len(rd.CommittedEntries); n > 0 && rd.CommittedEntries[n-1].GetIndex() < x.c[id].commit {
		x.paused++
	}
	for _, e := range rd.CommittedEntries {
		if e.GetType() != raftpb.EntryConfChangeV2 {
			continue
		}
		var cc raftpb.ConfChangeV2
		noErr(x.t, unmarshalConfChange(e, &cc))
		x.conf[id] = x.c[id].ApplyConfChange(&cc)
		x.changes++
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			x.appends[id] = append(x.appends[id], m)
		case raft.LocalApplyThread:
			x.applies[id] = append(x.applies[id], m)
		default:
			x.net = append(x.net, m)
		}
	}
}

// What core remembers of whether Raft has more to tell is what Raft says.
func TestCoreRemembersReady(t *testing.T) {
	var applied, changes, paused, installed, joint int
	for seed := range uint64(60) {
		cryptotest.SetGlobalRandom(t, seed) // Raft draws its timeouts from there
		x := newCoreRig(t, seed)
		for i := range 20_000 {
			id := x.r.Uint64N(3) + 1
			what := x.step(id)
			for id, c := range x.c {
				if got, want := c.HasReady(), c.rn.HasReady(); got != want {
					t.Fatalf("seed %d, step %d (%s): replica %d has more to tell: %v, remembered %v", seed, i, what, id, want, got)
				}
			}
		}
		applied, changes, paused, installed, joint = applied+x.applied, changes+x.changes, paused+x.paused, installed+x.installed, joint+x.joint
	}
	if said := fmt.Sprintf("%d entries applied, %d changes, %d times more than one Ready hands out, %d snapshots, %d of them joint", applied, changes, paused, installed, joint); applied < 10_000 || changes < 100 || paused < 100 || installed < 100 || joint < 3 {
		t.Error("too little happened: " + said)
	} else {
		t.Log(said)
	}
}

// A snapshot may bring a joint configuration, which its replica leaves by itself if it comes to lead.
func TestCoreLeavesTheConfigurationOfASnapshot(t *testing.T) {
	x := newCoreRig(t, 1)
	c := x.c[1]
	all := func() {
		for more := true; more; {
			if more = c.HasReady(); more {
				x.take(1, c.Ready())
			}
			more = x.store(1) || x.apply(1) || more
		}
	}
	conf := &raftpb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{1}, AutoLeave: proto.Bool(true)}
	noErr(t, c.Step(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Term: proto.Uint64(2),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(10), Term: proto.Uint64(2), ConfState: conf}}}))
	all()
	if x.joint != 1 {
		t.Fatal("the snapshot was not taken")
	}
	noErr(t, c.Campaign())
	all()
	if isJoint(x.conf[1]) || x.changes != 1 {
		t.Errorf("the configuration is %v after %d changes", x.conf[1], x.changes)
	}
}

// A message counts only if it comes from the node that its sender is on.
func TestNobodySpeaksForAReplicaOfAnotherNode(t *testing.T) {
	c := led(t)
	d := &Driver{groups: map[ring.GroupID]*member{}}
	m := &member{d: d, id: 1, self: 2, g: c.g[2], nodes: addresses{{1, 10}, {3, 30}}}
	d.groups[1] = m
	beat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(3), To: proto.Uint64(2), Term: proto.Uint64(c.g[2].Term() + 5)}
	for _, say := range []func(from ring.NodeID){
		func(from ring.NodeID) { d.step(c.now, from, &GroupMessage{Group: 1, Message: beat}) },
		func(from ring.NodeID) { d.ping(c.now, from, m, &Ping{From: 3, To: 2}) },
	} {
		m.isDir = false
		if say(10); m.isDir {
			t.Fatal("node 10 spoke for replica 3, which is on node 30")
		}
		if say(0); m.isDir {
			t.Fatal("a node without a name spoke for replica 3")
		}
		if say(30); !m.isDir {
			t.Fatal("node 30 was not heard")
		}
	}
}
