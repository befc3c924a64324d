package replica

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
)

// led is a trio that replica 1 leads, with a lease.
func led(t *testing.T) *trio {
	t.Helper()
	c := newTrio(t)
	c.g[1].Campaign()
	c.pump()
	c.want(1, "opened; ")
	if _, until := c.g[1].LeaseUntil(); until != c.now+LANTiming.Lease() {
		t.Fatalf("lease until %v at %v, want %v more", until, c.now, LANTiming.Lease())
	}
	return c
}

func (c *trio) lease(id uint64) time.Duration {
	_, until := c.g[id].LeaseUntil()
	return until
}

// grants reports whether a replica answers this request for a vote with yes.
func (c *trio) grants(id, from, term uint64, pre bool, context []byte) bool {
	c.t.Helper()
	st := c.g[id].rn.BasicStatus()
	m := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: &from, To: &id, Term: &term, Index: new(st.HardState.GetCommit() + 100), LogTerm: new(term), Context: context}
	if pre {
		m.Type = raftpb.MsgPreVote.Enum()
	}
	c.g[id].Step(c.now, m)
	return c.granted(id, from)
}

func (c *trio) granted(id, to uint64) bool {
	yes := false
	look := func(m *raftpb.Message) {
		if ty := m.GetType(); (ty == raftpb.MsgVoteResp || ty == raftpb.MsgPreVoteResp) && m.GetTo() == to && !m.GetReject() {
			yes = true
		}
	}
	for c.g[id].HasReady() {
		o := c.g[id].Ready()
		for _, m := range o.Send {
			look(m)
		}
		for _, m := range o.Append {
			c.g[id].AppendDone(c.now, m, look)
		}
	}
	return yes
}

// TestLeaseHoldsWhileMajorityPromises: it is renewed by one follower, ends by the clock when none answers, and nobody else leads before.
func TestLeaseHoldsWhileMajorityPromises(t *testing.T) {
	for round := range 20 { // Raft draws its timeouts
		c := led(t)
		c.cut[3] = true
		c.tick(10 + round)
		if left := c.lease(1) - c.now; left < LANTiming.Lease()-2*LANTiming.Tick {
			t.Fatalf("with one of two followers %v of the lease are left", left)
		}
		c.cut[1] = true
		c.cut[3] = false
		until := c.lease(1)
		for c.g[2].Leader() == 1 || c.g[2].Leader() == 0 {
			if c.tick(1); c.now > until+10*time.Second {
				t.Fatal("nobody took over")
			}
		}
		if c.now < until {
			t.Fatalf("%d leads at %v, and the old lease is good until %v", c.g[2].Leader(), c.now, until)
		}
	}
}

// TestPromiseWithholdsVotes: a promised replica grants no vote, however up to date the candidate, and grants it when the promise is over.
func TestPromiseWithholdsVotes(t *testing.T) {
	for _, pre := range []bool{true, false} {
		c := led(t)
		c.cut[1] = true
		// Raft's own transfer flag overrides Raft's own lease, not a promise.
		for _, context := range [][]byte{nil, transferContext} {
			if c.grants(2, 3, c.g[2].Term()+1, pre, context) {
				t.Fatal("a vote in spite of a promise")
			}
		}
		ticks := 0
		for ; c.g[2].promised(); ticks++ {
			c.now += LANTiming.Tick
			c.g[2].Tick(c.now)
		}
		if ticks != int(LANTiming.Promise/LANTiming.Tick) {
			t.Errorf("the promise held for %d ticks", ticks)
		}
		if !c.granted(2, 3) {
			t.Error("the request for a vote was forgotten, not held")
		}
	}
}

// TestTransferWaivesPromises: leadership passes at once, the lease is given up before, and what was on its way does not revive it.
func TestTransferWaivesPromises(t *testing.T) {
	c := led(t)
	var late []Ping
	c.drop = func(p Ping) bool {
		if p.Kind == PingPromise && p.To == 1 {
			late = append(late, p)
		}
		return p.Kind == PingPromise && p.To == 1
	}
	c.tick(LANTiming.HeartbeatTicks)
	if len(late) == 0 {
		t.Fatal("nothing was asked")
	}
	if !c.g[1].HandOver(2) {
		t.Fatal("no hand-over")
	}
	before := c.now
	c.pump()
	if c.g[2].Leader() != 2 || c.now != before {
		t.Fatalf("replica %d leads", c.g[2].Leader())
	}
	c.want(1, "lost; ")

	// The same to a target that does not hear of it: what was promised before does not count, what is promised after does.
	c = led(t)
	late, c.drop = nil, func(p Ping) bool {
		if p.Kind == PingPromise && p.To == 1 {
			late = append(late, p)
		}
		return p.Kind == PingPromise && p.To == 1
	}
	c.tick(LANTiming.HeartbeatTicks)
	c.drop = nil
	c.cut[2], c.cut[3] = true, true
	if c.lease(1) <= c.now {
		t.Fatal("no lease to give up")
	}
	c.g[1].TransferLeader(2)
	c.pump()
	asked := c.g[1].lead.asked
	for _, p := range late {
		c.g[1].Ping(c.now, p)
	}
	if c.lease(1) > 0 {
		t.Fatal("late promises revived a lease that was given up")
	}
	c.tick(LANTiming.HeartbeatTicks)
	if c.g[1].lead.asked != asked {
		t.Fatal("requests while leadership is handed on")
	}
	c.cut = map[uint64]bool{}
	c.tick(2 * LANTiming.ElectionTicks) // Raft gives the transfer up
	if c.g[1].Leader() != 1 || c.lease(1) <= c.now {
		t.Fatalf("replica %d leads, lease until %v at %v", c.g[1].Leader(), c.lease(1), c.now)
	}
}

// TestLateCallToCampaign: a MsgTimeoutNow of a transfer that was given up lifts no promise that was made since.
func TestLateCallToCampaign(t *testing.T) {
	c := led(t)
	w := waiver{1, c.g[1].Term(), c.g[1].lead.asked}
	c.tick(LANTiming.HeartbeatTicks)
	call := func(w waiver) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(c.g[1].Term()), Context: w.append(nil)}
	}
	votes := append(append([]byte{}, transferContext...), w.append(nil)...)
	if c.grants(3, 2, c.g[1].Term()+1, false, votes) {
		t.Fatal("a late vote was granted")
	}
	c.g[2].Step(c.now, call(w))
	c.pump()
	if c.g[2].Leader() != 1 || c.g[2].Term() != w.term {
		t.Fatal("a late call to campaign was followed")
	}
	if w = (waiver{3, c.g[1].Term(), 1000}); c.grants(3, 2, c.g[1].Term()+1, false, append(append([]byte{}, transferContext...), w.append(nil)...)) {
		t.Fatal("a waiver of another leader lifted the promise")
	}
	w = waiver{1, c.g[1].Term(), c.g[1].lead.asked}
	if !c.grants(3, 2, c.g[1].Term()+1, false, append(append([]byte{}, transferContext...), w.append(nil)...)) {
		t.Fatal("the waiver of all that was promised lifted nothing")
	}
}

// TestQuietAfterRestart: a process does not know what an earlier one promised: no vote, no campaign, no promise for the length of one.
func TestQuietAfterRestart(t *testing.T) {
	c := led(t)
	c.cut[1] = true
	applied := c.g[2].Applied()
	c.start(2, applied, false)
	if c.g[2].Campaign(); c.g[2].HasReady() {
		t.Fatal("a campaign in the quiet time")
	}
	c.g[2].Ping(c.now, Ping{From: 1, To: 2, Term: c.g[1].Term(), Number: 50})
	if c.g[2].HasReady() {
		t.Fatal("a promise in the quiet time")
	}
	waived := waiver{1, c.g[1].Term(), 100}
	for _, context := range [][]byte{nil, transferContext, waived.append(append([]byte{}, transferContext...))} {
		if c.grants(2, 3, c.g[1].Term()+1, false, context) {
			t.Fatalf("a vote in the quiet time, with context %q", context)
		}
	}
	for c.g[2].promised() {
		c.now += LANTiming.Tick
		c.g[2].Tick(c.now)
	}
	if c.now != LANTiming.Promise {
		t.Fatalf("quiet for %v", c.now)
	}
	if !c.granted(2, 3) {
		t.Fatal("no vote after the quiet time")
	}
}

// TestOnlyFollowersPromise: who is about to become a candidate promises nothing, nor does who is in another term or follows another.
func TestOnlyFollowersPromise(t *testing.T) {
	for _, wrong := range promisesOfOthers(t) {
		t.Error(wrong)
	}
}

