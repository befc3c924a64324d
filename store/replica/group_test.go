package replica

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// trio is a group of three replicas on memory storage, with every effect done at once and messages delivered in order.
type trio struct {
	t      *testing.T
	now    time.Duration
	g      map[uint64]*Group
	disk   map[uint64]*raft.MemoryStorage
	kv     map[uint64]map[string]string
	events map[uint64][]Event
	queue  []*raftpb.Message
	pings  []Ping
	cut    map[uint64]bool
	ticks  int               // of the node before the replicas were started
	drop   func(p Ping) bool // pings that get lost; nil: none
	lame   map[uint64]bool   // replicas that abstain, when they are started next
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{t: t, g: map[uint64]*Group{}, disk: map[uint64]*raft.MemoryStorage{}, kv: map[uint64]map[string]string{},
		events: map[uint64][]Event{}, cut: map[uint64]bool{}}
	for id := uint64(1); id <= 3; id++ {
		ms := raft.NewMemoryStorage()
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(1), Term: proto.Uint64(1),
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}
		if err := ms.ApplySnapshot(snap); err != nil {
			t.Fatal(err)
		}
		if err := ms.SetHardState(&raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(1)}); err != nil {
			t.Fatal(err)
		}
		c.disk[id], c.kv[id] = ms, map[string]string{}
		c.start(id, 1, true)
	}
	return c
}

// start begins a process of a replica on what its disk holds.
func (c *trio) start(id, applied uint64, fresh bool) {
	g, err := NewGroup(GroupConfig{Group: 1, Storage: c.disk[id], Applied: applied, Timing: LANTiming, Epoch: 1, Clock: true, Fresh: fresh, Now: c.now, Ticks: c.ticks, Abstain: c.lame[id],
		Holder: store.Holder{Replica: ring.ReplicaID(id), Node: ring.NodeID(id), Boot: 7}, Logger: RaftLogger(slog.New(slog.DiscardHandler))})
	if err != nil {
		c.t.Fatal(err)
	}
	c.g[id] = g
}

func (c *trio) pump() {
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= 3; id++ {
			for c.g[id].HasReady() {
				busy = true
				c.act(id, c.g[id].Ready())
			}
		}
		for len(c.queue) > 0 {
			m := c.queue[0]
			c.queue = c.queue[1:]
			if !c.cut[m.GetFrom()] && !c.cut[m.GetTo()] {
				busy = true
				c.g[m.GetTo()].Step(c.now, m)
			}
		}
		for len(c.pings) > 0 {
			p := c.pings[0]
			c.pings = c.pings[1:]
			if !c.cut[uint64(p.From)] && !c.cut[uint64(p.To)] && (c.drop == nil || !c.drop(p)) {
				busy = true
				c.g[uint64(p.To)].Ping(c.now, p)
			}
		}
	}
}

func (c *trio) act(id uint64, o *Output) {
	send := func(m *raftpb.Message) { c.queue = append(c.queue, m) }
	c.events[id] = append(c.events[id], o.Lost...)
	for _, m := range o.Send {
		send(m)
	}
	c.pings = append(c.pings, o.Pings...)
	events := append([]Event(nil), o.Events...)
	for _, m := range o.Append {
		if err := c.disk[id].Append(m.GetEntries()); err != nil {
			c.t.Fatal(err)
		}
		if m.GetTerm() != 0 {
			if err := c.disk[id].SetHardState(&raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}); err != nil {
				c.t.Fatal(err)
			}
		}
		c.g[id].AppendDone(c.now, m, send)
	}
	for _, a := range o.Apply {
		for _, w := range a.Writes {
			if c.kv[id][string(w.Key)] = string(w.Value); w.Delete {
				delete(c.kv[id], string(w.Key))
			}
		}
		c.g[id].ApplyDone(c.now, a)
	}
	c.events[id] = append(c.events[id], events...)
}

func (c *trio) tick(n int) {
	for range n {
		c.now += LANTiming.Tick
		for id := uint64(1); id <= 3; id++ {
			if !c.cut[id] {
				c.g[id].Tick(c.now)
			}
		}
		c.pump()
	}
}

