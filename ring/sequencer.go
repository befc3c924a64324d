package ring

import (
	"errors"
	"time"
)

// SequencerConfig says what a Sequencer goes by. All fields are required but Plan.
type SequencerConfig struct {
	Alive        time.Duration // a member counts as alive for so long after its last report
	ReplaceAfter time.Duration // a member that was not heard of for so long is given up
	Plan         PlanConfig
}

// Report is what a member tells the sequencer: where it is, and what it knows of the groups that it owns.
type Report struct {
	Member Member // its State counts for nothing
	Epoch  Epoch  // of the newest ring that it knows
	Groups []GroupReport
}

// What Hear says of a report that it does not take.
var (
	ErrNoMember = errors.New("ring: the report comes from nobody that the ring knows")
	ErrBehind   = errors.New("ring: whoever reports knows a newer ring: another sequencer has made that")
)

// GroupReport is what the leader of a group says of it, in its term.
type GroupReport struct {
	Group GroupID
	Term  uint64
	Facts GroupFacts
}

// Sequencer decides which ring comes next, from the committed one and from what members report. It is a machine of one tenure of the system
// shard: no goroutines, locks or clocks, and the same calls give the same rings. Who drives it commits each ring under the system shard's
// fence before it asks for another, so each epoch is handed out once. Times are of one clock that never goes back.
type Sequencer struct {
	cfg     SequencerConfig
	current *Ring
	planner *Planner
	heard   map[NodeID]time.Duration // when a member was heard of last, or became one, or this tenure began
	leaders map[GroupID]leaderReport
}

type leaderReport struct {
	GroupReport
	from NodeID
}

// NewSequencer begins a tenure. It has heard of nobody, and gives everybody the benefit of the doubt.
func NewSequencer(cfg SequencerConfig) *Sequencer {
	return &Sequencer{cfg: cfg, planner: NewPlanner(cfg.Plan), heard: map[NodeID]time.Duration{}, leaders: map[GroupID]leaderReport{}}
}

// Committed tells which ring is committed, as of now. A member that is new in it has time to report, as all have when a tenure begins.
func (q *Sequencer) Committed(now time.Duration, r *Ring) {
	q.current = r
	for _, m := range r.Members() {
		if _, known := q.heard[m.ID]; !known {
			q.heard[m.ID] = now
		}
	}
}

// Current is the committed ring; nil until the first call of Committed.
func (q *Sequencer) Current() *Ring { return q.current }

// Hear takes a member's report. The error is ErrBehind if this tenure is over without anybody having said so: its word counts for nothing then, least
// of all that somebody is no member; and ErrNoMember. news is set if the member is at another address than the ring says, or another process of
// it: then the ring is to be changed by [Ring.Update] with that. There must be a committed ring.
func (q *Sequencer) Hear(now time.Duration, rep *Report) (news *Member, err error) {
	if rep.Epoch > q.current.Epoch() {
		return nil, ErrBehind
	}
	m, ok := q.current.Member(rep.Member.ID)
	if !ok {
		return nil, ErrNoMember
	}
	q.heard[m.ID] = now
	led := map[GroupID]bool{}
	for _, g := range rep.Groups {
		led[g.Group] = true
		if old, ok := q.leaders[g.Group]; !ok || old.Term <= g.Term {
			q.leaders[g.Group] = leaderReport{g, m.ID}
		}
	}
	for g, old := range q.leaders {
		if old.from == m.ID && !led[g] {
			delete(q.leaders, g)
		}
	}
	at := rep.Member
	if at.State = m.State; at == m {
		return nil, nil
	}
	return &at, nil
}

// Facts are what members have reported lately.
func (q *Sequencer) Facts(now time.Duration) *Facts {
	f := &Facts{Now: now, Nodes: map[NodeID]NodeFacts{}, Groups: map[GroupID]GroupFacts{}}
	for _, m := range q.current.Members() {
		f.Nodes[m.ID] = NodeFacts{Alive: now-q.heard[m.ID] < q.cfg.Alive}
	}
	for g, r := range q.leaders {
		if f.Nodes[r.from].Alive {
			f.Groups[g] = r.Facts
		}
	}
	return f
}

// Next is the ring that time and the planner want now, nil if none: first without a member that has been dead for too long, then the planner's
// steps. lost is that member, or 0. The error is that of [Planner.Next].
func (q *Sequencer) Next(now time.Duration) (next *Ring, steps []Step, lost NodeID, err error) {
	facts := q.Facts(now)
	if next, lost = q.giveUp(now, facts); next != nil {
		return next, nil, lost, nil
	}
	next, steps, err = q.planner.Next(q.current, facts)
	return next, steps, 0, err
}

// giveUp declares a member lost that has been dead for too long, if the others can hold as many copies without it: who cannot be replaced may
// as well come back.
func (q *Sequencer) giveUp(now time.Duration, facts *Facts) (*Ring, NodeID) {
	able := 0
	for _, m := range q.current.Members() {
		if m.State.Stays() && facts.Nodes[m.ID].Alive {
			able++
		}
	}
	if able < q.current.Replicas() {
		return nil, 0
	}
	for _, m := range q.current.Members() {
		if m.State == Lost || now-q.heard[m.ID] < q.cfg.ReplaceAfter {
			continue
		}
		if next, err := q.current.Lose(m.ID, facts); err == nil { // else it would cost a majority now; asked again as long as it is dead
			return next, m.ID
		}
	}
	return nil, 0
}
