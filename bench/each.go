package bench

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
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

// call is actor.Call that takes at most the load's Timeout.
func call[R any](ctx context.Context, ref actor.Ref, load Load, method string, arg any) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, load.Timeout)
	defer cancel()
	return actor.Call[R](ctx, ref, method, arg)
}
