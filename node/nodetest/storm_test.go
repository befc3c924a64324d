package nodetest_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

var stormAlarms = flag.Int("nodetest.storm", 1000, "alarms of the storm, all overdue at once; the row is about 100,000")

// TestConformanceAlarmStorm: C-86 on a whole cluster. All nodes lose their power, and are started again an hour after all alarms were due: every alarm
// runs, once, and calls of other objects are answered meanwhile.
func TestConformanceAlarmStorm(t *testing.T) {
	t.Run("C-86 storm after an outage", func(t *testing.T) { virtual(t, testStorm) })
}

func testStorm(t *testing.T) {
	n := *stormAlarms
	c := nodetest.Start(t, 3, tallies(), actor.Define("Bell", newBell, actor.IdleTimeout(time.Second)))
	b := &bells{t: t, n: n, c: c}
	each := func(workers int, do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range workers {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if err := do(i); err != nil {
						t.Errorf("bell %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	each(128, func(i int) error { return b.ref(i).Call(t.Context(), "Set", int(time.Hour/time.Millisecond), nil) })
	for i := range 3 {
		c.Kill(i)
	}
	time.Sleep(2 * time.Hour)
	began := time.Now()
	c.Restart(0, 1, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var waits []time.Duration
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			ref := c.Client().Object("Tally", fmt.Sprint("t", i))
			for n := 1; ctx.Err() == nil; n++ {
				entered := time.Now()
				if _, err := actor.Call[int64](t.Context(), ref, "Add", int64(1), actor.Idempotent(fmt.Sprint(n))); err != nil {
					t.Errorf("a call during the storm: %v", err)
					return
				}
				mu.Lock()
				waits = append(waits, time.Since(entered))
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	rung := func(i int) (int, error) { return actor.Call[int](t.Context(), b.ref(i), "Count", nil) }
	for i := range n { // the last to have rung ends it
		for got := 0; got == 0; {
			var err error
			if got, err = rung(i); err != nil {
				t.Fatal(err)
			}
			if got == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	storm := time.Since(began)
	cancel()
	wg.Wait()
	time.Sleep(time.Minute)
	each(128, func(i int) error {
		got, err := rung(i)
		if err == nil && got != 1 {
			err = fmt.Errorf("rang %d times", got)
		}
		return err
	})
	slices.Sort(waits)
	p50, p99, most := waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1]
	t.Logf("%d alarms in %v; %d calls meanwhile: p50 %v, p99 %v, the longest %v", n, storm, len(waits), p50, p99, most)
	if p99 > 100*time.Millisecond {
		t.Errorf("calls waited for the storm: p99 %v", p99)
	}
}
