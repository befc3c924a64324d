package replica

import (
	"fmt"
	"math"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// Timing of a group, equal on all nodes of a cluster.
type Timing struct {
	Tick           time.Duration // length of a tick
	HeartbeatTicks int           // the leader sends heartbeats this often
	ElectionTicks  int           // a follower waits this long, up to twice, before it campaigns
	CommitTicks    int           // a batch that is not applied for this long ends the token
	Promise        time.Duration // a follower's promise to its leader holds this long, by the follower's clock
	Drift          float64       // clocks run at rates between 1-Drift and 1+Drift
	Margin         time.Duration // taken off a lease beside the drift
}

// LANTiming is the timing of nodes that share a network: elections after 400–800 ms.
var LANTiming = Timing{Tick: 50 * time.Millisecond, HeartbeatTicks: 2, ElectionTicks: 8, CommitTicks: 600,
	Promise: 400 * time.Millisecond, Drift: 0.01, Margin: 20 * time.Millisecond}

// SlowTiming is LANTiming five times slower.
var SlowTiming = Timing{Tick: 250 * time.Millisecond, HeartbeatTicks: 2, ElectionTicks: 8, CommitTicks: 120,
	Promise: 2 * time.Second, Drift: 0.01, Margin: 100 * time.Millisecond}

// Lease is how long a leader may rely on a promise, by its own clock, from when it sent the request: the follower's clock may run fast and
// its own slow.
func (t Timing) Lease() time.Duration {
	return time.Duration(float64(t.Promise)*(1-t.Drift)/(1+t.Drift)) - t.Margin
}

// Election is the shortest time in which a follower gives its leader up.
func (t Timing) Election() time.Duration { return time.Duration(t.ElectionTicks) * t.Tick }

// Limits of one group, in bytes. Zero means the default.
type Limits struct {
	Queue    int // batches that wait to be proposed; more is ErrBusy. Default 32 MiB.
	InFlight int // proposed and not yet applied; the proposer waits above it. Default 16 MiB.
	Entry    int // batches are gathered into one entry up to this size. Default 512 KiB.
}

func (l *Limits) fill() {
	setDefault(&l.Queue, 32<<20)
	setDefault(&l.InFlight, 16<<20)
	setDefault(&l.Entry, 512<<10)
}

func setDefault(v *int, d int) {
	if *v == 0 {
		*v = d
	}
}

// GroupConfig says what a Group is made of.
type GroupConfig struct {
	Group   ring.GroupID
	Holder  store.Holder // who acquires, if this replica leads; Holder.Replica is the replica's ID in Raft
	Storage raft.Storage
	Applied uint64      // what the stored state reflects
	Fence   store.Fence // of the stored state
	Epoch   ring.Epoch  // newest ring known; SetEpoch tells of newer ones
	Timing  Timing
	Limits  Limits
	Clock   bool          // the lease rests on promises, see LeaseUntil; else on having heard a majority lately
	Now     time.Duration // by the node's clock
	Ticks   int           // of the node before this replica was started: all groups' heartbeats leave with the same tick
	// Fresh: the replica was created by this very process. One that was here before may have promised something in an earlier process,
	// and keeps quiet for the length of a promise.
	Fresh bool
	// Abstain makes a replica that went backwards behind its own watermark neither vote nor campaign: it may have forgotten
	// entries or votes that others counted.
	Abstain bool
	// Preferred makes the replica that the ring prefers campaign at once, and again for a while, until it first hears of a leader: when a
	// group is new, or all its nodes start together, leaders are then where the ring wants them. With PreVote it disturbs no leader; who has
	// just handed leadership on, and waits for the next one's first word, it would.
	Preferred bool
	Logger    raft.Logger // see RaftLogger
	// History records what takes effect, nil for no record. It stands where Applied does, and belongs to the Group from then on.
	History *store.History
	Born    int64 // the wall clock when Now was 0, in milliseconds since 1970: for the history's times, which nothing depends on
}

// EventKind says what a Group tells its owner.
type EventKind uint8

const (
	EventLost      EventKind = iota + 1 // the token is over
	EventOpened                         // our acquire is applied
	EventApplied                        // our batches up to Pos are applied: who holds the lease reads them, stored or not
	EventConfirmed                      // confirming round Pos is answered by a majority
)

// Event is one thing that the owner of a shard must hear, in order.
type Event struct {
	Kind   EventKind
	Token  store.Token
	Pos    uint64     // EventApplied: batch; EventConfirmed: round
	Epoch  ring.Epoch // EventOpened
	Reason string     // EventLost
}

// ApplyTask is a run of committed entries, decided by the fence. Its writes, index, fence and configuration go to storage in one atomic batch, after those of the
// tasks before it or together with them, without waiting for a sync. When Group.ApplyDone follows is said at Output.
type ApplyTask struct {
	Index  uint64
	Fence  store.Fence
	Conf   *raftpb.ConfState // nil if unchanged
	Writes []store.Write     // keys and values alias the entries: read only
	// History is what is to be stored of the history, in the same batch; nil, as a rule, for nothing.
	History *store.HistoryChange
	opened  store.Token // our own acquire is among the entries
	pos     uint64      // our own batches up to this one are among the entries; 0 if none
	token   store.Token // of pos
	done    *raftpb.Message
}

// size is about how many bytes a task keeps from being collected.
func (t *ApplyTask) size() int {
	n := 256
	for _, e := range t.done.GetEntries() {
		n += len(e.GetData())
	}
	return n
}

// Output is what a Group wants done. The order of the contract:
//
//   - Lost events precede everything: what is read after an ApplyTask of this Output may be a newer owner's.
//   - Send may leave at once.
//   - Append tasks (Raft's MsgStorageAppend) are made durable in order, across Outputs; then Group.AppendDone. The responses
//     in them leave only after that. A task without responses need not be synced.
//   - Apply tasks are stored in order, across Outputs; then Group.ApplyDone, in the same order. One with a configuration is synced before that. An Append task with a
//     snapshot is stored only after the Apply tasks of earlier Outputs: they are older than it, and stored over it they would take the state back.
//   - Between EventOpened and EventLost an Apply task without a configuration may be done before it is stored, if from then on the owner reads its writes as if it were. All
//     that is done is stored before the log is truncated, a snapshot is taken, or the history is read or saved; and before EventOpened: our acquire is done when it is stored.
type Output struct {
	Lost   []Event
	Send   []*raftpb.Message
	Append []*raftpb.Message
	Apply  []*ApplyTask
	Events []Event // Opened, Applied, Confirmed
	Pings  []Ping  // leave behind Send: who is asked has then heard who asks

	Proposed int // entries made of the owner's batches; a figure, nothing to do
}

func (o *Output) reset() {
	clear(o.Send)
	clear(o.Append)
	clear(o.Apply)
	*o = Output{Lost: o.Lost[:0], Send: o.Send[:0], Append: o.Append[:0], Apply: o.Apply[:0], Events: o.Events[:0],
		Pings: o.Pings[:0]}
}

// Group is the protocol core of one replica. It is a state machine: no method blocks, reads a clock or starts anything, and
// all are called from one goroutine. After any of them Ready tells what to do.
type Group struct {
	cfg   GroupConfig
	rn    core
	now   time.Duration
	ticks int

	fence    store.Fence // decided: ahead of storage by the ApplyTasks not yet stored
	applied  uint64      // done: stored, or read by the owner as if it were
	conf     *raftpb.ConfState
	epoch    ring.Epoch
	term     uint64
	leader   ring.ReplicaID
	target   Target
	lead     *leading // nil unless this replica leads
	promise  promiser
	declines bool    // to lead: see Decline
	matched  matched // see distrust

	commit   uint64 // as Raft last told it
	lastConf uint64 // the last change of the configuration in the log; as far as that was there at the start, any of its entries may be one
	answers  []Ping // held, see answerOrHold

	out      Output  // given away by Ready
	lost     []Event // to be given away next
	events   []Event
	pings    []Ping
	proposed int
	failed   error
	cmd      store.Command // reused by decide
	tasks    []*ApplyTask  // see Recycle
}

// NewGroup starts a replica from its storage.
func NewGroup(cfg GroupConfig) (*Group, error) {
	cfg.Limits.fill()
	hs, conf, err := cfg.Storage.InitialState()
	if err != nil {
		return nil, fmt.Errorf("%s: reading the log's state: %w", cfg.Group, err)
	}
	rn, err := newCore(&raft.Config{
		ID:                        uint64(cfg.Holder.Replica),
		ElectionTick:              cfg.Timing.ElectionTicks,
		HeartbeatTick:             cfg.Timing.HeartbeatTicks,
		Storage:                   cfg.Storage,
		Applied:                   cfg.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  8 << 20,
		MaxUncommittedEntriesSize: 64 << 20, // above Limits.InFlight: the proposer waits, Raft never drops for size
		MaxInflightMsgs:           256,
		MaxInflightBytes:          32 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            readOnlyOption(),
		DisableProposalForwarding: !mutForwarding(),
		StepDownOnRemoval:         true,
		Logger:                    cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Group, err)
	}
	g := &Group{cfg: cfg, rn: rn, fence: cfg.Fence, applied: cfg.Applied, conf: conf, epoch: cfg.Epoch, term: hs.GetTerm(), commit: hs.GetCommit(), now: cfg.Now}
	if g.lastConf, err = cfg.Storage.LastIndex(); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Group, err)
	}
	if !cfg.Fresh && !mutForgetsPromises() {
		g.promise.quiet = cfg.Now + cfg.Timing.Promise
	}
	return g, nil
}

