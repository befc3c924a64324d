package nodetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

// Visits is a class to be tested.
type Visits struct{ s *actor.State }

func NewVisits(_ context.Context, s *actor.State) (*Visits, error) { return &Visits{s}, nil }

func (v *Visits) Add(ctx context.Context, by int) (int, error) {
	n, _, err := actor.Get[int](ctx, v.s.Storage(), "n")
	if err != nil {
		return 0, err
	}
	return n + by, v.s.Storage().Put(ctx, "n", n+by)
}

// What a test does: a cluster of three in virtual time, whose owner of an object loses its power.
func Example() {
	test := func(t *testing.T) { // func TestVisits(t *testing.T)
		synctest.Test(t, func(t *testing.T) {
			c := nodetest.Start(t, 3, actor.Define("Visits", NewVisits))
			ref := c.Client().Object("Visits", "home")
			if _, err := actor.Call[int](t.Context(), ref, "Add", 1); err != nil {
				t.Fatal(err)
			}
			owner := c.Owner("Visits", "home")
			c.Kill(owner)
			n, err := actor.Call[int](t.Context(), ref, "Add", 1, actor.Idempotent("second"))
			if err != nil || n != 2 {
				t.Errorf("after the owner's death: %d, %v", n, err)
			}
			time.Sleep(10 * time.Minute) // milliseconds
			c.Restart(owner)
			c.Settle()
		})
	}
	_ = testing.InternalTest{Name: "TestVisits", F: test}
}
