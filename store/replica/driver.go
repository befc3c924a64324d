package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// Network carries what groups say to other nodes. Its methods are called on the driver's goroutine and must not block.
type Network interface {
	// SendRaft takes a frame's body, which is valid only during the call, and may drop it.
	SendRaft(to ring.NodeID, body []byte)
	// FrameVersion is the version, FrameVersionMin to FrameVersion, of which a node reads frames.
	FrameVersion(to ring.NodeID) byte
	// SendSnapshot streams a snapshot, on a goroutine of its own, and calls done once. It closes src.
	SendSnapshot(to ring.NodeID, src *SnapshotSource, done func(error))
}

// DriverConfig says what a Driver is made of.
type DriverConfig struct {
	Engine  *store.Engine
	Node    ring.NodeID
	Boot    ring.BootID
	Timing  Timing
	Limits  Limits
	Clock   bool                 // leases rest on promises: see Group.LeaseUntil
	Now     func() time.Duration // a clock that never goes back. Default: CLOCK_BOOTTIME.
	Network Network
	Logger  *slog.Logger
	// LogBytes is the size above which a group's log is truncated; less, but not less than an eighth, where many groups share the journal. Default 8 MiB.
	LogBytes int
}

// Driver runs all groups of a node: one goroutine steps them and applies, another appends to disk with one batch and one fsync
// for all groups. Few workers: on two cores more of them cost more than they bring.
type Driver struct {
	cfg   DriverConfig
	start time.Duration // of the clock
	born  int64         // the wall clock then, see GroupConfig.Born
	inbox *inbox
	disk  *appender

	groups map[ring.GroupID]*member // driver's goroutine only
	order  []*member                // the same, in order of ID: nothing depends on map order
	dirty  []*member                // have something to do
	spare  []*member
	due    []*member // have a backlog that is to be stored now
	batch  *store.Batch
	out    []outgoing
	epoch  ring.Epoch
	at     time.Duration // when this round began
	ticks  int
	busy   int  // at which of them something was written last
	led    bool // all groups had leaders at the last one
	stay   bool // see Stay

	hints     sync.Map // GroupID → *atomic.Pointer[Hint]
	wm        watermarkWriter
	transfers transfers
	stats     driverStats
}

type driverStats struct {
	rounds, batches, entries, applied, dropped, frames, led, sent, unsent, installed atomic.Uint64
	sending                                                                          atomic.Int64
}

// Stats counts what a driver did since its start.
type Stats struct {
	Rounds   uint64        // turns of the loop
	Batches  uint64        // owners' batches taken
	Entries  uint64        // log entries that they were gathered into
	Applied  uint64        // apply tasks stored
	Frames   uint64        // Raft frames sent
	Dropped  uint64        // received frames dropped for lack of room
	Appends  uint64        // batches written by the append worker
	Syncs    uint64        // of these, with an fsync
	Appended uint64        // append tasks in them
	SyncTime time.Duration // spent in the batches with an fsync

	Led       uint64 // elections won, and leaderships taken over, by replicas here
	Sending   int64  // snapshots that are being sent, or wait for their turn
	Sent      uint64 // delivered whole
	Unsent    uint64 // given up
	Receiving int    // being received or installed
	Installed uint64 // received whole, and stored
}

// Hint is what a node knows about who owns a group's shard.
type Hint struct {
	Node  ring.NodeID // leader, 0 if unknown
	Token store.Token // the fence's, and the epoch that goes with it
	Epoch ring.Epoch
	Self  bool // this node leads
	Open  bool // and holds an open token
}

