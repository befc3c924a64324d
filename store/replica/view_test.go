package replica

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/store"
)

// viewRig is a view over a group's state in a real engine.
type viewRig struct {
	t      *testing.T
	v      view
	stored *store.StateReader
	batch  *store.Batch
}

func newViewRig(t *testing.T) *viewRig {
	e, err := store.Open("data", store.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	noErr(t, err)
	t.Cleanup(func() { noErr(t, e.Close()) })
	noErr(t, e.CreateReplica(1, 1, nil))
	r := &viewRig{t: t, stored: e.StateReader(1), batch: e.NewBatch()}
	t.Cleanup(func() { noErr(t, r.batch.Close()) })
	return r
}

func (r *viewRig) store(ws []store.Write) {
	r.t.Helper()
	r.batch.ApplyWrites(1, ws)
	noErr(r.t, r.batch.Commit(false))
}

// scan is what a scan tells up to most entries.
func (r *viewRig) scan(start, end []byte, reverse bool, most int) (got []string) {
	r.t.Helper()
	noErr(r.t, r.v.scan(r.stored, start, end, reverse, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return len(got) < most
	}))
	return got
}

// viewKey is short, of few letters, and now and then empty: keys meet, and are prefixes of each other.
func viewKey(rng *rand.Rand) []byte {
	k := make([]byte, rng.IntN(4))
	for i := range k {
		k[i] = [...]byte{0, 'a', 0xff}[rng.IntN(3)]
	}
	return k
}

// TestViewAgainstModel adds writes to a view, stores them, and clears it, in random steps; whatever is stored, view and state together read as a sorted list of all
// that was added.
func TestViewAgainstModel(t *testing.T) {
	r := newViewRig(t)
	rng := rand.New(rand.NewPCG(11, 12))
	model := map[string]string{}
	var waiting []store.Write
	both, cut := 0, 0
	for round := range 6000 {
		switch what := rng.IntN(10); {
		case what < 6:
			var ws []store.Write
			for i := range 1 + rng.IntN(4) {
				w := store.Write{Key: viewKey(rng), Delete: rng.IntN(3) == 0}
				if delete(model, string(w.Key)); !w.Delete {
					w.Value = fmt.Append([]byte{}, round, ".", i)[:rng.IntN(4)] // also none
					model[string(w.Key)] = string(w.Value)
				}
				ws = append(ws, w)
			}
			r.v.add(ws)
			waiting = append(waiting, ws...)
		case what == 6:
			r.store(waiting) // and the view has not been cleared yet
		case what == 7:
			r.store(waiting)
			r.v.clear()
			waiting = nil
		}
		for range 3 {
			k := viewKey(rng)
			v, ok, err := r.v.get(r.stored, k)
			noErr(t, err)
			if want, wok := model[string(k)]; ok != wok || string(v) != want || ok && v == nil {
				t.Fatalf("round %d: %q is %q, %v; want %q, %v", round, k, v, ok, want, wok)
			}
			for i := range v {
				v[i]++ // who asks owns what it gets
			}
		}
		start, end := viewKey(rng), viewKey(rng)
		if rng.IntN(3) == 0 {
			start = nil
		}
		if rng.IntN(3) == 0 {
			end = nil
		}
		reverse, most := rng.IntN(2) == 0, 1+rng.IntN(12)
		var want []string
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if k >= string(start) && (end == nil || k < string(end)) {
				want = append(want, k+"="+model[k])
			}
		}
		if reverse {
			slices.Reverse(want)
		}
		if len(want) > most {
			want = want[:most]
			cut++
		}
		if got := r.scan(start, end, reverse, most); !slices.Equal(got, want) {
			t.Fatalf("round %d: [%q, %q), reverse %v, at most %d: %q; want %q", round, start, end, reverse, most, got, want)
		}
		if len(waiting) > 0 && len(want) > 0 {
			both++
		}
	}
	if both < 1000 || cut < 500 {
		t.Errorf("%d scans had something to find and something that is not stored, %d ended early: this test holds little", both, cut)
	}
}

// A scan in either direction tells each key once, as it is now: what is in the view and stored as well, and what was removed since it was stored.
func TestViewReplacesWhatIsStored(t *testing.T) {
	r := newViewRig(t)
	r.store([]store.Write{{Key: []byte("a"), Value: []byte("old")}, {Key: []byte("b"), Value: []byte("old")}, {Key: []byte("c"), Value: []byte("kept")}})
	r.v.add([]store.Write{{Key: []byte("a"), Delete: true}, {Key: []byte("b"), Value: []byte("new")}, {Key: []byte("d"), Value: []byte("new")}})
	if got, want := r.scan(nil, nil, false, 9), []string{"b=new", "c=kept", "d=new"}; !slices.Equal(got, want) {
		t.Errorf("ascending: %q, want %q", got, want)
	}
	if got, want := r.scan(nil, nil, true, 9), []string{"d=new", "c=kept", "b=new"}; !slices.Equal(got, want) {
		t.Errorf("descending: %q, want %q", got, want)
	}
}

