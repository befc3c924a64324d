package bench

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
)

func short() Load {
	return Load{Callers: 8, Objects: 20, Window: 600 * time.Millisecond, Warmup: 200 * time.Millisecond, Timeout: time.Second, Payload: 10}
}

// drive drives counters of a cluster in memory once, in virtual time.
func drive(t *testing.T, m *memory, mode Mode, l Load) (r *Result, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var target Target
		if target, err = NewCounters(t.Context(), m, "Counter", mode, l); err == nil {
			r, err = driveVirtual(t.Context(), target, l, Hooks{})
		}
	})
	return r, err
}

func TestDriveModes(t *testing.T) {
	for _, mode := range []Mode{Increment, Get, Echo} {
		for _, rate := range []float64{0, 2000} {
			l := short()
			l.Rate = rate
			r, err := drive(t, newMemory(), mode, l)
			if err != nil {
				t.Fatal(err)
			}
			if r.Ops < 1000 || r.OpsPerSecond <= 0 || r.P50 < 1000 || r.Max > 2000 || r.P50 > r.P90 || r.P90 > r.P99 || r.P99 > r.P999 || r.P999 > r.Max || len(r.Errors) != 0 {
				t.Errorf("%s at rate %v: implausible: %+v", mode, rate, r)
			}
			if want := float64(r.Ops) / l.Window.Seconds(); r.OpsPerSecond != want || time.Duration(r.Duration) != l.Window {
				t.Errorf("%s: %v ops/s in %v, want %v", mode, r.OpsPerSecond, r.Duration, want)
			}
			if r.Check == nil || !r.Check.OK || mode == Increment && r.Check.Counted < r.Ops {
				t.Errorf("%s: check %v", mode, r.Check)
			}
			var onLine int64
			for _, n := range r.Series.OK {
				onLine += n
			}
			if h, err := r.histogram(); err != nil || onLine != r.Ops || h.TotalCount() < r.Ops*9/10 {
				t.Errorf("%s: %d ops, %d on the time line, %d in the histogram (%v)", mode, r.Ops, onLine, h.TotalCount(), err)
			}
		}
	}
}

func TestIncrementsAddUp(t *testing.T) {
	unknown := &actor.Error{Code: actor.CodeUnreachable, Outcome: actor.MayHaveRun}
	refused := &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.DidNotRun}
	for _, c := range []struct {
		name  string
		fault func(call int) (bool, error)
		ok    bool
		kinds string // of the errors
	}{
		{"no fault", nil, true, ""},
		{"refused", func(n int) (bool, error) { return n%10 != 0, when(n%10 == 0, refused) }, true, "overloaded, did not run"},
		{"unknown, ran", func(n int) (bool, error) { return true, when(n%10 == 0, unknown) }, true, "unreachable, may have run"},
		{"unknown, did not run", func(n int) (bool, error) { return n%10 != 0, when(n%10 == 0, unknown) }, true, "unreachable, may have run"},
		{"acknowledged and lost", func(n int) (bool, error) { return n != 10, nil }, false, ""},
		{"refused and ran", func(n int) (bool, error) { return true, when(n%10 == 0, refused) }, false, "overloaded, did not run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			m.fault = c.fault
			r, err := drive(t, m, Increment, short())
			if err != nil {
				t.Fatal(err)
			}
			if r.Check.OK != c.ok || c.ok != (Wrong([]*Result{r}) == nil) {
				t.Errorf("check %v, want OK %v", r.Check, c.ok)
			}
			if n := r.Errors[c.kinds]; c.kinds != "" && n == 0 || len(r.Errors) > 1 {
				t.Errorf("errors %v, want some of %q", r.Errors, c.kinds)
			}
		})
	}
}