// Tick advances Raft's time by one tick. Never deliver a burst after a pause: one or two at most, or followers campaign.
func (g *Group) Tick(now time.Duration) {
	g.now = now
	g.ticks++
	g.unhold()
	g.tickRaft()
	if g.cfg.Preferred && g.leader == 0 && g.ticks < 2*g.cfg.Timing.ElectionTicks && g.ticks%g.cfg.Timing.HeartbeatTicks == 0 {
		g.Campaign()
	}
	if g.lead != nil {
		g.tickLeading()
	}
}

// tickRaft advances Raft's time. A promise forbids to campaign; time goes on under it, so that it delays no election by its own length.
func (g *Group) tickRaft() {
	switch {
	case g.cfg.Abstain && g.lead == nil:
	case g.lead != nil && !g.inStep():
	case g.lead == nil && g.promised() && !mutCampaignWhilePromised():
		g.rn.TickQuiesced()
	default:
		g.rn.Tick()
	}
}

// inStep lets a new leader begin to count when all groups' heartbeats, and the requests for promises, leave together: in one frame per node
// and not in one per tick. That delays its first heartbeat by less than one; its first append, of the new term, has gone out already.
func (g *Group) inStep() bool {
	l, n := g.lead, g.cfg.Timing.HeartbeatTicks
	l.inStep = l.inStep || (g.ticks+g.cfg.Ticks)%n == 1%n
	return l.inStep
}

