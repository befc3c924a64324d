package replica

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// GroupSpec names one group that has a replica here, as a ring wants it.
type GroupSpec struct {
	Group    ring.GroupID
	Epoch    ring.Epoch     // of that ring
	Replicas []ring.Replica // all of them, this node's included; the first is preferred
	// Founders are the voters that the group began with, if this node's replica is one of them; else a replica that the engine does not
	// hold begins empty, as a learner that waits to be filled.
	Founders []ring.ReplicaID
	Owner    store.Owner
}

// on calls f on the driver's goroutine and returns what it returned. Safe from any goroutine.
func (d *Driver) on(ctx context.Context, f func() error) error {
	errc := make(chan error, 1)
	d.inbox.call(func() { errc <- f() })
	select {
	case err := <-errc:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Start runs a group from what the engine holds, creating its replica if it holds none; a group that runs already learns what a newer ring
// wants of it. If the ring has given this node another replica since, because it has missed the rings in between, the old one is out of the
// group for good, and is removed first. Safe from any goroutine; it returns when the group runs.
func (d *Driver) Start(ctx context.Context, spec GroupSpec) error {
	rec, err := d.cfg.Engine.Replica(spec.Group)
	if err != nil {
		return err
	}
	for _, r := range spec.Replicas {
		if r.Node == d.cfg.Node && rec.Replica != 0 && rec.Replica < r.ID {
			if err := d.Remove(ctx, spec.Group); err != nil {
				return err
			}
		}
	}
	return d.on(ctx, func() error { return d.add(spec) })
}

// Remove ends a group here: its lease, its replica, log and state. A tombstone stays behind, so that neither this replica nor an earlier
// one is ever made again. Call it only when the group does without this replica. Safe from any goroutine; it returns when that is durable.
func (d *Driver) Remove(ctx context.Context, g ring.GroupID) error {
	rec, err := d.cfg.Engine.Replica(g)
	if err != nil || rec.Replica == 0 {
		return err
	}
	flushed := make(chan struct{})
	if err := d.on(ctx, func() error { d.drop(g, func() { close(flushed) }); return nil }); err != nil {
		return err
	}
	select {
	case <-flushed:
		return d.cfg.Engine.RemoveReplica(g, rec.Replica+1)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drop forgets a group; done is called when nothing of it is on its way to disk any more.
func (d *Driver) drop(g ring.GroupID, done func()) {
	m := d.groups[g]
	if m == nil {
		done()
		return
	}
	if m.lease != nil {
		m.lost(m.lease.token, "the replica was removed")
	}
	m.halted = true // what comes late finds it so
	m.dropFrozen()
	m.endSends(errors.New("the replica was removed"))
	m.dropInstall()
	delete(d.groups, g)
	d.hints.Delete(g)
	for i := range d.order {
		if d.order[i] == m {
			d.order = append(d.order[:i:i], d.order[i+1:]...)
			break
		}
	}
	d.disk.add(appendJob{m: m, flushed: done})
	d.disk.submit()
}

// Facts are those of all groups that this node leads under an open token, in order of their IDs. Safe from any goroutine.
func (d *Driver) Facts(ctx context.Context) ([]Facts, error) {
	got := make(chan []Facts, 1) // a caller that has given up must not share what is still being gathered
	d.inbox.call(func() {
		var out []Facts
		for _, m := range d.order {
			m.guard(func() {
				if f, ok := m.g.Facts(); ok {
					out = append(out, f)
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

// add runs on the driver's goroutine.
func (d *Driver) add(spec GroupSpec) error {
	if m := d.groups[spec.Group]; m != nil {
		m.aim(&spec)
		return nil
	}
	m := &member{d: d, id: spec.Group, owner: spec.Owner, hint: new(atomic.Pointer[Hint])}
	for _, r := range spec.Replicas {
		if r.Node == d.cfg.Node {
			m.self = r.ID
		}
	}
	if m.self == 0 {
		return fmt.Errorf("replica: %s has no replica on node %s", spec.Group, d.cfg.Node)
	}
	if err := m.open(&spec); err != nil {
		return err
	}
	if d.stay {
		m.g.Decline()
	}
	m.aim(&spec)
	d.groups[m.id] = m
	d.order = append(d.order, m)
	for i := len(d.order) - 1; i > 0 && d.order[i-1].id > m.id; i-- {
		d.order[i], d.order[i-1] = d.order[i-1], d.order[i]
	}
	m.hint.Store(&Hint{})
	d.hints.Store(m.id, m.hint)
	d.mark(m)
	return nil
}

// addresses says on which nodes a group's replicas are. They are few, and asked for with every message: looking through them is quicker than a map.
type addresses []address

type address struct {
	replica ring.ReplicaID
	node    ring.NodeID
}

// of is the node that a replica is on, 0 if there is no such replica.
func (as addresses) of(r ring.ReplicaID) (n ring.NodeID, ok bool) {
	for i := range as {
		if as[i].replica == r {
			return as[i].node, true
		}
	}
	return 0, false
}

// aim takes over what a ring wants: where replicas are, and what they are to be.
func (m *member) aim(spec *GroupSpec) {
	if spec.Epoch < m.epoch {
		return
	}
	m.epoch = spec.Epoch
	m.nodes = make(addresses, 0, len(spec.Replicas))
	t := Target{Epoch: spec.Epoch}
	for _, r := range spec.Replicas {
		m.nodes = append(m.nodes, address{r.ID, r.Node})
		switch r.Role {
		case ring.Voter:
			t.Voters = append(t.Voters, r.ID)
		case ring.Learner:
			t.Learners = append(t.Learners, r.ID)
		}
	}
	m.guard(func() { m.g.SetTarget(t) })
}

func (m *member) open(spec *GroupSpec) error {
	e := m.d.cfg.Engine
	log, exists, err := OpenLog(e, m.id)
	fresh := err == nil && !exists
	if err == nil && exists && log.Replica() < m.self {
		// The ring has given this node a new replica since; the old one is out of the group for good.
		if err = e.RemoveReplica(m.id, m.self); err == nil {
			exists, fresh = false, true
		}
	}
	if err == nil && !exists {
		log, err = CreateLog(e, m.id, m.self, spec.Founders)
	}
	if err != nil {
		return err
	}
	if log.Replica() != m.self {
		return fmt.Errorf("replica: %s: this directory holds replica %d, and the ring says %d", m.id, log.Replica(), m.self)
	}
	m.log, m.state = log, NewStateStore(e, m.id)
	applied, fence, err := m.state.Load()
	if err != nil {
		return err
	}
	m.log.SetSnapshot(m.snapshot)
	if m.log.Regressed() {
		m.d.cfg.Logger.Error("a replica has lost what it had written: it neither votes nor campaigns; wipe the data directory to come back as a new node",
			"group", m.id.String(), "replica", m.self, "cause", m.log.Regression())
	}
	history, err := loadHistory(e, log, applied, fence)
	if err != nil {
		m.d.cfg.Logger.Warn("a replica's history begins anew: what it knew of earlier owners is of no use any more", "group", m.id.String(), "cause", err)
	}
	m.g, err = NewGroup(GroupConfig{Group: m.id, Holder: store.Holder{Replica: m.self, Node: m.d.cfg.Node, Boot: m.d.cfg.Boot},
		Storage: m.log, Applied: applied, Fence: fence, Epoch: m.d.epoch, Timing: m.d.cfg.Timing, Limits: m.d.cfg.Limits,
		Clock: m.d.cfg.Clock, Now: m.d.now(), Ticks: m.d.ticks, Fresh: fresh,
		Abstain: m.log.Regressed(), Preferred: spec.Replicas[0].ID == m.self, Logger: RaftLogger(m.d.cfg.Logger.With("group", m.id.String())),
		History: history, Born: m.d.born})
	return err
}
