package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// alarmTest is one row of section 12.8 of the specification, in a world where batches are applied at once and time is virtual.
type alarmTest struct {
	*world
	t *testing.T

	mu   sync.Mutex
	runs []alarmRun
}

// alarmRun is one run of a handler.
type alarmRun struct {
	at   time.Time
	key  string
	info actor.AlarmInfo
}

// plain is a class without a handler of alarms.
type plain struct{ s *actor.State }

func (p *plain) Set(ctx context.Context, in int64) error {
	return p.s.Storage().SetAlarm(ctx, time.Now().Add(time.Duration(in)))
}

func inAlarms(t *testing.T, opts Options, fn func(w *alarmTest), class ...actor.ClassOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &alarmTest{t: t, world: &world{t: t, hooks: &hooks{do: map[string]func(context.Context, *probe) (string, error){}}}}
		if opts.Logger == nil {
			opts.Logger = slog.New(slog.DiscardHandler)
		}
		without := actor.Define("Plain", func(_ context.Context, s *actor.State) (*plain, error) { return &plain{s}, nil })
		h, err := New([]actor.Class{w.hooks.class(class...), without}, opts)
		if err != nil {
			t.Fatal(err)
		}
		w.h = h
		w.open(1, true)
		w.l.proves.Store(true)
		defer w.close()
		fn(w)
	})
}

// handle has handlers note that they run, and then do what fn says.
func (w *alarmTest) handle(fn func(ctx context.Context, p *probe, info actor.AlarmInfo) error) {
	w.hooks.alarm = func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		w.mu.Lock()
		w.runs = append(w.runs, alarmRun{time.Now(), p.s.ID().Key, info})
		w.mu.Unlock()
		if fn == nil {
			return nil
		}
		return fn(ctx, p, info)
	}
}

// took returns the runs noted since the last call.
func (w *alarmTest) took() []alarmRun {
	w.wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	runs := w.runs
	w.runs = nil
	return runs
}

func (w *alarmTest) do(key string, fn func(ctx context.Context, st *actor.Storage) error) *pendingCall {
	w.t.Helper()
	w.wait()
	name := fmt.Sprint("fn", len(w.hooks.do))
	w.hooks.do[name] = func(ctx context.Context, p *probe) (string, error) { return "", fn(ctx, p.st) }
	return w.send(key, "Do", name)
}

func (w *alarmTest) set(key string, at time.Time) {
	w.t.Helper()
	w.do(key, func(ctx context.Context, st *actor.Storage) error { return st.SetAlarm(ctx, at) }).want("")
}

// byHand has batches wait until the test applies them.
func (w *alarmTest) byHand() {
	w.wait()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.auto = false
}

// wantAlarm is what Storage.Alarm returns in an event; zero: none.
func (w *alarmTest) wantAlarm(key string, want time.Time) {
	w.t.Helper()
	w.do(key, func(ctx context.Context, st *actor.Storage) error { return isAlarm(ctx, st, want) }).want("")
}

func isAlarm(ctx context.Context, st *actor.Storage, want time.Time) error {
	at, ok, err := st.Alarm(ctx)
	if err != nil || ok == want.IsZero() || ok && !at.Equal(want) {
		return fmt.Errorf("the alarm is %v, %v, %v; want %v", at, ok, err, want)
	}
	return nil
}

// wantRuns checks how many runs there were since, and that the last was at a time.
func (w *alarmTest) wantRuns(n int, at time.Time) []alarmRun {
	w.t.Helper()
	runs := w.took()
	if len(runs) != n {
		w.t.Fatalf("%d runs, want %d: %v", len(runs), n, runs)
	}
	if n > 0 && !at.IsZero() && !runs[n-1].at.Equal(at) {
		w.t.Fatalf("ran at %v, want %v", runs[n-1].at, at)
	}
	return runs
}