// member is one group on this node; the driver's goroutine owns all but the atomics.
type member struct {
	d       *Driver
	id      ring.GroupID
	self    ring.ReplicaID
	g       *Group
	log     *LogStore
	state   *StateStore
	nodes   addresses
	epoch   ring.Epoch // of the ring that nodes is from
	notices []notice
	owner   store.Owner
	lease   *lease
	isDir   bool // in d.dirty

	writtenTerm, writtenVote uint64 // appender only: of the last hard state written

	queued atomic.Int64 // bytes in the Group
	hint   *atomic.Pointer[Hint]

	backlog      []*ApplyTask // decided, not stored, in order
	told         int          // of these, the first ones: the group takes them for stored, and the lease's view holds their writes
	backlogBytes int
	isDue        bool // in d.due

	compacting   bool
	installing   bool   // a snapshot is on its way to disk
	saved        uint64 // index of the newest history that this process has stored
	halted       bool
	frozen       *FrozenState // made for Raft's newest snapshot, not yet sent
	sends        []*SnapshotSource
	install      *store.Install // received, to be claimed by Raft at once or never
	installIndex uint64
}

// outgoing gathers a frame for one node.
type outgoing struct {
	to   ring.NodeID
	body []byte
}

// NewDriver makes a driver without groups; Run makes it work.
func NewDriver(cfg DriverConfig) *Driver {
	cfg.Limits.fill()
	setDefault(&cfg.LogBytes, 8<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = clock
	}
	d := &Driver{cfg: cfg, start: cfg.Now(), born: time.Now().UnixMilli(), inbox: newInbox(), groups: make(map[ring.GroupID]*member), batch: cfg.Engine.NewBatch()}
	d.disk = newAppender(cfg.Engine, d.inbox)
	d.wm.engine, d.wm.log = cfg.Engine, cfg.Logger
	d.transfers.groups = make(map[ring.GroupID]*incoming)
	return d
}

// now is the driver's time: since its start, by a clock that goes on while the machine sleeps.
func (d *Driver) now() time.Duration { return d.cfg.Now() - d.start }

// SetEpoch tells all groups of a newer ring.
func (d *Driver) SetEpoch(e ring.Epoch) {
	d.inbox.call(func() {
		d.epoch = max(d.epoch, e)
		for _, m := range d.order {
			m.g.SetEpoch(e)
		}
	})
}

// Unreachable tells that a node cannot be reached, so that Raft stops sending optimistically.
func (d *Driver) Unreachable(n ring.NodeID) {
	d.inbox.call(func() {
		for _, m := range d.order {
			for _, r := range m.replicasOn(n) {
				m.guard(func() { m.g.ReportUnreachable(r) })
				d.mark(m)
			}
		}
	})
}

// Receive takes a Raft frame from a node, on any goroutine. It reports an error if the frame cannot be read; one for which there
// is no room is dropped.
func (d *Driver) Receive(from ring.NodeID, body []byte) error {
	msgs, err := decodeFrame(takeMessages(), body)
	if err != nil {
		return err
	}
	if !d.inbox.receive(received{from: from, msgs: msgs, bytes: len(body)}) {
		d.stats.dropped.Add(1)
	}
	return nil
}

// Hint is what is known about the owner of a group. Safe from any goroutine; ok is false if no replica of it is here.
func (d *Driver) Hint(g ring.GroupID) (h Hint, ok bool) {
	v, ok := d.hints.Load(g)
	if !ok {
		return h, false
	}
	return *v.(*atomic.Pointer[Hint]).Load(), true
}

// Stats reads the counters. Safe from any goroutine.
func (d *Driver) Stats() Stats {
	return Stats{Rounds: d.stats.rounds.Load(), Batches: d.stats.batches.Load(), Entries: d.stats.entries.Load(), Applied: d.stats.applied.Load(),
		Frames: d.stats.frames.Load(), Dropped: d.stats.dropped.Load(),
		Appends: d.disk.appends.Load(), Syncs: d.disk.syncs.Load(), Appended: d.disk.tasks.Load(),
		SyncTime: time.Duration(d.disk.syncNanos.Load()),
		Led:      d.stats.led.Load(), Sending: d.stats.sending.Load(), Sent: d.stats.sent.Load(), Unsent: d.stats.unsent.Load(),
		Receiving: d.transfers.places(), Installed: d.stats.installed.Load()}
}