// Step takes a message from another replica of the group, or a response from an Append task addressed to this one.
func (g *Group) Step(now time.Duration, m *raftpb.Message) {
	g.now = now
	if g.cfg.Abstain && (m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgPreVote || m.GetType() == raftpb.MsgTimeoutNow) {
		return
	}
	if m.GetFrom() != uint64(g.cfg.Holder.Replica) {
		if g.declines && m.GetType() == raftpb.MsgTimeoutNow {
			return
		}
		g.tellOut(m)
		if g.withhold(m) {
			return
		}
	}
	g.distrust(m)
	if l := g.lead; l != nil && m.GetTerm() == l.term {
		switch m.GetType() {
		case raftpb.MsgAppResp, raftpb.MsgHeartbeatResp:
			l.heard[ring.ReplicaID(m.GetFrom())] = now
		}
	}
	// An error here is a message that Raft has no use for (an unknown peer, a dropped proposal of another node): nothing changed.
	_ = g.rn.Step(m)
}

// Campaign asks for an election now. Harmless while there is a leader; nothing happens under a promise.
func (g *Group) Campaign() {
	if !g.cfg.Abstain && !g.promised() {
		_ = g.rn.Campaign()
	}
}

// Decline makes the replica say, with every promise, that leadership should not be handed to it, and not follow a call to campaign.
// If this one leads it is about to hand over, and asks for promises now: only who answers that may take over. An earlier answer may be of a process that has
// ended since, whose successor keeps quiet.
func (g *Group) Decline() {
	g.declines = true
	if l := g.lead; l != nil {
		l.fresh = l.asked
		g.ask()
	}
}