// nothingStored: neither records nor index entries are left in the shard.
func (w *alarmTest) nothingStored() {
	w.t.Helper()
	w.wait()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	for k := range w.l.data {
		if k[0] != 1 {
			w.t.Errorf("left in the shard: %q", k)
		}
	}
}

func TestConformanceAlarms(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(w *alarmTest)
		opts []actor.ClassOption
	}{
		{"C-68 alarm in transaction", testAlarmInTransaction, nil},
		{"C-73 set, overwrite, validate", testAlarmSet, nil},
		{"C-73 a class without a handler", testAlarmWithoutHandler, nil},
		{"C-74 never early, prompt", testAlarmNeverEarly, nil},
		{"C-76 once in calm", testAlarmOnce, nil},
		{"C-77 at least once", testAlarmAtLeastOnce, nil},
		{"C-78 inside the handler", testAlarmInside, nil},
		{"C-79 an error after a new alarm", testAlarmFailsAfterSet, nil},
		{"C-80 retries", testAlarmRetries, nil},
		{"C-80 every kind of failure", testAlarmFailures, nil},
		{"C-81 uncounted failures", testAlarmUncounted, nil},
		{"C-81 no room for the batch", testAlarmBusy, nil},
		{"C-82 deleted between retries", testAlarmDeletedBetween, nil},
		{"C-83 one handler at a time", testAlarmSingle, []actor.ClassOption{actor.Interleaved()}},
		{"C-84 wall limit", testAlarmLimit, nil},
		{"C-84 no retry", testAlarmNoRetry, nil},
		{"C-85 wakes the object", testAlarmWakes, nil},
	} {
		t.Run(row.name, func(t *testing.T) { inAlarms(t, Options{}, row.test, row.opts...) })
	}
	t.Run("C-86 storm: calls go on", testStormCalls)
	t.Run("C-86 storm: latency", testStormLatency)
}

func testAlarmInTransaction(w *alarmTest) {
	w.handle(nil)
	start := time.Now()
	w.set("k", start.Add(time.Minute))
	for _, commit := range []bool{false, true} {
		w.do("k", func(ctx context.Context, st *actor.Storage) error {
			err := st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
				if err := errors.Join(st.DeleteAlarm(ctx), isAlarm(ctx, st, time.Time{}), st.SetAlarm(ctx, start.Add(2*time.Minute)), isAlarm(ctx, st, start.Add(2*time.Minute))); err != nil {
					return err
				}
				if !commit {
					return tx.Rollback()
				}
				return nil
			})
			return errors.Join(err, isAlarm(ctx, st, start.Add(map[bool]time.Duration{false: time.Minute, true: 2 * time.Minute}[commit])))
		}).want("")
	}
	time.Sleep(time.Minute)
	w.wantRuns(0, time.Time{})
	time.Sleep(time.Minute)
	w.wantRuns(1, start.Add(2*time.Minute))
	// Rolled back in the handler: as if it had not been set there.
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		return p.st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			return errors.Join(p.st.SetAlarm(ctx, time.Now()), tx.Rollback())
		})
	})
	w.set("k", time.Now())
	time.Sleep(time.Minute)
	w.wantRuns(1, time.Time{})
	w.nothingStored()
}

