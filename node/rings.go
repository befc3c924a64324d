package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

// How often a node looks what it waits for: until it serves, and after that.
const (
	ringBeat = 100 * time.Millisecond
	ringRest = time.Second

	fetchTime  = 3 * time.Second        // for a newer ring, from whoever has it
	fetchPause = 150 * time.Millisecond // one that does not answer for so long is not waited for: the next is asked beside it
)

// recordRing is the name under which a node keeps the newest ring it has seen, so that a cluster whose nodes all stopped comes back by itself.
const recordRing = "ring"

// keepRing starts from the ring on disk, fetches newer ones, and starts and ends the groups that they put here and take away.
func (n *Node) keepRing(ctx context.Context) error {
	first, err := n.forms.firstRing()
	if err != nil {
		return err
	}
	n.first = first
	n.sequencer.update(func() { n.sequencer.first = first })
	b, ok, err := n.engine.Record(recordRing)
	if err != nil {
		return err
	}
	if ok {
		r, err := ring.Decode(b)
		if err != nil {
			return n.engine.Damaged(err)
		}
		if err := n.adopt(ctx, r); err != nil {
			return err
		}
	} else if err := n.startSystem(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(ringBeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.news:
			n.fetchRing(ctx)
		case r := <-n.ownRing:
			if err := n.adopt(ctx, r); err != nil {
				return err
			}
		case <-n.gossip.Changed():
			for _, m := range n.gossip.View().Members {
				n.heard(m.Meta.Epoch)
			}
		case <-beat.C:
			if n.ring.Load() == nil {
				n.fetchRing(ctx)
			}
			if n.checkServing() {
				beat.Reset(ringRest)
			}
			if err := n.wrongCluster(); err != nil {
				return err
			}
		}
	}
}

// wrongCluster is the error of a node that was told to join a cluster while its directory makes it a cluster of its own. A member of a
// larger cluster only warns: one of its seeds may have changed hands, and the others need it.
func (n *Node) wrongCluster() error {
	if r := n.ring.Load(); len(n.cfg.Join) == 0 || r == nil || len(r.Members()) > 1 {
		return nil
	}
	if err := n.gossip.Foreign(); err != nil {
		return fmt.Errorf("data directory %s makes this node a cluster of its own, and --join names another: give an empty --data to become part of that one (%w)", n.cfg.Data, err)
	}
	return nil
}

// startSystem runs the replica of the system shard that this node was founded with, if any: there is no ring yet.
func (n *Node) startSystem(ctx context.Context) error {
	if n.first == nil {
		return nil
	}
	return n.startGroup(ctx, ring.SystemGroup, n.first)
}

// startGroup runs this node's replica of a group as a ring wants it, if it has one.
func (n *Node) startGroup(ctx context.Context, g ring.GroupID, r *ring.Ring) error {
	a, _ := r.Group(g)
	rep, here := a.On(n.id)
	if !here {
		return nil
	}
	spec := replica.GroupSpec{Group: g, Epoch: r.Epoch(), Replicas: a.Replicas, Owner: owner{n.host, n.parking}}
	if g == ring.SystemGroup {
		spec.Owner = n.sequencer
	}
	// A replica that the cluster was founded with begins with its founders' votes, however late this node gets to it. Every other
	// one begins empty.
	if n.first != nil {
		founders, _ := n.first.Group(g)
		if old, ok := founders.On(n.id); ok && old.ID == rep.ID {
			for _, f := range founders.Replicas {
				spec.Founders = append(spec.Founders, f.ID)
			}
		}
	}
	return n.driver.Load().Start(ctx, spec)
}

// endGroups removes the replicas that a ring does not put here any more. A ring drops a replica only when its group does without it.
func (n *Node) endGroups(ctx context.Context, r *ring.Ring) error {
	have, err := n.engine.Replicas()
	if err != nil {
		return err
	}
	for _, rec := range have {
		if rec.Replica == 0 {
			continue
		}
		a, _ := r.Group(rec.Group)
		if _, here := a.On(n.id); here {
			continue
		}
		if err := n.driver.Load().Remove(ctx, rec.Group); err != nil {
			return err
		}
		n.log.Info("a replica has gone from here", "group", rec.Group.String(), "replica", rec.Replica)
	}
	return nil
}

// publish is called with the ring that the system shard holds.
func (n *Node) publish(ctx context.Context, r *ring.Ring) {
	if cur := n.ring.Load(); cur != nil && cur.Epoch() >= r.Epoch() {
		return
	}
	select {
	case n.ownRing <- r:
	case <-ctx.Done():
	}
}

