package nodetest_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

var killRounds = flag.Int("nodetest.kills", 12, "how many nodes are killed in TestKilledAtDiskChanges")

// TestKilledAtDiskChanges kills one node after the other at whichever write, sync, creation or renaming comes, under callers with keys and alarms: nothing
// that was acknowledged is lost, no call takes effect twice, each alarm rings, once and not early, and the cluster serves.
func TestKilledAtDiskChanges(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies(), actor.Define("Bell", newBell, actor.IdleTimeout(500*time.Millisecond)), actor.Define("Page", newPage, actor.StorageLimit(pageLimit)))
		a := newAdders(t, c, 4)
		b := &bells{t: t, n: 8, c: c}
		rng := rand.New(rand.NewPCG(uint64(*killRounds), 1))
		page := c.Client().Object("Page", "p")
		for round := 1; round <= *killRounds; round++ {
			b.set(300)
			if err := page.Call(t.Context(), "Turn", round, nil, actor.Idempotent(fmt.Sprint("turn ", round))); err != nil {
				t.Fatal(err)
			}
			i := rng.IntN(3)
			c.KillAt(i, 1+rng.IntN(60))
			dead(t, c, i)
			b.want(round)
			if n := seen(t.Context(), t, page); n != round {
				t.Errorf("the last turn acknowledged is %d, stored is %d", round, n)
			}
			c.Restart(i)
		}
		c.Settle()
		a.check(t, int64(*killRounds))
		b.want(*killRounds)
	})
}

func dead(t *testing.T, c *nodetest.Cluster, i int) {
	t.Helper()
	for began := time.Now(); c.Node(i) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("node %d lives on for a minute", i)
		}
	}
}
