package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// How shards are handed over.
const (
	drainTime    = 2 * time.Second         // running events may go on for so long; then they are cut off before their writes are submitted
	takeoverTime = 1500 * time.Millisecond // the other one leads by then, or has failed to
	stopMoves    = 16                      // shards handed over at a time by a node that stops
	stopWait     = time.Second             // it waits so long for others to be able to take what is left
	stopPause    = 20 * time.Millisecond   // between two looks
	backMoves    = 4                       // shards given back at a time
	backPause    = 250 * time.Millisecond  // between two looks for shards that the ring prefers elsewhere, while there are some
	backRest     = time.Second             // while there are none
	backAfter    = 3 * time.Second         // the preferred node has been fit to lead for so long
	dampFirst    = 30 * time.Second        // a shard is not given back again before; doubled each time, up to dampMost
	dampMost     = 8 * time.Minute
	dampForget   = 10 * time.Minute // of peace, and the doubling begins anew
)

// mover gives shards to other nodes: all of them when the node stops, and those that the ring prefers elsewhere.
type mover struct {
	n    *Node
	news chan struct{} // a ring has come

	mu     sync.Mutex
	moving map[ring.ShardID]ring.NodeID // being handed over to
	fit    map[ring.ShardID]time.Time   // since when the preferred node could take the shard
	damp   map[ring.ShardID]damping
	wanted map[ring.ShardID]bool // a newer ring prefers another node than the one before it: the planner has damped that
}

// damping says when a shard was given back last, and for how long it is not after that.
type damping struct {
	at   time.Time
	hold time.Duration
}

// allows reports whether a shard may move now.
func (d damping) allows(now time.Time) bool { return d.at.IsZero() || now.Sub(d.at) >= d.hold }

// moved is the damping after a move.
func (d damping) moved(now time.Time) damping {
	hold := min(2*d.hold, dampMost)
	if d.at.IsZero() || now.Sub(d.at) >= dampForget {
		hold = dampFirst
	}
	return damping{at: now, hold: hold}
}

func newMover(n *Node) *mover {
	return &mover{n: n, news: make(chan struct{}, 1), moving: map[ring.ShardID]ring.NodeID{}, fit: map[ring.ShardID]time.Time{}, damp: map[ring.ShardID]damping{}, wanted: map[ring.ShardID]bool{}}
}

// heed notes which shards a newer ring prefers elsewhere: those move without further ado.
func (m *mover) heed(old, r *ring.Ring) {
	if old == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range r.Shards() {
		if s := ring.ShardID(i); old.Owner(s) != r.Owner(s) {
			m.wanted[s] = true
		}
	}
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// target is the node that a shard is being handed over to, 0 if it is not.
func (m *mover) target(s ring.ShardID) ring.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moving[s]
}

// begin claims a shard for one move; false if it moves already.
func (m *mover) begin(s ring.ShardID, to ring.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.moving[s] != 0 {
		return false
	}
	m.moving[s] = to
	return true
}

func (m *mover) end(s ring.ShardID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.moving, s)
}

// move hands one shard over: no event is started any more, those that run end or are cut off, what was submitted is applied, the token is
// given back, another leads. Callers are sent to it from the beginning. If it does not take the shard, this node goes on with it.
func (m *mover) move(ctx context.Context, s ring.ShardID, to ring.NodeID) error {
	if !m.begin(s, to) {
		return nil
	}
	defer m.end(s)
	n := m.n
	drain, cancel := context.WithTimeout(ctx, drainTime)
	err := n.host.DrainShard(drain, s)
	cancel()
	if err != nil {
		n.log.Warn("events of a shard that is handed over did not end in time; they are cut off", "shard", s, "cause", err)
		n.host.CutShard(s)
	}
	if err := m.pass(ctx, s.Group(), to); err != nil {
		n.host.Resume(s)
		return err
	}
	n.log.Info("a shard was handed over", "shard", s, "to", to.String())
	return nil
}

// Move hands one shard that this node owns to another node, as a planned move does: callers see no error. to 0 is whoever comes next in the
// ring's order; who it was is returned. The ring still prefers whom it did, and gives the shard back within seconds. For tests.
func (n *Node) Move(ctx context.Context, s ring.ShardID, to ring.NodeID) (ring.NodeID, error) {
	if !slices.Contains(n.Owned(), s) {
		return 0, fmt.Errorf("node %s does not own shard %d: ask its owner", n.id, s)
	}
	able, err := n.driver.Load().Successors(ctx, s.Group())
	if err != nil {
		return 0, err
	}
	if to == 0 {
		to = n.mover.successor(ctx, s.Group())
	}
	if to == 0 || !slices.Contains(able, to) {
		return 0, fmt.Errorf("shard %d cannot be handed to node %s: want a replica that is filled and answers", s, to)
	}
	return to, n.mover.move(ctx, s, to)
}

// pass gives a group's token and leadership to a node and waits until it leads.
func (m *mover) pass(ctx context.Context, g ring.GroupID, to ring.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, takeoverTime)
	defer cancel()
	d := m.n.driver.Load()
	if err := d.HandOver(ctx, g, to); err != nil {
		return err
	}
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		if h, ok := d.Hint(g); !ok || h.Node == to {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s did not take %s over in %v", to, g, takeoverTime)
		case <-t.C:
		}
	}
}

