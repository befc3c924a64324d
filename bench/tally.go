package bench

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
)

// Tally is what callers were told of their writes, object by object, from the first operation on, warm-up included.
type Tally struct {
	acked  []atomic.Uint32 // by object; of Load.Fresh nil
	issued atomic.Int64    // of Load.Fresh: objects that were written to
	ok     atomic.Int64
	maybe  atomic.Int64

	mu     sync.Mutex
	doubts map[int]int64 // failed writes that may have run, by object
	failed map[int]bool  // of Load.Fresh: objects whose write was not acknowledged
}

func newTally(l Load) *Tally {
	t := &Tally{doubts: map[int]int64{}, failed: map[int]bool{}}
	if !l.Fresh {
		t.acked = make([]atomic.Uint32, l.Objects)
	}
	return t
}

// note takes the outcome of one write.
func (t *Tally) note(object int, err error) {
	if t.acked == nil {
		t.issued.Add(1)
	}
	if err == nil {
		t.ok.Add(1)
		if t.acked != nil {
			t.acked[object].Add(1)
		}
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed[object] = true
	if mayHaveRun(err) {
		t.maybe.Add(1)
		t.doubts[object]++
	}
}

// Objects is how many there are to look at: Load.Objects, or with Load.Fresh those that were written to.
func (t *Tally) Objects() int {
	if t.acked == nil {
		return int(t.issued.Load())
	}
	return len(t.acked)
}

// Acked is how many writes of an object were acknowledged.
func (t *Tally) Acked(object int) int64 {
	if t.acked != nil {
		return int64(t.acked[object].Load())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed[object] {
		return 0
	}
	return 1
}

// InDoubt is how many failed writes of an object may have run.
func (t *Tally) InDoubt(object int) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.doubts[object]
}

// Total is both for all objects together.
func (t *Tally) Total() (acked, inDoubt int64) { return t.ok.Load(), t.maybe.Load() }

func mayHaveRun(err error) bool {
	e, ok := errors.AsType[*actor.Error](err)
	return !ok || e.Outcome != actor.DidNotRun
}