func when(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

// Counters that are wrong one by one are wrong, also if their sum is right.
func TestCountersAreComparedOneByOne(t *testing.T) {
	told := newTally(Load{Objects: 2})
	for _, object := range []int{0, 0, 1} {
		told.note(object, nil)
	}
	counts := []int64{1, 2}
	c, err := checkCounts(t.Context(), Load{Callers: 1}, told, func(_ context.Context, i int) (int64, error) { return counts[i], nil })
	if err != nil || c.OK || c.Acknowledged != 3 || c.Counted != 3 || len(c.Wrong) != 2 {
		t.Errorf("check %v (%v)", c, err)
	}
}

// With Load.Fresh no object is called twice, and each is looked at.
func TestFresh(t *testing.T) {
	refused := &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.DidNotRun}
	m := newMemory()
	m.fault = func(n int) (bool, error) { return n%7 != 0, when(n%7 == 0, refused) }
	l := short()
	l.Fresh = true
	r, err := drive(t, m, Increment, l)
	if err != nil {
		t.Fatal(err)
	}
	for key, n := range m.counts {
		if n > 1 {
			t.Errorf("object %s was called %d times", key, n)
		}
	}
	if c := r.Check; !c.OK || c.Acknowledged != c.Counted || c.Counted == 0 || r.Objects != 0 {
		t.Errorf("check %v, objects %d", c, r.Objects)
	}
}

func TestFirstCallFails(t *testing.T) {
	m := newMemory()
	unknown := &actor.Error{Code: actor.CodeUnknownClass, Outcome: actor.DidNotRun, Message: "no class Counter"}
	m.fault = func(int) (bool, error) { return false, unknown }
	l := short()
	l.Window = time.Hour
	if _, err := drive(t, m, Increment, l); !errors.Is(err, actor.ErrUnknownClass) {
		t.Errorf("got %v", err)
	}
}

func TestCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := short()
		l.Window, l.Warmup = time.Hour, 0
		_, err := driveVirtual(ctx, &slow{}, l, Hooks{OnProgress: func(p Progress) {
			if p.Rate <= 0 || p.Elapsed <= 0 || p.Warmup {
				t.Errorf("progress %+v", p)
			}
			cancel()
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// slow is a target whose operations take a millisecond, but stand still while time is between from and to, measured from its first operation.
type slow struct {
	from, to time.Duration

	once  sync.Once
	began time.Time
}

func (s *slow) Do(ctx context.Context, _ Op) error {
	s.once.Do(func() { s.began = time.Now() })
	time.Sleep(time.Millisecond) // in virtual time
	if at := time.Since(s.began); at >= s.from && at < s.to {
		select {
		case <-time.After(s.to - at):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (*slow) Close() error { return nil }

// driveVirtual is Drive with pauses that take virtual time.
func driveVirtual(ctx context.Context, target Target, l Load, h Hooks) (*Result, error) {
	if err := l.fill(); err != nil {
		return nil, err
	}
	h.pause = virtualPause
	return newDriver(target, l, h).drive(ctx)
}

func virtualPause(_ context.Context, d time.Duration) { time.Sleep(d) }

// A target that stands still for one second of ten: a closed loop hardly sees it, because its callers stop asking. An open loop does: of
// what was due in that second, each operation waited for the rest of it.
func TestOpenLoopOmitsNothing(t *testing.T) {
	stall := func() *slow { return &slow{from: 4 * time.Second, to: 5 * time.Second} }
	l := Load{Callers: 4, Objects: 1, Window: 10 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		r, err := driveVirtual(t.Context(), stall(), l, Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		if r.P999 > 2000 || r.Max < 900_000 {
			t.Errorf("a closed loop: p99.9 %v, max %v", r.P999, r.Max)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l.Rate = 1000
		r, err := driveVirtual(t.Context(), stall(), l, Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.histogram()
		if err != nil {
			t.Fatal(err)
		}
		if n := h.TotalCount(); n != 10_000 {
			t.Errorf("%d operations have a latency, want all 10,000 that were due", n)
		}
		// A tenth was due while it stood still, and what came after had to wait for the callers to catch up: 4 callers do 4,000 a second,
		// so that the backlog of 1,000 is gone a third of a second later. The latencies fall from 1 s to 0 in two straight lines.
		for q, want := range map[float64]float64{85: 0.001, 95: 0.625, 99: 0.925} {
			if got := float64(h.ValueAtQuantile(q)) / 1e6; math.Abs(got-want) > 0.05 {
				t.Errorf("quantile %v is %.3f s, want %.3f", q, got, want)
			}
		}
		if len(r.Errors) != 0 {
			t.Errorf("errors %v", r.Errors)
		}
	})
}

// What was due in the window counts also if it never could begin.
func TestOpenLoopCountsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Load{Callers: 2, Objects: 1, Window: 10 * time.Second, Rate: 100, Timeout: 20 * time.Second}
		r, err := driveVirtual(t.Context(), &slow{from: 5 * time.Second, to: time.Hour}, l, Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.histogram()
		if err != nil {
			t.Fatal(err)
		}
		var failed int64
		for _, n := range r.Errors {
			failed += n
		}
		if n := h.TotalCount() + failed; n != 1000 {
			t.Errorf("%d succeeded and %v failed: %d of 1,000", h.TotalCount(), r.Errors, n)
		}
		if r.Errors["timeout"] < 4 || failed < 490 {
			t.Errorf("errors %v", r.Errors)
		}
	})
}

// deadlines is a target that notes how long its operations may take.
type deadlines struct {
	mu          sync.Mutex
	least, most time.Duration
}

func (d *deadlines) Do(ctx context.Context, _ Op) error {
	at, _ := ctx.Deadline()
	d.mu.Lock()
	d.least, d.most = min(d.least, time.Until(at)), max(d.most, time.Until(at))
	d.mu.Unlock()
	time.Sleep(10 * time.Millisecond) // virtual
	return ctx.Err()
}

func (d *deadlines) Close() error { return nil }

// Operations share contexts, and each has its time.
func TestEachOperationHasItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0, 100} {
			d := &deadlines{least: time.Hour}
			r, err := driveVirtual(t.Context(), d, Load{Callers: 3, Objects: 1, Window: 20 * time.Second, Rate: rate, Timeout: 2 * time.Second}, Hooks{})
			if err != nil || len(r.Errors) > 0 {
				t.Fatal(err, r.Errors)
			}
			if d.least < 2*time.Second || d.most > 2200*time.Millisecond || d.most-d.least < 150*time.Millisecond {
				t.Errorf("rate %v: operations had %v to %v", rate, d.least, d.most)
			}
		}
	})
}

// The window of a drive with Hooks.During ends with it, its events are on the time line, and CPU is asked at both ends.
func TestDuring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		for _, rate := range []float64{0, 100} {
			r, err := driveVirtual(t.Context(), &slow{}, Load{Callers: 2, Objects: 1, Warmup: time.Second, Rate: rate}, Hooks{
				CPU: func() (time.Duration, error) { asked++; return time.Duration(asked) * time.Hour, nil },
				During: func(_ context.Context, s *Stage) error {
					time.Sleep(2 * time.Second)
					s.Mark("node %d", 3)
					time.Sleep(time.Second)
					return nil
				}})
			if err != nil {
				t.Fatal(err)
			}
			if e := r.Series.Events; len(e) != 1 || e[0].What != "node 3" || time.Duration(e[0].At) != 2*time.Second {
				t.Errorf("events %v", e)
			}
			if time.Duration(r.Duration) != 3*time.Second || len(r.Series.OK) != 30 || r.Series.OK[29] == 0 {
				t.Errorf("the window took %v, time line %+v", time.Duration(r.Duration), r.Series)
			}
			if hours := r.CPUPerOp * float64(r.Ops) / 3.6e9; hours < 1 || hours > 1.01 {
				t.Errorf("%v µs of processor time for each of %d operations", r.CPUPerOp, r.Ops)
			}
		}
		broken := errors.New("the node did not start")
		_, err := driveVirtual(t.Context(), &slow{}, Load{Callers: 2, Objects: 1}, Hooks{During: func(context.Context, *Stage) error { return broken }})
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLoadRefused(t *testing.T) {
	for want, l := range map[string]Load{
		"-1 callers":              {Callers: -1},
		"-2 objects":              {Objects: -2},
		"none may be negative":    {Warmup: -1},
		"payload of 9000000":      {Payload: 9000000},
		"a rate of -1":            {Rate: -1},
		"a rate of NaN":           {Rate: math.NaN()},
		"a share of reads of 1.5": {Reads: 1.5},
		"share of reads of NaN":   {Reads: math.NaN()},
		"every operation has":     {Fresh: true, Pinned: true},
	} {
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", l, err, want)
		}
	}
	if err := (Load{}).Check(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if _, err := NewCounters(t.Context(), newMemory(), "Counter", "write", Load{}); err == nil || !strings.Contains(err.Error(), "want increment, get or echo") {
		t.Errorf("got %v", err)
	}
}
