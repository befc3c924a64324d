package host

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// stormy is a counter that knows when two events run at once, and now and then panics, aborts or syncs.
type stormy struct {
	s    *actor.State
	busy *sync.Map // (token, object) → *atomic.Int32, the number of events that run
	last int64     // in memory: what the stored number must be
	any  bool
}

type spot struct {
	s  *shard
	id actor.ID
}

func (c *stormy) Add(ctx context.Context, mood int) (int64, error) {
	// Under one token: what runs under an older one is stale, and only its storage and its reply are stopped.
	n, _ := c.busy.LoadOrStore(spot{ctx.Value(runKey{}).(*run).s, c.s.ID()}, new(atomic.Int32))
	busy := n.(*atomic.Int32)
	defer busy.Add(-1)
	if busy.Add(1) != 1 {
		return 0, errors.New("two events at once")
	}
	return c.add(ctx, mood)
}

func (c *stormy) add(ctx context.Context, mood int) (int64, error) {
	n, _, err := actor.Get[int64](ctx, c.s.Storage(), "n")
	if err != nil {
		return 0, err
	}
	if c.any && n != c.last {
		return 0, errors.New("storage is not what this activation wrote")
	}
	if err := c.s.Storage().Put(ctx, "n", n+1); err != nil {
		return 0, err
	}
	switch mood {
	case 1:
		panic("mood")
	case 2:
		c.s.Abort(errors.New("mood"))
	case 3:
		if err := c.s.Storage().Sync(ctx); err != nil {
			return 0, err
		}
	}
	c.last, c.any = n+1, true
	return n + 1, nil
}

// TestStorm: callers, losses of the lease, evictions, panics and aborts at once. Every call is answered once; no two get the same number;
// what was acknowledged is there, what did not run is not; nothing is left in memory.
func TestStorm(t *testing.T) {
	const objects, callers = 5, 8
	each := 1500
	if testing.Short() {
		each = 300
	}
	var busy sync.Map
	class := actor.Define("Stormy", func(_ context.Context, s *actor.State) (*stormy, error) { return &stormy{s: s, busy: &busy}, nil })
	h, err := New([]actor.Class{class}, Options{Logger: slog.New(slog.DiscardHandler), MaxActivations: 3, Tick: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, h: h}
	w.open(1, true)

	var tally [objects]struct {
		sync.Mutex
		ok, may int
		seen    map[int64]bool
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			for ran := 0; ran < each && t.Context().Err() == nil; {
				i, mood := rng.IntN(objects), rng.IntN(60)
				r := ask(t, h, strconv.Itoa(i), mood)
				if r.Err == nil || r.Err.Outcome != actor.DidNotRun {
					ran++
				} else {
					runtime.Gosched() // the shard is between two tokens
				}
				x := &tally[i]
				x.Lock()
				switch {
				case r.Err == nil:
					var n int64
					if err := actor.Unmarshal(r.Value, &n); err != nil || x.seen[n] {
						t.Errorf("object %d: number %d twice, or %v", i, n, err)
					}
					if x.seen == nil {
						x.seen = map[int64]bool{}
					}
					x.seen[n] = true
					x.ok++
				case r.Err.Outcome == actor.MayHaveRun:
					x.may++
				case r.Err.Outcome == actor.DidNotRun, errors.Is(r.Err, actor.ErrPanic), errors.Is(r.Err, actor.ErrAborted):
				default:
					t.Error(r.Err)
				}
				x.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for token := store.Token(20); ; token += 20 {
		select {
		case <-done:
		case <-tick.C:
			w.l.lose()
			w.open(token, true)
			continue
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	acked := 0
	for i := range tally {
		x := &tally[i]
		var n int64
		if raw, ok := w.l.data[string(store.ObjectPrefix("Stormy", strconv.Itoa(i)))+"n"]; ok {
			if err := actor.Unmarshal(raw, &n); err != nil {
				t.Fatal(err)
			}
		}
		acked += x.ok
		if int(n) < x.ok || int(n) > x.ok+x.may {
			t.Errorf("object %d: the number is %d after %d acknowledged and %d unknown calls", i, n, x.ok, x.may)
		}
	}
	t.Logf("%d calls acknowledged, %d tokens, %d resets", acked, w.l.token/20, h.Metrics().Resets)
	if acked < callers*each/10 {
		t.Errorf("only %d of %d calls were acknowledged: the storm tests nothing", acked, callers*each)
	}
	// The last callers may have their answers a moment before their activations are gone.
	left := func() bool {
		m := h.Metrics()
		return m.Bytes != 0 || m.Activations != 0 || m.Held != 0 || m.Running != 0
	}
	for ctx.Err() == nil && left() {
		runtime.Gosched()
	}
	if left() {
		t.Errorf("left behind: %+v", h.Metrics())
	}
	close(w.l.work)
}

func ask(t *testing.T, h *Host, key string, mood int) *Result {
	arg, err := actor.Marshal(mood)
	if err != nil {
		t.Error(err)
	}
	got := make(chan *Result, 2)
	h.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Stormy", Key: key}, Method: "Add", Encoding: uint8(actor.EncodingMsgpack), Arg: arg,
		Respond: func(r *Result) { got <- r }})
	select {
	case r := <-got:
		return r
	case <-time.After(30 * time.Second):
		t.Error("no answer in 30 s")
		return &Result{Err: &actor.Error{Outcome: actor.MayHaveRun}}
	}
}