// Run steps the groups until ctx ends; then every lease is over, and what was submitted may or may not take effect.
func (d *Driver) Run(ctx context.Context) error {
	stopDisk := d.disk.start()
	period := d.cfg.Timing.Tick
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	last := time.Now()
	var spare work
	for {
		ticks := 0
		select {
		case <-ctx.Done():
			for _, m := range d.order {
				m.settle()
			}
			d.apply()
			stopDisk()
			d.wm.finish(d.watermarks())
			d.endAll("the node is stopping")
			return nil
		case <-d.inbox.wake:
			// What woke the driver seldom comes alone: who can run now goes first, and what they ask for is done in the same round.
			runtime.Gosched()
		case now := <-ticker.C:
			ticks = d.ticksSince(&last, now)
		}
		spare = d.round(spare, ticks)
		if p := d.period(); ticks > 0 && p != period {
			period = p
			ticker.Reset(p)
		}
	}
}

// restTicks is after how many ticks in which nothing was written the driver rests, if all groups have leaders.
const restTicks = 20

// period is how often the driver wakes by itself. While it rests, two ticks are done in one go: they come on time for heartbeats, which leave with
// every second tick, and a silent leader is noticed half a period later at most.
func (d *Driver) period() time.Duration {
	if d.ticks-d.busy > restTicks && d.led {
		return 2 * d.cfg.Timing.Tick
	}
	return d.cfg.Timing.Tick
}

// ticksSince is 1 or, after a delay, 2: a burst of ticks after a pause would make followers campaign though the leader is there.
func (d *Driver) ticksSince(last *time.Time, now time.Time) int {
	n := int(now.Sub(*last) / d.cfg.Timing.Tick)
	*last = now
	return min(max(n, 1), 2)
}

// compactTicks is how often logs are looked at that may have grown too long.
const compactTicks = 10

// round does what was gathered since the last one.
func (d *Driver) round(spare work, ticks int) work {
	d.stats.rounds.Add(1)
	w := d.inbox.take(spare)
	for _, f := range w.calls {
		f()
	}
	now := d.now()
	d.at = now
	for _, j := range w.appended {
		d.appended(now, j)
	}
	for _, r := range w.received {
		for i := range r.msgs {
			d.step(now, r.from, &r.msgs[i])
		}
		giveMessages(r.msgs)
	}
	for _, s := range w.submissions {
		d.submit(s)
	}
	if len(w.submissions) > 0 || len(w.appended) > 0 {
		d.busy = d.ticks
	}
	for range ticks {
		d.tick(now)
	}
	for len(d.dirty) > 0 {
		d.process()
	}
	return w
}

func (d *Driver) mark(m *member) {
	if !m.isDir && !m.halted {
		m.isDir = true
		d.dirty = append(d.dirty, m)
	}
}

func (d *Driver) appended(now time.Duration, j appendJob) {
	if j.compactTo != 0 {
		j.m.compacting = false
		return
	}
	if j.flushed != nil {
		j.flushed()
		return
	}
	if j.install != nil {
		j.m.installing = false
		d.transfers.whole.Add(-1)
		d.stats.installed.Add(1)
	}
	j.m.guard(func() { j.m.g.AppendDone(now, j.msg, j.m.send) })
	d.mark(j.m)
}

func (d *Driver) step(now time.Duration, from ring.NodeID, gm *GroupMessage) {
	m := d.groups[gm.Group]
	if gm.Message == nil {
		d.ping(now, from, m, &gm.Ping)
		return
	}
	if m == nil || m.halted || gm.Message.GetTo() != uint64(m.self) || !m.speaks(ring.ReplicaID(gm.Message.GetFrom()), from) {
		return // not here (yet, or any more): Raft repeats itself
	}
	m.guard(func() { m.g.Step(now, gm.Message) })
	d.mark(m)
}

