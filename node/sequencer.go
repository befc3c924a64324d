package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// aliveTime is how long a member counts as alive after its last report; reports come once a second at least.
const aliveTime = 3 * time.Second

// report is what a member tells the sequencer: where it is, and what it knows of the groups that it owns.
type report struct {
	Node   ring.NodeID     `msgpack:"node"`
	Boot   ring.BootID     `msgpack:"boot"`
	Addr   string          `msgpack:"addr"`
	Gossip string          `msgpack:"gossip"`
	Epoch  ring.Epoch      `msgpack:"epoch"`
	Groups []replica.Facts `msgpack:"groups"`
}

// sequencer runs on the system shard's leader and hands out rings, each epoch once: what it commits goes through the system shard's
// fence like any object's writes, so a superseded sequencer commits nothing. Every step is small and safe by itself; the planner finds it.
type sequencer struct {
	log          *slog.Logger
	start        time.Time
	replaceAfter time.Duration
	plan         ring.PlanConfig
	publish      func(*ring.Ring)
	wake         chan struct{}

	mu      sync.Mutex
	first   *ring.Ring // what epoch 1 is if there is none yet; the same on every founder, nil on other nodes
	lease   store.Lease
	opened  time.Time
	current *ring.Ring // committed; nil until read
	next    *ring.Ring // being committed at position commit
	commit  uint64
	asked   []*change // waiting; the first is answered with next
	serving *change   // for which next is
	planner *ring.Planner
	said    string // the planner's last error
	reports map[ring.NodeID]heardReport
	leaders map[ring.GroupID]groupReport
}

type heardReport struct {
	report
	at time.Time
}

type groupReport struct {
	facts ring.GroupFacts
	term  uint64
	from  ring.NodeID
}

// change is a wish from outside: it makes the next ring of the present one.
type change struct {
	make func(r *ring.Ring, f *ring.Facts) (*ring.Ring, error)
	done chan error // has room for one; then ring is set
	ring *ring.Ring
}

// changesMax bounds the wishes that wait.
const changesMax = 256

var errNotSequencer = errors.New("this node does not run the sequencer")

func newSequencer(log *slog.Logger, replaceAfter time.Duration, plan ring.PlanConfig, publish func(*ring.Ring)) *sequencer {
	return &sequencer{log: log, start: time.Now(), replaceAfter: replaceAfter, plan: plan, publish: publish, wake: make(chan struct{}, 1)}
}

// ringKey is where the system shard keeps the newest ring.
var ringKey = store.SystemKey("ring")

// Opened implements store.Owner.
func (q *sequencer) Opened(l store.Lease) {
	q.update(func() {
		q.end()
		q.lease, q.opened, q.planner = l, time.Now(), ring.NewPlanner(q.plan)
		q.reports, q.leaders = map[ring.NodeID]heardReport{}, map[ring.GroupID]groupReport{}
	})
}

// Lost implements store.Owner.
func (q *sequencer) Lost(ring.ShardID, store.Token, *store.MovedError) { q.update(q.end) }

// end gives up what belongs to a token that is over. The caller holds the lock.
func (q *sequencer) end() {
	if q.serving != nil {
		q.asked = append(q.asked, q.serving)
	}
	for _, c := range q.asked {
		c.done <- errNotSequencer
	}
	q.lease, q.current, q.next, q.commit, q.asked, q.serving = nil, nil, nil, 0, nil, nil
}

// Confirmed implements store.Owner.
func (q *sequencer) Confirmed(ring.ShardID, store.Token, uint64) {}

// Applied implements store.Owner.
func (q *sequencer) Applied(_ ring.ShardID, _ store.Token, pos uint64) {
	q.update(func() {
		if q.commit == 0 || pos < q.commit {
			return
		}
		q.current, q.next, q.commit = q.next, nil, 0
		if c := q.serving; c != nil {
			q.serving, c.ring = nil, q.current
			c.done <- nil
		}
	})
}

func (q *sequencer) update(f func()) {
	q.mu.Lock()
	f()
	q.mu.Unlock()
	q.signal()
}

func (q *sequencer) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// sequencerPause is how often the sequencer looks, if nothing wakes it; sequencerRest, on a node that does not run it.
const (
	sequencerPause = 200 * time.Millisecond
	sequencerRest  = 5 * time.Second
)

func (q *sequencer) run(ctx context.Context) {
	t := time.NewTicker(sequencerPause)
	defer t.Stop()
	var told *ring.Ring
	for {
		select {
		case <-ctx.Done():
			q.update(q.end)
			return
		case <-q.wake:
		case <-t.C:
		}
		pause := sequencerRest
		if q.runs() {
			pause = sequencerPause
		}
		t.Reset(pause)
		if r := q.step(time.Now()); r != nil && r != told {
			told = r
			q.publish(r)
		}
	}
}

func (q *sequencer) runs() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lease != nil
}

// step commits the next ring, if there is one, and returns the ring that is committed, nil if there is none or this node does not know.
func (q *sequencer) step(now time.Time) *ring.Ring {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lease == nil || q.next != nil {
		return q.current
	}
	if q.current == nil {
		if err := q.read(); err != nil {
			q.log.Error("the system shard's ring cannot be read", "cause", err)
			return nil
		}
		if q.current == nil {
			if q.first != nil {
				q.put(q.first)
			}
			return nil
		}
	}
	q.decide(now)
	return q.current
}

// read takes the committed ring from the system shard.
func (q *sequencer) read() error {
	b, ok, err := q.lease.Get(ringKey)
	if err != nil || !ok {
		return err
	}
	q.current, err = ring.Decode(b)
	return err
}

