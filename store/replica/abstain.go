package replica

import "go.etcd.io/raft/v3/raftpb"

// A replica that has lost the end of its log abstains (GroupConfig.Abstain): it neither votes nor campaigns. That is not all. A leader tells its followers with
// its heartbeats how far the log is committed, at most up to what they have acknowledged to it; and what this replica has acknowledged may be lost.
// If nothing is there in its place Raft panics, and the replica halts, or the process ends. But the log may have gone back to a time when it held other
// entries there, of an earlier leader, which were replaced since: Raft would take those for committed, and apply them. The simulation found that. So
// the word of a heartbeat counts only as far as an append, or a snapshot, has shown that the log is that of the term's leader.

// matched is how far a log is known to be that of a term's leader, by what this process has acknowledged.
type matched struct {
	term, index uint64
}

// matches notes what the responses to an Append task acknowledge. That they are not sent yet does not matter: the log is the leader's, stored or not.
func (g *Group) matches(task *raftpb.Message) {
	if !g.cfg.Abstain {
		return
	}
	for _, m := range task.GetResponses() {
		if m.GetType() != raftpb.MsgAppResp || m.GetReject() || m.GetTerm() < g.matched.term {
			continue
		}
		if m.GetTerm() > g.matched.term {
			g.matched = matched{term: m.GetTerm()}
		}
		g.matched.index = max(g.matched.index, m.GetIndex())
	}
}

// distrust takes from a heartbeat what it says beyond that. What is beyond the end of the log stays, to be found out.
func (g *Group) distrust(m *raftpb.Message) {
	if !g.cfg.Abstain || m.GetType() != raftpb.MsgHeartbeat {
		return
	}
	sure := uint64(0)
	if m.GetTerm() == g.matched.term {
		sure = g.matched.index
	}
	if last, err := g.cfg.Storage.LastIndex(); m.GetCommit() > sure && (err != nil || m.GetCommit() <= last) {
		m.Commit = &sure
	}
}