// speaks reports whether a replica is on the node that sent its message: no other speaks for it.
func (m *member) speaks(r ring.ReplicaID, through ring.NodeID) bool {
	at, _ := m.nodes.of(r)
	return at == through
}

func (d *Driver) ping(now time.Duration, from ring.NodeID, m *member, p *Ping) {
	if m == nil || m.halted || p.To != m.self || !m.speaks(p.From, from) {
		return
	}
	m.guard(func() { m.g.Ping(now, *p) })
	d.mark(m)
}

func (d *Driver) submit(s submission) {
	m := s.l.group
	if s.round != 0 {
		m.guard(func() { m.g.Confirm(s.l.token, s.round) })
	} else {
		s.l.waiting.Add(-s.bytes)
		d.stats.batches.Add(1)
		// Refused: the token is over, and the owner hears so. Limits were checked when the batch was handed in.
		m.guard(func() { _ = m.g.Commit(s.l.token, s.writes) })
	}
	d.mark(m)
}

func (d *Driver) tick(now time.Duration) {
	d.ticks++
	d.led = true
	compact := d.ticks%compactTicks == 0
	settle := compact || d.ticks%backlogTicks == 0 // compact wants all stored: here that is one batch for all groups
	for _, m := range d.order {
		m.guard(func() { m.g.Tick(now) })
		d.led = d.led && (m.halted || m.g.Leader() != 0)
		m.sendNotices()
		if settle {
			m.settle()
		}
		if !m.halted && m.g.HasReady() {
			d.mark(m)
		}
	}
	d.flush()
	d.apply()
	if compact {
		for _, m := range d.order {
			d.compact(m)
		}
	}
	if d.ticks%20 == 0 {
		d.wm.begin(d.watermarks())
	}
}

// process takes from every dirty group what it wants done, does it, and marks those that have more.
func (d *Driver) process() {
	dirty := d.dirty
	d.dirty = d.spare[:0]
	for _, m := range dirty {
		m.isDir = false
		m.guard(func() {
			if m.g.HasReady() {
				m.act(m.g.Ready())
			}
		})
		m.publish()
	}
	d.disk.submit()
	d.flush()
	d.apply()
	for _, m := range dirty {
		if !m.halted && m.g.HasReady() {
			d.mark(m)
		}
	}
	d.spare = dirty[:0]
}

// act does what an Output says, in its order, but for the Apply tasks, which are gathered for one batch: see apply.
func (m *member) act(o *Output) {
	m.d.stats.entries.Add(uint64(o.Proposed))
	for _, e := range o.Lost {
		m.lost(e.Token, e.Reason)
	}
	for _, msg := range o.Send {
		m.send(msg)
	}
	m.dropFrozen() // one that Raft takes from here on, when it hears of what is applied, leaves with the next Output
	for i := range o.Pings {
		m.ping(&o.Pings[i])
	}
	for _, t := range o.Apply {
		m.applyLater(t)
	}
	if m.backlogBytes >= backlogBytes || m.g.Err() != nil {
		m.settle()
	}
	for _, msg := range o.Append {
		if !raft.IsEmptySnap(msg.GetSnapshot()) { // it is newer than all that is to be applied
			m.settle()
			m.d.apply()
		}
		j := appendJob{m: m, msg: msg, install: m.claim(msg)}
		m.installing = m.installing || j.install != nil
		m.d.disk.add(j)
	}
	m.dropInstall()
	for _, e := range o.Events {
		m.tell(e)
	}
	if err := m.g.Err(); err != nil {
		m.halt(err)
	}
}

