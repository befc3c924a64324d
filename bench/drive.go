package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Hooks are what else happens during a drive. All may be left out.
type Hooks struct {
	// OnProgress is called about once a second, from one goroutine.
	OnProgress func(Progress)
	// CPU is the processor time that the system's processes, without this one, have used up to now. It is asked when the window begins and
	// when it ends.
	CPU func() (time.Duration, error)
	// During runs beside the load, from the beginning of the window on, and does what the workload is about: it ends nodes, for example.
	// The window ends when it returns, and not after Load.Window. Its error ends the drive.
	During func(ctx context.Context, s *Stage) error

	pause func(context.Context, time.Duration) // nil: as the system can
}

// Progress is the state of a running drive.
type Progress struct {
	Elapsed time.Duration // since the first call, warm-up included
	Warmup  bool          // still warming up
	Rate    float64       // operations per second that succeeded since the last report
	Errors  int           // so far, warm-up included
	Doing   string        // what Hooks.During has begun last
}

// Drive asks of a target what the load says and reports what it did. It returns early, with an error, if ctx ends or if the first
// operation fails, which is made alone; other failures are counted by kind. It does not close the target.
func Drive(ctx context.Context, target Target, load Load, hooks Hooks) (*Result, error) {
	if err := load.fill(); err != nil {
		return nil, err
	}
	return newDriver(target, load, hooks).drive(ctx)
}

// driver is one drive. The callers share it: what they write is atomic or behind a recorder's lock.
type driver struct {
	target    Target
	load      Load
	hooks     Hooks
	tally     *Tally
	recorders []recorder

	stage  *Stage
	began  time.Time    // of the load
	from   time.Time    // of the window
	end    atomic.Int64 // of the window, in nanoseconds after from
	ops    atomic.Int64 // begun; with Load.Fresh the next object's number
	ok     atomic.Int64
	failed atomic.Int64

	done atomic.Int64  // of Load.Limit, those that have ended
	full chan struct{} // closed when all have
	over chan struct{} // closed when the window has ended
}

func newDriver(t Target, l Load, h Hooks) *driver {
	if h.pause == nil {
		h.pause = pause
	}
	d := &driver{target: t, load: l, hooks: h, tally: newTally(l), recorders: make([]recorder, 2*runtime.GOMAXPROCS(0)), full: make(chan struct{}), over: make(chan struct{})}
	for i := range d.recorders {
		d.recorders[i].init()
	}
	return d
}

// never is the end of a window that is not known yet.
const never = int64(1<<63 - 1)

func (d *driver) drive(ctx context.Context) (*Result, error) {
	if err := d.first(ctx); err != nil {
		return nil, fmt.Errorf("the first call failed: %w", err)
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	d.began = time.Now()
	d.from = d.began.Add(d.load.Warmup)
	d.stage = &Stage{from: d.from}
	d.end.Store(int64(d.load.Window))
	if d.hooks.During != nil {
		d.end.Store(never)
	}
	var callers sync.WaitGroup
	d.start(running, &callers)
	used, err := d.watch(running)
	if err != nil {
		cancel()
	}
	callers.Wait()
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("the run was cut short: %w", ctx.Err()))
	}
	if err != nil {
		return nil, err
	}
	res := d.result()
	if used > 0 && res.Ops > 0 {
		res.CPUPerOp = float64(used.Microseconds()) / float64(res.Ops)
	}
	if v, ok := d.target.(Verifier); ok {
		if res.Check, err = v.Verify(ctx, d.tally); err != nil {
			return nil, fmt.Errorf("checking the result: %w", err)
		}
	}
	return res, nil
}

// fresh is the number of the first object for the operation that is made alone.
func (d *driver) fresh() int {
	if d.load.Fresh {
		d.done.Add(1)
		return int(d.ops.Add(1) - 1)
	}
	return 0
}

// first runs the operation that is made alone.
func (d *driver) first(ctx context.Context) error {
	var t timed
	defer t.end()
	return d.one(t.of(ctx, d.load.Timeout, time.Now()), Op{Object: d.fresh()})
}

// timed is the context of a caller's operations. One for each of them, with its timer, is a thirtieth of all processor time of a system that is quick;
// so the same one is used for a tenth of the timeout. Each operation has the timeout at least, and a tenth more at most.
type timed struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Time // who begins later needs another
}

// of is a context for an operation that begins now.
func (t *timed) of(ctx context.Context, timeout time.Duration, now time.Time) context.Context {
	if t.cancel == nil || !now.Before(t.until) {
		t.end()
		t.until = now.Add(timeout / 10)
		t.ctx, t.cancel = context.WithDeadline(ctx, t.until.Add(timeout))
	}
	return t.ctx
}

// end frees what the context holds; no operation runs under it any more.
func (t *timed) end() {
	if t.cancel != nil {
		t.cancel()
	}
}

// one runs an operation under its own context and counts it.
func (d *driver) one(ctx context.Context, op Op) error {
	err := d.target.Do(ctx, op)
	if !op.Read {
		d.tally.note(op.Object, err)
	}
	if err != nil {
		d.failed.Add(1)
	} else {
		d.ok.Add(1)
	}
	return err
}

func (d *driver) start(ctx context.Context, callers *sync.WaitGroup) {
	if d.load.Rate == 0 {
		for i := range d.load.Callers {
			callers.Go(func() { d.closed(ctx, d.caller(i)) })
		}
		return
	}
	due := make(chan time.Duration)
	callers.Go(func() { d.schedule(ctx, due) })
	for i := range d.load.Callers {
		callers.Go(func() { d.open(ctx, d.caller(i), due) })
	}
}

// caller is one of the load's, with the recorder and the random numbers that it uses.
type caller struct {
	number int
	rec    *recorder
	choose *mrand.Rand
	timed  timed
}

