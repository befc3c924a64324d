package host

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// sorted is a fake that finds its alarms without a look at all that it has.
type sorted struct {
	*fake
	index []string // keys of the index when it was made
}

func (l *sorted) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	if !store.IsAlarmKey(start) || reverse {
		return l.fake.Scan(start, end, reverse, fn)
	}
	i, _ := slices.BinarySearch(l.index, string(start))
	for _, k := range l.index[i:] {
		l.mu.Lock()
		_, ok := l.data[k]
		l.mu.Unlock()
		if ok && !fn([]byte(k), nil) {
			break
		}
	}
	return nil
}

func stormSize() int {
	if testing.Short() || raceDetector {
		return 10_000
	}
	return 100_000
}

// storm makes a lease under which n alarms are overdue.
func storm(h *Host, token store.Token, n int) *sorted {
	l := &sorted{fake: &fake{h: h, token: token, auto: true, data: make(map[string][]byte, 3*n), work: make(chan func(), 100_000)}}
	l.proves.Store(true)
	at := time.Now().Add(-time.Hour).UnixMilli()
	for i := range n {
		for _, w := range setAlarm(actor.ID{Class: "Probe", Key: fmt.Sprint("k", i)}, newAlarm(at+int64(i%1000)), 0) {
			l.data[string(w.Key)] = w.Value
			if store.IsAlarmKey(w.Key) {
				l.index = append(l.index, string(w.Key))
			}
		}
	}
	slices.Sort(l.index)
	go func() {
		for do := range l.work {
			do()
		}
	}()
	return l
}

// testStormCalls stops time while as many alarms run as may: calls are answered all the same, and in the end all alarms have run once.
func testStormCalls(t *testing.T) {
	n := stormSize()
	inAlarms(t, Options{}, func(w *alarmTest) {
		release := make(chan struct{})
		var ran, running atomic.Int64
		w.hooks.alarm = func(ctx context.Context, p *probe, _ actor.AlarmInfo) error {
			ran.Add(1)
			defer running.Add(-1)
			if now := running.Add(1); now > int64(defaultAlarmLimits.crowd) {
				t.Errorf("%d handlers at once", now)
			}
			<-release
			_, err := p.Add(ctx, 1)
			return err
		}
		w.l.lose()
		close(w.l.work)
		l := storm(w.h, 2, n)
		w.l = l.fake
		w.h.Opened(l)
		w.wait()
		if got := running.Load(); got != int64(defaultAlarmLimits.crowd) {
			t.Fatalf("%d handlers run", got)
		}
		for i := range 100 {
			w.send(fmt.Sprint("other ", i), "Add", 1).want(1)
			w.send(fmt.Sprint("k", n-1-i), "Add", 1).want(1) // its alarm has not come yet
		}
		if m := w.h.Metrics(); ran.Load() != int64(defaultAlarmLimits.crowd) || m.Alarms > defaultAlarmLimits.window {
			t.Errorf("meanwhile %d ran, %d wait in memory", ran.Load(), m.Alarms)
		}
		close(release)
		w.wait()
		if ran.Load() != int64(n) {
			t.Errorf("%d runs of %d alarms", ran.Load(), n)
		}
		for i := range 1000 {
			w.send(fmt.Sprint("k", i), "Read", nil).want(1)
		}
		w.nothingStored()
	})
}

// testStormLatency measures, by the wall clock, how long calls take while alarms storm. Asserted is only that they are answered.
func testStormLatency(t *testing.T) {
	var ran atomic.Int64
	k := &hooks{alarm: func(ctx context.Context, p *probe, _ actor.AlarmInfo) error {
		ran.Add(1)
		_, err := p.Add(ctx, 1)
		return err
	}}
	h, err := New([]actor.Class{k.class()}, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n := stormSize() / 5
	l := storm(h, 1, n)
	begun := time.Now()
	h.Opened(l)
	var took []time.Duration
	for ran.Load() < int64(n) {
		answer := make(chan *Result, 1)
		sent := time.Now()
		h.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Probe", Key: fmt.Sprint("caller ", len(took))}, Method: "Read", Respond: func(r *Result) { answer <- r }})
		select {
		case r := <-answer:
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a call is not answered")
		}
		took = append(took, time.Since(sent))
	}
	slices.Sort(took)
	t.Logf("%d alarms in %v; %d calls meanwhile, the slowest %v, 99 of 100 within %v", n, time.Since(begun).Round(time.Millisecond), len(took), took[len(took)-1], took[len(took)*99/100])
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	close(l.work)
}