func (m *member) tell(e Event) {
	switch e.Kind {
	case EventOpened:
		shard, _ := m.id.Shard()
		m.lease = &lease{stored: m.state.Reader(), d: m.d, group: m, shard: shard, token: e.Token, epoch: e.Epoch, over: make(chan struct{})}
		m.publish()
		m.owner.Opened(m.lease)
	case EventApplied:
		if m.lease != nil && m.lease.token == e.Token {
			m.owner.Applied(m.lease.shard, e.Token, e.Pos)
		}
	case EventConfirmed:
		if m.lease != nil && m.lease.token == e.Token {
			m.owner.Confirmed(m.lease.shard, e.Token, e.Pos)
		}
	}
}

func (m *member) lost(t store.Token, reason string) {
	l := m.lease
	if l == nil || l.token != t {
		return
	}
	m.lease = nil
	f := m.g.Fence()
	why := &store.MovedError{Shard: l.shard, HeldToken: l.token, HeldEpoch: l.epoch, Reason: reason}
	if f.Token != l.token {
		why.CurrentToken, why.CurrentEpoch, why.CurrentOwner = f.Token, f.Epoch, f.Holder.Node
	}
	l.end(why)
	m.owner.Lost(l.shard, t, why)
}

// publish makes what other goroutines read of this group current.
func (m *member) publish() {
	if m.halted {
		return
	}
	m.queued.Store(int64(m.g.Waiting()))
	if m.lease != nil {
		if t, until := m.g.LeaseUntil(); t == m.lease.token {
			m.lease.until.Store(int64(until))
		}
	}
	h, old := m.hintNow(), m.hint.Load()
	if old != nil && *old == h {
		return
	}
	news := h // only what is new goes to the heap
	m.hint.Store(&news)
	if old == nil {
		return
	}
	if h.Self && !old.Self {
		m.d.stats.led.Add(1)
	}
	if old.Self && !h.Self {
		m.endSends(errLeadsNoMore)
	}
}

func (m *member) hintNow() Hint {
	leader, f := m.g.Leader(), m.g.Fence()
	at, _ := m.nodes.of(leader)
	h := Hint{Node: at, Self: leader == m.self, Open: m.lease != nil}
	if f.Holder.Replica == leader && leader != 0 {
		h.Token, h.Epoch = f.Token, f.Epoch
	}
	return h
}

func (m *member) send(msg *raftpb.Message) {
	to, ok := m.nodes.of(ring.ReplicaID(msg.GetTo()))
	if !ok {
		return
	}
	if msg.GetType() == raftpb.MsgSnap {
		m.sendSnapshot(to, msg)
		return
	}
	if msg.GetType() == raftpb.MsgApp && m.holdNotice(to, msg) {
		return
	}
	m.put(to, msg)
}

// notice is an append without entries, held back until the next tick.
type notice struct {
	to  ring.NodeID
	msg *raftpb.Message
}

// holdNotice holds back an append that carries no entries: as a rule it only tells a follower how far the log is committed, right after the
// follower has acknowledged, and costs both sides a message, a storage write and an answer. The next append with entries tells the
// same and takes its place; else it leaves at the next tick. To Raft this is a slow network.
func (m *member) holdNotice(to ring.NodeID, msg *raftpb.Message) bool {
	i := 0
	for i < len(m.notices) && m.notices[i].to != to {
		i++
	}
	switch empty := len(msg.GetEntries()) == 0; {
	case empty && i < len(m.notices):
		m.notices[i].msg = msg
	case empty:
		m.notices = append(m.notices, notice{to, msg})
	case i < len(m.notices):
		m.notices = append(m.notices[:i], m.notices[i+1:]...)
		return false
	default:
		return false
	}
	return true
}

func (m *member) sendNotices() {
	for i := range m.notices {
		m.put(m.notices[i].to, m.notices[i].msg)
		m.notices[i].msg = nil
	}
	m.notices = m.notices[:0]
}

// put adds a message to the frame that gathers for a node.
func (m *member) put(to ring.NodeID, msg *raftpb.Message) {
	o := m.d.outgoing(to)
	body, err := appendMessage(o.body, m.id, msg)
	if err != nil {
		m.halt(fmt.Errorf("a message cannot be encoded: %w", err))
		return
	}
	if o.body = body; len(body) >= FrameBytes {
		m.d.flushOne(o)
	}
}