// SetEpoch tells the newest ring's epoch, for later acquires.
func (g *Group) SetEpoch(e ring.Epoch) { g.epoch = max(g.epoch, e) }

// ReportUnreachable tells that a message to a replica could not be sent.
func (g *Group) ReportUnreachable(r ring.ReplicaID) {
	if g.lead != nil {
		g.lead.gone[r] = g.now
	}
	g.rn.ReportUnreachable(uint64(r))
}

// ReportSnapshot tells how sending a snapshot ended.
func (g *Group) ReportSnapshot(r ring.ReplicaID, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	g.rn.ReportSnapshot(uint64(r), status)
}

// Leader is who leads the group as far as this replica knows, 0 if unknown.
func (g *Group) Leader() ring.ReplicaID { return g.leader }

// Leads reports whether this replica leads.
func (g *Group) Leads() bool { return g.lead != nil }

// Term is Raft's current term here.
func (g *Group) Term() uint64 { return g.term }

// Fence is the fence after all entries that were handed out to be applied.
func (g *Group) Fence() store.Fence { return g.fence }

// History records what takes effect here, nil if nothing does. It is ahead of storage by the ApplyTasks not yet stored.
func (g *Group) History() *store.History { return g.cfg.History }

// Applied is the index up to which ApplyTasks are done. The stored state may be behind, see Output.
func (g *Group) Applied() uint64 { return g.applied }

// Voters of the applied configuration.
func (g *Group) Voters() []uint64 { return g.conf.GetVoters() }

// Waiting is how many bytes of batches are submitted and not yet applied.
func (g *Group) Waiting() int {
	if g.lead == nil {
		return 0
	}
	return g.lead.queued + g.lead.inFlight
}

// Err is why the replica halted, nil while it works. A halted replica takes and gives nothing more.
func (g *Group) Err() error { return g.failed }

// AppendDone is called when an Append task is durable. Responses to others are handed to send.
func (g *Group) AppendDone(now time.Duration, m *raftpb.Message, send func(*raftpb.Message)) {
	g.now = now
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		g.installed(s)
	}
	for _, r := range m.GetResponses() {
		if r.GetTo() == uint64(g.cfg.Holder.Replica) {
			g.Step(now, r)
		} else {
			send(r)
		}
	}
}

// installed takes over the fence of a snapshot that is now in storage.
func (g *Group) installed(s *raftpb.Snapshot) {
	fence, err := SnapshotFence(s)
	if err != nil {
		g.halt(err)
		return
	}
	g.endToken("a snapshot was installed")
	if !mutSnapshotWithoutFence() {
		g.fence = fence
	}
	g.applied = s.GetMetadata().GetIndex()
	g.conf = s.GetMetadata().GetConfState()
	if g.cfg.History != nil {
		g.cfg.History = snapshotHistory(s, fence)
	}
}

// ApplyDone is called when a task's writes are stored, or when their owner reads them though they are not: see Output.
func (g *Group) ApplyDone(now time.Duration, t *ApplyTask) {
	g.now = now
	g.applied = t.Index
	_ = g.rn.Step(t.done)
	g.releaseAnswers()
	l := g.lead
	if l == nil {
		return
	}
	if t.opened != 0 && l.token == t.opened && l.state == granted {
		l.state = open
		g.events = append(g.events, Event{Kind: EventOpened, Token: l.token, Epoch: l.epoch})
	}
	if t.pos != 0 && l.token == t.token && l.state == open {
		l.appliedUpTo(t.pos)
		g.events = append(g.events, Event{Kind: EventApplied, Token: l.token, Pos: t.pos})
	}
}

// HasReady reports whether Ready has anything to tell.
func (g *Group) HasReady() bool {
	if len(g.lost) > 0 || len(g.events) > 0 || len(g.pings) > 0 {
		return true
	}
	return g.failed == nil && (g.rn.HasReady() || g.canPropose())
}

