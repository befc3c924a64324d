package ring

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"
)

// TestOldReportsDropNothing: a leader that has not heard of the ring in which a replica is to go cannot say that it is gone.
func TestOldReportsDropNothing(t *testing.T) {
	c := newToy(t, 1, 4, 8, 3)
	r := c.ring.clone()
	for _, m := range r.members {
		if _, ok := r.shards[0].On(m.ID); !ok {
			r.shards[0].Replicas = append(r.shards[0].Replicas, Replica{Node: m.ID, ID: r.nextReplica, Role: Outgoing})
			r.nextReplica++
		}
	}
	for _, epoch := range []Epoch{r.epoch - 1, r.epoch} {
		f := c.facts()
		gf := f.Groups[1]
		gf.Epoch = epoch
		f.Groups[1] = gf
		_, steps, err := c.plan.Next(r, f)
		dropped := slices.ContainsFunc(steps, func(s Step) bool { return s.Kind == StepDrop && s.Group == 1 })
		if err != nil || dropped != (epoch == r.epoch) {
			t.Errorf("told under ring %d of %d: dropped %v, %v", epoch, r.epoch, dropped, err)
		}
	}
}

// TestNextIsAFunction: the same rings and facts give the same rings, in whatever order maps were filled.
func TestNextIsAFunction(t *testing.T) {
	c := newToy(t, 3, 3, 16, 3)
	other, rings := NewPlanner(PlanConfig{}), 0
	next := NodeID(100)
	for range 400 {
		c.now += time.Second
		if c.rng.IntN(6) == 0 {
			c.disturb(&next)
		}
		for range 8 {
			c.work(c.rng.IntN(len(c.groups)))
		}
		f := c.facts()
		g := &Facts{Now: f.Now, Nodes: map[NodeID]NodeFacts{}, Groups: map[GroupID]GroupFacts{}}
		for _, id := range slices.Backward(slices.Sorted(maps.Keys(f.Nodes))) {
			g.Nodes[id] = f.Nodes[id]
		}
		for _, id := range slices.Backward(slices.Sorted(maps.Keys(f.Groups))) {
			g.Groups[id] = f.Groups[id]
		}
		r, steps, err := c.plan.Next(c.ring, f)
		again, steps2, err2 := other.Next(c.ring, g)
		if err != nil || err2 != nil || (r == nil) != (again == nil) || !slices.Equal(steps, steps2) {
			t.Fatalf("steps %v, %v and %v, %v", steps, err, steps2, err2)
		}
		if r == nil {
			continue
		}
		if !bytes.Equal(r.Encode(), again.Encode()) || len(Diff(c.ring, r)) == 0 && !slices.ContainsFunc(steps, func(s Step) bool { return s.Kind == StepOrder }) {
			t.Fatalf("rings of other bytes, or of no difference: %v", Diff(r, again))
		}
		rings++
		c.accept(r, "next")
	}
	if rings < 20 {
		t.Fatalf("only %d rings: the test compares too little", rings)
	}
}

// TestDeadLearnersTakeNoTurn: learners on a node that died keep nobody else from being filled.
func TestDeadLearnersTakeNoTurn(t *testing.T) {
	c := newToy(t, 1, 3, 32, 3)
	c.plan = NewPlanner(PlanConfig{Moves: 1})
	for _, id := range []NodeID{4, 5} {
		c.alive[id] = true
		r, err := c.ring.Admit(Member{ID: id, Addr: "new:1"})
		if err != nil {
			t.Fatal(err)
		}
		c.accept(r, "admit")
	}
	for _, g := range c.groups {
		g.ring = c.ring
	}
	c.alive[5] = false
	r := c.ring.clone()
	want, err := c.plan.Wanted(r, c.facts())
	if err != nil {
		t.Fatal(err)
	}
	for g := range want {
		if slices.Contains(want[g], 5) && !slices.Contains(want[g], 4) {
			a := r.groupRef(GroupID(g))
			a.Replicas = append(a.Replicas, Replica{Node: 5, ID: r.nextReplica, Role: Learner})
			r.nextReplica++
			break
		}
	}
	f := c.facts()
	for g, gf := range f.Groups {
		gf.Epoch = r.epoch
		f.Groups[g] = gf
	}
	if _, steps, err := c.plan.Next(r, f); err != nil || !slices.ContainsFunc(steps, func(s Step) bool { return s.Kind == StepJoin && s.Node == 4 }) {
		t.Fatalf("nothing is filled on a node that lives: %v, %v", steps, err)
	}
}

// TestLeaderThatLeavesCanHandOn: whom the ring prefers lives and cannot lead, because it abstains, say; who leads is to go, and must hand over first.
// Then whoever can lead is preferred: else the one would wait for the other, for ever. The simulation found that.
func TestLeaderThatLeavesCanHandOn(t *testing.T) {
	for _, g := range []GroupID{SystemGroup, 1, 5} {
		c := newToy(t, 1, 4, 10, 3)
		r, err := c.ring.Leave(2)
		if err != nil {
			t.Fatal(err)
		}
		want, err := c.plan.Wanted(r, c.facts())
		if err != nil {
			t.Fatal(err)
		}
		a := r.groupRef(g)
		a.Replicas = nil
		gf := GroupFacts{Epoch: r.epoch, Leader: 2}
		for i, node := range append(slices.Clone(want[g]), 2) {
			rep := Replica{Node: node, ID: r.nextReplica}
			r.nextReplica++
			a.Replicas = append(a.Replicas, rep)
			gf.Voters, gf.Active = append(gf.Voters, rep.ID), append(gf.Active, rep.ID)
			if i > 0 {
				gf.Filled = append(gf.Filled, rep.ID)
			}
		}
		f := c.facts()
		f.Groups[g] = gf
		next, steps, err := c.plan.Next(r, f)
		if err != nil || next == nil {
			t.Fatalf("%s: no step: %v", g, err)
		}
		if to := next.groupRef(g).Replicas[0].Node; to != want[g][1] {
			t.Errorf("%s: node %s is preferred, want %s of %v; steps: %v", g, to, want[g][1], want[g], steps)
		}
		// It has taken over: who leads goes.
		gf.Epoch, gf.Leader = next.epoch, want[g][1]
		f.Groups[g], f.Now = gf, time.Second
		if last, steps, err := c.plan.Next(next, f); err != nil || last == nil || !slices.ContainsFunc(steps, func(s Step) bool { return s.Kind == StepRetire && s.Group == g && s.Node == 2 }) {
			t.Errorf("%s: node 2 stays: %v, %v", g, steps, err)
		}
	}
}