// decide finds the next ring: what somebody asked for, else who is given up, else the planner's step.
func (q *sequencer) decide(now time.Time) {
	facts := q.facts(now)
	for len(q.asked) > 0 {
		c := q.asked[0]
		q.asked = q.asked[1:]
		next, err := c.make(q.current, facts)
		switch {
		case err != nil:
			c.done <- err
		case next == q.current:
			c.ring = next
			c.done <- nil
		default:
			q.serving = c
			q.put(next)
			return
		}
	}
	if next := q.giveUp(now, facts); next != nil {
		q.put(next)
		return
	}
	next, steps, err := q.planner.Next(q.current, facts)
	if err != nil && err.Error() != q.said {
		q.said = err.Error() // once, not at every look
		q.log.Error("no next ring can be made", "cause", err)
	}
	if next != nil {
		for _, s := range steps {
			q.log.Info("a step", "epoch", next.Epoch(), "step", s.String())
		}
		q.put(next)
	}
}

// giveUp declares members lost that have been dead for too long, if the others can hold as many copies without them: who cannot be replaced
// may as well come back.
func (q *sequencer) giveUp(now time.Time, facts *ring.Facts) *ring.Ring {
	able := 0
	for _, m := range q.current.Members() {
		if m.State.Stays() && facts.Nodes[m.ID].Alive {
			able++
		}
	}
	if able < q.current.Replicas() {
		return nil
	}
	for _, m := range q.current.Members() {
		if m.State == ring.Lost || now.Sub(q.lastHeard(m.ID)) < q.replaceAfter {
			continue
		}
		next, err := q.current.Lose(m.ID, facts)
		if err != nil {
			continue // it would cost a majority now; asked again as long as it is dead
		}
		q.log.Warn("a member has been dead for too long; its replicas are made anew elsewhere", "member", m.ID.String(), "replace-after", q.replaceAfter)
		return next
	}
	return nil
}

// lastHeard is when a member was heard of last. A new sequencer has heard of nobody, and gives everybody the benefit of the doubt.
func (q *sequencer) lastHeard(id ring.NodeID) time.Time {
	if at := q.reports[id].at; at.After(q.opened) {
		return at
	}
	return q.opened
}

func (q *sequencer) put(r *ring.Ring) {
	pos, err := q.lease.Commit([]store.Write{{Key: ringKey, Value: r.Encode()}})
	if err != nil {
		return // the token has ended: who holds the next one goes on
	}
	q.next, q.commit = r, pos
}

// facts are what the members have reported lately.
func (q *sequencer) facts(now time.Time) *ring.Facts {
	f := &ring.Facts{Now: now.Sub(q.start), Nodes: map[ring.NodeID]ring.NodeFacts{}, Groups: map[ring.GroupID]ring.GroupFacts{}}
	for _, m := range q.current.Members() {
		f.Nodes[m.ID] = ring.NodeFacts{Alive: now.Sub(q.lastHeard(m.ID)) < aliveTime}
	}
	for g, r := range q.leaders {
		if f.Nodes[r.from].Alive {
			f.Groups[g] = r.facts
		}
	}
	return f
}

// hear takes a member's report. A member at a new address, or a new process of it, makes a new ring.
func (q *sequencer) hear(rep report) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lease == nil || q.current == nil {
		return errNotSequencer
	}
	m, ok := q.current.Member(rep.Node)
	if !ok {
		return errRemoved(rep.Node)
	}
	q.reports[rep.Node] = heardReport{rep, time.Now()}
	if (m.Addr != rep.Addr || m.GossipAddr != rep.Gossip || m.Boot != rep.Boot) && len(q.asked) < changesMax {
		m.Addr, m.GossipAddr, m.Boot = rep.Addr, rep.Gossip, rep.Boot
		q.asked = append(q.asked, &change{done: make(chan error, 1), make: func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) { return r.Update(m) }})
	}
	led := map[ring.GroupID]bool{}
	for _, g := range rep.Groups {
		led[g.Group] = true
		if old, ok := q.leaders[g.Group]; ok && old.term > g.Term {
			continue
		}
		q.leaders[g.Group] = groupReport{term: g.Term, from: rep.Node, facts: ring.GroupFacts{Epoch: rep.Epoch, Leader: rep.Node, Voters: g.Voters,
			Learners: g.Learners, Joint: g.Joint, Filled: g.Filled, Active: g.Active}}
	}
	for g, old := range q.leaders {
		if old.from == rep.Node && !led[g] {
			delete(q.leaders, g)
		}
	}
	q.signal()
	return nil
}

func errRemoved(id ring.NodeID) error {
	return fmt.Errorf("node %s is no member of this cluster any more: wipe its data directory to join as a new node", id)
}

// ask makes a change and waits until its ring is committed.
func (q *sequencer) ask(ctx context.Context, make func(r *ring.Ring, f *ring.Facts) (*ring.Ring, error)) (*ring.Ring, error) {
	c := newChange(make)
	q.mu.Lock()
	switch {
	case q.lease == nil:
		q.mu.Unlock()
		return nil, errNotSequencer
	case len(q.asked) >= changesMax:
		q.mu.Unlock()
		return nil, errors.New("too many changes of the cluster wait; ask again")
	}
	q.asked = append(q.asked, c)
	q.mu.Unlock()
	q.signal()
	select {
	case err := <-c.done:
		return c.ring, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func newChange(f func(r *ring.Ring, f *ring.Facts) (*ring.Ring, error)) *change {
	return &change{make: f, done: make(chan error, 1)}
}
