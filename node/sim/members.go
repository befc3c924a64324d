package sim

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

// conf is a configuration by the rules of proof.md, written a second time. While joint, outgoing is not empty.
type conf struct {
	voters, outgoing, learners []uint64
}

func (c conf) clone() conf {
	return conf{slices.Clone(c.voters), slices.Clone(c.outgoing), slices.Clone(c.learners)}
}

// same compares with what a replica has stored.
func (c conf) same(s *raftpb.ConfState) bool {
	sorted := func(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }
	return slices.Equal(sorted(c.voters), sorted(s.GetVoters())) && slices.Equal(sorted(c.outgoing), sorted(s.GetVotersOutgoing())) &&
		slices.Equal(sorted(c.learners), sorted(s.GetLearners()))
}

// change takes a committed change of the configuration: refused if a newer ring's came before, joint if it changes more than one replica.
// An empty one ends a joint configuration.
func (m *model) change(e *raftpb.Entry) string {
	var cc raftpb.ConfChangeV2
	if e.GetType() == raftpb.EntryConfChange {
		return "a change of the configuration in the old format"
	}
	if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
		return err.Error()
	}
	if len(cc.GetChanges()) == 0 {
		m.conf.outgoing = nil
		m.confs = append(m.confs, m.conf.clone())
		return ""
	}
	epoch, n := binary.Uvarint(cc.GetContext())
	if n <= 0 {
		return "a change of the configuration without an epoch"
	}
	if ring.Epoch(epoch) < m.fence.Epoch {
		return ""
	}
	m.fence.Epoch, m.actual.Epoch = ring.Epoch(epoch), ring.Epoch(epoch)
	if len(cc.GetChanges()) > 1 {
		m.conf.outgoing = slices.Clone(m.conf.voters)
	}
	for _, c := range cc.GetChanges() {
		id := c.GetNodeId()
		m.conf.voters = slices.DeleteFunc(slices.Clone(m.conf.voters), func(v uint64) bool { return v == id })
		m.conf.learners = slices.DeleteFunc(slices.Clone(m.conf.learners), func(v uint64) bool { return v == id })
		switch c.GetType() {
		case raftpb.ConfChangeAddNode:
			m.conf.voters = append(m.conf.voters, id)
		case raftpb.ConfChangeAddLearnerNode:
			m.conf.learners = append(m.conf.learners, id)
		}
	}
	m.confs = append(m.confs, m.conf.clone())
	return ""
}

// move is one replica of a shard on its way to another node, by the rings that a sequencer would hand out.
type move struct {
	on      bool
	target  replica.Target
	in, out uint64 // replicas; out is 0 until in is filled
}

// aVoter is a node that holds a voter of the shard, as far as anybody knows.
func (w *world) aVoter(shard int) int {
	voters := w.models[shard].conf.voters
	return nodeOf(voters[w.pick(len(voters))])
}

// facts are what the shard's owner knows, if there is one that can be asked.
func (w *world) facts(shard int) (*rep, replica.Facts) {
	for _, n := range w.nodes {
		if r := n.reps[shard]; n.up && !n.paused && r != nil {
			if f, ok := r.g.Facts(); ok {
				return r, f
			}
		}
	}
	return nil, replica.Facts{}
}

// beginMove lets a shard begin to move one of its replicas to a node that has none.
func (w *world) beginMove() {
	shard := w.pick(len(w.models))
	mv := &w.moves[shard]
	free := -1
	for _, i := range w.rng.Perm(len(w.nodes)) {
		if n := w.nodes[i]; n.up && n.reps[shard] == nil && n.disk.cur[shard] == nil {
			free = i
		}
	}
	owner, f := w.facts(shard)
	if mv.on || free < 0 || owner == nil || f.Joint || len(f.Learners) > 0 {
		return
	}
	w.count(moveReplica)
	w.gen++
	n := w.nodes[free]
	in := makeReplicaID(w.gen, shard, free)
	if mutant.has(idReused) {
		in = makeReplicaID(0, shard, free)
	}
	w.epoch++
	*mv = move{on: true, in: in, target: replica.Target{Epoch: w.epoch, Voters: f.Voters, Learners: []ring.ReplicaID{replicaID(in)}}}
	w.trace("move begins", uint64(shard), in, uint64(w.epoch))
	n.disk.place(shard, emptyImage(in))
	w.seen[free][shard], w.synced[free][shard] = view{}, view{}
	n.open(shard, n.disk.cur[shard], true)
	w.tellTarget(shard)
	w.nextMove(shard)
}

