package replica

import (
	"bytes"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// leaderFacts waits until some node's facts of the group are as ok wants them.
func leaderFacts(t *testing.T, what string, nodes []*driverNode, g ring.GroupID, ok func(Facts) bool) (*driverNode, Facts) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	var last Facts
	for time.Now().Before(deadline) {
		for _, n := range nodes {
			all, err := n.d.Facts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range all {
				if f.Group != g {
					continue
				}
				if last = f; ok(f) {
					return n, f
				}
			}
		}
	}
	t.Fatalf("waited in vain for %s; the last facts: %+v", what, last)
	return nil, Facts{}
}

// handOver has the group's owner, whoever that is, give it to a node as soon as that could lead.
func handOver(t *testing.T, nodes []*driverNode, g ring.GroupID, to ring.NodeID) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		owner, _ := leaderFacts(t, "an owner", nodes, g, func(Facts) bool { return true })
		if owner.id == to {
			return
		}
		if last = owner.d.HandOver(t.Context(), g, to); last == nil {
			return
		}
	}
	t.Fatalf("nobody could hand the group to node %s: %v", to, last)
}

// TestDriversMoveAReplica takes a group from nodes {1,2,3} to a set with node 4 in it, by the rings that a sequencer would hand out.
func TestDriversMoveAReplica(t *testing.T) {
	w, nodes := startDrivers(t, 16<<10) // logs are cut short: the new replica needs a snapshot
	n4 := &driverNode{id: 4, fs: vfs.NewCrashableMem()}
	startEmpty(t, w, n4, 16<<10)
	t.Cleanup(func() { n4.stop(t, w) })
	all := append(slices.Clone(nodes), n4)
	const g = 0
	group := ring.ShardID(g).Group()
	owner := owned(t, nodes...)[g]
	owner.put(t, g, "a", 300)

	adopt := func(epoch ring.Epoch, reps []ring.Replica) {
		t.Helper()
		for _, n := range all {
			if !slices.ContainsFunc(reps, func(r ring.Replica) bool { return r.Node == n.id }) {
				continue
			}
			if err := n.d.Start(t.Context(), GroupSpec{Group: group, Epoch: epoch, Replicas: reps, Owner: n.owner}); err != nil {
				t.Fatal(err)
			}
		}
	}
	reps := append(firstReplicas(g), ring.Replica{Node: 4, ID: 9, Role: ring.Learner})
	adopt(2, reps)
	leader, f := leaderFacts(t, "a filled learner", all, group, func(f Facts) bool { return slices.Contains(f.Filled, 9) })
	if slices.Contains(f.Voters, 9) || !slices.Contains(f.Learners, 9) || f.Epoch != 2 {
		t.Fatalf("the new replica is to be a learner: %+v", f)
	}
	victim := nodes[0]
	if victim == leader {
		victim = nodes[1]
	}
	for i := range reps {
		switch {
		case reps[i].Node == 4:
			reps[i].Role = ring.Voter
		case reps[i].Node == victim.id:
			reps[i].Role = ring.Outgoing
		}
	}
	adopt(3, reps)
	_, f = leaderFacts(t, "the swap", all, group, func(f Facts) bool {
		return !f.Joint && slices.Contains(f.Voters, 9) && !slices.Contains(f.Voters, ring.ReplicaID(victim.id))
	})
	if len(f.Voters) != 3 || len(f.Learners) != 0 || f.Epoch != 3 {
		t.Fatalf("after the swap: %+v", f)
	}
	if err := victim.d.Remove(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	if rec, err := victim.e.Replica(group); err != nil || rec.Replica != 0 || rec.MinNext != ring.ReplicaID(victim.id)+1 {
		t.Fatalf("no tombstone: %+v, %v", rec, err)
	}
	// Neither the removed replica nor an earlier one comes back, whatever a late ring says.
	if err := victim.d.Start(t.Context(), GroupSpec{Group: group, Epoch: 1, Replicas: firstReplicas(g), Founders: []ring.ReplicaID{1, 2, 3}, Owner: victim.owner}); err == nil {
		t.Fatal("a removed replica was made again")
	}
	leader.put(t, g, "b", 100)
	deadline := time.Now().Add(20 * time.Second)
	for n4.value(t, g, "b") != 100 || n4.value(t, g, "a") != 300 {
		if time.Now().After(deadline) {
			t.Fatalf("the new replica has a=%d and b=%d, want 300 and 100", n4.value(t, g, "a"), n4.value(t, g, "b"))
		}
	}
	// The new replica can be handed the shard, and the rest survive the old owner's end.
	handOver(t, all, group, 4)
	n4.owner.wait(t, "the new replica to own the shard", func() bool { return n4.owner.leases[g] != nil })
	n4.put(t, g, "c", 50)
}

// TestRunningReplicaIsReplaced: a node that has missed the rings in which its replica went, and hears of the one that gives it another, removes the
// old one, which still runs, and has the new one filled.
func TestRunningReplicaIsReplaced(t *testing.T) {
	_, nodes := startDrivers(t, 16<<10)
	const g = 0
	group := ring.ShardID(g).Group()
	owner := owned(t, nodes...)[g]
	owner.put(t, g, "a", 40)
	victim := nodes[0]
	if victim == owner {
		victim = nodes[1]
	}
	reps := slices.Clone(firstReplicas(g))
	reps = slices.DeleteFunc(reps, func(r ring.Replica) bool { return r.Node == victim.id })
	reps = append(reps, ring.Replica{Node: victim.id, ID: 9, Role: ring.Learner})
	for _, n := range nodes {
		if err := n.d.Start(t.Context(), GroupSpec{Group: group, Epoch: 2, Replicas: reps, Owner: n.owner}); err != nil {
			t.Fatal(err)
		}
	}
	if rec, err := victim.e.Replica(group); err != nil || rec.Replica != 9 {
		t.Fatalf("the node holds %+v (%v), and the ring says replica 9", rec, err)
	}
	leaderFacts(t, "the new replica to be filled, without the old one", nodes, group, func(f Facts) bool {
		return slices.Contains(f.Filled, 9) && slices.Contains(f.Learners, 9) && len(f.Voters) == 2
	})
	deadline := time.Now().Add(20 * time.Second)
	for victim.value(t, g, "a") != 40 {
		if time.Now().After(deadline) {
			t.Fatalf("the new replica has a=%d, want 40", victim.value(t, g, "a"))
		}
	}
}

// TestStaleTargetChangesNothing: a leader that knows only an older ring cannot undo what a newer one has brought about.
func TestStaleTargetChangesNothing(t *testing.T) {
	c := newTrio(t)
	c.tick(40)
	var lead *Group
	for _, g := range c.g {
		if g.lead != nil && g.lead.state == open {
			lead = g
		}
	}
	if lead == nil {
		t.Fatal("nobody leads")
	}
	self := lead.cfg.Holder.Replica
	keep := []ring.ReplicaID{self, self%3 + 1} // without the third
	lead.SetTarget(Target{Epoch: 5, Voters: keep})
	c.tick(20)
	if f, ok := lead.Facts(); !ok || len(f.Voters) != 2 || f.Joint || f.Epoch != 5 {
		t.Fatalf("after a change for ring 5: %+v", f)
	}
	lead.target = Target{Epoch: 4, Voters: []ring.ReplicaID{1, 2, 3}} // what it would be, had it not heard of ring 5
	lead.fence.Epoch = 4                                              // so that it proposes; the others' fences decide alike
	other := c.g[uint64(self%3+1)]
	c.tick(20)
	if other.fence.Epoch != 5 || len(other.conf.GetVoters()) != 2 || len(other.conf.GetLearners()) != 0 {
		t.Fatalf("a change for ring 4 took effect after one for ring 5: fence %+v, configuration %v", other.fence, other.conf)
	}
}

// TestWhoAbstainsGetsNoVote: a learner that has lost the end of its log has all that the leader sent it, and answers; but it will never vote. With a
// vote of its own it would only make the group's majority larger: one more replica lost, and nobody could lead.
func TestWhoAbstainsGetsNoVote(t *testing.T) {
	c := led(t)
	lead := c.g[1]
	epoch := ring.Epoch(1)
	target := func(learners []ring.ReplicaID, voters ...ring.ReplicaID) {
		epoch++
		lead.SetTarget(Target{Epoch: epoch, Voters: voters, Learners: learners})
		c.tick(2 * LANTiming.ElectionTicks)
	}
	filled := func() bool {
		f, ok := lead.Facts()
		return ok && slices.Contains(f.Filled, 3)
	}
	target(nil, 1, 2)
	target([]ring.ReplicaID{3}, 1, 2)
	if !slices.Equal(lead.conf.GetLearners(), []uint64{3}) || !filled() {
		t.Fatalf("replica 3 should be a learner that is filled: %v", lead.conf)
	}
	restart := func(lame bool) {
		c.lame = map[uint64]bool{3: lame}
		c.start(3, 1, false) // it applies its log again
		c.tick(2 * LANTiming.ElectionTicks)
	}
	restart(true)
	if token, _ := lead.LeaseUntil(); token == 0 || lead.Commit(token, put("k", "v")) != nil {
		t.Fatal("the leader does not serve")
	}
	c.pump()
	if c.tick(LANTiming.HeartbeatTicks); c.kv[3]["k"] != "v" || !lead.caughtUp(3) {
		t.Fatal("replica 3 has not caught up, so this test holds nothing")
	}
	if filled() {
		t.Error("a learner that abstains is reported as filled: the planner would promote it")
	}
	if target(nil, 1, 2, 3); len(lead.conf.GetVoters()) != 2 || len(lead.conf.GetVotersOutgoing()) != 0 {
		t.Fatalf("a learner that abstains got a vote: %v", lead.conf)
	}
	if restart(false); len(lead.conf.GetVoters()) != 3 {
		t.Fatalf("a learner that does not abstain gets no vote: %v", lead.conf)
	}
}

// confWitness stands between a driver and its network. Whenever the node says something, and the group's stored configuration is another than when it
// last did, it keeps a copy of the disk as it would be had the power failed at that moment, with nothing left that was not synced.
type confWitness struct {
	port
	n     *driverNode
	group ring.GroupID
	last  []byte // the driver's goroutine
	seen  chan confSeen
}

type confSeen struct {
	conf []byte
	disk *vfs.MemFS
}

// SendRaft runs on the driver's goroutine, as all that applies does: what the store holds now is what the node's word rests on.
func (c *confWitness) SendRaft(to ring.NodeID, body []byte) {
	if conf, ok, err := c.n.e.GroupRecord(c.group, store.RecordConf); err != nil {
		panic(err)
	} else if ok && !bytes.Equal(conf, c.last) {
		c.last = bytes.Clone(conf)
		c.seen <- confSeen{c.last, c.n.fs.CrashClone(vfs.CrashCloneCfg{})}
	}
	c.port.SendRaft(to, body)
}

// check waits until the node has spoken after one more change, and looks at the disk that was kept then.
func (c *confWitness) check(t *testing.T, change int) {
	t.Helper()
	var s confSeen
	select {
	case s = <-c.seen:
	case <-time.After(20 * time.Second):
		t.Fatalf("node %v has not said anything since change %d", c.n.id, change)
	}
	e, err := store.Open("data", store.Options{FS: s.disk, Logger: slog.New(slog.DiscardHandler), Fatal: func(msg string) { panic(msg) }})
	noErr(t, err)
	defer e.Close()
	conf, _, err := e.GroupRecord(c.group, store.RecordConf)
	noErr(t, err)
	if !bytes.Equal(conf, s.conf) {
		t.Errorf("node %v spoke after change %d, and the power failed: its disk has configuration %q, it had applied %q", c.n.id, change, conf, s.conf)
	}
}

// TestChangeIsSyncedBeforeAnythingIsSaid: once a replica has applied a change of its group's configuration, nothing leaves the node before that is synced. Who
// hears from it may let go of the replicas that the change puts out, and that the change is committed is forgotten with the power (seed 102,297 of the
// simulation). The changes are of one replica each: with the end of a joint one an entry goes into the log, whose sync would cover up for this one.
func TestChangeIsSyncedBeforeAnythingIsSaid(t *testing.T) {
	const g, changes = 0, 6
	group := ring.ShardID(g).Group()
	var witnesses []*confWitness
	_, nodes := startDriversWith(t, 0, func(w *wire, n *driverNode) {
		c := &confWitness{port: port{w, n.id}, n: n, group: group, seen: make(chan confSeen, changes+1)}
		n.net, witnesses = c, append(witnesses, c)
	})
	owned(t, nodes...) // from here on the logs are quiet
	for i := range changes + 1 {
		reps := firstReplicas(g)
		if i%2 == 1 {
			reps = append(reps, ring.Replica{Node: 4, ID: ring.ReplicaID(10 + i), Role: ring.Learner}) // of a node that does not run
		}
		for _, n := range nodes {
			if err := n.d.Start(t.Context(), GroupSpec{Group: group, Epoch: ring.Epoch(1 + i), Replicas: reps, Owner: n.owner}); err != nil {
				t.Fatal(err)
			}
		}
		leaderFacts(t, "the change", nodes, group, func(f Facts) bool { return !f.Joint && len(f.Voters) == 3 && len(f.Learners) == i%2 })
		for _, c := range witnesses {
			c.check(t, i) // the first finds what the group was founded with
		}
	}
}