func testAlarmSet(w *alarmTest) {
	w.handle(nil)
	start := time.Now()
	w.wantAlarm("k", time.Time{})
	w.set("k", start.Add(time.Hour))
	w.wantAlarm("k", start.Add(time.Hour))
	w.set("k", start.Add(time.Minute)) // the last one counts, be it earlier
	w.set("k", start.Add(10*time.Minute))
	w.wantAlarm("k", start.Add(10*time.Minute))
	time.Sleep(9 * time.Minute)
	w.wantRuns(0, time.Time{})
	time.Sleep(time.Minute)
	runs := w.wantRuns(1, start.Add(10*time.Minute))
	if i := runs[0].info; i.IsRetry || i.RetryCount != 0 || !i.Scheduled.Equal(start.Add(10*time.Minute)) {
		w.t.Errorf("info %+v", i)
	}
	w.wantAlarm("k", time.Time{})
	time.Sleep(time.Hour)
	w.wantRuns(0, time.Time{})

	w.set("k", time.Now()) // at once
	w.set("old", time.Unix(1, 0))
	w.wantRuns(2, time.Now())
	// Bad times, and an event that goes on after them.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(-5, 0), time.Unix(1<<55, 0)} {
			if err := st.SetAlarm(ctx, at); !errors.Is(err, actor.ErrBadArgument) {
				return fmt.Errorf("SetAlarm(%v): %v", at, err)
			}
		}
		if err := st.DeleteAlarm(ctx); err != nil { // none is there
			return err
		}
		return isAlarm(ctx, st, time.Time{})
	}).want("")
	// The same time again writes nothing.
	w.set("k", start.Add(100*time.Minute))
	before, _, _ := w.l.count()
	w.set("k", start.Add(100*time.Minute))
	if after, _, _ := w.l.count(); after != before {
		w.t.Error("the same alarm was written again")
	}
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.DeleteAlarm(ctx) }).want("")
	w.set("k", start.Add(100*time.Minute))
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.DeleteAll(ctx) }).want("")
	w.wantAlarm("k", time.Time{})
	w.nothingStored()
	w.do("k", func(ctx context.Context, st *actor.Storage) error { // after DeleteAll, in one batch with it
		if err := st.SetAlarm(ctx, start.Add(90*time.Minute)); err != nil {
			return err
		}
		if err := st.DeleteAll(ctx); err != nil {
			return err
		}
		return st.SetAlarm(ctx, start.Add(91*time.Minute))
	}).want("")
	time.Sleep(100 * time.Minute)
	w.wantRuns(1, start.Add(91*time.Minute))
	w.nothingStored()
}

func testAlarmWithoutHandler(w *alarmTest) {
	e := w.send("k", "Set", int64(0), func(c *Call) { c.Object.Class = "Plain" }).fails(actor.ErrBadArgument, actor.Ran)
	if !strings.Contains(e.Message, "class Plain must have the method Alarm(ctx context.Context, info actor.AlarmInfo) error in order to call SetAlarm") {
		w.t.Error(e.Message)
	}
	w.send("k", "Alarm", nil).fails(actor.ErrUnknownMethod, actor.DidNotRun)
	// The code has changed since it was set: dropped, without an activation.
	id, gone := actor.ID{Class: "Plain", Key: "k"}, actor.ID{Class: "Gone", Key: "k"}
	w.plant(id, time.Now())
	w.plant(gone, time.Now())
	w.restart()
	w.wait()
	if m := w.h.Metrics(); m.AlarmsDropped != 1 || m.AlarmsFired != 0 {
		w.t.Errorf("%+v", m)
	}
	// That of an unknown class is kept, and looked at again: it may come back with the next version.
	time.Sleep(5 * time.Minute)
	w.wait()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.l.data[string(alarmRecordKey(gone))] == nil || len(w.l.data) != 2 {
		w.t.Errorf("%d keys are left", len(w.l.data))
	}
}

// plant stores an alarm as if it had been set before the shard was opened.
func (w *alarmTest) plant(id actor.ID, at time.Time) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	for _, wr := range setAlarm(id, newAlarm(at.UnixMilli()), 0) {
		w.l.data[string(wr.Key)] = wr.Value
	}
}

// restart takes the shard from the host and gives it back under a new token.
func (w *alarmTest) restart() {
	w.l.lose()
	w.open(w.l.token+1, true)
	w.l.proves.Store(true)
}

func testAlarmNeverEarly(w *alarmTest) {
	w.handle(nil)
	want := map[string]time.Time{}
	for i := range 1000 {
		key := fmt.Sprint("k", i)
		want[key] = time.Now().Add(time.Duration(rand.Int64N(int64(time.Hour))))
		w.set(key, want[key])
	}
	time.Sleep(time.Hour)
	for _, r := range w.wantRuns(1000, time.Time{}) {
		if late := r.at.Sub(want[r.key]); late < 0 || late > time.Millisecond {
			w.t.Errorf("%s ran %v after its time", r.key, late)
		}
	}
	w.nothingStored()
}

