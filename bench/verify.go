package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// verify reads every counter of the run and compares the sum with what the callers were told. A measurement of a cluster
// that loses writes is worth nothing.
func (r *runner) verify(ctx context.Context, res *Result) error {
	var sum, next atomic.Int64
	var once sync.Once
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var readers sync.WaitGroup
	for range min(r.cfg.Callers, r.cfg.Objects) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(r.cfg.Objects); i = next.Add(1) - 1 {
				n, err := r.read(ctx, int(i))
				if err != nil {
					once.Do(func() { failed = fmt.Errorf("reading the counters back: %w", err); cancel() })
					return
				}
				sum.Add(n)
			}
		})
	}
	readers.Wait()
	if failed != nil {
		return failed
	}
	res.Check = &Check{Acknowledged: r.ok.Load(), MayHaveRun: r.maybe.Load(), Counted: sum.Load()}
	return nil
}

func (r *runner) read(ctx context.Context, i int) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	err = r.ref(i).Call(ctx, "Get", nil, &n)
	return n, err
}