// fetchRing takes a newer ring over from whichever member has one.
func (n *Node) fetchRing(ctx context.Context) {
	others := slices.DeleteFunc(slices.Clone(n.members()), func(m ring.Member) bool { return m.ID == n.id })
	if r := newerRing(ctx, others, n.epoch(), n.ringOf); r != nil {
		if err := n.adopt(ctx, r); err != nil {
			n.fail(err)
		}
	}
}

// newerRing asks members for a ring newer than epoch: one after the other, but who does not answer soon is not waited for, the next is
// asked beside it. Nil if nobody has one.
func newerRing(ctx context.Context, members []ring.Member, epoch ring.Epoch, ask func(context.Context, ring.Member) *ring.Ring) *ring.Ring {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	got := make(chan *ring.Ring, len(members))
	next := time.NewTimer(0)
	defer next.Stop()
	for asked, answered := 0, 0; answered < len(members); {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			if asked < len(members) {
				m := members[asked]
				go func() { got <- ask(ctx, m) }()
				asked++
				next.Reset(fetchPause)
			}
		case r := <-got:
			if answered++; r != nil && r.Epoch() > epoch {
				return r
			}
			next.Reset(0)
		}
	}
	return nil
}

// ringOf is the ring that another node has, nil if it has none or cannot be asked.
func (n *Node) ringOf(ctx context.Context, m ring.Member) *ring.Ring {
	b, err := n.askMember(ctx, m.ID, "ring", nil)
	if err != nil {
		n.log.Debug("no ring", "from", m.ID.String(), "cause", err)
		return nil
	}
	r, err := ring.Decode(b)
	if err != nil {
		n.log.Warn("a node sent a ring that cannot be read", "from", m.ID.String(), "cause", err)
		return nil
	}
	return r
}

// members are those of the newest ring, or the founders before there is one.
func (n *Node) members() []ring.Member {
	if r := n.ring.Load(); r != nil {
		return r.Members()
	}
	if p := n.forms.founding(); p != nil {
		return p.Members
	}
	return nil
}

// adopt takes a newer ring over: disk first, then groups, then everybody who asks.
func (n *Node) adopt(ctx context.Context, r *ring.Ring) error {
	if r.Cluster() != n.cluster() {
		return fmt.Errorf("a ring of cluster %s reached node %s of cluster %s", r.Cluster(), n.id, n.cluster())
	}
	if cur := n.ring.Load(); cur != nil {
		if r.Epoch() == cur.Epoch() && r.Hash() != cur.Hash() {
			return fmt.Errorf("two different rings of epoch %d: %x and %x", r.Epoch(), cur.Hash(), r.Hash())
		}
		if r.Epoch() <= cur.Epoch() {
			return nil
		}
	}
	me, member := r.Member(n.id)
	if !member {
		n.removed()
		return nil
	}
	n.leaving.Store(me.State == ring.Leaving)
	seen, err := n.rememberRing(r)
	if err != nil {
		return err
	}
	if err := n.engine.PutRecords(map[string][]byte{recordRing: r.Encode(), recordRings: seen}); err != nil {
		return err
	}
	n.driver.Load().SetEpoch(r.Epoch())
	n.mover.heed(n.ring.Load(), r)
	old := n.ring.Swap(r)
	n.peers.follow(old, r)
	if err := n.client.SetRing(r); err != nil {
		n.log.Error("the node's own client refuses the ring", "epoch", uint64(r.Epoch()), "cause", err)
	}
	n.log.Info("a ring", "epoch", r.Epoch(), "members", len(r.Members()), "shards", r.Shards())
	for g := range ring.GroupID(r.Shards() + 1) {
		if err := n.startGroup(ctx, g, r); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	n.gossip.SetEpoch(r.Epoch()) // waits until the news has left, and no replica is to wait for that
	if err := n.endGroups(ctx, r); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// checkServing closes n.serving once every shard that has a replica here has an owner that this node knows of.
func (n *Node) checkServing() bool {
	select {
	case <-n.serving:
		return true
	default:
	}
	r := n.ring.Load()
	if r == nil {
		return false
	}
	for s := range r.Shards() {
		id := ring.ShardID(s)
		if rep, here := r.Shard(id).On(n.id); !here || rep.Role != ring.Voter {
			continue
		}
		h, ok := n.driver.Load().Hint(id.Group())
		if !ok || h.Node == 0 || h.Token == 0 || (h.Self && !h.Open) {
			return false
		}
	}
	close(n.serving)
	return true
}
