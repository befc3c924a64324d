package replica

import (
	"cmp"
	"encoding/binary"
	"math"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// tokenState is how far a leader is with its token: none → (acquire proposed) → granted → open → none …
type tokenState uint8

const (
	none    tokenState = iota
	granted            // the fence accepted our acquire; its entry is not stored yet
	open               // stored: batches may be submitted
)

// leading is what a Group knows only while it leads, in one term.
type leading struct {
	term       uint64
	inStep     bool // ticks are passed on to Raft: see Group.inStep
	caughtUp   bool // an entry of the term is decided, hence all older ones: an acquire's Prev is what it must be
	state      tokenState
	token      store.Token
	epoch      ring.Epoch
	askedTick  int // when an acquire was proposed; 0 if none is under way
	holdUntil  int // no acquire before this tick: leadership is being handed on
	transferTo ring.ReplicaID

	confTick  int    // when a configuration change was proposed; 0 if none is awaited
	confIndex uint64 // of the last one that was applied in this term, 0 if none
	confAsked uint64 // number of the newest request for promises when it was applied, and the requests of that tick

	next     uint64  // number of the next batch to be proposed
	queue    []batch // submitted, not yet proposed
	queued   int     // bytes in queue
	flight   []entry // proposed, not yet applied
	inFlight int     // bytes in flight

	round   confirmRound
	attempt uint32

	heard map[ring.ReplicaID]time.Duration // last answer of each replica in this term
	gone  map[ring.ReplicaID]time.Duration // when each could not be reached any more, last
	asker
}

type batch struct {
	writes []store.Write
	bytes  int
}

type entry struct {
	last  uint64 // number of its last batch
	bytes int
	tick  int
}

// confirmRound is the newest confirming round that was asked for.
type confirmRound struct {
	n       uint64
	waiting bool
	tick    int // when it was sent last
}

func (l *leading) grant(t store.Token, epoch ring.Epoch) {
	*l = leading{term: l.term, inStep: l.inStep, caughtUp: true, heard: l.heard, gone: l.gone, attempt: l.attempt, confTick: l.confTick,
		confIndex: l.confIndex, confAsked: l.confAsked, asker: l.asker, state: granted, token: t, epoch: epoch, next: 1}
}

func (l *leading) appliedUpTo(pos uint64) {
	n := 0
	for n < len(l.flight) && l.flight[n].last <= pos {
		l.inFlight -= l.flight[n].bytes
		n++
	}
	l.flight = append(l.flight[:0], l.flight[n:]...)
}

// observeRole follows Raft's role. A term in which this replica leads is one leading; any end of it ends the token.
func (g *Group) observeRole(ss *raft.SoftState) {
	if g.lead != nil && ((ss != nil && ss.RaftState != raft.StateLeader) || g.lead.term != g.term) {
		if !mutKeepLease(g) {
			g.endToken("leadership was lost")
		}
		g.lead = nil
	}
	if g.lead == nil && ss != nil && ss.RaftState == raft.StateLeader {
		g.lead = &leading{term: g.term, heard: make(map[ring.ReplicaID]time.Duration), asker: asker{acked: make(map[ring.ReplicaID]uint64), stays: make(map[ring.ReplicaID]bool)}, gone: make(map[ring.ReplicaID]time.Duration)}
		g.ask()
		if mutServeEarly() {
			g.lead.grant(g.fence.Token, g.fence.Epoch)
			g.lead.state, g.lead.next = open, g.fence.Seq+1
			g.events = append(g.events, Event{Kind: EventOpened, Token: g.lead.token, Epoch: g.lead.epoch})
		}
	}
}

// endToken gives the current token up for good: nothing of it is proposed again. Batches in flight may still take effect.
func (g *Group) endToken(reason string) {
	l := g.lead
	if l == nil || l.state == none {
		return
	}
	if l.state == open {
		g.dropEvents(l.token)
		g.lost = append(g.lost, Event{Kind: EventLost, Token: l.token, Reason: reason})
	}
	*l = leading{term: l.term, inStep: l.inStep, caughtUp: l.caughtUp, heard: l.heard, gone: l.gone, attempt: l.attempt, confTick: l.confTick,
		confIndex: l.confIndex, confAsked: l.confAsked, asker: l.asker, holdUntil: l.holdUntil, transferTo: l.transferTo}
}

// dropEvents removes an Opened that was not handed out yet: who never heard of a token need not hear of its end. Applied and
// Confirmed of a token that is over are of no use either.
func (g *Group) dropEvents(t store.Token) {
	kept := g.events[:0]
	for _, e := range g.events {
		if e.Token != t {
			kept = append(kept, e)
		}
	}
	g.events = kept
}

func (g *Group) tickLeading() {
	l := g.lead
	if len(l.flight) > 0 && g.ticks-l.flight[0].tick > g.cfg.Timing.CommitTicks {
		g.endToken("a batch was not committed in time")
	}
	if l.round.waiting && g.ticks-l.round.tick >= g.cfg.Timing.HeartbeatTicks {
		g.sendRound() // an unanswered round is repeated with a new context: the old one may have been dropped for good
	}
	if (g.ticks+g.cfg.Ticks)%g.cfg.Timing.HeartbeatTicks == 0 {
		g.ask()
	}
	g.changeConf()
}

// canPropose reports whether propose would do anything.
func (g *Group) canPropose() bool {
	l := g.lead
	if l == nil {
		return false
	}
	if l.state == none {
		return g.mayAcquire()
	}
	return l.state == open && len(l.queue) > 0 && l.inFlight < g.cfg.Limits.InFlight
}

func (g *Group) mayAcquire() bool {
	l := g.lead
	retry := l.askedTick == 0 || g.ticks-l.askedTick > g.cfg.Timing.HeartbeatTicks
	return l.caughtUp && retry && g.ticks >= l.holdUntil
}

// propose asks for the token, or puts queued batches into the log.
func (g *Group) propose() {
	l := g.lead
	if l == nil {
		return
	}
	if l.state == none && g.mayAcquire() {
		l.askedTick = max(g.ticks, 1)
		_ = g.rn.Propose(store.AppendAcquire(nil, store.Acquire{
			Prev: g.fence.Token, Term: l.term, Epoch: g.acquireEpoch(), Holder: g.cfg.Holder,
		})) // dropped: asked again after a heartbeat
		return
	}
	for l.state == open && len(l.queue) > 0 && l.inFlight < g.cfg.Limits.InFlight {
		g.proposeEntry()
	}
}

func (g *Group) acquireEpoch() ring.Epoch {
	if mutStaleEpoch() {
		return g.epoch
	}
	return max(g.epoch, g.fence.Epoch)
}

// proposeEntry gathers queued batches into one entry. If Raft drops it the token is over: a later batch must not overtake it.
func (g *Group) proposeEntry() {
	l := g.lead
	n, size := 0, 0
	for n < len(l.queue) && (n == 0 || size+l.queue[n].bytes <= g.cfg.Limits.Entry) {
		size += l.queue[n].bytes
		n++
	}
	buf := make([]byte, 0, size+32)
	buf = store.AppendBatchHead(buf, l.token, l.next, uint32(n))
	for i := range l.queue[:n] {
		for j := range l.queue[i].writes {
			buf = store.AppendWrite(buf, &l.queue[i].writes[j])
		}
	}
	clear(l.queue[:n])
	l.queue = append(l.queue[:0], l.queue[n:]...)
	l.queued -= size
	l.next += uint64(n)
	g.proposed++
	l.flight = append(l.flight, entry{last: l.next - 1, bytes: size, tick: g.ticks})
	l.inFlight += size
	if err := g.rn.Propose(buf); err != nil && !mutDropIsIgnored() {
		g.endToken("a batch was dropped before it was replicated")
	}
}

// Commit submits one batch under a token; see store.Lease.Commit. The Group takes the writes over.
func (g *Group) Commit(t store.Token, writes []store.Write) error {
	l := g.lead
	if l == nil || l.state != open || l.token != t {
		return store.ErrTokenEnded
	}
	size := 0
	for i := range writes {
		size += store.WriteSize(&writes[i])
	}
	if l.queued+size > g.cfg.Limits.Queue && l.queued > 0 {
		return store.ErrBusy
	}
	l.queue = append(l.queue, batch{writes: writes, bytes: size})
	l.queued += size
	return nil
}

// Confirm begins confirming round n of a token. Rounds are asked for in ascending order; a newer one replaces an older one.
func (g *Group) Confirm(t store.Token, n uint64) {
	l := g.lead
	if l == nil || l.state != open || l.token != t || n <= l.round.n {
		return
	}
	l.round = confirmRound{n: n, waiting: true}
	g.sendRound()
}

func (g *Group) sendRound() {
	l := g.lead
	l.attempt++
	l.round.tick = g.ticks
	ctx := make([]byte, 0, 20)
	ctx = binary.BigEndian.AppendUint64(ctx, uint64(l.token))
	ctx = binary.BigEndian.AppendUint64(ctx, l.round.n)
	ctx = binary.BigEndian.AppendUint32(ctx, l.attempt) // no two requests may look alike to Raft
	g.rn.ReadIndex(ctx)
}

// confirmed handles a majority's answer to a round. The entry index that comes with it does not matter: everything this token
// has acknowledged is applied here, and nobody else could acknowledge anything before the round began.
func (g *Group) confirmed(ctx []byte) {
	l := g.lead
	if l == nil || l.state != open || len(ctx) != 20 || store.Token(binary.BigEndian.Uint64(ctx)) != l.token {
		return
	}
	n := binary.BigEndian.Uint64(ctx[8:])
	if n >= l.round.n {
		l.round.waiting = false
	}
	g.events = append(g.events, Event{Kind: EventConfirmed, Token: l.token, Pos: n})
}

// HandOver gives the token back and then the leadership to another voter: release, applied, transfer. It reports false if
// there is no open token. Until one election timeout has passed this replica does not acquire again.
func (g *Group) HandOver(to ring.ReplicaID) bool {
	l := g.lead
	if l == nil || l.state != open {
		return false
	}
	for len(l.queue) > 0 && l.state == open {
		g.proposeEntry()
	}
	if l.state != open {
		return false
	}
	token, seq := l.token, l.next
	l.holdUntil = g.ticks + 2*g.cfg.Timing.ElectionTicks
	l.transferTo = to
	g.endToken("handed over")
	_ = g.rn.Propose(store.AppendRelease(nil, token, seq))
	return true
}

// released is called when the fence accepted a release of our own: now leadership may go.
func (g *Group) released() {
	if l := g.lead; l != nil && l.transferTo != 0 {
		g.zeroLease()
		g.rn.TransferLeader(uint64(l.transferTo))
		l.transferTo = 0
	}
}

// TransferLeader passes leadership without giving the token back, as an operator's or a test's brute force would: batches that
// Raft drops meanwhile end the token.
func (g *Group) TransferLeader(to ring.ReplicaID) {
	g.zeroLease()
	g.rn.TransferLeader(uint64(to))
}

// quorumHeard is the newest moment at which a majority (of both halves, while joint) had been heard; MaxInt64 if this replica is the majority.
func (l *leading) quorumHeard(conf *raftpb.ConfState, self uint64) time.Duration {
	at := l.heardBy(conf.GetVoters(), self)
	if out := conf.GetVotersOutgoing(); len(out) > 0 {
		at = min(at, l.heardBy(out, self))
	}
	return at
}

func (l *leading) heardBy(voters []uint64, self uint64) time.Duration {
	return majority(voters, self, math.MaxInt64, func(v uint64) time.Duration {
		if at, ok := l.heard[ring.ReplicaID(v)]; ok {
			return at
		}
		return math.MinInt64 / 2
	})
}

// majority is the highest value that a majority of voters has reached. Self, if it votes, has reached all; whoever is the majority alone gets
// that as most.
func majority[T cmp.Ordered](voters []uint64, self uint64, most T, of func(uint64) T) T {
	need := len(voters)/2 + 1
	var room [16]T
	seen := room[:0]
	for _, v := range voters {
		if v == self {
			need--
			continue
		}
		value := of(v)
		i := len(seen)
		seen = append(seen, value)
		for ; i > 0 && seen[i-1] < value; i-- {
			seen[i] = seen[i-1]
		}
		seen[i] = value
	}
	if need == 0 {
		return most
	}
	return seen[need-1]
}
