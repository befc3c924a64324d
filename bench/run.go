package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
)

// Cluster is what is loaded; a *client.Client is one.
type Cluster interface {
	Object(class, key string) actor.Ref
}

// class is the stock class that every workload calls.
const class = "Counter"

// Run measures once. It returns early, with an error, if ctx ends or if not one call of the warm-up's or the measurement's
// first Timeout succeeds. Failed calls are counted by kind and do not end the run.
func Run(ctx context.Context, cluster Cluster, cfg Config) (*Result, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	fsync, err := measureFsync(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("measuring the disk: %w", err)
	}
	r := newRunner(cluster, cfg)
	if err := r.probe(ctx); err != nil {
		return nil, err
	}
	r.run(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("the run was cut short: %w", err)
	}
	res := r.result()
	res.Fsync = fsync
	if cfg.Mode == Increment {
		if err := r.verify(ctx, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// runner holds one measurement. The callers share it: what they write is atomic or behind a recorder's lock.
type runner struct {
	cluster   Cluster
	cfg       Config
	prefix    string // keys of this run alone, so that its counters begin at nothing
	arg       any
	method    string
	recorders []recorder
	measuring atomic.Bool
	ok        atomic.Int64 // calls that succeeded, warm-up included
	failed    atomic.Int64
	maybe     atomic.Int64 // failed calls that may have run
	took      time.Duration
}

func newRunner(cluster Cluster, cfg Config) *runner {
	var id [6]byte
	rand.Read(id[:]) // never fails
	r := &runner{cluster: cluster, cfg: cfg, prefix: "bench-" + hex.EncodeToString(id[:]) + "-", recorders: make([]recorder, 2*runtime.GOMAXPROCS(0))}
	for i := range r.recorders {
		r.recorders[i].init()
	}
	switch cfg.Mode {
	case Increment:
		r.method, r.arg = "Increment", int64(1)
	case Get:
		r.method = "Get"
	case Echo:
		r.method, r.arg = "Echo", make([]byte, cfg.Payload)
	}
	return r
}

func (r *runner) ref(i int) actor.Ref { return r.cluster.Object(class, r.prefix+strconv.Itoa(i)) }

// probe makes one call first: a cluster without the class, or none at all, is one error and not a table of them. It goes to
// an object of its own, which no total counts.
func (r *runner) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	if err := r.call(ctx, r.cluster.Object(class, r.prefix+"probe")); err != nil {
		return fmt.Errorf("the first call failed: %w", err)
	}
	return nil
}

func (r *runner) call(ctx context.Context, ref actor.Ref) error {
	if r.cfg.Mode == Echo {
		var back []byte
		return ref.Call(ctx, r.method, r.arg, &back)
	}
	var n int64
	return ref.Call(ctx, r.method, r.arg, &n)
}

// run lets the callers work for warm-up and duration; each ends with the call it is in.
func (r *runner) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stop atomic.Bool
	var callers sync.WaitGroup
	for i := range r.cfg.Callers {
		callers.Go(func() { r.caller(ctx, i, &stop) })
	}
	began := time.Now()
	r.watch(ctx, began, r.cfg.Warmup, true)
	measured := time.Now()
	r.measuring.Store(true)
	r.watch(ctx, began, r.cfg.Duration, false)
	r.measuring.Store(false)
	r.took = time.Since(measured)
	stop.Store(true)
	callers.Wait()
}

func (r *runner) caller(ctx context.Context, number int, stop *atomic.Bool) {
	choose := mrand.New(mrand.NewPCG(uint64(number), 0x72696e6766656e63))
	rec := &r.recorders[number%len(r.recorders)]
	for !stop.Load() && ctx.Err() == nil {
		ref := r.ref(choose.IntN(r.cfg.Objects))
		counts := r.measuring.Load()
		callCtx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
		began := time.Now()
		err := r.call(callCtx, ref)
		took := time.Since(began)
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.count(err)
		// A call counts if it began and ended within the measured time: so rate and latencies speak of the same calls.
		if counts && r.measuring.Load() {
			rec.add(took, err)
		}
	}
}

func (r *runner) count(err error) {
	if err == nil {
		r.ok.Add(1)
		return
	}
	r.failed.Add(1)
	if e := (*actor.Error)(nil); !errors.As(err, &e) || e.Outcome != actor.DidNotRun {
		r.maybe.Add(1)
	}
}

// watch waits for d and reports about once a second.
func (r *runner) watch(ctx context.Context, began time.Time, d time.Duration, warmup bool) {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, lastAt := r.ok.Load(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case now := <-tick.C:
			n := r.ok.Load()
			if r.cfg.OnProgress != nil {
				r.cfg.OnProgress(Progress{Elapsed: now.Sub(began), Warmup: warmup,
					Rate: float64(n-last) / now.Sub(lastAt).Seconds(), Errors: int(r.failed.Load())})
			}
			last, lastAt = n, now
		}
	}
}

func (r *runner) result() *Result {
	total := mergeRecorders(r.recorders)
	res := &Result{
		Version: node.Version, Go: runtime.Version(), CPUs: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0),
		Mode: r.cfg.Mode, Callers: r.cfg.Callers, Objects: r.cfg.Objects, Payload: r.cfg.Payload,
		Warmup: Seconds(r.cfg.Warmup), Duration: Seconds(r.took), Timeout: Seconds(r.cfg.Timeout),
		Ops: total.hist.TotalCount(), Errors: total.errors,
	}
	res.OpsPerSecond = float64(res.Ops) / r.took.Seconds()
	res.P50, res.P90 = total.quantile(50), total.quantile(90)
	res.P99, res.P999 = total.quantile(99), total.quantile(99.9)
	res.Max = total.max
	return res
}
