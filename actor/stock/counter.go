package stock

import (
	"context"

	"github.com/ringfence/ringfence/actor"
)

// Counter is the class "Counter": a durable number that begins at 0.
//
//	Increment(by int64) int64   adds by, which may be negative, and returns the sum
//	Get() int64
//	Echo(data []byte) []byte    returns data; touches no storage
func Counter() actor.Class { return actor.Define("Counter", newCounter) }

type counter struct{ s *actor.Storage }

func newCounter(_ context.Context, s *actor.State) (*counter, error) {
	return &counter{s.Storage()}, nil
}

// Increment adds by, which may be negative, and returns the sum. It fails with "overflow", and adds nothing, if that is no int64.
func (c *counter) Increment(ctx context.Context, by int64) (int64, error) {
	n, err := c.Get(ctx)
	if err != nil {
		return 0, err
	}
	sum := n + by
	if (sum > n) != (by > 0) && by != 0 {
		return 0, actor.Fail("overflow", "%d + %d is more than the counter can hold", n, by)
	}
	return sum, c.s.Put(ctx, "n", sum)
}

// Get returns the number.
func (c *counter) Get(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, c.s, "n")
	return n, err
}

// Echo returns data and touches no storage.
func (c *counter) Echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }
