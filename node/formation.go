package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/ring"
)

// Forming a cluster is agreement among exactly N nodes that know each other only by gossip, which may show each of them
// something else. So nothing is made from a gossip view: the lowest of N candidates proposes, every one of them promises, durably,
// to that proposal and to no other, and only when all N have promised does the proposer decide, durably. This is two-phase commit
// with the proposer as its coordinator: who has promised asks the proposer how it ended, and never forms anything else meanwhile.

// Candidate is a node without a cluster, as gossip shows it.
type Candidate struct {
	Member   ring.Member
	Expect   int // its --bootstrap-expect
	Shards   int
	Replicas int
	Timing   string
}

// Proposal is what a cluster would begin as. ID becomes the cluster's.
type Proposal struct {
	ID       ring.ClusterID `msgpack:"id"`
	Proposer ring.NodeID    `msgpack:"proposer"`
	Members  []ring.Member  `msgpack:"members"` // sorted by ID
	Shards   int            `msgpack:"shards"`
	Replicas int            `msgpack:"replicas"`
	Timing   string         `msgpack:"timing"`
}

// Outcome of a proposal, as its proposer tells.
type Outcome uint8

const (
	OutcomePending Outcome = iota + 1
	OutcomeCommitted
	OutcomeAborted
)

// formation is the machine of one node without a cluster. Its promise is its only durable state.
type formation struct {
	self     Candidate
	promise  *Proposal // to which this node has promised; durable
	decided  bool      // the promise is the cluster: nothing more to do
	asked    map[ring.NodeID]bool
	promised map[ring.NodeID]bool
	newID    func() ring.ClusterID
}

// formAction is what the machine wants done; persist comes before any message of the same batch leaves.
type formAction struct {
	kind     formKind
	to       ring.Member
	proposal *Proposal // nil with persist: forget the promise
}

type formKind uint8

const (
	formPersist formKind = iota + 1 // store the promise (or its absence), fsynced
	formAsk                         // ask a member for its promise
	formAbort                       // tell a member that the proposal is void
	formQuery                       // ask the proposer how it ended
	formDecide                      // store the decision, fsynced, and become the cluster
)

// newFormation restores a node's machine. A proposal of its own that was not decided before the restart is void: nobody can have been told otherwise.
func newFormation(self Candidate, promise *Proposal, newID func() ring.ClusterID) (*formation, []formAction) {
	f := &formation{self: self, promise: promise, newID: newID}
	if promise != nil && promise.Proposer == self.Member.ID {
		return f, f.giveUp()
	}
	return f, nil
}

// view is called with what gossip shows now, and at every beat: it moves the formation on.
func (f *formation) view(seen []Candidate) []formAction {
	switch {
	case f.decided || f.self.Expect < 1:
		return nil
	case f.promise == nil:
		return f.propose(seen)
	case f.promise.Proposer == f.self.Member.ID:
		return f.collect()
	}
	for _, m := range f.promise.Members {
		if m.ID == f.promise.Proposer {
			return []formAction{{kind: formQuery, to: m, proposal: f.promise}}
		}
	}
	return nil
}

// propose begins a proposal if this node is the lowest of at least Expect candidates that want the same.
func (f *formation) propose(seen []Candidate) []formAction {
	group := []Candidate{f.self}
	for _, c := range seen {
		if c.Member.ID != f.self.Member.ID && f.mismatch(c) == "" {
			group = append(group, c)
		}
	}
	slices.SortFunc(group, func(a, b Candidate) int { return compareID(a.Member.ID, b.Member.ID) })
	if len(group) < f.self.Expect || group[0].Member.ID != f.self.Member.ID {
		return nil
	}
	p := &Proposal{ID: f.newID(), Proposer: f.self.Member.ID, Shards: f.self.Shards, Replicas: f.self.Replicas, Timing: f.self.Timing}
	for _, c := range group[:f.self.Expect] {
		p.Members = append(p.Members, c.Member)
	}
	f.promise, f.promised, f.asked = p, map[ring.NodeID]bool{f.self.Member.ID: true}, map[ring.NodeID]bool{}
	return append([]formAction{{kind: formPersist, proposal: p}}, f.collect()...)
}

