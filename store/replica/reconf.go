package replica

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ringfence/ringfence/ring"
)

// Target is the configuration that a ring wants a group to have. The group's leader brings it about, one change at a time.
type Target struct {
	Epoch    ring.Epoch // of the ring
	Voters   []ring.ReplicaID
	Learners []ring.ReplicaID
}

// SetTarget tells what a newer ring wants. An older target is ignored.
func (g *Group) SetTarget(t Target) {
	if t.Epoch >= g.target.Epoch {
		g.target = t
	}
}

// changeConf proposes what leads towards the target and is safe now:
//
//   - a replica begins as learner, and gets a vote only when it has caught up and answers requests for promises without declining: one that abstains
//     would not use it, and make the majority larger;
//   - voters go in the same, joint, change in which others come, and only when all that shall come are there;
//   - nothing is proposed that would leave less than a majority of the new voters heard of;
//   - the leader does not remove itself: it hands over first.
//
// A proposal is awaited: Raft may drop it, or put an empty entry in its place, without a word. It carries the ring's epoch, and the
// fence accepts it only if no change of a newer ring came before; see decideConf.
func (g *Group) changeConf() {
	l := g.lead
	if l == nil || l.state != open || g.target.Epoch == 0 || g.target.Epoch < g.fence.Epoch && !mutStaleTarget() || len(g.conf.GetVotersOutgoing()) > 0 ||
		(l.confTick != 0 && g.ticks-l.confTick < 2*g.cfg.Timing.ElectionTicks) {
		return
	}
	changes := g.nextChanges()
	if len(changes) == 0 {
		l.confTick = 0
		return
	}
	l.confTick = max(g.ticks, 1)
	_ = g.rn.ProposeConfChange(&raftpb.ConfChangeV2{Changes: changes, Context: binary.AppendUvarint(nil, uint64(g.target.Epoch))}) // dropped: tried again
}

// nextChanges is the next step from the applied configuration to the target; empty if there is none, or none that is safe now.
func (g *Group) nextChanges() []*raftpb.ConfChangeSingle {
	voters, learners := g.conf.GetVoters(), g.conf.GetLearners()
	var out []*raftpb.ConfChangeSingle
	add := func(kind raftpb.ConfChangeType, id uint64) {
		out = append(out, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(id)})
	}
	for _, r := range slices.Concat(g.target.Voters, g.target.Learners) {
		if id := uint64(r); !slices.Contains(voters, id) && !slices.Contains(learners, id) {
			add(raftpb.ConfChangeAddLearnerNode, id)
		}
	}
	for _, id := range learners {
		if !slices.Contains(g.target.Learners, ring.ReplicaID(id)) && !slices.Contains(g.target.Voters, ring.ReplicaID(id)) {
			add(raftpb.ConfChangeRemoveNode, id)
		}
	}
	if len(out) > 0 {
		return out // learners first: they cost no vote
	}
	next, missing := slices.Clone(voters), false
	for _, r := range g.target.Voters {
		switch id := uint64(r); {
		case slices.Contains(voters, id):
		case g.caughtUp(id) && g.lead.answers(r):
			add(raftpb.ConfChangeAddNode, id)
			next = append(next, id)
		default:
			missing = true
		}
	}
	for _, id := range voters {
		wanted := slices.Contains(g.target.Voters, ring.ReplicaID(id)) || slices.Contains(g.target.Learners, ring.ReplicaID(id))
		if wanted || missing || id == uint64(g.cfg.Holder.Replica) {
			continue
		}
		add(raftpb.ConfChangeRemoveNode, id)
		next = slices.DeleteFunc(next, func(v uint64) bool { return v == id })
	}
	if g.active(next) < len(next)/2+1 || g.active(voters) < len(voters)/2+1 {
		return nil
	}
	return out
}

// active is how many of the replicas answered within an election timeout, this one included.
func (g *Group) active(ids []uint64) (n int) {
	for _, id := range ids {
		if g.hears(id) {
			n++
		}
	}
	return n
}

func (g *Group) hears(id uint64) bool {
	at, ok := g.lead.heard[ring.ReplicaID(id)]
	return id == uint64(g.cfg.Holder.Replica) || ok && g.now-at < g.cfg.Timing.Election()
}

// caughtUp reports whether a replica has the log, but for what is on its way, and answers.
func (g *Group) caughtUp(id uint64) (ok bool) {
	commit := g.rn.BasicStatus().HardState.GetCommit()
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) {
		ok = ok || r == id && pr.State == tracker.StateReplicate && pr.Match+fillSlack >= commit && g.hears(id)
	})
	return ok
}

// Facts is what a leader knows of its group, for whoever decides about the next ring.
type Facts struct {
	Group    ring.GroupID
	Term     uint64
	Epoch    ring.Epoch       // the fence's: no change of an older ring is accepted any more
	Voters   []ring.ReplicaID // of the configuration applied; of both halves while joint
	Learners []ring.ReplicaID
	Joint    bool             // or the end of it is not yet known to a majority of the voters
	Filled   []ring.ReplicaID // have caught up, answer requests for promises and do not decline: may be promoted, may lead
	Active   []ring.ReplicaID // answered within an election timeout, this one included
}

// Facts reports ok only while this replica holds an open token.
func (g *Group) Facts() (f Facts, ok bool) {
	l := g.lead
	if l == nil || l.state != open {
		return f, false
	}
	f = Facts{Group: g.cfg.Group, Term: l.term, Epoch: g.fence.Epoch, Joint: !g.settled()}
	for _, id := range slices.Concat(g.conf.GetVoters(), g.conf.GetVotersOutgoing()) {
		if r := ring.ReplicaID(id); !slices.Contains(f.Voters, r) {
			f.Voters = append(f.Voters, r)
		}
	}
	for _, id := range slices.Concat(g.conf.GetLearners(), g.conf.GetLearnersNext()) {
		if r := ring.ReplicaID(id); !slices.Contains(f.Voters, r) {
			f.Learners = append(f.Learners, r)
		}
	}
	for _, r := range slices.Concat(f.Voters, f.Learners) {
		if g.hears(uint64(r)) {
			f.Active = append(f.Active, r)
		}
		if r == g.cfg.Holder.Replica || g.caughtUp(uint64(r)) && l.answers(r) {
			f.Filled = append(f.Filled, r)
		}
	}
	return f, true
}