func testAlarmOnce(w *alarmTest) {
	w.handle(func(ctx context.Context, p *probe, _ actor.AlarmInfo) error {
		_, err := p.Add(ctx, 1)
		return err
	})
	for i := range 50 {
		w.set(fmt.Sprint("k", i), time.Now().Add(time.Duration(i)*100*time.Millisecond))
	}
	// Planned moves: drained, released, opened again elsewhere.
	for range 10 {
		time.Sleep(500 * time.Millisecond)
		w.wait()
		if err := w.h.DrainShard(context.Background(), fakeShard); err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		w.restart()
	}
	w.wantRuns(50, time.Time{})
	for i := range 50 {
		w.send(fmt.Sprint("k", i), "Read", nil).want(1)
	}
	// A drain that is taken back loses none.
	w.set("late", time.Now().Add(time.Second))
	if err := w.h.DrainShard(context.Background(), fakeShard); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	w.wantRuns(0, time.Time{})
	w.h.Resume(fakeShard)
	w.wantRuns(1, time.Now())
	w.nothingStored()
}

// testAlarmAtLeastOnce loses the token at random moments, with what was submitted in any state. That the alarm is done is part of the handler's
// last batch, so what a handler wrote in one batch counts exactly once, and what it had made durable before a Sync at least once.
func testAlarmAtLeastOnce(w *alarmTest) {
	const objects = 40
	w.handle(func(ctx context.Context, p *probe, _ actor.AlarmInfo) error {
		n, _, err := actor.Get[int](ctx, p.st, "synced")
		if err != nil {
			return err
		}
		if err := p.st.Put(ctx, "synced", n+1); err != nil {
			return err
		}
		if p.s.ID().Key > "k5" {
			if err := p.st.Sync(ctx); err != nil {
				return err
			}
		}
		_, err = p.Add(ctx, 1)
		return err
	})
	for i := range objects {
		w.set(fmt.Sprint("k", i), time.Now().Add(time.Second))
	}
	w.byHand()
	time.Sleep(time.Second)
	for round := 0; ; round++ {
		w.wait()
		batches, asked, _ := w.l.count()
		if n := batches - w.l.applied; round < 200 && n > 0 {
			w.l.apply(rand.IntN(n + 1))
		}
		if asked > w.l.confirmed {
			w.l.confirm()
		}
		if round < 200 && rand.IntN(3) == 0 {
			w.l.lose()
			w.open(w.l.token+1, round == 199)
		}
		if round == 200 {
			w.restart()
			break
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
	}
	total := len(w.took())
	if total < objects {
		w.t.Errorf("%d runs of %d alarms", total, objects)
	}
	for i := range objects {
		key := fmt.Sprint("k", i)
		w.send(key, "Read", nil).want(1)
		w.do(key, func(ctx context.Context, st *actor.Storage) error {
			n, _, err := actor.Get[int](ctx, st, "synced")
			if err != nil || n < 1 || key <= "k5" && n != 1 {
				return fmt.Errorf("%d times, %v", n, err)
			}
			return nil
		}).want("")
	}
	w.nothingStored()
}

func testAlarmInside(w *alarmTest) {
	chain := 0
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if err := isAlarm(ctx, p.st, time.Time{}); err != nil {
			return err
		}
		if chain++; chain == 10 {
			return nil
		}
		at := info.Scheduled // the same time is allowed
		if chain%2 == 0 {
			at = time.Now().Add(time.Second)
		}
		if err := p.st.SetAlarm(ctx, at); err != nil {
			return err
		}
		return isAlarm(ctx, p.st, at)
	})
	start := time.Now()
	w.set("k", start)
	time.Sleep(time.Minute)
	w.wantRuns(10, start.Add(4*time.Second))
	w.wantAlarm("k", time.Time{})

	// The same after a Sync: what the handler has submitted is durable while it runs, and still no alarm is set.
	chain = 0
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if err := errors.Join(p.st.Put(ctx, "x", 1), p.st.Sync(ctx), isAlarm(ctx, p.st, time.Time{})); err != nil {
			return err
		}
		if chain++; chain == 3 {
			return nil
		}
		return errors.Join(p.st.SetAlarm(ctx, info.Scheduled), p.st.Sync(ctx), isAlarm(ctx, p.st, info.Scheduled))
	})
	w.set("k", time.Now())
	w.wantRuns(3, time.Now())
	w.wantAlarm("k", time.Time{})

	// deleteAlarm: takes away what the handler set, does not stop it, and may prevent the retry.
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		return errors.Join(p.st.SetAlarm(ctx, time.Now().Add(time.Second)), p.st.DeleteAlarm(ctx), isAlarm(ctx, p.st, time.Time{}), p.st.Put(ctx, "went on", true))
	})
	w.set("k", time.Now())
	time.Sleep(time.Minute)
	w.wantRuns(1, time.Time{})
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		return errors.Join(p.st.DeleteAlarm(ctx), errors.New("fails"))
	})
	w.set("k", time.Now())
	time.Sleep(time.Minute)
	w.wantRuns(1, time.Time{})
	w.wantAlarm("k", time.Time{})
	w.nothingStored()
}

func testAlarmFailsAfterSet(w *alarmTest) {
	for _, synced := range []bool{false, true} {
		first := true
		w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
			if !first {
				return nil
			}
			first = false
			if err := p.st.SetAlarm(ctx, time.Now().Add(time.Hour)); err != nil {
				return err
			}
			if synced {
				if err := p.st.Sync(ctx); err != nil {
					return err
				}
				panic("after the new alarm is durable")
			}
			return errors.New("after a new alarm")
		})
		start := time.Now()
		w.set("k", start)
		time.Sleep(30 * time.Minute)
		w.wantRuns(1, start)
		w.wantAlarm("k", start.Add(time.Hour))
		time.Sleep(30 * time.Minute)
		if i := w.wantRuns(1, start.Add(time.Hour))[0].info; i.IsRetry || i.RetryCount != 0 {
			w.t.Errorf("%+v", i)
		}
	}
	w.nothingStored()
}

// spaced checks that run i came after the one before by 2 s · 2^n of the exponents, and up to a quarter more.
func (w *alarmTest) spaced(runs []alarmRun, exponents ...int) {
	w.t.Helper()
	for i, n := range exponents {
		want := 2 * time.Second << n
		if d := runs[i+1].at.Sub(runs[i].at); d < want || d > want+want/4+10*time.Millisecond {
			w.t.Errorf("run %d came %v after the one before, want %v and up to a quarter more", i+1, d, want)
		}
	}
}

func testAlarmRetries(w *alarmTest) {
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if _, err := p.Add(ctx, 1); err != nil { // what it writes stays
			return err
		}
		return errors.New("fails")
	})
	start := time.Now().Add(time.Second)
	w.set("k", start)
	time.Sleep(3 * time.Second)
	w.wantAlarm("k", start) // until it is given up
	w.send("k", "Read", nil).want(1)
	time.Sleep(time.Hour)
	runs := w.wantRuns(7, time.Time{})
	for i, r := range runs {
		if r.info.RetryCount != i || r.info.IsRetry != (i > 0) || !r.info.Scheduled.Equal(start) {
			w.t.Errorf("run %d: %+v", i, r.info)
		}
	}
	w.spaced(runs, 0, 1, 2, 3, 4, 5)
	w.wantAlarm("k", time.Time{})
	w.send("k", "Read", nil).want(7)
	w.nothingStored()
	if m := w.h.Metrics(); m.AlarmsFired != 7 || m.AlarmsFailed != 7 || m.AlarmsRetried != 6 || m.AlarmsDropped != 1 {
		w.t.Errorf("%+v", m)
	}
}

