package replica

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
)

// A leader asks its followers, with every heartbeat, to promise that they will help nobody else into leadership for a while. While a
// majority of promises holds, no other replica leads, hence nobody else commits: that is the clock lease. Promises are ours and beside
// Raft's log; the time is that of each node's own clock, whose rate is bounded (Timing.Drift). The idea is that of Gray and Cheriton,
// "Leases" (SOSP 1989); the rules are those of design.md 4, each of which answers a hole that simulation found.

// PingKind says what a Ping is.
type PingKind uint8

const (
	PingRequest PingKind = iota // a leader asks for a promise; Number counts its requests in this term: 1, 2, 3 …
	PingPromise                 // the answer, with the request's term and number
	PingOut                     // the sender is out of the group: see out.go
	PingDecline                 // PingPromise of a replica that will not lead: its node is about to stop, or it abstains
)

// Ping is what replicas of a group say to each other beside Raft.
type Ping struct {
	Kind     PingKind
	From, To ring.ReplicaID
	Term     uint64
	Number   uint64
}

// waiver lifts the promises to one leader in one term, up to one number: that leader has given its lease up and asks for no more.
type waiver struct {
	leader ring.ReplicaID
	term   uint64
	number uint64
}

const waiverSize = 24

// transferContext is what Raft writes into the votes of a candidate whom the leader has asked to campaign. Raft grants such votes in spite
// of a leader; a promise is lifted only by the waiver behind it.
var transferContext = []byte("CampaignTransfer")

func (w *waiver) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(w.leader))
	b = binary.BigEndian.AppendUint64(b, w.term)
	return binary.BigEndian.AppendUint64(b, w.number)
}

func parseWaiver(b []byte) (w waiver, ok bool) {
	if len(b) != waiverSize {
		return w, false
	}
	return waiver{ring.ReplicaID(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, true
}

// promiser is what a replica has promised, in its node's time.
type promiser struct {
	quiet time.Duration // until then it acts as if it had promised to an unknown leader: what an earlier process promised is forgotten
	until time.Duration
	waiver
	held  []*raftpb.Message // votes asked for meanwhile, the newest of each candidate
	carry waiver            // brought by the last MsgTimeoutNow: goes into the votes of the campaign that it begins
}

// maxHeld is how many candidates' requests wait for the end of a promise. A configuration has no more replicas.
const maxHeld = 16

// promised reports whether a promise, or the quiet time, still binds this replica.
func (g *Group) promised() bool {
	return g.now < g.promise.quiet || g.now < g.promise.until
}

// answer promises what a leader asks for: only as its follower, in exactly its term. A candidate, also one that only asks whether it could
// win, is on its way to somebody else, and a replica of another term may have helped another already.
func (g *Group) answer(p Ping) {
	if g.now < g.promise.quiet {
		return
	}
	st := g.rn.BasicStatus()
	follows := st.RaftState == raft.StateFollower && st.Lead == uint64(p.From)
	if st.HardState.GetTerm() != p.Term && !mutPromiseWithoutTerm() || !follows && !mutPromiseAsCandidate() && !mutPromiseWithoutTerm() {
		return
	}
	if p.Term < g.promise.term {
		return // to a later leader it is bound already
	}
	if w := (waiver{p.From, p.Term, p.Number}); w.leader != g.promise.leader || w.term != g.promise.term || w.number > g.promise.number {
		g.promise.waiver = w
	}
	g.promise.until = max(g.promise.until, g.now+g.cfg.Timing.Promise)
	kind := PingPromise
	if g.declines || g.cfg.Abstain {
		kind = PingDecline
	}
	g.pings = append(g.pings, Ping{Kind: kind, From: p.To, To: p.From, Term: p.Term, Number: p.Number})
}

// waive lifts the promise if it is one of those that w names. The quiet time it never lifts.
func (g *Group) waive(w waiver) {
	p := &g.promise
	if w.leader == p.leader && w.term == p.term && (p.number <= w.number || mutWaiverWithoutNumber()) {
		p.until = 0
	}
}

// withhold looks at a message from another replica before Raft does. It reports whether a promise forbids it: requests for votes of a
// higher term, and the call to campaign. Votes are kept until the promise ends. What it lets through may have been changed to what Raft knows.
func (g *Group) withhold(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgTimeoutNow:
		w, ok := parseWaiver(m.GetContext())
		if ok {
			m.Context = nil
			g.waive(w)
		}
		if g.promised() && !mutCampaignWhilePromised() {
			return true
		}
		if g.promise.carry = (waiver{}); ok && w.term == m.GetTerm() {
			g.promise.carry = w
		}
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if c := m.GetContext(); bytes.HasPrefix(c, transferContext) {
			if w, ok := parseWaiver(c[len(transferContext):]); ok {
				g.waive(w)
			}
			m.Context = transferContext
			if mutTransferWaives() {
				return false
			}
		}
		if g.promised() && m.GetTerm() > g.rn.BasicStatus().HardState.GetTerm() {
			g.hold(m)
			return true
		}
	}
	return false
}

// hold keeps a request for a vote, which Raft would see only if its sender asked again, an election timeout later.
func (g *Group) hold(m *raftpb.Message) {
	p := &g.promise
	for i := range p.held {
		if p.held[i].GetFrom() == m.GetFrom() {
			p.held[i] = m
			return
		}
	}
	if len(p.held) < maxHeld {
		p.held = append(p.held, m)
	}
}

// unhold gives Raft what waited for the end of the promise. To Raft it was a slow network.
func (g *Group) unhold() {
	held := g.promise.held
	if len(held) == 0 || g.promised() {
		return
	}
	g.promise.held = nil
	for _, m := range held {
		_ = g.rn.Step(m)
	}
}

// dress puts the waiver into what Raft sends on a transfer of leadership.
func (g *Group) dress(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgTimeoutNow:
		if l := g.lead; l != nil && l.term == m.GetTerm() {
			w := waiver{ring.ReplicaID(m.GetFrom()), l.term, l.asked}
			m.Context = w.append(nil)
		}
	case raftpb.MsgVote:
		if w := &g.promise.carry; bytes.Equal(m.GetContext(), transferContext) && w.term != 0 && w.term+1 == m.GetTerm() {
			m.Context = w.append(bytes.Clone(transferContext))
		}
	}
}

// asker is a leader's side of the promises, in one term.
type asker struct {
	asked uint64 // number of the newest request
	floor uint64 // promises up to this number do not count: the lease was given up
	fresh uint64 // who has answered no later request is not fit to take over, see Decline
	sent  [askMemory]time.Duration
	acked map[ring.ReplicaID]uint64 // number of the newest promise of each
	stays map[ring.ReplicaID]bool   // declined to lead with its newest promise

	known bool // until and of are what promisedUntil found last, and nothing was promised or given up since
	until time.Duration
	of    *raftpb.ConfState
}

// askMemory is how many requests are remembered: at one a heartbeat this is many times the length of a promise.
const askMemory = 32

// ask asks every replica of the applied configuration for a promise, unless leadership is being handed on. The lease rests on voters alone; but who of
// the learners abstains, or is about to stop, must be known before it gets a vote.
func (g *Group) ask() {
	l := g.lead
	if l == nil || g.rn.BasicStatus().LeadTransferee != 0 {
		return
	}
	l.asked++ // promisedUntil stays: it rests on what is answered
	l.sent[l.asked%askMemory] = g.now
	self := uint64(g.cfg.Holder.Replica)
	put := func(voters []uint64, but []uint64) {
		for _, v := range voters {
			if v != self && !slices.Contains(but, v) {
				g.pings = append(g.pings, Ping{From: g.cfg.Holder.Replica, To: ring.ReplicaID(v), Term: l.term, Number: l.asked})
			}
		}
	}
	put(g.conf.GetVoters(), nil)
	put(g.conf.GetVotersOutgoing(), g.conf.GetVoters())
	put(g.conf.GetLearners(), nil)
}

// promisedBy takes a promise.
func (g *Group) promisedBy(p Ping) {
	l := g.lead
	if l == nil || p.Term != l.term || p.Number > l.asked || p.Number <= l.acked[p.From] {
		return
	}
	if p.Number <= l.floor && !mutLateAcksCount() {
		return
	}
	l.known = false
	l.acked[p.From] = p.Number
	l.stays[p.From] = p.Kind == PingDecline
}

// zeroLease gives the lease up: what was promised up to now does not count any more.
func (g *Group) zeroLease() {
	if l := g.lead; l != nil && !mutLeaseSurvivesTransfer() {
		l.floor = l.asked
		l.known = false
		clear(l.acked)
	}
}

// promisedUntil is the end of the clock lease: some majority (of both halves, while joint) had promised at or after the moment at which
// the newest request that it answered was sent. This replica's own promise needs no time: losing leadership ends the lease before any vote
// of this replica is sent.
func (g *Group) promisedUntil() time.Duration {
	l := g.lead
	if !l.known || l.of != g.conf { // it is asked for with every round, and changes with a heartbeat
		l.known, l.until, l.of = true, g.findPromisedUntil(), g.conf
	}
	return l.until
}

func (g *Group) findPromisedUntil() time.Duration {
	l, self := g.lead, uint64(g.cfg.Holder.Replica)
	conf := g.conf
	if !slices.Contains(conf.GetVoters(), self) && !slices.Contains(conf.GetVotersOutgoing(), self) {
		return 0
	}
	number := l.ackedBy(conf.GetVoters(), self)
	if out := conf.GetVotersOutgoing(); len(out) > 0 {
		number = min(number, l.ackedBy(out, self))
	}
	switch {
	case number == math.MaxUint64:
		return math.MaxInt64
	case number == 0 || number+askMemory <= l.asked:
		return 0
	}
	return l.sent[number%askMemory] + g.cfg.Timing.Lease()
}

// ackedBy is the highest number that a majority of voters, this replica among them if it is one, has answered.
func (l *leading) ackedBy(voters []uint64, self uint64) uint64 {
	return majority(voters, self, math.MaxUint64, func(v uint64) uint64 { return l.acked[ring.ReplicaID(v)] })
}

// answers reports whether a replica has answered one of the last three requests and did not decline: it is not in its quiet time, and will
// follow a call to campaign that carries a waiver.
func (l *leading) answers(r ring.ReplicaID) bool {
	n := l.acked[r]
	return n > 0 && n+2 >= l.asked && !l.stays[r]
}

// Ping takes a ping from another replica of the group.
func (g *Group) Ping(now time.Duration, p Ping) {
	g.now = now
	switch p.Kind {
	case PingRequest:
		g.answer(p)
	case PingPromise, PingDecline:
		g.promisedBy(p)
	case PingOut:
		g.learnCommitted(p)
	}
}
