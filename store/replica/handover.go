package replica

import (
	"context"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/ringfence/ringfence/ring"
)

// fillSlack is how many entries behind the committed ones a replica may be and still count as filled: what is on its way to it.
const fillSlack = 100

// Filled are the other voters that could lead now, in ascending order: they have the log but for what is on its way, answered within an
// election timeout, and keep no promise that the call to lead would not lift. Empty if this replica does not lead.
func (g *Group) Filled() []ring.ReplicaID {
	l := g.lead
	if l == nil {
		return nil
	}
	commit := g.rn.BasicStatus().HardState.GetCommit()
	var out []ring.ReplicaID
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		at, heard := l.heard[ring.ReplicaID(id)]
		if id != uint64(g.cfg.Holder.Replica) && typ == raft.ProgressTypePeer && pr.State == tracker.StateReplicate &&
			pr.Match+fillSlack >= commit && heard && g.now-at < g.cfg.Timing.Election() && l.answers(ring.ReplicaID(id)) && l.acked[ring.ReplicaID(id)] > l.fresh {
			out = append(out, ring.ReplicaID(id))
		}
	})
	return out
}

// Stay makes the driver's replicas decline to take leadership over from others, because the node is about to stop. Safe from any
// goroutine.
func (d *Driver) Stay() {
	d.inbox.call(func() {
		d.stay = true
		for _, m := range d.order {
			m.guard(m.g.Decline)
			d.mark(m)
		}
	})
}

// Successors are the nodes that could take a group over from this one now, in ascending order of their replicas; empty if this node holds
// no open token of it. Safe from any goroutine; the error is that of ctx.
func (d *Driver) Successors(ctx context.Context, g ring.GroupID) ([]ring.NodeID, error) {
	got := make(chan []ring.NodeID, 1)
	d.inbox.call(func() {
		var out []ring.NodeID
		if m := d.groups[g]; m != nil && !m.halted && m.lease != nil {
			m.guard(func() {
				for _, r := range m.g.Filled() {
					n, _ := m.nodes.of(r)
					out = append(out, n)
				}
			})
		}
		got <- out
	})
	select {
	case out := <-got:
		return out, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Hopes reports whether this node owns a group of which a voter elsewhere is heard that does not decline to lead: it may be fit to take the group
// over in a moment, if it is not now. Safe from any goroutine.
func (d *Driver) Hopes(ctx context.Context) bool {
	hopes := make(chan bool, 1)
	d.inbox.call(func() {
		hopes <- slices.ContainsFunc(d.order, func(m *member) (some bool) {
			if !m.halted && m.lease != nil {
				m.guard(func() { some = m.g.hopes() })
			}
			return some
		})
	})
	select {
	case some := <-hopes:
		return some
	case <-ctx.Done():
		return false
	}
}

func (g *Group) hopes() bool {
	l := g.lead
	return l != nil && slices.ContainsFunc(g.conf.GetVoters(), func(v uint64) bool {
		r := ring.ReplicaID(v)
		gone, was := l.gone[r]
		return r != g.cfg.Holder.Replica && g.hears(v) && (!l.stays[r] || was && l.heard[r] > gone) // who declined, and has been away since, is another process
	})
}

// HandOver gives a group's token back and its leadership to a node that Successors named. What its owner has submitted takes effect
// before. It returns once the release is proposed: that another node leads is seen by Hint. If the other does not take it, this node
// acquires again after two election timeouts. Safe from any goroutine.
func (d *Driver) HandOver(ctx context.Context, g ring.GroupID, to ring.NodeID) error {
	errc := make(chan error, 1)
	d.inbox.call(func() { errc <- d.handOver(g, to) })
	select {
	case err := <-errc:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// handOver runs on the driver's goroutine.
func (d *Driver) handOver(g ring.GroupID, to ring.NodeID) error {
	m := d.groups[g]
	if m == nil || m.halted || m.lease == nil {
		return fmt.Errorf("replica: %s is not this node's to hand over", g)
	}
	err := fmt.Errorf("replica: %s: node %s has no replica that could lead now", g, to)
	m.guard(func() {
		for _, r := range m.g.Filled() {
			if n, _ := m.nodes.of(r); n != to {
				continue
			}
			if err = nil; !m.g.HandOver(r) {
				err = fmt.Errorf("replica: %s: the token has just ended", g)
			}
			return
		}
	})
	d.mark(m)
	return err
}