// testAlarmFailures: what the handler had not submitted is lost with the activation, but not that it has failed.
func testAlarmFailures(w *alarmTest) {
	fails := []func(ctx context.Context, p *probe) error{
		func(context.Context, *probe) error { panic("mood") },
		func(_ context.Context, p *probe) error { p.s.Abort(errors.New("mood")); return nil },
		func(ctx context.Context, p *probe) error {
			return p.s.BlockConcurrency(ctx, func(context.Context) error { return errors.New("mood") })
		},
		func(ctx context.Context, p *probe) error {
			return errors.Join(p.st.Sync(ctx), func() error { panic("after a Sync") }())
		},
	}
	construct := errors.New("no constructor")
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if _, err := p.Add(ctx, 1); err != nil {
			return err
		}
		if i := info.RetryCount; i < len(fails) {
			return fails[i](ctx, p)
		}
		return nil
	})
	start := time.Now()
	w.set("k", start)
	time.Sleep(10 * time.Minute)
	runs := w.wantRuns(5, time.Time{})
	w.spaced(runs, 0, 1, 2, 3)
	w.send("k", "Read", nil).want(2) // the synced one, and the last
	// The constructor's failure is the class's.
	w.hooks.construct = func(context.Context, *actor.State) error { return construct }
	w.plant(actor.ID{Class: "Probe", Key: "c"}, time.Now())
	w.restart()
	time.Sleep(time.Hour)
	w.wantRuns(0, time.Time{})
	w.hooks.construct = nil
	w.nothingStored()
}

func testAlarmUncounted(w *alarmTest) {
	broken, user := true, false
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if user {
			return errors.New("fails")
		}
		if !broken {
			return nil
		}
		w.l.mu.Lock()
		w.l.diskError = errors.New("broken disk")
		w.l.mu.Unlock()
		_, _, err := actor.Get[int](ctx, p.st, fmt.Sprint("not cached ", info.RetryCount))
		w.l.mu.Lock()
		w.l.diskError = nil
		w.l.mu.Unlock()
		return err
	})
	start := time.Now()
	w.set("k", start)
	time.Sleep(3 * time.Hour)
	runs := w.took()
	if len(runs) < 14 {
		w.t.Fatalf("%d runs", len(runs))
	}
	w.spaced(runs, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9)
	for i, r := range runs {
		if r.info.RetryCount != 0 || r.info.IsRetry != (i > 0) || !r.info.Scheduled.Equal(start) {
			w.t.Errorf("run %d: %+v", i, r.info)
		}
	}
	// A failure of the class's restarts the delays, and only those count.
	user = true
	w.wantAlarm("k", start)
	time.Sleep(time.Hour)
	runs = w.wantRuns(7, time.Time{})
	w.spaced(runs, 0, 1, 2, 3, 4, 5)
	if runs[0].info.RetryCount != 0 || runs[6].info.RetryCount != 6 {
		w.t.Errorf("%+v", runs)
	}
	w.wantAlarm("k", time.Time{})
	w.nothingStored()
}

func testAlarmBusy(w *alarmTest) {
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		_, err := p.Add(ctx, 1)
		return err
	})
	w.set("k", time.Now().Add(time.Second))
	w.l.mu.Lock()
	w.l.busy = true
	w.l.mu.Unlock()
	time.Sleep(time.Hour)
	runs := w.took()
	if len(runs) < 20 {
		w.t.Errorf("%d runs while batches have no room", len(runs))
	}
	w.l.mu.Lock()
	w.l.busy = false
	w.l.mu.Unlock()
	time.Sleep(2 * time.Minute)
	w.send("k", "Read", nil).want(1)
	w.took()
	time.Sleep(time.Hour)
	w.wantRuns(0, time.Time{})
	w.nothingStored()
}