func (m *member) ping(p *Ping) {
	to, ok := m.nodes.of(p.To)
	if !ok {
		return
	}
	o := m.d.outgoing(to)
	if o.body = appendPing(o.body, m.id, p); len(o.body) >= FrameBytes {
		m.d.flushOne(o)
	}
}

func (d *Driver) outgoing(to ring.NodeID) *outgoing {
	i := slices.IndexFunc(d.out, func(o outgoing) bool { return o.to == to })
	if i < 0 {
		i = len(d.out)
		d.out = append(d.out, outgoing{to: to})
	}
	o := &d.out[i]
	if len(o.body) == 0 {
		o.body = append(o.body, d.cfg.Network.FrameVersion(to))
	}
	return o
}

func (d *Driver) flush() {
	for i := range d.out {
		d.flushOne(&d.out[i])
	}
}

func (d *Driver) flushOne(o *outgoing) {
	if len(o.body) > 1 {
		d.stats.frames.Add(1)
		d.cfg.Network.SendRaft(o.to, o.body)
		o.body = o.body[:0]
		if cap(o.body) > 2*FrameBytes {
			o.body = nil
		}
	}
}

// What is decided stays unstored for so many ticks, and up to so many bytes.
const (
	backlogTicks = 4
	backlogBytes = 64 << 10
)

// settle has a group's backlog stored with the next batch.
func (m *member) settle() {
	if len(m.backlog) > 0 && !m.isDue {
		m.isDue = true
		m.d.due = append(m.d.due, m)
	}
}

// applyLater puts a task behind the backlog. Nobody reads a follower's state, and an owner reads its own through a view that holds what is not stored yet: it
// is told at once. What no view shows is stored in this round: a range of keys removed; a change of the configuration, which must be synced before the group
// hears of it; and whatever a leader applies while it holds no lease, its own acquire first of all, so that a lease begins with all stored. What was told
// before such a task is stored ahead of it: a scan that found the old writes in the view, over a state that has the new ones, would see a moment that never was.
func (m *member) applyLater(t *ApplyTask) {
	tell := m.lease != nil && m.told == len(m.backlog) && t.Conf == nil && !slices.ContainsFunc(t.Writes, isRange)
	if m.lease != nil && !tell {
		m.storeTold()
	}
	m.backlog = append(m.backlog, t)
	m.backlogBytes += t.size()
	switch {
	case tell:
		m.lease.view.add(t.Writes)
		m.told++
		m.g.ApplyDone(m.d.at, t)
	case m.lease != nil || t.Conf != nil || m.g.Leads():
		m.settle()
	}
}

func isRange(w store.Write) bool { return w.IsRange() }

// apply stores the backlogs that are due in one batch, unsynced unless a configuration changes: their log entries are synced already, and in the
// same WAL before. Of what was gathered for a few ticks each key is stored once, index and fence too, and not with each entry.
func (d *Driver) apply() {
	if len(d.due) == 0 {
		return
	}
	sync := false
	for _, m := range d.due {
		sync = m.stage() || sync
	}
	if err := d.batch.Commit(sync); err != nil {
		d.cfg.Engine.Fatal(fmt.Errorf("applying: %w", err))
	}
	for i, m := range d.due {
		d.due[i] = nil
		m.isDue = false
		m.applied()
		if !m.halted && m.g.HasReady() {
			d.mark(m)
		}
	}
	d.due = d.due[:0]
}

// stage puts a backlog into the driver's batch, and reports whether that must be synced.
func (m *member) stage() (sync bool) {
	sync, err := m.state.StageApply(m.d.batch, m.backlog...)
	if err != nil {
		m.d.cfg.Engine.Fatal(fmt.Errorf("%s: applying up to %d: %w", m.id, m.backlog[len(m.backlog)-1].Index, err))
	}
	return sync
}

