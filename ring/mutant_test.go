//go:build mutant

package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// orderMatters places the same members in two orders and reports whether that makes a difference, or a panic.
func orderMatters() (wrong bool) {
	defer func() { wrong = wrong || recover() != nil }()
	rng := rand.New(rand.NewPCG(5, 6))
	for range 8 {
		ids := make([]NodeID, 14)
		for i := range ids {
			ids[i] = NodeID(i + 1)
		}
		want, err := Place(ids, 64, 1)
		if err != nil {
			return true
		}
		rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		if got, err := Place(ids, 64, 1); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			return true
		}
	}
	return false
}

// TestMutants: a table built in the order of arrival is another on each node, if names can be mistaken for each other. Either precaution is enough.
func TestMutants(t *testing.T) {
	for _, c := range []struct {
		arrival, plain, noticed bool
	}{{false, false, false}, {true, false, false}, {false, true, false}, {true, true, true}} {
		Mutant.ArrivalOrder, Mutant.PlainNames = c.arrival, c.plain
		if got := orderMatters(); got != c.noticed {
			t.Errorf("%+v: the order of members matters: %v", c, got)
		}
	}
	Mutant.ArrivalOrder, Mutant.PlainNames = false, false

	reused := func() bool {
		c := newToy(t, 1, 4, 8, 3)
		used := map[ReplicaID]bool{}
		again := false
		for _, ask := range []func() (*Ring, error){func() (*Ring, error) { return c.ring.Leave(4) }, func() (*Ring, error) {
			c.alive[5] = true
			return c.ring.Admit(Member{ID: 5, Addr: "h5:1"})
		}} {
			r, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			c.accept(r, "asked")
			for quiet := 0; quiet < 20; quiet++ {
				for i := range c.groups {
					c.work(i)
				}
				r, steps := c.next()
				if r == nil {
					continue
				}
				quiet = 0
				for _, s := range steps {
					again = again || s.Kind == StepJoin && used[s.Replica]
					if s.Kind == StepDrop {
						used[s.Replica] = true
					}
				}
				if c.ring = r; again { // what accept would refuse
					return true
				}
				c.used = r.nextReplica
			}
		}
		return slices.ContainsFunc(c.groups, func(g *toyGroup) bool { return g == nil })
	}
	if reused() {
		t.Error("an ID is used again without the mutant")
	}
	Mutant.ReusedID = true
	defer func() { Mutant.ReusedID = false }()
	if !reused() {
		t.Error("no ID is used again with the mutant")
	}
}