func promisesOfOthers(t *testing.T) (wrong []string) {
	c := led(t)
	term := c.g[1].Term()
	c.cut[1], c.cut[3] = true, true
	for c.g[2].rn.BasicStatus().RaftState != raft.StatePreCandidate {
		c.tick(1)
	}
	c.pings = nil
	for _, p := range []Ping{{From: 1, To: 2, Term: term, Number: 99}, {From: 1, To: 3, Term: term + 1, Number: 99}, {From: 2, To: 3, Term: term, Number: 99}} {
		g := c.g[uint64(p.To)]
		g.Ping(c.now, p)
		if len(g.pings) > 0 {
			wrong = append(wrong, fmt.Sprintf("%+v was answered by a replica in state %v of term %d that follows %d", p, g.rn.BasicStatus().RaftState, g.Term(), g.Leader()))
		}
	}
	return wrong
}

// TestLeaseFollowsTheConfiguration: joint, both halves must have promised; who is no voter has no lease; alone, it needs nobody.
func TestLeaseFollowsTheConfiguration(t *testing.T) {
	for _, wrong := range leasesOfConfigurations(t) {
		t.Error(wrong)
	}
}

func leasesOfConfigurations(t *testing.T) (wrong []string) {
	c := led(t)
	g := c.g[1]
	conf := func(voters, outgoing []uint64) time.Duration {
		g.conf = &raftpb.ConfState{Voters: voters, VotersOutgoing: outgoing}
		return c.lease(1)
	}
	for _, w := range []struct {
		voters, outgoing []uint64
		valid            bool
	}{
		{[]uint64{1, 2, 3}, nil, true},
		{[]uint64{1, 4, 5}, nil, false},
		{[]uint64{1, 2, 4}, nil, true},
		{[]uint64{1, 2, 3}, []uint64{1, 4, 5}, false},
		{[]uint64{1, 4, 5}, []uint64{1, 2, 3}, false},
		{[]uint64{1, 2, 4}, []uint64{1, 2, 3}, true},
		{[]uint64{2, 3}, nil, false},
		{[]uint64{2, 3}, []uint64{1, 2, 3}, true},
		{[]uint64{1}, nil, true},
	} {
		if until := conf(w.voters, w.outgoing); until > c.now != w.valid {
			wrong = append(wrong, fmt.Sprintf("voters %v, outgoing %v: lease until %v", w.voters, w.outgoing, until))
		}
	}
	return wrong
}

// TestWhoDeclinesKeepsPromising: a stopping node's replica is no successor, and the lease rests on it as before.
func TestWhoDeclinesKeepsPromising(t *testing.T) {
	c := led(t)
	c.g[2].Decline()
	c.cut[3] = true
	c.tick(2 * LANTiming.ElectionTicks)
	if got := c.g[1].Filled(); len(got) != 0 || c.lease(1) <= c.now {
		t.Fatalf("%v could lead; lease until %v at %v", got, c.lease(1), c.now)
	}
	c.g[2].Step(c.now, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(c.g[1].Term()),
		Context: (&waiver{1, c.g[1].Term(), c.g[1].lead.asked}).append(nil)})
	c.pump()
	if c.g[1].Leader() != 1 {
		t.Fatal("who declined campaigned")
	}
}

// TestWhoAbstainsIsNoSuccessor: a replica that was found behind its watermark promises and stores, and never leads: nothing is to be handed to
// it, and no ring to prefer it.
func TestWhoAbstainsIsNoSuccessor(t *testing.T) {
	c := led(t)
	c.g[2].cfg.Abstain = true
	c.cut[3] = true
	c.tick(2 * LANTiming.ElectionTicks)
	if got := c.g[1].Filled(); len(got) != 0 || c.lease(1) <= c.now {
		t.Errorf("%v could lead; lease until %v at %v", got, c.lease(1), c.now)
	}
	if f, ok := c.g[1].Facts(); !ok || slices.Contains(f.Filled, 2) || !slices.Contains(f.Active, 2) {
		t.Errorf("facts: %+v, %v; want replica 2 active, and not able to lead", f, ok)
	}
}

// TestHandOverOnlyToWhoAnswers: a replica in its quiet time would not follow the call to campaign.
func TestHandOverOnlyToWhoAnswers(t *testing.T) {
	c := led(t)
	c.tick(LANTiming.HeartbeatTicks)
	if got := c.g[1].Filled(); len(got) != 2 {
		t.Fatal(got)
	}
	c.start(2, c.g[2].Applied(), false)
	c.drop = func(p Ping) bool { return p.From == ring.ReplicaID(3) }
	quiet := int(LANTiming.Promise / LANTiming.Tick)
	c.tick(quiet - 1)
	if got := c.g[1].Filled(); len(got) != 0 {
		t.Fatalf("%v could lead, and none of them answers", got)
	}
	c.tick(2 * LANTiming.HeartbeatTicks)
	if got := c.g[1].Filled(); len(got) != 1 || got[0] != 2 {
		t.Fatal(got)
	}
}

