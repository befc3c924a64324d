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
	Epoch    Epoch       // of the ring that the leader knew when it said so
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

// Next is the next ring, with all steps that are safe and due now, or nil. Per group there is one step at a time, and none before its leader
// has said, knowing of the one before, that it is done; so no step ever costs a group its majority. An error is a defect of the planner, or
// of r: the ring found is not handed out.
func (p *Planner) Next(r *Ring, f *Facts) (*Ring, []Step, error) {
	want, err := p.Wanted(r, f)
	if err != nil {
		return nil, nil, err
	}
	p.watch(r)
	n := r.clone()
	st := &stepper{p: p, n: n, f: f, filling: map[NodeID]int{}}
	st.count()
	for g := range want {
		st.group(GroupID(g), want[g])
	}
	st.members(want)
	if len(st.steps) == 0 {
		return nil, nil, nil
	}
	if err := n.check(); err != nil {
		return nil, nil, fmt.Errorf("the ring after epoch %d would be wrong, so it stays: %w; its steps: %v", r.epoch, err, st.steps)
	}
	return n, st.steps, nil
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