// Who scans may read in between, and may panic: the view is not held meanwhile, nor after.
func TestViewIsFreeDuringAScan(t *testing.T) {
	r := newViewRig(t)
	r.store([]store.Write{{Key: []byte("a"), Value: []byte("1")}})
	r.v.add([]store.Write{{Key: []byte("b"), Value: []byte("1")}})
	n := 0
	noErr(t, r.v.scan(r.stored, nil, nil, false, func(k, _ []byte) bool {
		r.v.add([]store.Write{{Key: k, Value: []byte("2")}, {Key: []byte("c"), Value: []byte("2")}}) // would wait for ever
		n++
		return true
	}))
	if got, want := r.scan(nil, nil, false, 9), []string{"a=2", "b=2", "c=2"}; n != 2 || !slices.Equal(got, want) {
		t.Errorf("%d keys, then %q; want 2, then %q", n, got, want)
	}
	func() {
		defer func() { _ = recover() }()
		_ = r.v.scan(r.stored, nil, nil, false, func(_, _ []byte) bool { panic("the caller's own") })
	}()
	r.v.clear()
	if got, want := r.scan(nil, nil, false, 9), []string{"a=1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// lateState is a stored state that something comes before, just when a scan begins.
type lateState struct {
	*store.StateReader
	first func()
}

func (s lateState) ScanFrom(start, end []byte, reverse bool, begun func(), fn func(key, value []byte) bool) error {
	s.first()
	return s.StateReader.ScanFrom(start, end, reverse, begun, fn)
}

// Nothing comes into the view, and nothing goes out of it, between the moment at which a scan has looked at it and the one at which the stored state is held: what
// came in between would be seen in part.
func TestViewIsHeldUntilTheStateIs(t *testing.T) {
	r := newViewRig(t)
	r.store([]store.Write{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b"), Value: []byte("1")}})
	r.v.add([]store.Write{{Key: []byte("a"), Value: []byte("2")}})
	asked := false
	late := lateState{r.stored, func() {
		asked = true
		if !r.v.mu.TryLock() {
			return // the driver would wait
		}
		r.v.mu.Unlock()
		both := []store.Write{{Key: []byte("a"), Value: []byte("3")}, {Key: []byte("b"), Value: []byte("3")}}
		r.v.add(both)
		r.store(both)
		r.v.clear()
	}}
	var got []string
	noErr(t, r.v.scan(late, nil, nil, false, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return true
	}))
	if want := []string{"a=2", "b=1"}; !slices.Equal(got, want) || !asked {
		t.Errorf("%q, want %q", got, want)
	}
}

// A batch that was large leaves nothing large behind: each scan looks through what the view has room for.
func TestViewDoesNotStayLarge(t *testing.T) {
	r := newViewRig(t)
	ws := make([]store.Write, keepWrites+1)
	for i := range ws {
		ws[i] = store.Write{Key: fmt.Append(nil, i)}
	}
	r.v.add(ws)
	if r.v.clear(); r.v.writes != nil {
		t.Error("the room for many writes is kept")
	}
	r.v.add(ws[:keepWrites])
	if r.v.clear(); r.v.writes == nil || len(r.v.writes) > 0 {
		t.Errorf("the room for a few writes is not kept, or %d of them are", len(r.v.writes))
	}
}

// TestViewScansOneMoment scans while another goroutine adds, stores and clears as fast as it can. Each step changes two of a few keys, and one that counts the steps; a
// scan sees all keys as one step left them, and no step before one that it has seen.
func TestViewScansOneMoment(t *testing.T) {
	const keys, steps = 6, 1500
	r := newViewRig(t)
	var after [steps + 1][keys]uint64
	key := func(i int) string { return fmt.Sprint("k", i) }
	var done atomic.Uint64 // steps
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for last := uint64(0); last < steps; {
				least := done.Load()
				var n uint64
				var got [keys]uint64
				err := r.v.scan(r.stored, []byte("k"), []byte("l"), i == 1, func(k, v []byte) bool {
					if x := binary.BigEndian.Uint64(v); len(k) == 1 {
						n = x
					} else {
						got[k[1]-'0'] += x
					}
					return true
				})
				if err != nil || n < max(least, last) || got != after[n] {
					t.Errorf("step %d and %v are seen after step %d; want %v; %v", n, got, max(least, last), after[n], err)
					return
				}
				last = n
			}
		})
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var waiting []store.Write
	for n := uint64(1); n <= steps; n++ {
		after[n] = after[n-1]
		ws := []store.Write{set("k", n)}
		for range 2 {
			i := rng.IntN(keys)
			if after[n][i] = n; rng.IntN(4) == 0 {
				after[n][i] = 0
				ws = append(ws, remove(key(i)))
				continue
			}
			ws = append(ws, set(key(i), n))
		}
		r.v.add(ws)
		done.Store(n)
		if waiting = append(waiting, ws...); rng.IntN(2) == 0 {
			r.store(waiting)
			r.v.clear()
			waiting = waiting[:0]
		}
	}
	wg.Wait()
}
