package replica

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ringfence/ringfence/ring"
)

// Raft takes a configuration into use when its entry is applied, not when it is appended. So a replica that has applied the end of a joint
// configuration, and is out of the group by it, does not campaign any more; the others, if they have the entry but have not heard that it
// is committed, still need the votes of the old half, hence perhaps this replica's; and it refuses them if its log is longer than theirs.
// Is one more replica dead, then nobody can lead, for ever. The simulation found that. So who is out of the group answers a candidate with
// what it knows: an entry, by index and term, that is committed. A replica that has this very entry may take it for committed too.

// isOut reports whether the applied configuration has no place for this replica. A replica that waits to be filled has none.
func (g *Group) isOut() bool {
	self := uint64(g.cfg.Holder.Replica)
	c := g.conf
	return len(c.GetVoters()) > 0 && !slices.Contains(c.GetVoters(), self) && !slices.Contains(c.GetVotersOutgoing(), self) &&
		!slices.Contains(c.GetLearners(), self) && !slices.Contains(c.GetLearnersNext(), self)
}

// tellOut answers a request for a vote, if this replica is out of the group. The request goes to Raft all the same.
func (g *Group) tellOut(m *raftpb.Message) {
	if t := m.GetType(); t != raftpb.MsgVote && t != raftpb.MsgPreVote || !g.isOut() {
		return
	}
	if term, err := g.cfg.Storage.Term(g.applied); err == nil && term > 0 {
		g.pings = append(g.pings, Ping{Kind: PingOut, From: g.cfg.Holder.Replica, To: ring.ReplicaID(m.GetFrom()), Term: term, Number: g.applied})
	}
}

// learnCommitted takes an entry for committed, if this replica has it and hears of no leader. Raft learns it as if from a leader's
// heartbeat, and is made to forget that leader at once.
func (g *Group) learnCommitted(p Ping) {
	st := g.rn.BasicStatus()
	if st.Lead != raft.None || st.RaftState == raft.StateLeader || p.Number <= st.HardState.GetCommit() {
		return
	}
	if last, err := g.cfg.Storage.LastIndex(); err != nil || p.Number > last {
		return
	}
	if term, err := g.cfg.Storage.Term(p.Number); err != nil || term != p.Term {
		return
	}
	self := uint64(g.cfg.Holder.Replica)
	_ = g.rn.Step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(p.From)), To: &self, Term: new(st.HardState.GetTerm()), Commit: &p.Number})
	_ = g.rn.ForgetLeader()
}

// settled reports whether a majority of the voters has applied the last change of the configuration, for good: they could go on by
// themselves, and replicas that the change put out are needed no more. Who answers a request for a promise has had the heartbeat that
// went before it, and has applied the change of which that told (answerOrHold).
func (g *Group) settled() bool {
	l := g.lead
	if l.confIndex == 0 {
		return len(g.conf.GetVotersOutgoing()) == 0
	}
	n := 0
	for _, v := range g.conf.GetVoters() {
		if v == uint64(g.cfg.Holder.Replica) && g.applied >= l.confIndex || l.acked[ring.ReplicaID(v)] > l.confAsked && g.has(v, l.confIndex) {
			n++
		}
	}
	return len(g.conf.GetVotersOutgoing()) == 0 && n > len(g.conf.GetVoters())/2
}

// has reports whether this leader knows that a replica has the entry in its log.
func (g *Group) has(id, index uint64) (ok bool) {
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) {
		ok = ok || r == id && pr.Match >= index
	})
	return ok
}

// answersMost bounds the answers that wait: there is one asker in a term.
const answersMost = 8

// answerOrHold lets a ping leave, unless it answers a request for a promise and this replica has not applied a change of the configuration which it
// knows to be committed. The leader takes the answer as word of that (settled), and then lets go of who is out of the group. But that an
// entry is committed is forgotten when the power fails, and what is applied of a change is not (Output): a majority that had only heard of it
// would count the old voters again, one of whom is gone. The simulation found that, with one more disk lost and the power of all others.
func (g *Group) answerOrHold(p Ping) {
	if p.Kind != PingPromise && p.Kind != PingDecline || g.lastConf <= g.applied || g.commit < g.lastConf {
		g.out.Pings = append(g.out.Pings, p)
		return
	}
	if len(g.answers) == answersMost {
		g.answers = append(g.answers[:0], g.answers[1:]...)
	}
	g.answers = append(g.answers, p)
}

// releaseAnswers is called when more is applied.
func (g *Group) releaseAnswers() {
	g.pings = append(g.pings, g.answers...)
	g.answers = g.answers[:0]
}