// nextMove looks from time to time how far a move is, and hands out the next ring.
func (w *world) nextMove(shard int) {
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), func() {
		mv := &w.moves[shard]
		if owner, f := w.facts(shard); owner != nil && f.Epoch <= mv.target.Epoch {
			w.stepMove(shard, owner, f)
		}
		if mv.on {
			w.tellTarget(shard)
			w.nextMove(shard)
		}
	})
}

func (w *world) stepMove(shard int, owner *rep, f replica.Facts) {
	mv := &w.moves[shard]
	wanted := slices.Equal(slices.Sorted(slices.Values(f.Voters)), slices.Sorted(slices.Values(mv.target.Voters)))
	switch {
	case mv.out == 0 && slices.Contains(f.Filled, replicaID(mv.in)) && wanted:
		mv.out = w.victim(f)
		w.epoch++
		voters := slices.DeleteFunc(slices.Clone(f.Voters), func(r ring.ReplicaID) bool { return r == replicaID(mv.out) })
		mv.target = replica.Target{Epoch: w.epoch, Voters: append(voters, replicaID(mv.in))}
		w.trace("swap", mv.in, mv.out, uint64(w.epoch))
	case mv.out != 0 && wanted && !f.Joint && f.Epoch == mv.target.Epoch:
		mv.on = false
		w.stats.Moves++
		w.trace("moved", mv.in, mv.out, 0)
		w.remove(mv.out)
	case mv.out == owner.rid && owner.own.serve != nil: // a leader does not remove itself
		owner.own.serve.handOver(owner.anotherVoter(w.rng))
		owner.n.drain(owner)
	}
}

// victim is the voter to go: one whose disk is gone, else any.
func (w *world) victim(f replica.Facts) uint64 {
	for _, r := range f.Voters {
		n := w.nodes[nodeOf(uint64(r))]
		if m := n.disk.cur[shardOf(uint64(r))]; m == nil || m.rid != uint64(r) {
			return uint64(r)
		}
	}
	return uint64(f.Voters[w.pick(len(f.Voters))])
}

// tellTarget tells every node of the newest ring, late or not at all. It will be told again.
func (w *world) tellTarget(shard int) {
	t := w.moves[shard].target
	for _, n := range w.nodes {
		if w.faulty(wrongHint) && w.chance(0.5) {
			continue
		}
		inc := n.inc
		w.after(w.between(0, 500*time.Millisecond), func() {
			n.do(inc, func() {
				if r := n.reps[shard]; r != nil {
					r.g.SetTarget(t)
					r.g.SetEpoch(t.Epoch)
				}
			})
		})
	}
}

// remove takes a replica away that its group does without: late, and again until it is done. Till then it may campaign as it likes.
func (w *world) remove(id uint64) {
	n, shard := w.nodes[nodeOf(id)], shardOf(id)
	w.after(w.between(0, 2*time.Second), func() {
		img := n.disk.cur[shard]
		if img == nil || img.rid != id {
			return // wiped
		}
		if n.paused {
			w.remove(id)
			return
		}
		w.trace("removed", id, 0, 0)
		if r := n.reps[shard]; n.up && r != nil {
			if s := r.own.serve; s != nil {
				r.own.serve = nil
				s.do(s.t.Lost(nil))
			}
			r.gone = true
		}
		if n.up {
			n.reps[shard] = nil
		}
		n.disk.place(shard, nil)
		w.seen[n.id][shard], w.synced[n.id][shard] = view{}, view{}
	})
}
