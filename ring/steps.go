package ring

import (
	"slices"
	"time"
)

// stepper makes one next ring.
type stepper struct {
	p       *Planner
	n       *Ring
	f       *Facts
	steps   []Step
	groups  int            // with a learner that lives
	filling map[NodeID]int // learners, by node
	prefers int
}

// prefersMax bounds how many shards change their preferred owner in one ring.
const prefersMax = 16

// count finds what is being filled. A learner on a dead node takes nobody's turn: nothing is sent to it.
func (s *stepper) count() {
	for g := range GroupID(len(s.n.shards) + 1) {
		a := s.n.groupRef(g)
		if s.fills(a) {
			s.groups++
		}
		for _, rep := range a.Replicas {
			if rep.Role == Learner {
				s.filling[rep.Node]++
			}
		}
	}
}

func (s *stepper) fills(a *Assignment) bool {
	return slices.ContainsFunc(a.Replicas, func(rep Replica) bool { return rep.Role == Learner && s.alive(rep.Node) })
}

func (s *stepper) did(k StepKind, g GroupID, rep Replica) {
	s.steps = append(s.steps, Step{Kind: k, Group: g, Node: rep.Node, Replica: rep.ID})
}

func (s *stepper) alive(n NodeID) bool { return s.f.Nodes[n].Alive }

// group takes at most one kind of step for a group.
func (s *stepper) group(g GroupID, want []NodeID) {
	a := s.n.groupRef(g)
	gf, known := s.f.Groups[g]
	s.cancel(g, a, want)
	known = known && gf.Epoch >= s.p.seen[g].epoch
	if !known || gf.Joint || s.revoke(g, a, &gf) || s.drop(g, a, &gf) || !settled(a, &gf) {
		s.p.forgetLeader(g, known)
		return
	}
	led := s.p.leads(g, gf.Leader, s.f.Now)
	if s.promote(g, a, want, &gf) || s.join(g, a, want) || s.prefer(g, a, want, &gf, led) {
		return
	}
	s.retire(g, a, want, &gf)
	before := slices.Clone(a.Replicas)
	if s.order(a, want); !slices.Equal(before, a.Replicas) {
		s.steps = append(s.steps, Step{Kind: StepOrder, Group: g})
	}
}

// settled reports whether the group is what the ring wants it to be.
func settled(a *Assignment, gf *GroupFacts) bool {
	voters, learners := 0, 0
	for _, rep := range a.Replicas {
		switch {
		case rep.Role == Voter && slices.Contains(gf.Voters, rep.ID):
			voters++
		case rep.Role == Learner && slices.Contains(gf.Learners, rep.ID):
			learners++
		default:
			return false
		}
	}
	return voters == len(gf.Voters) && learners == len(gf.Learners)
}

// cancel gives up learners that are not wanted any more. No vote depends on them, so nothing is waited for.
func (s *stepper) cancel(g GroupID, a *Assignment, want []NodeID) {
	for i := range a.Replicas {
		if rep := &a.Replicas[i]; rep.Role == Learner && !slices.Contains(want, rep.Node) {
			rep.Role = Outgoing
			s.did(StepRetire, g, *rep)
		}
	}
}

// revoke takes a promotion back whose replica died before its group carried it out: the group would wait for it for ever. Who was to go in
// the same change stays.
func (s *stepper) revoke(g GroupID, a *Assignment, gf *GroupFacts) (some bool) {
	for i := range a.Replicas {
		rep := &a.Replicas[i]
		if i > 0 && rep.Role == Voter && !slices.Contains(gf.Voters, rep.ID) && !s.alive(rep.Node) {
			rep.Role, some = Outgoing, true
			s.did(StepRetire, g, *rep)
		}
	}
	for i := range a.Replicas {
		if rep := &a.Replicas[i]; some && rep.Role == Outgoing && slices.Contains(gf.Voters, rep.ID) {
			rep.Role = Voter
		}
	}
	return some
}

// drop takes replicas out of the ring that are out of their group.
func (s *stepper) drop(g GroupID, a *Assignment, gf *GroupFacts) (some bool) {
	a.Replicas = slices.DeleteFunc(a.Replicas, func(rep Replica) bool {
		gone := rep.Role == Outgoing && !slices.Contains(gf.Voters, rep.ID) && !slices.Contains(gf.Learners, rep.ID)
		if gone {
			some = true
			s.did(StepDrop, g, rep)
		}
		return gone
	})
	return some
}

// promote gives filled learners their votes and, in the same change of the group, lets as many go that are not wanted.
func (s *stepper) promote(g GroupID, a *Assignment, want []NodeID, gf *GroupFacts) bool {
	trial, some := slices.Clone(a.Replicas), 0
	for i := range trial {
		if trial[i].Role == Learner && slices.Contains(gf.Filled, trial[i].ID) {
			trial[i].Role = Voter
			some++
		}
	}
	if some == 0 {
		return false
	}
	for i := len(trial) - 1; i > 0 && some > 0; i-- { // never the first: it is preferred, and handed over before
		if rep := &trial[i]; rep.Role == Voter && !slices.Contains(want, rep.Node) && rep.Node != gf.Leader {
			rep.Role = Outgoing
			some--
		}
	}
	if !s.safe(trial, a.Replicas, gf) {
		return false
	}
	for i := range trial {
		switch {
		case trial[i].Role == a.Replicas[i].Role:
		case trial[i].Role == Voter:
			s.did(StepPromote, g, trial[i])
		default:
			s.did(StepRetire, g, trial[i])
		}
	}
	a.Replicas = trial
	s.order(a, want)
	return true
}

