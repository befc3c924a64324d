package ring

import (
	"fmt"
	"strings"
)

// Change is one difference between two rings, for logs and tests.
type Change struct {
	Member  NodeID    // whom it is about; of a group's change: on which node
	Group   GroupID   // of changes of replicas and owners
	Replica ReplicaID // of changes of replicas; 0: not of one
	What    string    // in words, of the member, the owner or the replica: "is new, joining"
}

func (c Change) String() string {
	switch {
	case c.Replica != 0:
		return fmt.Sprintf("%s: replica %d on %s %s", c.Group, c.Replica, c.Member, c.What)
	case strings.HasPrefix(c.What, "is preferred"):
		return fmt.Sprintf("%s: %s %s", c.Group, c.Member, c.What)
	}
	return fmt.Sprintf("member %s %s", c.Member, c.What)
}

// Diff is what differs in the table of b from that of a: members in the order of their IDs, then the groups in theirs, in each the owner,
// then replicas that are gone, then others in the order of b. Epochs, and the order of those who are not preferred, are not compared. Both
// are rings of one cluster.
func Diff(a, b *Ring) []Change {
	out := diffMembers(a, b)
	for g := range GroupID(max(len(a.shards), len(b.shards)) + 1) {
		x, _ := a.Group(g)
		y, _ := b.Group(g)
		out = append(out, diffGroup(g, x, y)...)
	}
	return out
}

// diffMembers walks both lists, which are sorted, at once.
func diffMembers(a, b *Ring) (out []Change) {
	did := func(id NodeID, format string, args ...any) {
		out = append(out, Change{Member: id, What: fmt.Sprintf(format, args...)})
	}
	x, y := a.members, b.members
	for len(x) > 0 || len(y) > 0 {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].ID < y[0].ID:
			did(x[0].ID, "is none any more")
			x = x[1:]
			continue
		case len(x) == 0 || y[0].ID < x[0].ID:
			did(y[0].ID, "is new, %s", y[0].State)
			y = y[1:]
			continue
		}
		if x[0].State != y[0].State {
			did(y[0].ID, "is %s, not %s", y[0].State, x[0].State)
		}
		if x[0].Addr != y[0].Addr || x[0].GossipAddr != y[0].GossipAddr {
			did(y[0].ID, "is at %s and %s, not %s and %s", y[0].Addr, y[0].GossipAddr, x[0].Addr, x[0].GossipAddr)
		}
		if x[0].Boot != y[0].Boot {
			did(y[0].ID, "has started anew")
		}
		x, y = x[1:], y[1:]
	}
	return out
}

func diffGroup(g GroupID, x, y Assignment) (out []Change) {
	if len(x.Replicas) > 0 && len(y.Replicas) > 0 && x.Replicas[0].Node != y.Replicas[0].Node {
		out = append(out, Change{Member: y.Replicas[0].Node, Group: g, What: fmt.Sprintf("is preferred, not %s", x.Replicas[0].Node)})
	}
	did := func(rep Replica, what string) {
		out = append(out, Change{Member: rep.Node, Group: g, Replica: rep.ID, What: what})
	}
	for _, rep := range x.Replicas {
		if now, ok := y.On(rep.Node); !ok || now.ID != rep.ID {
			did(rep, "is gone, "+rep.Role.String())
		}
	}
	for _, rep := range y.Replicas {
		switch before, ok := x.On(rep.Node); {
		case !ok || before.ID != rep.ID:
			did(rep, "is new, "+rep.Role.String())
		case before.Role != rep.Role:
			did(rep, fmt.Sprintf("is %s, not %s", rep.Role, before.Role))
		}
	}
	return out
}
