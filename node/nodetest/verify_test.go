package nodetest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/node/nodetest"
)

// verified asks a running cluster whether its guarantee was kept, and wants it so.
func verified(t *testing.T, c *nodetest.Cluster, when string) *node.Verification {
	t.Helper()
	v, err := node.VerifyCluster(t.Context(), c.Client(), "", nil)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if !v.OK {
		t.Fatalf("%s:\n%s", when, strings.Join(v.Violations, "\n"))
	}
	return v
}

func groupOf(v *node.Verification, name string) node.VerifiedGroup {
	i := slices.IndexFunc(v.Groups, func(g node.VerifiedGroup) bool { return g.Group == name })
	if i < 0 {
		return node.VerifiedGroup{}
	}
	return v.Groups[i]
}

// Owners are killed, cut off, stopped, moved, a node added and another one removed: what the replicas recorded tells of each taking-over, and agrees.
func TestVerify(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		name := fmt.Sprintf("shard-%d", c.Node(0).Ring().ShardOf("Tally", "a"))
		n := int64(0)
		more := func(times int) {
			for range times {
				n++
				add(t, c, "a", n)
			}
		}
		more(5)
		v := verified(t, c, "at first")
		if g := groupOf(v, name); g.Copies != 3 || g.Expected != 3 || g.Batches < 5 || g.Tokens == 0 || g.From != 1 || g.Since == "" {
			t.Errorf("%+v", g)
		}
		if s := groupOf(v, "system"); s.Copies != 3 || s.Batches == 0 || v.Rings.To == 0 || len(v.Nodes) != 3 {
			t.Errorf("%+v, rings %+v, nodes %v", s, v.Rings, v.Nodes)
		}
		before := groupOf(v, name).Tokens
		const rounds = 4
		for i := range rounds {
			owner := c.Owner("Tally", "a")
			switch i % 4 {
			case 0:
				c.Kill(owner)
			case 1:
				c.Cut(owner)
			case 2:
				c.Stop(owner)
			case 3:
				c.Move("Tally", "a")
			}
			more(3)
			during := verified(t, c, fmt.Sprintf("round %d", i))
			if i%4 < 3 && !slices.ContainsFunc(during.Unchecked, func(s string) bool { return strings.Contains(s, "node ") }) {
				t.Errorf("round %d: a node is away, and that is not said: %q", i, during.Unchecked)
			}
			switch i % 4 {
			case 0, 2:
				c.Restart(owner)
			case 1:
				c.Heal(owner)
			}
			more(3)
		}
		c.Add()
		c.Settle()
		more(3)
		time.Sleep(5 * time.Second) // nothing is under way any more: all copies have an index in common at their ends
		v = verified(t, c, "in the end")
		g := groupOf(v, name)
		if g.Tokens < before+rounds || g.Batches < uint64(n) || g.Copies != g.Expected {
			t.Errorf("%d calls, %d takings-over: %+v", n, rounds, g)
		}
		for _, g := range v.Groups {
			if g.EqualTo != g.Last || g.Last == 0 {
				t.Errorf("not compared to its end: %+v", g)
			}
		}
		if len(v.Nodes) != 4 || v.Rings.To <= 1 {
			t.Errorf("%+v %+v", v.Nodes, v.Rings)
		}
	})
}
