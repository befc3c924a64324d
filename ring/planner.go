package ring

import (
	"fmt"
	"slices"
	"time"
)

// PlanConfig bounds what a Planner does at a time. Zero fields mean the defaults.
type PlanConfig struct {
	Moves   int           // groups with a replica that is being filled; default 8
	PerNode int           // replicas being filled per node; default 4
	Damp    time.Duration // between two moves of a shard's preferred owner, but for those to a node that has joined; default 30 s, doubling up to 16 times that while it goes on
	Adopt   time.Duration // another than the preferred node has led for so long before the ring follows; default 3 s; at once if the preferred is not alive
	// Place is where replicas belong. Default [Place]; another one must be the same function, perhaps with a memory.
	Place func(members []NodeID, shards, replicas int) ([][]NodeID, error)
}

// Planner finds the next safe ring. It is a machine: no goroutines, locks or clocks, and the same calls give the same rings. What it
// remembers only damps: a new Planner is safe.
type Planner struct {
	cfg   PlanConfig
	memo  map[string][][]NodeID
	moved map[GroupID]movedAt
	led   map[GroupID]ledSince
	seen  map[GroupID]seenSince
}

// seenSince is what the ring says of a group, and since which ring it has, as far as this planner knows.
type seenSince struct {
	replicas []Replica
	epoch    Epoch
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
	if cfg.Place == nil {
		cfg.Place = Place
	}
	return &Planner{cfg: cfg, memo: map[string][][]NodeID{}, moved: map[GroupID]movedAt{}, led: map[GroupID]ledSince{}, seen: map[GroupID]seenSince{}}
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
		if shards, err = p.cfg.Place(stay, len(r.shards), r.replicas); err != nil {
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

// watch notes in which ring each group was changed last. What a leader said before it knew that ring is about another table: a replica that
// it calls none of its own may have become one since. A new planner takes the present ring, which can only be later.
func (p *Planner) watch(r *Ring) {
	for g := range GroupID(len(r.shards) + 1) {
		a := r.groupRef(g)
		if old, ok := p.seen[g]; !ok || !sameReplicas(old.replicas, a.Replicas) {
			p.seen[g] = seenSince{slices.Clone(a.Replicas), r.epoch}
		}
	}
}

// sameReplicas compares what a group's leader is to bring about; who is preferred is no part of it.
func sameReplicas(x, y []Replica) bool {
	return len(x) == len(y) && !slices.ContainsFunc(x, func(rep Replica) bool { return !slices.Contains(y, rep) })
}