func (c *trio) take(id uint64) string {
	s := ""
	for _, e := range c.events[id] {
		s += map[EventKind]string{EventLost: "lost", EventOpened: "opened", EventApplied: "applied", EventConfirmed: "confirmed"}[e.Kind]
		if e.Kind == EventApplied || e.Kind == EventConfirmed {
			s += fmt.Sprint(" ", e.Pos)
		}
		s += "; "
	}
	delete(c.events, id)
	return s
}

func (c *trio) want(id uint64, events string) {
	c.t.Helper()
	if got := c.take(id); got != events {
		c.t.Fatalf("replica %d heard %q, want %q", id, got, events)
	}
}

func put(k, v string) []store.Write { return []store.Write{{Key: []byte(k), Value: []byte(v)}} }

func TestGroupOpensCommitsConfirmsAndHandsOver(t *testing.T) {
	c := newTrio(t)
	c.g[1].Campaign()
	c.pump()
	c.want(1, "opened; ")
	token, until := c.g[1].LeaseUntil()
	if token == 0 || until <= c.now {
		t.Fatalf("lease: token %d until %v at %v", token, until, c.now)
	}
	for i := range 3 {
		if err := c.g[1].Commit(token, put("k", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.g[1].Confirm(token, 1)
	c.pump()
	if got := c.take(1); got != "applied 3; confirmed 1; " && got != "confirmed 1; applied 3; " {
		t.Fatal(got)
	}
	if err := c.g[1].Commit(token+1, put("k", "x")); err != store.ErrTokenEnded {
		t.Fatalf("a foreign token: %v", err)
	}
	if !c.g[1].HandOver(2) {
		t.Fatal("no hand-over")
	}
	c.pump()
	c.tick(1)
	c.want(1, "lost; ")
	c.want(2, "opened; ")
	for id := range uint64(3) {
		if c.kv[id+1]["k"] != "2" {
			t.Fatalf("replica %d has %q", id+1, c.kv[id+1]["k"])
		}
		if c.g[id+1].Fence().Holder.Replica != 2 {
			t.Fatalf("replica %d: fence %+v", id+1, c.g[id+1].Fence())
		}
	}
}

// A preferred replica campaigns early only as long as it has never heard of a leader. Who has handed leadership on hears of none for a moment, and would
// take it back.
func TestPreferredLetsGoWhatItHandsOver(t *testing.T) {
	c := newTrio(t)
	c.g[1].cfg.Preferred = true
	c.tick(LANTiming.HeartbeatTicks)
	c.want(1, "opened; ")
	last, err := c.disk[1].LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	c.g[1].Step(c.now, &raftpb.Message{Type: new(raftpb.MsgVote), From: proto.Uint64(2), To: proto.Uint64(1), Term: proto.Uint64(c.g[1].Term() + 1),
		LogTerm: proto.Uint64(c.g[1].Term()), Index: proto.Uint64(last), Context: transferContext})
	c.act(1, c.g[1].Ready())
	if c.g[1].Leader() != 0 || c.g[1].Leads() {
		t.Fatalf("it still knows a leader: %d", c.g[1].Leader())
	}
	for range LANTiming.ElectionTicks - 1 {
		c.now += LANTiming.Tick
		c.g[1].Tick(c.now)
		o := c.g[1].Ready()
		for _, m := range o.Send {
			if m.GetType() == raftpb.MsgPreVote || m.GetType() == raftpb.MsgVote {
				t.Fatalf("it campaigns against who is to take over: %v", m)
			}
		}
		c.act(1, o)
	}
}

func TestGroupCutOffOwnerLosesTheLease(t *testing.T) {
	c := newTrio(t)
	c.g[1].Campaign()
	c.pump()
	c.want(1, "opened; ")
	token, _ := c.g[1].LeaseUntil()
	c.cut[2], c.cut[3] = true, true // replica 1 goes on alone, and its clock too
	if err := c.g[1].Commit(token, put("k", "lost")); err != nil {
		t.Fatal(err)
	}
	c.tick(LANTiming.ElectionTicks + 1)
	if tok, until := c.g[1].LeaseUntil(); tok != 0 && until > c.now {
		t.Fatal("a lease without a majority outlived an election timeout")
	}
	c.tick(LANTiming.ElectionTicks + 1)
	c.want(1, "lost; ")
	c.cut = map[uint64]bool{1: true}
	for i := 0; len(c.events[2])+len(c.events[3]) == 0; i++ { // elections may be tied a few times
		if i > 100 {
			t.Fatal("nobody took over within a hundred election timeouts")
		}
		c.tick(LANTiming.ElectionTicks)
	}
	if got := c.take(2) + c.take(3); got != "opened; " {
		t.Fatalf("not one took over, once: %q", got)
	}
	c.cut = map[uint64]bool{}
	c.tick(LANTiming.ElectionTicks)
	for id := range uint64(3) {
		if v, ok := c.kv[id+1]["k"]; ok {
			t.Fatalf("replica %d applied a batch of the cut-off owner: %q", id+1, v)
		}
	}
}

func TestGroupFailedTransferAcquiresAnew(t *testing.T) {
	c := newTrio(t)
	c.g[1].Campaign()
	c.pump()
	c.want(1, "opened; ")
	token, _ := c.g[1].LeaseUntil()
	c.cut[3] = true
	c.g[1].TransferLeader(3)
	if err := c.g[1].Commit(token, put("k", "dropped")); err != nil {
		t.Fatal(err)
	}
	c.pump()
	c.want(1, "lost; ") // Raft dropped the batch: nothing of this token may follow it
	c.tick(3 * LANTiming.ElectionTicks)
	c.want(1, "opened; ")
	if newer, _ := c.g[1].LeaseUntil(); newer <= token {
		t.Fatalf("token %d after %d", newer, token)
	}
	if _, ok := c.kv[1]["k"]; ok {
		t.Fatal("the dropped batch took effect")
	}
}

// TestHeartbeatsLeaveTogether: whenever its replicas were started and elected, a group's heartbeats and requests leave with the node's
// even ticks, those of all groups in one frame.
func TestHeartbeatsLeaveTogether(t *testing.T) {
	for before := range 4 {
		for late := range 3 {
			c := newTrio(t)
			for id := range c.g {
				c.ticks = before
				c.start(id, 1, true)
			}
			c.tick(late)
			c.g[1].Campaign()
			c.pump()
			c.tick(2)
			beats := 0
			for range 8 {
				c.now += LANTiming.Tick
				c.g[1].Tick(c.now)
				o := c.g[1].Ready()
				sent := len(o.Pings) > 0
				for _, m := range o.Send {
					sent = sent || m.GetType() == raftpb.MsgHeartbeat
				}
				even := (c.g[1].ticks+before)%LANTiming.HeartbeatTicks == 0
				if sent != even {
					t.Fatalf("started at tick %d, elected %d later: a heartbeat or request at tick %d of the node: %v", before, late, c.g[1].ticks+before, sent)
				}
				if sent {
					beats++
				}
				c.act(1, o)
				c.pump()
			}
			if beats != 4 {
				t.Fatalf("%d heartbeats in 8 ticks", beats)
			}
		}
	}
}

// An entry that a version does not know stops its replicas before it: it must still be there for a version that does.
func TestGroupDoesNotSkipWhatItDoesNotKnow(t *testing.T) {
	c := newTrio(t)
	c.g[1].Campaign()
	c.pump()
	before := c.g[1].Applied()
	if err := c.g[1].rn.Propose([]byte{99}); err != nil {
		t.Fatal(err)
	}
	c.pump()
	c.tick(5)
	for id, g := range c.g {
		if g.Err() == nil {
			t.Errorf("replica %d goes on", id)
		}
		if g.Applied() != before {
			t.Errorf("replica %d has applied up to %d; the entry at %d is not known", id, g.Applied(), before+1)
		}
	}
}
