package ring

import (
	"fmt"
	"slices"
	"time"
)

// Facts is what the sequencer knows beside the ring. Only differences of times count.
type Facts struct {
	Now    time.Duration
	Nodes  map[NodeID]NodeFacts   // of members; absent: nothing was heard of it
	Groups map[GroupID]GroupFacts // newest report of each group's leader; absent: none
}

// NodeFacts is what is known of a member.
type NodeFacts struct {
	Alive bool // heard from lately
}

// GroupFacts is what a group's leader says of it.
type GroupFacts struct {
	Leader   NodeID      // who holds the token
	Voters   []ReplicaID // of the configuration applied; of both halves while Joint
	Learners []ReplicaID
	Joint    bool
	Filled   []ReplicaID // have caught up and answer: may be promoted, may lead
	Active   []ReplicaID // answered within an election timeout, the leader's own included
}

// StepKind says what a step does.
type StepKind uint8

const (
	StepJoin    StepKind = iota + 1 // a learner is added
	StepPromote                     // a filled learner gets a vote
	StepRetire                      // a replica is to leave its group
	StepDrop                        // a replica that its group does without leaves the ring
	StepPrefer                      // another owner is preferred
	StepAdopt                       // the node that took a group over is preferred from now on
	StepUp                          // a member holds its share
	StepForget                      // a member without replicas is none any more
	StepOrder                       // who comes after the preferred owner is put in order
)

func (k StepKind) String() string {
	names := [...]string{"", "join", "promote", "retire", "drop", "prefer", "adopt", "up", "forget", "order"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("step %d", uint8(k))
}

// Step is one small change from a ring to the next, for logs.
type Step struct {
	Kind    StepKind
	Group   GroupID
	Node    NodeID
	Replica ReplicaID
	From    NodeID // of StepPrefer and StepAdopt: who was preferred
}

func (s Step) String() string {
	switch s.Kind {
	case StepOrder:
		return fmt.Sprintf("%s %s", s.Kind, s.Group)
	case StepUp, StepForget:
		return fmt.Sprintf("%s %s", s.Kind, s.Node)
	case StepPrefer, StepAdopt:
		return fmt.Sprintf("%s %s %s, not %s", s.Kind, s.Group, s.Node, s.From)
	}
	return fmt.Sprintf("%s %s %s replica %d", s.Kind, s.Group, s.Node, s.Replica)
}

// PlanConfig bounds what a Planner does at a time. Zero fields mean the defaults.
type PlanConfig struct {
	Moves   int           // groups with a replica that is being filled; default 8
	PerNode int           // replicas being filled per node; default 4
	Damp    time.Duration // between two moves of a shard's preferred owner, but for those to a node that has joined; default 30 s, doubling up to 16 times that while it goes on
	Adopt   time.Duration // another than the preferred node has led for so long before the ring follows; default 3 s; at once if the preferred is not alive
}

// Planner finds the next safe ring. It is a machine: no goroutines, locks or clocks, and the same calls give the same rings. What it
// remembers only damps: a new Planner is safe.
type Planner struct {
	cfg   PlanConfig
	memo  map[string][][]NodeID
	moved map[GroupID]movedAt
	led   map[GroupID]ledSince
}

type movedAt struct {
	at, hold time.Duration
	from     NodeID // who was preferred before
}

type ledSince struct {
	node  NodeID
	since time.Duration
}

// NewPlanner makes a planner that knows of no moves.
func NewPlanner(cfg PlanConfig) *Planner {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Moves, 8)
	def(&cfg.PerNode, 4)
	if cfg.Damp == 0 {
		cfg.Damp = 30 * time.Second
	}
	if cfg.Adopt == 0 {
		cfg.Adopt = 3 * time.Second
	}
	return &Planner{cfg: cfg, memo: map[string][][]NodeID{}, moved: map[GroupID]movedAt{}, led: map[GroupID]ledSince{}}
}

// Wanted is where the replicas of every group belong: the system group first, then the shards; the first of each is preferred. The error is
// that of [Place].
func (p *Planner) Wanted(r *Ring, f *Facts) ([][]NodeID, error) {
	var stay []NodeID
	for _, m := range r.members {
		if m.State.Stays() {
			stay = append(stay, m.ID)
		}
	}
	key := fmt.Sprint(stay)
	shards, ok := p.memo[key]
	if !ok {
		var err error
		if shards, err = Place(stay, len(r.shards), r.replicas); err != nil {
			return nil, err
		}
		if len(p.memo) > 16 {
			clear(p.memo)
		}
		p.memo[key] = shards
	}
	return append([][]NodeID{wantedSystem(r.system, stay, f)}, shards...), nil
}