// collect asks those that have not promised yet, or decides.
func (f *formation) collect() []formAction {
	var out []formAction
	for _, m := range f.promise.Members {
		if !f.promised[m.ID] {
			f.asked[m.ID] = true
			out = append(out, formAction{kind: formAsk, to: m, proposal: f.promise})
		}
	}
	if len(out) == 0 {
		f.decided = true
		return []formAction{{kind: formDecide, proposal: f.promise}}
	}
	return out
}

// answered takes a member's answer to formAsk. A refusal makes the proposal void: another view must do.
func (f *formation) answered(id ring.ClusterID, from ring.NodeID, ok bool) []formAction {
	if f.decided || f.promise == nil || f.promise.ID != id || f.promise.Proposer != f.self.Member.ID {
		return nil
	}
	if !ok {
		return f.giveUp()
	}
	f.promised[from] = true
	if len(f.promised) < len(f.promise.Members) {
		return nil
	}
	return f.collect()
}

// giveUp voids this node's own proposal.
func (f *formation) giveUp() []formAction {
	p := f.promise
	f.promise, f.promised, f.asked = nil, nil, nil
	out := []formAction{{kind: formPersist}}
	for _, m := range p.Members {
		if m.ID != f.self.Member.ID {
			out = append(out, formAction{kind: formAbort, to: m, proposal: p})
		}
	}
	return out
}

// ask answers another node's formAsk: an empty refusal is a promise, which must be persisted before the answer leaves.
func (f *formation) ask(p *Proposal) (refusal string, actions []formAction) {
	me := f.self.Member
	switch {
	case f.promise != nil && f.promise.ID == p.ID:
		return "", nil
	case f.decided || f.promise != nil:
		return fmt.Sprintf("node %s has promised itself to the cluster that node %s proposes", me.ID, f.promise.Proposer), nil
	case f.self.Expect != len(p.Members):
		return fmt.Sprintf("node %s has --bootstrap-expect %d, and node %s proposes a cluster of %d: start all of them with the same value",
			me.ID, f.self.Expect, p.Proposer, len(p.Members)), nil
	}
	if i := slices.IndexFunc(p.Members, func(m ring.Member) bool { return m.ID == me.ID }); i < 0 {
		return fmt.Sprintf("node %s is not among the members that node %s proposes", me.ID, p.Proposer), nil
	}
	c := Candidate{Member: ring.Member{ID: p.Proposer}, Expect: len(p.Members), Shards: p.Shards, Replicas: p.Replicas, Timing: p.Timing}
	if why := f.mismatch(c); why != "" {
		return why, nil
	}
	f.promise = p
	return "", []formAction{{kind: formPersist, proposal: p}}
}

// outcome takes the proposer's word on a proposal to which this node has promised.
func (f *formation) outcome(id ring.ClusterID, o Outcome) []formAction {
	if f.decided || f.promise == nil || f.promise.ID != id || f.promise.Proposer == f.self.Member.ID {
		return nil
	}
	switch o {
	case OutcomeCommitted:
		f.decided = true
		return []formAction{{kind: formDecide, proposal: f.promise}}
	case OutcomeAborted:
		f.promise = nil
		return []formAction{{kind: formPersist}}
	}
	return nil
}

// tell answers another node's formQuery about a proposal of this node's. One it does not know is void: it was never decided.
func (f *formation) tell(id ring.ClusterID) Outcome {
	switch {
	case f.promise == nil || f.promise.ID != id:
		return OutcomeAborted
	case f.decided:
		return OutcomeCommitted
	}
	return OutcomePending
}

// mismatch says why a candidate cannot form a cluster with this node, "" if it can.
func (f *formation) mismatch(c Candidate) string {
	var why []string
	differ := func(flag string, mine, theirs any) {
		if mine != theirs {
			why = append(why, fmt.Sprintf("%s is %v here and %v there", flag, mine, theirs))
		}
	}
	differ("--bootstrap-expect", f.self.Expect, c.Expect)
	differ("--shards", f.self.Shards, c.Shards)
	differ("--replicas", f.self.Replicas, c.Replicas)
	differ("--timing", f.self.Timing, c.Timing)
	if len(why) == 0 {
		return ""
	}
	return fmt.Sprintf("nodes %s and %s cannot form a cluster: %s; start them with the same values", f.self.Member.ID, c.Member.ID, strings.Join(why, ", "))
}

func compareID(a, b ring.NodeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
