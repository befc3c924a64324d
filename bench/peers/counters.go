package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ringfence/ringfence/bench"
)

// each calls f for 0 to n-1, some at a time, and returns the first error.
func each(ctx context.Context, workers, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(workers, n) {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < n && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// workers is how many things are written or read at a time before and after a drive.
const workers = 64

// checkCounts reads every object of a drive and compares what it counts with what its callers were told.
func checkCounts(ctx context.Context, told *bench.Tally, what string, read func(context.Context, int) (int64, error)) (*bench.Check, error) {
	c := &bench.Check{OK: true, What: what}
	counted := make([]int64, told.Objects())
	err := each(ctx, workers, len(counted), func(ctx context.Context, i int) (err error) {
		counted[i], err = read(ctx, i)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading back: %w", err)
	}
	for i, n := range counted {
		acked, doubt := told.Acked(i), told.InDoubt(i)
		c.Counted, c.Acknowledged, c.MayHaveRun = c.Counted+n, c.Acknowledged+acked, c.MayHaveRun+doubt
		if n < acked || n > acked+doubt {
			c.Fail("object %d counts %d: %d acknowledged, %d may have run", i, n, acked, doubt)
		}
	}
	return c, nil
}

// replies counts those that were not what they had to be.
type replies struct{ wrong atomic.Int64 }

func (r *replies) expect(right bool) {
	if !right {
		r.wrong.Add(1)
	}
}

func (r *replies) check(what string) *bench.Check {
	c := &bench.Check{OK: true, What: what}
	if n := r.wrong.Load(); n > 0 {
		c.Fail("%d replies were not what they had to be", n)
	}
	return c
}

// cells are what a client remembers of keys that it increments by compare-and-set, with a lock each: so callers of one process never conflict, and an
// increment takes one round trip. That is the best that such a store can do for a client that is alone.
type cells struct {
	mu  sync.Mutex
	all map[int]*cell
}

type cell struct {
	turn  chan struct{} // holds one element while nobody has the cell
	known bool          // whether value and revision are what the store holds, as far as this client knows
	value int64
	rev   int64 // 0: the key does not exist
}

func newCells() *cells { return &cells{all: map[int]*cell{}} }

func (c *cells) of(object int) *cell {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.all[object]
	if x == nil {
		x = &cell{turn: make(chan struct{}, 1), known: true} // keys of a drive are new
		x.turn <- struct{}{}
		c.all[object] = x
	}
	return x
}

// store is what cells need: set writes a value if the key still has the revision, 0 for none, and returns the new one; errConflict says that it has another. get
// returns what is there.
type store interface {
	set(ctx context.Context, worker, object int, value, rev int64) (int64, error)
	get(ctx context.Context, worker, object int) (value, rev int64, err error)
}

var errConflict = errors.New("somebody else has written the key")

// increment adds one.
func (c *cells) increment(ctx context.Context, s store, op bench.Op) error {
	x := c.of(op.Object)
	select {
	case <-x.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { x.turn <- struct{}{} }()
	for {
		if !x.known {
			value, rev, err := s.get(ctx, op.Worker, op.Object)
			if err != nil {
				return err
			}
			x.value, x.rev, x.known = value, rev, true
		}
		rev, err := s.set(ctx, op.Worker, op.Object, x.value+1, x.rev)
		if err == nil {
			x.value, x.rev = x.value+1, rev
			return nil
		}
		x.known = false
		if !errors.Is(err, errConflict) {
			return err
		}
	}
}
