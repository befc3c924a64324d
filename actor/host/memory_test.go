package host

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"testing"
	"unsafe"

	"github.com/ringfence/ringfence/actor"
)

// resident is a class as small as one that uses its storage can be.
type resident struct{ s *actor.State }

func (r *resident) Touch(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, r.s.Storage(), "n")
	return n, err
}

func (r *resident) Nothing(context.Context) (int64, error) { return 0, nil }

// TestQuietActivationsAreSmall: what an activation costs that has answered and lies idle, beside the class's own struct: its name (18 bytes of a key), its
// place in the tables, its storage, in the second case with one remembered value. The figures are those of the heap after a collection. The bounds are a
// little above what it is, so that it cannot grow unnoticed.
func TestQuietActivationsAreSmall(t *testing.T) {
	t.Run("memory", func(t *testing.T) { quietActivations(t, "Nothing", 400) })
	t.Run("storage", func(t *testing.T) { quietActivations(t, "Touch", 600) })
}

func quietActivations(t *testing.T, method string, most float64) {
	const n = 20_000
	class := actor.Define("Resident", func(_ context.Context, s *actor.State) (*resident, error) { return &resident{s}, nil })
	h, err := New([]actor.Class{class}, Options{Logger: slog.New(slog.DiscardHandler), IdleTimeout: 1 << 50, MaxActivations: n + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(t.Context())
	l := &fake{h: h, token: 1, data: map[string][]byte{}}
	l.proves.Store(true)
	h.Opened(l)
	lane := h.NewLane(func() {})
	defer lane.End()
	touch := func(from, to int) {
		for i := from; i < to; i++ {
			done := make(chan *Result, 1)
			lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Resident", Key: fmt.Sprintf("customer-%09d", i)}, Method: method, Respond: func(r *Result) { done <- r }})
			if r := <-done; r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	touch(0, 1)
	before := heapInUse()
	touch(1, n)
	each := float64(heapInUse()-before)/(n-1) - float64(unsafe.Sizeof(resident{}))
	t.Logf("%.0f bytes of heap for each of %d quiet activations, beside the class's struct; object %d, activation %d (of it instance %d, state %d), overlay %d, entry %d", each, n,
		unsafe.Sizeof(object{}), unsafe.Sizeof(Activation{}), unsafe.Sizeof(instance{}), unsafe.Sizeof(actor.State{}), unsafe.Sizeof(overlay{}), unsafe.Sizeof(entry{}))
	if m := h.Metrics(); m.Activations != n {
		t.Errorf("%d activations", m.Activations)
	}
	if each > most {
		t.Errorf("more than %.0f bytes each", most)
	}
	// Nothing that is quiet keeps what only the busy need.
	quiet := func() (busy int) {
		s := h.shards[fakeShard].Load()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, o := range s.t.objects.byHash {
			if o.desk != noDesk || o.act.turns != noTurns {
				busy++
			}
		}
		return busy
	}
	if busy := quiet(); busy > 0 {
		t.Errorf("%d quiet objects have a desk or turns", busy)
	}
}

// TestObjectsThatShareAHash: objects of several classes under one key are in one chain, from which each can be taken.
func TestObjectsThatShareAHash(t *testing.T) {
	classes := []string{"A", "B", "C"}
	for _, first := range classes {
		for _, second := range classes {
			m, in := newObjects(), map[string]*object{}
			for _, c := range classes {
				in[c] = &object{id: actor.ID{Class: c, Key: "k"}}
				m.add(in[c])
			}
			for _, gone := range []string{first, second} {
				if o := in[gone]; o != nil {
					m.remove(o)
					m.remove(o) // is nothing
					delete(in, gone)
				}
			}
			for _, c := range classes {
				if got := m.find(actor.ID{Class: c, Key: "k"}); got != in[c] {
					t.Errorf("without %s and %s: %s is %v, want %v", first, second, c, got, in[c])
				}
			}
			if m.n != len(in) || m.find(actor.ID{Class: "A", Key: "other"}) != nil {
				t.Errorf("without %s and %s: %d objects", first, second, m.n)
			}
		}
	}
}

// TestMain checks after all tests that what stands for the empty desk, turns and overlay of all that is quiet was never written.
func TestMain(m *testing.M) {
	code := m.Run()
	if *noDesk != (desk{}) || *noTurns != (turns{}) || !reflect.DeepEqual(*noOverlay, overlay{}) {
		fmt.Printf("FAIL: what quiet objects share was written: %+v, %+v, %+v\n", *noDesk, *noTurns, *noOverlay)
		code = 1
	}
	os.Exit(code)
}

func heapInUse() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