// applied is called when the backlog is stored.
func (m *member) applied() {
	if m.lease != nil {
		m.lease.view.clear()
	}
	m.guard(func() {
		for _, t := range m.backlog[m.told:] {
			m.g.ApplyDone(m.d.at, t)
		}
	})
	m.d.stats.applied.Add(uint64(len(m.backlog)))
	for _, t := range m.backlog {
		m.g.Recycle(t)
	}
	clear(m.backlog)
	m.backlog, m.told, m.backlogBytes = m.backlog[:0], 0, 0
}

// storeTold stores a backlog of which the group has heard already, at once. Within a step of the group nothing else may be stored: the group would hear of it.
func (m *member) storeTold() {
	if len(m.backlog) == 0 || m.told < len(m.backlog) {
		return
	}
	m.stage()
	if err := m.d.batch.Commit(false); err != nil {
		m.d.cfg.Engine.Fatal(fmt.Errorf("%s: applying: %w", m.id, err))
	}
	m.applied()
}

// logBytes is the size above which a log is truncated now.
func (d *Driver) logBytes() int {
	share := d.cfg.Engine.LogBytes() / len(d.order)
	return min(max(share, d.cfg.LogBytes/8), d.cfg.LogBytes)
}

// compact asks the append worker to truncate a log that has grown.
func (d *Driver) compact(m *member) {
	if m.compacting || m.halted {
		return
	}
	first, err := m.log.FirstIndex()
	if err != nil {
		return
	}
	m.settle() // what the log gives up is stored before: the group may take more for applied
	d.apply()
	size := int(m.log.Bytes())
	upTo, ok := m.g.LogKeep(first, size, d.logBytes())
	upTo = m.keepForSends(upTo, size)
	if upTo = min(upTo, m.log.Mark().Commit); ok && upTo > first && d.saveHistory(m, upTo) {
		m.compacting = true
		d.disk.add(appendJob{m: m, compactTo: upTo})
	}
}

// guard runs a step of a group. Raft panics where the impossible happened: that replica stops, the others go on. One that has lost its log has lost
// it with all others of this directory, and what it has since voted for nobody knows: there the process ends.
func (m *member) guard(f func()) {
	if m.halted {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			if lost, ok := p.(lostLog); ok {
				m.d.cfg.Engine.Fatal(m.d.cfg.Engine.Damaged(fmt.Errorf("%s: %w", m.id, lost)))
			}
			m.d.cfg.Logger.Error("a replica hit an impossible state", "group", m.id.String(), "panic", p, "stack", string(debug.Stack()))
			m.halt(fmt.Errorf("impossible state: %v", p))
		}
	}()
	f()
}

func (m *member) halt(err error) {
	if m.halted {
		return
	}
	m.halted = true
	m.d.cfg.Logger.Error("a replica has halted; the group goes on without it while a majority works", "group", m.id.String(),
		"replica", m.self, "cause", err)
	if m.lease != nil {
		l := m.lease
		m.lease = nil
		why := &store.MovedError{Shard: l.shard, HeldToken: l.token, HeldEpoch: l.epoch, Reason: err.Error()}
		l.end(why)
		m.owner.Lost(l.shard, l.token, why)
	}
	m.hint.Store(&Hint{})
	m.dropFrozen()
	m.endSends(err)
	m.dropInstall()
}

func (d *Driver) endAll(reason string) {
	for _, m := range d.order {
		if m.lease != nil {
			m.lost(m.lease.token, reason)
		}
		m.endSends(errors.New(reason))
	}
}

func (m *member) replicasOn(n ring.NodeID) []ring.ReplicaID {
	var out []ring.ReplicaID
	for _, a := range m.nodes {
		if a.node == n {
			out = append(out, a.replica)
		}
	}
	return out
}

// ErrStopped ends what waited for a driver that stopped.
var ErrStopped = errors.New("replica: the driver has stopped")