// safe reports whether majorities of the voters before and after a change answer. Who has died since the leader said so does not.
func (s *stepper) safe(next, now []Replica, gf *GroupFacts) bool {
	for _, reps := range [...][]Replica{now, next} {
		voters, active := 0, 0
		for _, rep := range reps {
			if rep.Role != Voter {
				continue
			}
			voters++
			if s.alive(rep.Node) && slices.Contains(gf.Active, rep.ID) {
				active++
			}
		}
		if active < voters/2+1 {
			return false
		}
	}
	return true
}

// order puts voters into the order of the placement; who was first stays first, the others follow.
func (s *stepper) order(a *Assignment, want []NodeID) {
	rank := func(rep Replica) int {
		if i := slices.Index(want, rep.Node); i >= 0 && rep.Role == Voter {
			return i
		}
		return len(want) + 1 + int(rep.Role)
	}
	slices.SortStableFunc(a.Replicas[1:], func(x, y Replica) int { return rank(x) - rank(y) })
}

// join begins to fill what is missing, within the limits.
func (s *stepper) join(g GroupID, a *Assignment, want []NodeID) (some bool) {
	busy := s.fills(a)
	for _, node := range want {
		if _, there := a.On(node); there || !s.alive(node) || s.filling[node] >= s.p.cfg.PerNode || len(a.Replicas) >= maxCopies ||
			(!busy && s.groups >= s.p.cfg.Moves) {
			continue
		}
		if !busy {
			busy = true
			s.groups++
		}
		rep := Replica{Node: node, ID: s.newID(), Role: Learner}
		s.filling[node]++
		a.Replicas = append(a.Replicas, rep)
		s.did(StepJoin, g, rep)
		some = true
	}
	return some
}

// newID hands a replica ID out: never one that was there before, in whatever group, or two replicas could vote as one.
func (s *stepper) newID() ReplicaID {
	if mutReusedID() {
		for id := ReplicaID(1); id < s.n.nextReplica; id++ {
			if !s.n.has(id) {
				return id
			}
		}
	}
	id := s.n.nextReplica
	s.n.nextReplica++
	return id
}

// prefer makes the wanted owner the first, or follows a take-over.
func (s *stepper) prefer(g GroupID, a *Assignment, want []NodeID, gf *GroupFacts, led time.Duration) bool {
	first := a.Replicas[0].Node
	goes := !slices.Contains(want, first)
	able := func(n NodeID) (int, bool) {
		i := slices.IndexFunc(a.Replicas, func(rep Replica) bool { return rep.Node == n && rep.Role == Voter })
		return i, i >= 0 && s.alive(n) && slices.Contains(gf.Filled, a.Replicas[i].ID)
	}
	take := func(k StepKind, i int) bool {
		to := a.Replicas[i]
		a.Replicas = slices.Insert(slices.Delete(a.Replicas, i, i+1), 0, to)
		s.order(a, want)
		s.steps = append(s.steps, Step{Kind: k, Group: g, Node: to.Node, Replica: to.ID, From: first})
		return true
	}
	// Who leads is to go, and whom the ring prefers cannot take over, or cannot at all: whoever can is preferred meanwhile.
	_, fit := able(first)
	stuck := !goes && !fit && gf.Leader != first && !slices.Contains(want, gf.Leader)
	if gf.Leader != first && !goes {
		if i, ok := able(gf.Leader); ok && (!s.alive(first) || led >= s.p.cfg.Adopt) && slices.Contains(want, gf.Leader) {
			s.p.note(g, first, s.f.Now)
			return take(StepAdopt, i)
		}
	}
	if g == SystemGroup && !goes && !stuck || s.prefers >= prefersMax {
		return false
	}
	for _, node := range want {
		if node == first && stuck {
			continue
		}
		if node == first {
			break
		}
		i, ok := able(node)
		if !ok {
			continue
		}
		if back := node == s.p.moved[g].from || node != want[0]; back && !goes && !stuck && !s.p.mayMove(g, s.f.Now) {
			break
		}
		s.p.note(g, first, s.f.Now)
		s.prefers++
		return take(StepPrefer, i)
	}
	return false
}

// retire lets voters go that are not wanted, once all that are wanted vote. The leader hands over first, and so does who is preferred.
func (s *stepper) retire(g GroupID, a *Assignment, want []NodeID, gf *GroupFacts) {
	for _, node := range want {
		if rep, there := a.On(node); !there || rep.Role != Voter {
			return
		}
	}
	trial := slices.Clone(a.Replicas)
	var gone []Replica
	for i := range trial {
		if rep := &trial[i]; i > 0 && rep.Role == Voter && !slices.Contains(want, rep.Node) && rep.Node != gf.Leader {
			rep.Role = Outgoing
			gone = append(gone, *rep)
		}
	}
	if len(gone) == 0 || !s.safe(trial, a.Replicas, gf) {
		return
	}
	a.Replicas = trial
	for _, rep := range gone {
		s.did(StepRetire, g, rep)
	}
}