func testAlarmDeletedBetween(w *alarmTest) {
	w.handle(func(context.Context, *probe, actor.AlarmInfo) error { return errors.New("fails") })
	start := time.Now()
	w.set("k", start)
	time.Sleep(3 * time.Second)
	w.wantRuns(2, time.Time{})
	w.wantAlarm("k", start)
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.DeleteAlarm(ctx) }).want("")
	time.Sleep(time.Hour)
	w.wantRuns(0, time.Time{})
	w.wantAlarm("k", time.Time{})
	// A new one begins to count anew.
	w.set("k", time.Now())
	time.Sleep(3 * time.Second)
	w.wantRuns(2, time.Time{})
	w.set("k", time.Now().Add(time.Minute))
	time.Sleep(time.Minute)
	if i := w.wantRuns(1, time.Now())[0].info; i.IsRetry {
		w.t.Errorf("%+v", i)
	}
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.DeleteAll(ctx) }).want("")
	w.nothingStored()
}

func testAlarmSingle(w *alarmTest) {
	release := make(chan struct{})
	var running, most atomic.Int64
	failFirst := false
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		err := p.s.Await(ctx, func(ctx context.Context) error {
			<-release
			return nil
		})
		if failFirst {
			failFirst = false
			err = errors.New("fails")
		}
		return err
	})
	for _, fail := range []bool{false, true} {
		failFirst = fail
		w.set("k", time.Now())
		w.wait()
		if running.Load() != 1 {
			w.t.Fatal("the handler does not wait")
		}
		w.send("k", "Add", 1).answered() // other events go on
		w.wantAlarm("k", time.Time{})
		w.set("k", time.Now()) // queued, and not lost, though the first run ends well, or fails
		w.wantAlarm("k", time.Now())
		time.Sleep(10 * time.Second)
		w.wantRuns(1, time.Time{})
		release <- struct{}{}
		w.wantRuns(1, time.Now())
		release <- struct{}{}
		time.Sleep(time.Minute)
		w.wantRuns(0, time.Time{})
	}
	if most.Load() != 1 {
		w.t.Errorf("%d handlers at once", most.Load())
	}
	w.nothingStored()
}

func testAlarmLimit(w *alarmTest) {
	hang := true
	w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error {
		if !hang {
			return nil
		}
		hang = false
		if _, err := p.Add(ctx, 1); err != nil {
			return err
		}
		<-ctx.Done()
		_, err := p.Add(ctx, 1) // too late
		return err
	})
	start := time.Now()
	w.set("k", start)
	time.Sleep(15*time.Minute - time.Second)
	held := w.send("k", "Read", nil)
	held.held()
	time.Sleep(time.Second)
	held.want(0) // a new activation, without what the handler had not submitted
	time.Sleep(time.Minute)
	runs := w.wantRuns(2, time.Time{})
	if d := runs[1].at.Sub(start); d < 15*time.Minute+2*time.Second || d > 15*time.Minute+3*time.Second || runs[1].info.RetryCount != 1 {
		w.t.Errorf("again after %v: %+v", d, runs[1].info)
	}
	if w.hooks.made.Load() != 2 {
		w.t.Errorf("%d activations", w.hooks.made.Load())
	}
	w.nothingStored()
}

func testAlarmNoRetry(w *alarmTest) {
	for _, end := range []func(p *probe) error{
		func(p *probe) error { p.s.Abort(actor.NoAlarmRetry(errors.New("enough"))); return nil },
		func(*probe) error { return fmt.Errorf("wrapped: %w", actor.NoAlarmRetry(errors.New("enough"))) },
	} {
		w.handle(func(ctx context.Context, p *probe, info actor.AlarmInfo) error { return end(p) })
		w.set("k", time.Now())
		time.Sleep(time.Hour)
		w.wantRuns(1, time.Time{})
		w.wantAlarm("k", time.Time{})
	}
	w.nothingStored()
}

