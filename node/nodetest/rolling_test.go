package nodetest_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

// Nodes are stopped one after the other, each as soon as the one before serves again. That one keeps quiet for the length of a promise and can take no shard: who stops
// waits for it, or the shards that nobody else could take would have no owner until an election.
func TestRestartsInARowLeaveNoShardWithoutAnOwner(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		var longest atomic.Int64
		var calls atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					began := time.Now()
					if _, err := actor.Call[int64](t.Context(), c.Client().Object("Tally", fmt.Sprint("t", i)), "Add", int64(1)); err != nil {
						t.Errorf("a call failed: %v", err)
						return
					}
					calls.Add(1)
					for took := int64(time.Since(began)); ; {
						if old := longest.Load(); took <= old || longest.CompareAndSwap(old, took) {
							break
						}
					}
					time.Sleep(5 * time.Millisecond) // virtual: callers that think
				}
			})
		}
		for i := range 3 {
			c.Stop(i)
			c.Restart(i)
		}
		close(stop)
		wg.Wait()
		if calls.Load() < 100 {
			t.Fatalf("%d calls: this test holds nothing", calls.Load())
		}
		if worst := time.Duration(longest.Load()); worst > 350*time.Millisecond {
			t.Errorf("somebody waited for %v", worst)
		} else {
			t.Logf("%d calls, the longest took %v", calls.Load(), worst)
		}
	})
}

// Who comes back after seconds is dialed at once by those that it dials, and not when they would have tried again by themselves.
func TestWhoComesBackIsDialedAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		if _, err := actor.Call[int64](t.Context(), c.Client().Object("Tally", "t"), "Add", int64(1)); err != nil {
			t.Fatal(err)
		}
		late := 0
		for range 15 {
			away := (c.Owner("Tally", "t") + 1) % 3
			c.Stop(away)
			time.Sleep(7 * time.Second) // virtual: by now the others try once a second at most
			began := time.Now()
			c.Restart(away)
			owner := c.Node(c.Owner("Tally", "t"))
			for able := false; !able; {
				for _, s := range owner.Owned() {
					_, err := owner.Move(t.Context(), s, c.Node(away).ID())
					able = able || err == nil
					break
				}
				if time.Since(began) > 10*time.Second {
					t.Fatal("it never takes a shard")
				}
				time.Sleep(10 * time.Millisecond) // virtual: until it can
			}
			if time.Since(began) > 700*time.Millisecond { // it keeps quiet for 400 ms
				late++
			}
		}
		if late > 3 { // about half of them, if the others try when they would have anyway
			t.Errorf("%d of 15 times the first shard was taken later than 700 ms after the node was back", late)
		}
	})
}
