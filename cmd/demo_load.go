package cmd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// Callers of a demonstration: each increments its own few counters in turn.
const (
	demoCounters = 48
	demoCallers  = 16
	demoPause    = 4 * time.Millisecond // of a caller between two calls: the machine has other things to do
	demoTimeout  = 10 * time.Second     // of one call
)

// demoLoad are the callers and what they were told.
type demoLoad struct {
	cl   *client.Client
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	acked    [demoCounters]int64
	unknown  [demoCounters]int64
	failed   int // calls that brought an error
	lastErr  error
	longest  time.Duration // that a call took
	watching *demoWatch
}

// demoWatch waits for the next success of some counters.
type demoWatch struct {
	since time.Time
	left  map[int]bool
	first time.Duration // from since to the first success
	all   time.Duration // and to the one that was last
	done  chan struct{}
}

func demoKey(i int) string { return fmt.Sprintf("demo-%d", i) }

// begin lets the callers call, until end.
func (l *demoLoad) begin(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for c := range demoCallers {
		l.wg.Go(func() { l.call(ctx, c) })
	}
}

// end waits for the calls under way.
func (l *demoLoad) end() {
	if l.stop != nil {
		l.stop()
	}
	l.wg.Wait()
}

func (l *demoLoad) call(ctx context.Context, first int) {
	pause := time.NewTicker(demoPause)
	defer pause.Stop()
	for i := first; ; i = (i + demoCallers) % demoCounters {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		began := time.Now()
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoTimeout)
		_, err := actor.Call[int64](one, l.cl.Object("Counter", demoKey(i)), "Increment", int64(1))
		cancel()
		l.note(i, began, err)
	}
}

func (l *demoLoad) note(i int, began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, time.Since(began))
	if err != nil {
		l.failed++
		l.lastErr = err
		if e, ok := errors.AsType[*actor.Error](err); !ok || e.Outcome != actor.DidNotRun {
			l.unknown[i]++
		}
		return
	}
	l.acked[i]++
	w := l.watching
	if w == nil || !w.left[i] || began.Before(w.since) {
		return
	}
	delete(w.left, i)
	w.all = time.Since(w.since)
	if w.first == 0 {
		w.first = w.all
	}
	if len(w.left) == 0 {
		close(w.done)
		l.watching = nil
	}
}

// watch begins to wait for a success of each of the counters that began from now on.
func (l *demoLoad) watch(counters []int) *demoWatch {
	w := &demoWatch{since: time.Now(), left: map[int]bool{}, done: make(chan struct{})}
	for _, i := range counters {
		w.left[i] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watching = w
	return w
}

// await waits until every counter watched has been incremented.
func (l *demoLoad) await(ctx context.Context, w *demoWatch) error {
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Errorf("%d of the objects answered nobody within %v; the last error of a call: %v", len(w.left), time.Since(w.since).Round(time.Millisecond), l.lastErr)
	}
}

// window returns the calls that failed and the longest wait since the last window, and begins a new one.
func (l *demoLoad) window() (failed int, longest time.Duration, last error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed, longest, last = l.failed, l.longest, l.lastErr
	l.failed, l.longest, l.lastErr = 0, 0, nil
	return
}

// check reads every counter, while nobody calls, and holds it against what the callers were told.
func (l *demoLoad) check(ctx context.Context) (acked, unknown int64, err error) {
	for i := range demoCounters {
		n, err := actor.Call[int64](ctx, l.cl.Object("Counter", demoKey(i)), "Get", nil)
		if err != nil {
			return 0, 0, fmt.Errorf("object Counter/%s: %w", demoKey(i), err)
		}
		if n < l.acked[i] || n > l.acked[i]+l.unknown[i] {
			return 0, 0, fmt.Errorf("object Counter/%s is %d: want %d acknowledged, and at most %d more whose outcome is not known", demoKey(i), n, l.acked[i], l.unknown[i])
		}
		acked, unknown = acked+l.acked[i], unknown+l.unknown[i]
	}
	return acked, unknown, nil
}