func testAlarmWakes(w *alarmTest) {
	var order []string
	w.hooks.construct = func(ctx context.Context, s *actor.State) error {
		at, ok, err := s.Storage().Alarm(ctx)
		order = append(order, fmt.Sprint("constructor ", ok && !at.After(time.Now())))
		return err
	}
	w.handle(func(context.Context, *probe, actor.AlarmInfo) error { order = append(order, "alarm"); return nil })
	w.set("k", time.Now().Add(time.Hour))
	time.Sleep(time.Hour)
	w.wantRuns(1, time.Now())
	if want := []string{"constructor false", "constructor true", "alarm"}; !slices.Equal(order, want) {
		w.t.Errorf("%q, want %q", order, want)
	}
	// A constructor that sets the alarm anew has it its way.
	w.hooks.construct = func(ctx context.Context, s *actor.State) error {
		if at, ok, err := s.Storage().Alarm(ctx); err != nil || !ok || at.After(time.Now()) {
			return err
		}
		return s.Storage().SetAlarm(ctx, time.Now().Add(30*time.Second)) // before it is evicted again
	}
	w.set("c", time.Now().Add(time.Hour))
	time.Sleep(time.Hour)
	w.wantRuns(0, time.Time{})
	time.Sleep(30 * time.Second)
	w.wantRuns(1, time.Now())
	w.nothingStored()
}

// TestAlarmSharesTheHandlersBatch: what a handler writes, and that its alarm is done, or set anew, or failed, is one batch.
func TestAlarmSharesTheHandlersBatch(t *testing.T) {
	inAlarms(t, Options{}, func(w *alarmTest) {
		fail := false
		w.handle(func(ctx context.Context, p *probe, _ actor.AlarmInfo) error {
			if _, err := p.Add(ctx, 1); err != nil {
				return err
			}
			if fail {
				return errors.New("fails")
			}
			return nil
		})
		for _, fail = range []bool{false, true} {
			w.set("k", time.Now().Add(time.Second))
			before, _, _ := w.l.count()
			time.Sleep(time.Second)
			w.wait()
			if after, _, _ := w.l.count(); after != before+1 {
				t.Fatalf("%d batches", after-before)
			}
			if ws := w.l.batches[before]; len(ws) != map[bool]int{false: 3, true: 4}[fail] {
				t.Errorf("the batch is %v", ws)
			}
		}
	})
}

// TestAlarmIsNeverRefused: a mailbox that is full of calls still takes the alarm, after them.
func TestAlarmIsNeverRefused(t *testing.T) {
	inAlarms(t, Options{MaxBytes: 5000}, func(w *alarmTest) {
		release := make(chan struct{})
		w.handle(nil)
		w.hooks.do["wait"] = func(context.Context, *probe) (string, error) { <-release; return "", nil }
		w.set("k", time.Now().Add(time.Second))
		var calls []*pendingCall
		for range 3 {
			calls = append(calls, w.send("k", "Do", "wait"))
		}
		w.send("k", "Do", "wait").fails(actor.ErrOverloaded, actor.DidNotRun)
		time.Sleep(2 * time.Second)
		w.wantRuns(0, time.Time{})
		close(release)
		for _, c := range calls {
			c.want("")
		}
		w.wantRuns(1, time.Now())
	}, actor.MailboxLimit(3))
}

// TestAlarmOfALostBatch: an alarm that was set by a batch which did not take effect does not ring.
func TestAlarmOfALostBatch(t *testing.T) {
	inAlarms(t, Options{}, func(w *alarmTest) {
		w.handle(nil)
		w.byHand()
		c := w.do("k", func(ctx context.Context, st *actor.Storage) error {
			return st.SetAlarm(ctx, time.Now().Add(time.Second))
		})
		c.held()
		w.l.lose()
		c.fails(actor.ErrMoved, actor.MayHaveRun)
		w.open(2, true)
		w.wantAlarm("k", time.Time{})
		time.Sleep(time.Hour)
		w.wantRuns(0, time.Time{})
	})
}
