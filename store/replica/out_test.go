package replica

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestOutOfTheGroupTellsWhatIsCommitted: a replica that has applied its own removal tells a candidate, and one that has the entry takes it
// for committed; with another entry there, or with a leader, it does not.
func TestOutOfTheGroupTellsWhatIsCommitted(t *testing.T) {
	c := led(t)
	token, _ := c.g[1].LeaseUntil()
	if err := c.g[1].Commit(token, put("k", "v")); err != nil {
		t.Fatal(err)
	}
	c.pump()
	last := c.g[1].Applied()
	c.g[1].conf = &raftpb.ConfState{Voters: []uint64{2, 3}}
	c.cut[1], c.cut[2], c.cut[3] = true, true, true
	// Replica 2 has the log, but its newest process knows of nothing committed.
	term := c.g[1].Term()
	if err := c.disk[2].SetHardState(&raftpb.HardState{Term: &term, Vote: new(uint64(1)), Commit: new(uint64(1))}); err != nil {
		t.Fatal(err)
	}
	c.start(2, 1, true)
	pre := &raftpb.Message{Type: raftpb.MsgPreVote.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(term + 1), Index: &last, LogTerm: &term}
	c.g[1].Step(c.now, pre)
	told := slices.Clone(c.g[1].Ready().Pings)
	if len(told) != 1 || told[0] != (Ping{Kind: PingOut, From: 1, To: 2, Term: term, Number: last}) {
		t.Fatalf("told %+v, want entry %d of term %d", told, last, term)
	}
	wrong := told[0]
	wrong.Term--
	c.g[2].Ping(c.now, wrong)
	beyond := told[0]
	beyond.Number += 5
	c.g[2].Ping(c.now, beyond)
	c.pump()
	if c.g[2].Applied() != 1 {
		t.Fatalf("applied %d on the word of another log", c.g[2].Applied())
	}
	c.g[2].Ping(c.now, told[0])
	c.pump()
	if c.g[2].Applied() != last || c.kv[2]["k"] != "v" || c.g[2].Leader() != 0 {
		t.Fatalf("applied %d of %d, leader %d", c.g[2].Applied(), last, c.g[2].Leader())
	}
	// A member says nothing of the kind.
	if c.g[3].Step(c.now, pre); len(c.g[3].Ready().Pings) != 0 {
		t.Fatal("a member said that it is out")
	}
}

// TestAnswerWaitsForAChangeToBeApplied: who knows that a change of the configuration is committed, and has not applied it, answers no request for a
// promise until it has: the leader would take the answer as word that it will not be forgotten.
func TestAnswerWaitsForAChangeToBeApplied(t *testing.T) {
	c := led(t)
	c.pump()
	g, ask := c.g[2], uint64(1000)
	answers := func() (n int) {
		for _, p := range g.Ready().Pings {
			if p.Kind == PingPromise && p.Number == ask {
				n++
			}
		}
		return n
	}
	request := func() {
		ask++
		g.Ping(c.now, Ping{From: 1, To: 2, Term: g.Term(), Number: ask})
	}
	if request(); answers() != 1 {
		t.Fatal("a request is not answered")
	}
	g.lastConf = g.applied + 1 // in the log
	if request(); answers() != 1 {
		t.Fatal("a change that is not known to be committed holds answers back")
	}
	g.commit = g.lastConf
	if request(); answers() != 0 {
		t.Fatal("answered before the change was applied")
	}
	if g.HasReady() {
		t.Fatal("what waits asks for attention all the time")
	}
	g.applied = g.lastConf
	if g.releaseAnswers(); answers() != 1 {
		t.Fatal("what waited is not answered once the change is applied")
	}
}
