package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
)

func alarmsWorkload() Workload {
	l := Load{Callers: 256, Objects: 100_000, Window: normally, Timeout: 30 * second}
	long, short := Options{Load: l}, Options{Load: l}
	short.Objects, short.Window = 10_000, briefly
	return Workload{Name: "alarms", Summary: "alarms: how fast they are set, how many run in a second, how late they are",
		Nodes: 3, Default: long, Short: short,
		Text: "--objects objects set one alarm each, durably: that is the rate and the latency. Half of the alarms are due at one instant: " +
			"how fast they run, and how late the last does. " +
			"The others are due one after the other, evenly over --duration: how late they are when nothing is in their way. Lateness is from " +
			"the due time to the beginning of the handler, by the clock of the owner. " +
			"Each acknowledged alarm must run, never early, with the time that it was set to; none may run that was not set. The handler " +
			"stores what it saw.",
		run: runAlarms}
}

func runAlarms(ctx context.Context, e *Env, o Options) (*Result, error) {
	lead, err := e.leadOf(ctx, o.Load)
	if err != nil {
		return nil, err
	}
	t := &alarms{cluster: e.Cluster, keys: newKeys(), load: o.Load, burst: time.Now().Add(lead).Truncate(time.Millisecond)}
	t.steady = t.burst.Add(lead).Truncate(time.Millisecond)
	l := o.Load
	l.Fresh, l.Limit, l.Window, l.Warmup = true, o.Objects, time.Hour, 0
	r, err := e.drive(ctx, t, l, e.hooks())
	if r != nil {
		r.Objects = o.Objects
		r.Figures = t.figures
	}
	return r, err
}

// leadOf is how long before they are due alarms must begin to be set: half as long again as writing as much takes, and two seconds.
func (e *Env) leadOf(ctx context.Context, l Load) (time.Duration, error) {
	n := l.Objects
	l.Objects, l.Window, l.Warmup = 1000, second, second/2
	t, err := NewCounters(ctx, e.Cluster, counterClass, Increment, l)
	if err != nil {
		return 0, err
	}
	r, err := e.drive(ctx, t, l, Hooks{pause: e.pause})
	if err != nil {
		return 0, err
	}
	if r.Ops == 0 {
		return 0, fmt.Errorf("nothing was written within a second")
	}
	return time.Duration(1.5*float64(n)/r.OpsPerSecond*float64(second)) + 2*second, nil
}

// alarms is the target whose operations each set one alarm. Those of even objects are due at burst, those of odd ones evenly over the load's
// Window after steady.
type alarms struct {
	cluster       Objects
	keys          keys
	load          Load
	burst, steady time.Time
	late          atomic.Int64 // that were set when they were due already
	figures       []Figure     // after Verify
}

func (t *alarms) ref(i int) actor.Ref { return t.cluster.Object(alarmClass, t.keys.of(i)) }

func (*alarms) Close() error { return nil }

// due is when an object's alarm is, in milliseconds since 1970.
func (t *alarms) due(object int) int64 {
	if object%2 == 0 {
		return t.burst.UnixMilli()
	}
	return t.steady.Add(time.Duration(float64(t.load.Window) * float64(object) / float64(t.load.Objects))).UnixMilli()
}

func (t *alarms) Do(ctx context.Context, op Op) error {
	err := t.ref(op.Object).Call(ctx, "Set", t.due(op.Object), nil)
	if time.Now().UnixMilli() > t.due(op.Object) {
		t.late.Add(1)
	}
	return err
}

// alarmGrace is how late the last alarm may be before it is taken for lost.
const alarmGrace = 2 * time.Minute

// Verify waits until every alarm that was set has run.
func (t *alarms) Verify(ctx context.Context, told *Tally) (*Check, error) {
	last := t.due(told.Objects() | 1)
	if err := sleep(ctx, time.Until(time.UnixMilli(last))); err != nil {
		return nil, err
	}
	logs := make([]alarmLog, told.Objects())
	missing := make([]int, len(logs))
	for i := range missing {
		missing[i] = i
	}
	for {
		err := each(ctx, t.load.Callers, len(missing), func(ctx context.Context, i int) (err error) {
			logs[missing[i]], err = call[alarmLog](ctx, t.ref(missing[i]), t.load, "Log", nil)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("asking which alarms have run: %w", err)
		}
		missing = slices.DeleteFunc(missing, func(i int) bool { return logs[i].Runs > 0 || told.Acked(i) == 0 })
		if len(missing) == 0 || time.Since(time.UnixMilli(last)) > alarmGrace {
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return t.judge(told, logs), nil
}

// judge compares what ran with what was set.
func (t *alarms) judge(told *Tally, logs []alarmLog) *Check {
	c := &Check{OK: true, What: "every alarm that was set has run, none early"}
	var again float64
	var burst, steady []int64 // lateness in microseconds
	for i, l := range logs {
		acked, doubt := told.Acked(i), told.InDoubt(i)
		c.Acknowledged, c.MayHaveRun = c.Acknowledged+acked, c.MayHaveRun+doubt
		if l.Runs == 0 {
			if acked > 0 {
				c.Fail("alarm %d has not run %v after it was due", i, alarmGrace)
			}
			continue
		}
		c.Counted++
		if l.Runs > 1 {
			again++
		}
		late := l.Ran - t.due(i)*1000
		switch {
		case acked+doubt == 0:
			c.Fail("alarm %d ran although it was not set", i)
		case l.Scheduled != t.due(i)*1000:
			c.Fail("alarm %d ran for a time that is %d µs from the one it was set to", i, l.Scheduled-t.due(i)*1000)
		case late < 0:
			c.Fail("alarm %d ran %d µs early", i, -late)
		}
		if i%2 == 0 {
			burst = append(burst, late)
		} else {
			steady = append(steady, late)
		}
	}
	slices.Sort(burst)
	slices.Sort(steady)
	t.figures = append(lateness("burst", burst), lateness("steady", steady)...)
	if len(burst) > 0 && burst[len(burst)-1] > 0 {
		t.figures = append(t.figures, Figure{"burst: ran in a second", float64(len(burst)) / (float64(burst[len(burst)-1]) / 1e6), "/s"})
	}
	t.figures = append(t.figures, Figure{"steady: due in a second", float64(len(steady)) / t.load.Window.Seconds(), "/s"},
		Figure{"ran more than once", again, ""}, Figure{"set after they were due", float64(t.late.Load()), ""})
	return c
}

// lateness are figures of sorted microseconds.
func lateness(what string, us []int64) (all []Figure) {
	if len(us) == 0 {
		return nil
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"most", 1}} {
		v := us[min(len(us)-1, int(q.at*float64(len(us))))]
		all = append(all, Figure{fmt.Sprintf("%s: lateness %s", what, q.name), float64(v) / 1000, "ms"})
	}
	return all
}