// successor is the first node in the group's order that could lead now, 0 if there is none.
func (m *mover) successor(ctx context.Context, g ring.GroupID) ring.NodeID {
	r := m.n.ring.Load()
	if r == nil {
		return 0
	}
	a, _ := r.Group(g)
	able, err := m.n.driver.Load().Successors(ctx, g)
	if err != nil {
		return 0
	}
	for _, rep := range a.Voters() {
		if rep.Node != m.n.id && slices.Contains(able, rep.Node) {
			return rep.Node
		}
	}
	return 0
}

// everything hands over all that this node owns. What nobody can take yet waits for a moment: a node that has just come back keeps quiet for the length of a
// promise, and then says that it follows. What has no successor by then stays until this node is gone.
func (m *mover) everything(ctx context.Context) error {
	r, d := m.n.ring.Load(), m.n.driver.Load()
	if r == nil || d == nil {
		return nil
	}
	d.Stay()
	for began := time.Now(); ; {
		err := m.handOverAll(ctx)
		if time.Since(began) > stopWait || !d.Hopes(ctx) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(stopPause):
		}
	}
}

// handOverAll hands over what this node owns and another could lead now.
func (m *mover) handOverAll(ctx context.Context) error {
	r, d := m.n.ring.Load(), m.n.driver.Load()
	slots := make(chan struct{}, stopMoves)
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for g := range ring.GroupID(r.Shards() + 1) {
		if h, ok := d.Hint(g); !ok || !h.Self || !h.Open {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			to := m.successor(ctx, g)
			if to == 0 {
				return
			}
			err := error(nil)
			if s, isShard := g.Shard(); isShard {
				err = m.move(ctx, s, to)
			} else {
				err = m.pass(ctx, g, to)
			}
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// run gives shards back to the nodes that the ring prefers, gently, until ctx ends.
func (m *mover) run(ctx context.Context) {
	t := time.NewTicker(backPause)
	defer t.Stop()
	slots := make(chan struct{}, backMoves)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.news:
		case <-t.C:
		}
		m.passSystem(ctx)
		due, astray := m.due(ctx, time.Now())
		if astray {
			t.Reset(backPause)
		} else {
			t.Reset(backRest)
		}
		for s, to := range due {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := m.move(ctx, s, to); err != nil && ctx.Err() == nil {
					m.n.log.Warn("a shard was not given back to its preferred node", "shard", s, "cause", err)
				}
			})
		}
	}
}

// passSystem hands the system shard on if the ring wants this node without it: because it leaves, or because fewer voters are enough and
// it took over when its replica was to go already.
func (m *mover) passSystem(ctx context.Context) {
	r, d := m.n.ring.Load(), m.n.driver.Load()
	if r == nil || d == nil {
		return
	}
	me, _ := r.Member(m.n.id)
	a, _ := r.Group(ring.SystemGroup)
	to := a.Replicas[0].Node
	rep, _ := a.On(m.n.id)
	stays := me.State.Stays() && rep.Role != ring.Outgoing
	if h, ok := d.Hint(ring.SystemGroup); !ok || !h.Self || !h.Open || stays || to == m.n.id {
		return
	}
	if able, err := d.Successors(ctx, ring.SystemGroup); err != nil || !slices.Contains(able, to) {
		return
	}
	if err := m.pass(ctx, ring.SystemGroup, to); err != nil && ctx.Err() == nil {
		m.n.log.Warn("the system shard was not handed over", "to", to.String(), "cause", err)
	}
}

// due are the shards that this node owns, the ring prefers elsewhere, and whose preferred node has been fit for a while, with that node.
// They count as moved. A replica that is to leave its group does not insist on the preferred node: any voter will do. astray: there are
// shards that the ring prefers elsewhere, due or not.
func (m *mover) due(ctx context.Context, now time.Time) (out map[ring.ShardID]ring.NodeID, astray bool) {
	r, d := m.n.ring.Load(), m.n.driver.Load()
	if r == nil || d == nil {
		return nil, false
	}
	out = map[ring.ShardID]ring.NodeID{}
	for i := range r.Shards() {
		s := ring.ShardID(i)
		h, ok := d.Hint(s.Group())
		if to := r.Owner(s); !ok || !h.Self || !h.Open || to == m.n.id {
			m.isDue(s, false, now)
		} else if nodes, err := d.Successors(ctx, s.Group()); err != nil {
			astray = true
		} else {
			astray = true
			rep, _ := r.Shard(s).On(m.n.id)
			if !slices.Contains(nodes, to) && rep.Role == ring.Outgoing {
				if to := m.successor(ctx, s.Group()); to != 0 {
					out[s] = to
				}
			} else if m.isDue(s, slices.Contains(nodes, to), now) {
				out[s] = to
			}
		}
	}
	return out, astray
}

func (m *mover) isDue(s ring.ShardID, able bool, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !able {
		delete(m.fit, s)
		return false
	}
	if m.wanted[s] && m.moving[s] == 0 {
		delete(m.wanted, s)
		return true
	}
	since, seen := m.fit[s]
	if !seen {
		m.fit[s] = now
		return false
	}
	if now.Sub(since) < backAfter || !m.damp[s].allows(now) || m.moving[s] != 0 {
		return false
	}
	m.damp[s] = m.damp[s].moved(now)
	return true
}