// Ready proposes what waits and returns what to do. The Output is valid until the next call of Ready; messages and tasks in it
// may be kept.
func (g *Group) Ready() *Output {
	g.out.reset()
	if g.failed == nil {
		g.propose()
	}
	for g.failed == nil && g.rn.HasReady() {
		g.take(g.rn.Ready())
	}
	g.out.Lost = append(g.out.Lost, g.lost...)
	g.out.Events = append(g.out.Events, g.events...)
	for _, p := range g.pings {
		g.answerOrHold(p)
	}
	g.lost, g.events, g.pings = g.lost[:0], g.events[:0], g.pings[:0]
	g.out.Proposed, g.proposed = g.proposed, 0
	return &g.out
}

func (g *Group) take(rd raft.Ready) {
	if rd.HardState != nil && !raft.IsEmptyHardState(rd.HardState) {
		g.term, g.commit = rd.HardState.GetTerm(), rd.HardState.GetCommit()
	}
	if rd.SoftState != nil {
		g.leader = ring.ReplicaID(rd.SoftState.Lead)
		g.cfg.Preferred = g.cfg.Preferred && g.leader == 0
	}
	g.observeRole(rd.SoftState)
	for _, rs := range rd.ReadStates {
		g.confirmed(rs.RequestCtx)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			g.out.Append = append(g.out.Append, m)
			g.matches(m)
			for _, e := range m.GetEntries() {
				if e.GetType() != raftpb.EntryNormal {
					g.lastConf = e.GetIndex()
				}
			}
		case raft.LocalApplyThread:
			g.out.Apply = append(g.out.Apply, g.decide(m))
		default:
			g.dress(m)
			g.out.Send = append(g.out.Send, m)
		}
	}
}

// decide runs the fence over committed entries: pure, hence the same on every replica.
func (g *Group) decide(m *raftpb.Message) *ApplyTask {
	t := g.task()
	t.done = m.GetResponses()[0]
	for _, e := range m.GetEntries() {
		t.Index = e.GetIndex()
		if g.lead != nil && e.GetTerm() == g.lead.term {
			g.lead.caughtUp = true
		}
		switch e.GetType() {
		case raftpb.EntryNormal:
			if len(e.GetData()) > 0 {
				g.decideCommand(t, e)
			}
		case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
			g.decideConf(t, e)
		}
		if g.failed != nil {
			t.Index-- // what is not understood is not applied: a version that knows it begins there
			break
		}
	}
	t.Fence = g.fence
	t.History = g.cfg.History.Take(t.Index, g.fence)
	return t
}

// task is an empty one.
func (g *Group) task() *ApplyTask {
	n := len(g.tasks)
	if n == 0 {
		return new(ApplyTask)
	}
	t := g.tasks[n-1]
	g.tasks = g.tasks[:n-1]
	return t
}

// What is kept for tasks to come.
const (
	keepTasks      = 32
	keepTaskWrites = 64
)

// Recycle takes back a task that is done and stored, and that nobody looks at any more, for others to come. Not calling it does no harm.
func (g *Group) Recycle(t *ApplyTask) {
	if len(g.tasks) == keepTasks || cap(t.Writes) > keepTaskWrites {
		return
	}
	clear(t.Writes)
	*t = ApplyTask{Writes: t.Writes[:0]}
	g.tasks = append(g.tasks, t)
}

// wall is the time of this node's wall clock, as far as a state machine may know it.
func (g *Group) wall() int64 { return g.cfg.Born + g.now.Milliseconds() }