func (d *driver) caller(i int) *caller {
	return &caller{i, &d.recorders[i%len(d.recorders)], mrand.New(mrand.NewPCG(uint64(i), 0x72696e6766656e63)), timed{}}
}

// closed lets a caller wait for each reply before it calls again, until the window's end.
func (d *driver) closed(ctx context.Context, c *caller) {
	defer c.timed.end()
	for due := time.Since(d.from); int64(due) < d.end.Load() && ctx.Err() == nil; due = time.Since(d.from) {
		d.step(ctx, c, due)
	}
}

// open lets a caller do what is due. One that comes late, because all callers were busy, is late by that: its latency counts from when it
// was due.
func (d *driver) open(ctx context.Context, c *caller, due <-chan time.Duration) {
	defer c.timed.end()
	for at := range due {
		d.step(ctx, c, at)
	}
}

// schedule hands out what is due, to the end of the window. What the callers are too busy to take waits. Once the window is over, they get
// one Timeout for what was due in it; what they leave is counted as missed.
func (d *driver) schedule(ctx context.Context, due chan<- time.Duration) {
	defer close(due)
	every := float64(time.Second) / d.load.Rate
	for i := int64(0); ; i++ {
		at := time.Duration(float64(i)*every) - d.load.Warmup
		for wait := at - time.Since(d.from); wait > 0 && ctx.Err() == nil && int64(at) < d.end.Load(); wait = at - time.Since(d.from) {
			d.hooks.pause(ctx, min(wait, 100*time.Millisecond))
		}
		if end := d.end.Load(); int64(at) >= end || ctx.Err() != nil {
			return
		}
		if !d.offer(ctx, due, at) {
			left := int64(math.Ceil(float64(time.Duration(d.end.Load())-at)/every - 1e-6))
			if ctx.Err() == nil {
				d.failed.Add(left)
				d.recorders[0].missed(left, fmt.Sprintf("due, and not begun %v after the end", d.load.Timeout))
			}
			return
		}
	}
}

// offer waits until a caller takes what is due. It gives up a Timeout after the window's end, which may not be known yet.
func (d *driver) offer(ctx context.Context, due chan<- time.Duration, at time.Duration) bool {
	select {
	case due <- at:
		return true
	default:
	}
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case due <- at:
			return true
		case <-ctx.Done():
			return false
		case <-look.C:
			if end := d.end.Load(); end != never && time.Since(d.from) > time.Duration(end)+d.load.Timeout {
				return false
			}
		}
	}
}

// step runs the caller's next operation.
func (d *driver) step(ctx context.Context, c *caller, due time.Duration) {
	op := Op{Worker: c.number}
	n := d.ops.Add(1) - 1
	if d.load.Limit > 0 && n >= int64(d.load.Limit) {
		<-d.over // the operations under way belong to the window
		return
	}
	switch {
	case d.load.Fresh:
		op.Object = int(n)
	case d.load.Pinned:
		op.Object = c.number % d.load.Objects
	default:
		op.Object = c.choose.IntN(d.load.Objects)
	}
	op.Read = d.load.Reads > 0 && c.choose.Float64() < d.load.Reads
	err := d.one(c.timed.of(ctx, d.load.Timeout, time.Now()), op)
	if ctx.Err() == nil {
		c.rec.add(sample{due, time.Since(d.from), err, int(d.stage.phase.Load())}, time.Duration(d.end.Load()))
	}
	if d.done.Add(1) == int64(d.load.Limit) {
		close(d.full)
	}
}

// watch waits for the window to begin and to end, and returns the processor time used in it, by everybody.
func (d *driver) watch(ctx context.Context) (used time.Duration, err error) {
	defer close(d.over)
	d.wait(ctx, d.from, nil)
	before, err := d.cpu()
	if err != nil {
		return 0, err
	}
	if d.hooks.During == nil {
		d.wait(ctx, d.from.Add(d.load.Window), nil)
		d.end.Store(min(int64(d.load.Window), int64(time.Since(d.from))))
	} else {
		over := make(chan error, 1)
		go func() { over <- d.hooks.During(ctx, d.stage); close(over) }()
		err = d.wait(ctx, time.Time{}, over)
		d.end.Store(int64(time.Since(d.from)))
	}
	if err != nil || ctx.Err() != nil {
		return 0, err
	}
	after, err := d.cpu()
	return after - before, err
}

// cpu is what all processes have used, 0 if it is not known.
func (d *driver) cpu() (time.Duration, error) {
	if d.hooks.CPU == nil {
		return 0, nil
	}
	theirs, err := d.hooks.CPU()
	if err != nil {
		return 0, fmt.Errorf("the processor time of the system's processes: %w", err)
	}
	return theirs + ownCPU(), nil
}

// wait waits until a time, or for over if that is not nil, and reports about once a second.
func (d *driver) wait(ctx context.Context, until time.Time, over <-chan error) error {
	var end <-chan time.Time
	if over == nil {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		end = t.C
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, lastAt := d.ok.Load(), time.Now()
	for {
		select {
		case <-ctx.Done():
			if over != nil {
				return <-over
			}
			return nil
		case err := <-over:
			return err
		case <-end:
			return nil
		case <-d.full:
			return nil
		case now := <-tick.C:
			n := d.ok.Load()
			if d.hooks.OnProgress != nil {
				d.hooks.OnProgress(Progress{Elapsed: now.Sub(d.began), Warmup: now.Before(d.from), Doing: d.stage.last(),
					Rate: float64(n-last) / now.Sub(lastAt).Seconds(), Errors: int(d.failed.Load())})
			}
			last, lastAt = n, now
		}
	}
}
