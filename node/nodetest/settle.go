package nodetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence/ringfence/ring"
)

const (
	settleTime  = 10 * time.Minute // moves are damped, by minutes if there were many
	settlePause = 20 * time.Millisecond
)

// until waits until good holds; what it returns says why it does not.
func (c *Cluster) until(limit time.Duration, what string, good func() (why string)) {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		why := good()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("nodetest: %s after %v: %s", what, limit, why)
		}
		time.Sleep(settlePause)
	}
}

// reachable are the nodes that run and are connected.
func (c *Cluster) reachable() (out []*member) {
	for _, m := range c.members {
		if m.n != nil && !m.killed.Load() && !m.cut {
			out = append(out, m)
		}
	}
	return out
}

// ring is the newest ring of the nodes that can be reached; nil if there is none.
func (c *Cluster) ring() (newest *ring.Ring) {
	for _, m := range c.reachable() {
		if r := m.n.Ring(); r != nil && (newest == nil || r.Epoch() > newest.Epoch()) {
			newest = r
		}
	}
	return newest
}

// shard is the shard of an object.
func (c *Cluster) shard(class, key string) (s ring.ShardID) {
	c.t.Helper()
	c.until(serveTime, "there is no ring", func() string {
		r := c.ring()
		if r == nil {
			return "no node that can be reached has one"
		}
		s = r.ShardOf(class, key)
		return ""
	})
	return s
}

// Owner is the number of the node that owns an object now. It waits until there is one that is neither killed nor stopped nor cut off.
func (c *Cluster) Owner(class, key string) (owner int) {
	c.t.Helper()
	s := c.shard(class, key)
	c.until(serveTime, fmt.Sprintf("%s/%s has no owner", class, key), func() string {
		for i, m := range c.members {
			if slices.Contains(c.reachable(), m) && slices.Contains(m.n.Owned(), s) {
				owner = i
				return ""
			}
		}
		return fmt.Sprintf("no node that can be reached serves shard %d", s)
	})
	return owner
}

// Move hands an object, with all others of its shard, to another node, as a planned move does, and returns that node's number. The ring gives the
// shard back within seconds.
func (c *Cluster) Move(class, key string) int {
	c.t.Helper()
	s := c.shard(class, key)
	var to ring.NodeID
	c.until(serveTime, fmt.Sprintf("%s/%s cannot be moved", class, key), func() string {
		owner := c.Owner(class, key)
		ctx, cancel := context.WithTimeout(context.Background(), serveTime)
		defer cancel()
		var err error
		if to, err = c.members[owner].n.Move(ctx, s, 0); err != nil {
			return err.Error()
		}
		return ""
	})
	for i, m := range c.members {
		if m.n != nil && m.n.ID() == to {
			return i
		}
	}
	c.t.Fatalf("nodetest: shard %d went to node %s, which this cluster has not started", s, to)
	return 0
}

// Settle waits until nothing is under way any more: all nodes that can be reached have the same ring, every shard has the replicas that its members call
// for, and is served by the node that the ring prefers or, if that is away, by another. After Add that takes seconds, after
// moves to and fro half a minute or more.
func (c *Cluster) Settle() {
	c.t.Helper()
	c.until(settleTime, "the cluster has not settled", c.unsettled)
}

// unsettled is the first thing that is not as it should be; empty if there is none.
func (c *Cluster) unsettled() string {
	r := c.ring()
	if r == nil {
		return "there is no ring"
	}
	owners := make(map[ring.ShardID]ring.NodeID)
	away := make(map[ring.NodeID]bool)
	var stay []ring.NodeID
	for _, m := range r.Members() {
		if m.State != ring.Up {
			return fmt.Sprintf("node %s is %s", m.ID, m.State)
		}
		stay = append(stay, m.ID)
		away[m.ID] = true
	}
	for _, m := range c.reachable() {
		if mine := m.n.Ring(); mine == nil || mine.Epoch() != r.Epoch() {
			return fmt.Sprintf("node %s does not know ring %d", m.n.ID(), r.Epoch())
		}
		if !away[m.n.ID()] {
			return fmt.Sprintf("node %s is not in ring %d", m.n.ID(), r.Epoch())
		}
		delete(away, m.n.ID())
		for _, s := range m.n.Owned() {
			owners[s] = m.n.ID()
		}
	}
	if c.placedFor != r { // it takes its time
		placed, err := ring.Place(stay, r.Shards(), r.Replicas())
		if err != nil {
			return err.Error()
		}
		c.placedFor, c.placed = r, placed
	}
	for i, want := range c.placed {
		if why := unsettledShard(r, ring.ShardID(i), want, owners, away); why != "" {
			return why
		}
	}
	return ""
}

func unsettledShard(r *ring.Ring, s ring.ShardID, want []ring.NodeID, owners map[ring.ShardID]ring.NodeID, away map[ring.NodeID]bool) string {
	var have []ring.NodeID
	for _, rep := range r.Shard(s).Replicas {
		if rep.Role != ring.Voter {
			return fmt.Sprintf("a replica of shard %d on node %s is on its way", s, rep.Node)
		}
		have = append(have, rep.Node)
	}
	preferred := r.Owner(s)
	switch {
	case len(have) != len(want) || slices.ContainsFunc(want, func(n ring.NodeID) bool { return !slices.Contains(have, n) }):
		return fmt.Sprintf("shard %d has replicas on %v, want %v", s, have, want)
	case len(away) == 0 && preferred != want[0]:
		return fmt.Sprintf("shard %d belongs to node %s, want %s", s, preferred, want[0])
	case owners[s] == 0:
		return fmt.Sprintf("shard %d has no owner", s)
	case !away[preferred] && owners[s] != preferred:
		return fmt.Sprintf("shard %d is served by node %s, and belongs to %s", s, owners[s], preferred)
	}
	return ""
}