// TestHopesForWhoIsBack: who has declined, has been away and is heard again, is another process: it may lead when its quiet time is over, and who stops waits for that.
func TestHopesForWhoIsBack(t *testing.T) {
	c := led(t)
	c.cut[3] = true
	c.g[2].Decline()
	c.tick(2 * LANTiming.ElectionTicks)
	if c.g[1].hopes() {
		t.Fatal("there is hope, and the only one that is heard declines")
	}
	c.g[1].ReportUnreachable(2)
	if c.g[1].hopes() {
		t.Fatal("there is hope, and nobody has been heard since the only one there was has gone")
	}
	c.start(2, c.g[2].Applied(), false)
	c.tick(LANTiming.HeartbeatTicks)
	if len(c.g[1].Filled()) != 0 || !c.g[1].hopes() {
		t.Fatalf("%v could lead, hope %v: replica 2 is heard, and quiet", c.g[1].Filled(), c.g[1].hopes())
	}
	c.tick(int(LANTiming.Promise/LANTiming.Tick) + LANTiming.HeartbeatTicks)
	if got := c.g[1].Filled(); len(got) != 1 || got[0] != 2 {
		t.Fatal(got)
	}
}

// TestSendingWaitsForNoDisk: the driver's goroutine numbers a snapshot that it sends while another, incoming, is being written.
func TestSendingWaitsForNoDisk(t *testing.T) {
	var tr transfers
	tr.mu.Lock() // as ReceiveChunk does around its writes
	defer tr.mu.Unlock()
	done := make(chan uint64, 1)
	go func() { done <- tr.next() }()
	select {
	case n := <-done:
		if n != 1 {
			t.Errorf("the first transfer is number %d", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("sending waits for the disk")
	}
}

// TestWhoAbstainsTakesNoHeartbeatsWord: a leader says with its heartbeats how far the log is committed that a follower has acknowledged. One that has lost the
// end of its log may hold other entries there, which a later leader had replaced: it must not apply them. An append by which its log is found to be the
// leader's counts, and then heartbeats do.
func TestWhoAbstainsTakesNoHeartbeatsWord(t *testing.T) {
	c := led(t)
	c.tick(3)
	if !c.g[1].HandOver(2) {
		t.Fatal("no hand-over")
	}
	c.pump()
	c.tick(3)
	lead := c.g[2]
	if lead.lead == nil || lead.lead.state != open || c.g[3].Applied() != lead.Applied() {
		t.Fatalf("replica 2 leads: %v; applied %d and %d", lead.lead != nil, lead.Applied(), c.g[3].Applied())
	}
	term, last := lead.Term(), lead.Applied()
	kept := last // of replica 3's log: what came before the term
	for {
		if at, err := c.disk[2].Term(kept); err != nil || at < term {
			noErr(t, err)
			break
		}
		kept--
	}
	var other []*raftpb.Entry
	for i := kept + 1; i <= last; i++ {
		other = append(other, &raftpb.Entry{Index: new(i), Term: new(term - 1)})
	}
	noErr(t, c.disk[3].Append(other))
	noErr(t, c.disk[3].SetHardState(&raftpb.HardState{Term: new(term), Vote: new(uint64(2)), Commit: &kept}))
	c.lame = map[uint64]bool{3: true}
	c.start(3, 1, false)
	c.tick(2 * LANTiming.ElectionTicks)
	if got := c.g[3].Applied(); got != kept {
		t.Fatalf("applied up to %d of a log that is the leader's up to %d", got, kept)
	}
	// Another leader looks where the logs part.
	if !lead.HandOver(1) {
		t.Fatal("no hand-over back")
	}
	c.pump()
	c.tick(3)
	c.drop = nil
	token, _ := c.g[1].LeaseUntil()
	if token == 0 || c.g[1].Commit(token, put("k", "v")) != nil {
		t.Fatal("replica 1 does not lead again")
	}
	c.pump()
	c.tick(LANTiming.HeartbeatTicks)
	if at, err := c.disk[3].Term(last); c.kv[3]["k"] != "v" || c.g[3].Applied() != c.g[1].Applied() || at != term {
		t.Fatalf("it does not follow the next leader: applied %d of %d, entry %d of term %d (%v), want %d", c.g[3].Applied(), c.g[1].Applied(), last, at, err, term)
	}
}
