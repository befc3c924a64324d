package nodetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

// tally is a class as a user writes one: a sum, and in memory how often it was asked.
type tally struct {
	s             *actor.State
	calls         int
	hold, started chan struct{}
}

func (c *tally) Add(ctx context.Context, by int64) (int64, error) {
	c.calls++
	n, _, err := actor.Get[int64](ctx, c.s.Storage(), "n")
	if err != nil {
		return 0, err
	}
	return n + by, c.s.Storage().Put(ctx, "n", n+by)
}

// Peek reads the sum.
func (c *tally) Peek(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, c.s.Storage(), "n")
	return n, err
}

// Calls is how often this activation was asked to Add.
func (c *tally) Calls(context.Context) (int, error) { return c.calls, nil }

// AddFor adds on another object.
func (c *tally) AddFor(ctx context.Context, key string) (int64, error) {
	return actor.Call[int64](ctx, c.s.Object("Tally", key), "Add", int64(1))
}

// Hold waits for the test, and then reads.
func (c *tally) Hold(ctx context.Context) (int64, error) {
	close(c.started)
	select {
	case <-c.hold:
	case <-ctx.Done():
	}
	n, _, err := actor.Get[int64](ctx, c.s.Storage(), "n")
	return n, err
}

// add adds 1 with a key, so that the client may repeat what was on its way to a node that died.
func add(t *testing.T, c *nodetest.Cluster, key string, want int64) {
	t.Helper()
	if n, err := actor.Call[int64](t.Context(), c.Client().Object("Tally", key), "Add", int64(1), actor.Idempotent(fmt.Sprint("add ", want))); err != nil || n != want {
		t.Fatalf("Add on %s: %d, %v; want %d", key, n, err, want)
	}
}

func TestCluster(t *testing.T) { virtual(t, testCluster) }

func testCluster(t *testing.T) {
	hold, started := make(chan struct{}), make(chan struct{})
	c := nodetest.Start(t, 3, actor.Define("Tally", func(_ context.Context, s *actor.State) (*tally, error) {
		return &tally{s: s, hold: hold, started: started}, nil
	}))

	add(t, c, "a", 1)
	owner := c.Owner("Tally", "a")
	c.Kill(owner)
	add(t, c, "a", 2) // nothing is lost, and the call finds the new owner
	if now := c.Owner("Tally", "a"); now == owner || c.Node(owner) != nil {
		t.Errorf("node %d is dead and owns it", owner)
	}
	c.Restart(owner)

	// An owner that is cut off: an event on it fails when it touches storage.
	owner = c.Owner("Tally", "a")
	inside := c.Node(owner).Client().Object("Tally", "a")
	held := inside.Start(t.Context(), "Hold", nil)
	<-started
	c.Cut(owner)
	add(t, c, "a", 3)
	close(hold)
	if err := held.Wait(t.Context(), nil); !errors.Is(err, actor.ErrMoved) {
		t.Errorf("an event on an owner that was cut off: %v", err)
	}
	c.Heal(owner)

	stopped := c.Owner("Tally", "a")
	c.Stop(stopped)
	add(t, c, "a", 4)
	c.Restart(stopped)
	if i := c.Add(); i != 3 || c.Len() != 4 {
		t.Errorf("the added node is %d of %d", i, c.Len())
	}
	add(t, c, "a", 5)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, key := range []string{"b", "c", "d"} { // calls from object to object, on whichever nodes they are
		if _, err := actor.Call[int64](ctx, c.Client().Object("Tally", "a"), "AddFor", key); err != nil {
			t.Error(err)
		}
		add(t, c, key, 2)
	}
}