func (g *Group) decideCommand(t *ApplyTask, e *raftpb.Entry) {
	c := &g.cmd
	if err := store.DecodeCommand(e.GetData(), c); err != nil {
		g.halt(fmt.Errorf("entry %d of %s: %w; a version that knows it must run here", e.GetIndex(), g.cfg.Group, err))
		return
	}
	next, verdict := g.fence.Step(e.GetIndex(), e.GetTerm(), c)
	g.cfg.History.Command(e.GetIndex(), e.GetTerm(), c, e.GetData(), verdict, g.wall())
	mine := g.lead != nil && g.lead.token != 0 && c.Token == g.lead.token
	if verdict != store.Accepted {
		if mine && c.Kind == store.KindBatch {
			g.endToken("a batch was refused: " + verdict.String())
		}
		return
	}
	g.fence = next
	switch c.Kind {
	case store.KindAcquire:
		g.decideAcquire(t, e, c)
	case store.KindRelease:
		g.released()
	case store.KindBatch:
		t.Writes = append(t.Writes, c.Writes...)
		if mine {
			t.token, t.pos = g.lead.token, next.Seq
		}
	}
}

// decideAcquire handles an acquire that the fence accepted: it ends whatever token this node held, or grants it one.
func (g *Group) decideAcquire(t *ApplyTask, e *raftpb.Entry, c *store.Command) {
	l := g.lead
	if l == nil {
		return
	}
	if l.token != 0 && l.state != none && l.token != store.Token(e.GetIndex()) {
		g.endToken("superseded by a newer token")
		l = g.lead
	}
	if c.Acquire.Holder == g.cfg.Holder && c.Acquire.Term == l.term {
		l.grant(store.Token(e.GetIndex()), c.Acquire.Epoch)
		t.opened = l.token
	}
}

// decideConf applies a change of the configuration unless a newer ring's came before: a leader that has not heard of that ring must
// not undo it. The epoch goes into the fence, where every replica reaches the same verdict. An empty change is Raft's own end of a joint
// configuration.
func (g *Group) decideConf(t *ApplyTask, e *raftpb.Entry) {
	var cc raftpb.ConfChangeV2
	epoch, err := ring.Epoch(0), unmarshalConfChange(e, &cc)
	if err == nil && len(cc.Changes) > 0 {
		epoch, err = changeEpoch(&cc)
	}
	if err != nil {
		g.halt(fmt.Errorf("entry %d of %s is not a configuration change: %w", e.GetIndex(), g.cfg.Group, err))
		return
	}
	if g.lead != nil {
		g.lead.confTick = 0
	}
	if len(cc.Changes) > 0 {
		if epoch < g.fence.Epoch && !mutConfWithoutEpoch() {
			return
		}
		g.fence.Epoch = max(g.fence.Epoch, epoch)
	}
	g.cfg.History.Conf(e.GetIndex(), e.GetTerm(), e.GetData(), epoch, g.wall())
	g.conf = g.rn.ApplyConfChange(&cc)
	t.Conf = g.conf
	g.ask() // the lease now rests on these voters
	if l := g.lead; l != nil {
		l.confIndex, l.confAsked = e.GetIndex(), l.asked
	}
}

// halt stops this replica, and only it: an entry that cannot be understood must not be skipped, and all replicas would panic alike.
func (g *Group) halt(err error) {
	if g.failed == nil {
		g.endToken("the replica halted")
		g.failed = err
	}
}

// LogKeep says up to which index the log may be truncated, given its first index and size: half of what is above limit bytes
// stays for replicas that come back. Nothing above the applied index goes; up to there all must be stored when it does.
func (g *Group) LogKeep(first uint64, size, limit int) (upTo uint64, ok bool) {
	if size <= limit || g.applied <= first {
		return 0, false
	}
	upTo = first + (g.applied-first)/2
	return upTo, upTo > first
}

// LeaseUntil is how long, by the node's clock, the current token may be used without hearing from anybody again. With Clock nobody else leads
// until then, whoever is cut off or paused; else it is one election timeout after a majority was last heard, and proves nothing. Zero if
// there is no open token.
func (g *Group) LeaseUntil() (store.Token, time.Duration) {
	l := g.lead
	if l == nil || l.state != open {
		return mutKeptLease(g)
	}
	if g.cfg.Clock {
		return l.token, mutHighest(g, g.promisedUntil())
	}
	at := l.quorumHeard(g.conf, uint64(g.cfg.Holder.Replica))
	if at == math.MaxInt64 {
		return l.token, math.MaxInt64
	}
	return l.token, at + g.cfg.Timing.Election()
}
