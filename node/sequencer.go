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
	machine *ring.Sequencer // decides; its current ring is nil until read
	next    *ring.Ring      // being committed at position commit
	commit  uint64
	asked   []*change // waiting; the first is answered with next
	serving *change   // for which next is
	said    string    // the planner's last error
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
		q.lease = l
		q.machine = ring.NewSequencer(ring.SequencerConfig{Alive: aliveTime, ReplaceAfter: q.replaceAfter, Plan: q.plan})
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
	q.lease, q.machine, q.next, q.commit, q.asked, q.serving = nil, nil, nil, 0, nil, nil
}

// Confirmed implements store.Owner.
func (q *sequencer) Confirmed(ring.ShardID, store.Token, uint64) {}

// Applied implements store.Owner.
func (q *sequencer) Applied(_ ring.ShardID, _ store.Token, pos uint64) {
	q.update(func() {
		if q.commit == 0 || pos < q.commit {
			return
		}
		q.machine.Committed(time.Since(q.start), q.next)
		q.next, q.commit = nil, 0
		if c := q.serving; c != nil {
			q.serving, c.ring = nil, q.machine.Current()
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
	if q.lease == nil {
		return nil
	}
	if q.next != nil {
		return q.machine.Current()
	}
	if q.machine.Current() == nil {
		if err := q.read(); err != nil {
			q.log.Error("the system shard's ring cannot be read", "cause", err)
			return nil
		}
		if q.machine.Current() == nil {
			if q.first != nil {
				q.put(q.first)
			}
			return nil
		}
	}
	q.decide(now)
	if q.lease == nil {
		return nil
	}
	return q.machine.Current()
}

// read takes the committed ring from the system shard.
func (q *sequencer) read() error {
	b, ok, err := q.lease.Get(ringKey)
	if err != nil || !ok {
		return err
	}
	r, err := ring.Decode(b)
	if err == nil {
		q.machine.Committed(time.Since(q.start), r)
	}
	return err
}

// decide finds the next ring: what somebody asked for, else what the machine wants.
func (q *sequencer) decide(at time.Time) {
	now, current := at.Sub(q.start), q.machine.Current()
	if len(q.asked) > 0 {
		facts := q.machine.Facts(now)
		for len(q.asked) > 0 {
			c := q.asked[0]
			q.asked = q.asked[1:]
			next, err := c.make(current, facts)
			switch {
			case err != nil:
				c.done <- err
			case next == current:
				c.ring = next
				c.done <- nil
			default:
				q.serving = c
				q.put(next)
				return
			}
		}
	}
	next, steps, lost, err := q.machine.Next(now)
	if err != nil && err.Error() != q.said {
		q.said = err.Error() // once, not at every look
		q.log.Error("no next ring can be made", "cause", err)
	}
	if lost != 0 {
		q.log.Warn("a member has been dead for too long; its replicas are made anew elsewhere", "member", lost.String(), "replace-after", q.replaceAfter)
	}
	if next != nil {
		for _, s := range steps {
			q.log.Info("a step", "epoch", next.Epoch(), "step", s.String())
		}
		q.put(next)
	}
}

func (q *sequencer) put(r *ring.Ring) {
	pos, err := q.lease.Commit([]store.Write{{Key: ringKey, Value: r.Encode()}})
	if err != nil {
		return // the token has ended: who holds the next one goes on
	}
	q.next, q.commit = r, pos
}

// hear takes a member's report. A member at a new address, or a new process of it, makes a new ring.
func (q *sequencer) hear(rep report) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lease == nil || q.machine.Current() == nil {
		return errNotSequencer
	}
	heard := ring.Report{Epoch: rep.Epoch, Member: ring.Member{ID: rep.Node, Addr: rep.Addr, GossipAddr: rep.Gossip, Boot: rep.Boot}}
	for _, g := range rep.Groups {
		heard.Groups = append(heard.Groups, ring.GroupReport{Group: g.Group, Term: g.Term, Facts: ring.GroupFacts{Epoch: rep.Epoch, Leader: rep.Node,
			Voters: g.Voters, Learners: g.Learners, Joint: g.Joint, Filled: g.Filled, Active: g.Active}})
	}
	news, err := q.machine.Hear(time.Since(q.start), &heard)
	switch {
	case errors.Is(err, ring.ErrBehind):
		return errNotSequencer
	case err != nil:
		return errRemoved(rep.Node)
	}
	if news != nil && len(q.asked) < changesMax {
		m := *news
		q.asked = append(q.asked, &change{done: make(chan error, 1), make: func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) { return r.Update(m) }})
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
