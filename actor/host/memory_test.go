package host

import (
	"context"
	"fmt"
	"log/slog"
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

// TestQuietActivationsAreSmall: what an activation costs that has answered and lies idle, beside the class's own struct: its name (18 bytes of a key), its
// place in the tables, its storage with one remembered value. The figures are those of the heap after a collection. The bound is a little above what it
// is, so that it cannot grow unnoticed.
func TestQuietActivationsAreSmall(t *testing.T) {
	const n, most = 20_000, 900
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
			lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Resident", Key: fmt.Sprintf("customer-%09d", i)}, Method: "Touch", Respond: func(r *Result) { done <- r }})
			if r := <-done; r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	touch(0, 1)
	before := heapInUse()
	touch(1, n)
	each := float64(heapInUse()-before)/(n-1) - float64(unsafe.Sizeof(resident{}))
	t.Logf("%.0f bytes of heap for each of %d quiet activations, beside the class's struct; object %d, activation %d, instance %d, state %d", each, n,
		unsafe.Sizeof(object{}), unsafe.Sizeof(Activation{}), unsafe.Sizeof(instance{}), unsafe.Sizeof(actor.State{}))
	if m := h.Metrics(); m.Activations != n {
		t.Errorf("%d activations", m.Activations)
	}
	if each > most {
		t.Errorf("more than %d bytes each", most)
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