// wantedSystem keeps who is there, those that are alive first, and fills up with the lowest IDs.
func wantedSystem(a Assignment, stay []NodeID, f *Facts) []NodeID {
	n := SystemVoters(len(stay))
	var out []NodeID
	for _, alive := range [...]bool{true, false} {
		for _, rep := range a.Replicas {
			if rep.Role != Outgoing && slices.Contains(stay, rep.Node) && f.Nodes[rep.Node].Alive == alive && len(out) < n {
				out = append(out, rep.Node)
			}
		}
	}
	for _, id := range stay {
		if len(out) < n && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// Next is the next ring, with all steps that are safe and due now, or nil. Per group there is one step at a time, and none before its leader
// has said that the one before is done; so no step ever costs a group its majority.
func (p *Planner) Next(r *Ring, f *Facts) (*Ring, []Step) {
	want, err := p.Wanted(r, f)
	if err != nil {
		return nil, nil // too many members cannot be admitted, and a ring of none does not exist
	}
	n := r.clone()
	st := &stepper{p: p, n: n, f: f, filling: map[NodeID]int{}}
	st.count()
	for g := range want {
		st.group(GroupID(g), want[g])
	}
	st.members(want)
	if len(st.steps) == 0 || n.check() != nil {
		return nil, nil
	}
	return n, st.steps
}

// clone is the ring of the next epoch, to be changed.
func (r *Ring) clone() *Ring {
	n := *r
	n.epoch++
	n.members = slices.Clone(r.members)
	n.system = Assignment{slices.Clone(r.system.Replicas)}
	n.shards = make([]Assignment, len(r.shards))
	for i := range r.shards {
		n.shards[i] = Assignment{slices.Clone(r.shards[i].Replicas)}
	}
	return &n
}

func (r *Ring) groupRef(g GroupID) *Assignment {
	if g == SystemGroup {
		return &r.system
	}
	return &r.shards[g-1]
}

// stepper makes one next ring.
type stepper struct {
	p       *Planner
	n       *Ring
	f       *Facts
	steps   []Step
	groups  int            // with a learner
	filling map[NodeID]int // learners, by node
	prefers int
}

// prefersMax bounds how many shards change their preferred owner in one ring.
const prefersMax = 16

func (s *stepper) count() {
	for g := range GroupID(len(s.n.shards) + 1) {
		some := 0
		for _, rep := range s.n.groupRef(g).Replicas {
			if rep.Role == Learner {
				s.filling[rep.Node]++
				some = 1
			}
		}
		s.groups += some
	}
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
	if !safe(trial, a.Replicas, gf) {
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

// safe reports whether majorities of the voters before and after a change answer.
func safe(next, now []Replica, gf *GroupFacts) bool {
	for _, reps := range [...][]Replica{now, next} {
		voters, active := 0, 0
		for _, rep := range reps {
			if rep.Role != Voter {
				continue
			}
			voters++
			if slices.Contains(gf.Active, rep.ID) {
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
	busy := slices.ContainsFunc(a.Replicas, func(rep Replica) bool { return rep.Role == Learner })
	for _, node := range want {
		if _, there := a.On(node); there || !s.alive(node) || s.filling[node] >= s.p.cfg.PerNode || len(a.Replicas) >= maxCopies ||
			(!busy && s.groups >= s.p.cfg.Moves) {
			continue
		}
		if !busy {
			busy = true
			s.groups++
		}
		rep := Replica{Node: node, ID: s.n.nextReplica, Role: Learner}
		s.n.nextReplica++
		s.filling[node]++
		a.Replicas = append(a.Replicas, rep)
		s.did(StepJoin, g, rep)
		some = true
	}
	return some
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
	if gf.Leader != first && !goes {
		if i, ok := able(gf.Leader); ok && (!s.alive(first) || led >= s.p.cfg.Adopt) && slices.Contains(want, gf.Leader) {
			s.p.note(g, first, s.f.Now)
			return take(StepAdopt, i)
		}
	}
	if g == SystemGroup && !goes || s.prefers >= prefersMax {
		return false
	}
	for _, node := range want {
		if node == first {
			break
		}
		i, ok := able(node)
		if !ok {
			continue
		}
		if back := node == s.p.moved[g].from || node != want[0]; back && !goes && !s.p.mayMove(g, s.f.Now) {
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
	if len(gone) == 0 || !safe(trial, a.Replicas, gf) {
		return
	}
	a.Replicas = trial
	for _, rep := range gone {
		s.did(StepRetire, g, rep)
	}
}

// members moves members on whose groups have.
func (s *stepper) members(want [][]NodeID) {
	share, holds := map[NodeID]bool{}, map[NodeID]bool{} // lacks some of its share; has a replica
	for g := range GroupID(len(want)) {
		a := s.n.groupRef(g)
		for _, rep := range a.Replicas {
			holds[rep.Node] = true
		}
		for _, node := range want[g] {
			if rep, there := a.On(node); !there || rep.Role != Voter {
				share[node] = true
			}
		}
	}
	kept := s.n.members[:0]
	for _, m := range s.n.members {
		switch {
		case m.State == Joining && !share[m.ID]:
			m.State = Up
			s.steps = append(s.steps, Step{Kind: StepUp, Node: m.ID})
		case !m.State.Stays() && !holds[m.ID]:
			s.steps = append(s.steps, Step{Kind: StepForget, Node: m.ID})
			continue
		}
		kept = append(kept, m)
	}
	s.n.members = kept
}

// leads says for how long the group's leader has led.
func (p *Planner) leads(g GroupID, leader NodeID, now time.Duration) time.Duration {
	l, ok := p.led[g]
	if !ok || l.node != leader {
		p.led[g] = ledSince{leader, now}
		return 0
	}
	return now - l.since
}

func (p *Planner) forgetLeader(g GroupID, known bool) {
	if !known {
		delete(p.led, g)
	}
}

// mayMove and note damp how often a shard changes hands. A node that joins takes its share also of shards that did so a moment ago: that
// is no way back.
func (p *Planner) mayMove(g GroupID, now time.Duration) bool {
	m, ok := p.moved[g]
	return !ok || now-m.at >= m.hold
}

func (p *Planner) note(g GroupID, from NodeID, now time.Duration) {
	m, ok := p.moved[g]
	hold := min(2*m.hold, 16*p.cfg.Damp)
	if !ok || now-m.at >= m.hold+10*time.Minute {
		hold = p.cfg.Damp
	}
	p.moved[g] = movedAt{now, hold, from}
	delete(p.led, g) // whoever is to lead now gets its time
}
