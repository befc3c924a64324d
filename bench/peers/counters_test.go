package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bench"
)

// memory is a store of keys and values in which others write too.
type memory struct {
	mu     sync.Mutex
	values map[int]int64
	revs   map[int]int64
	sets   int
	fault  func(set int) (before, after error) // what happens to a set, by its number
	other  func(m *memory, object int)         // called before each set, with the lock held
}

func newMemory() *memory { return &memory{values: map[int]int64{}, revs: map[int]int64{}} }

func (m *memory) set(_ context.Context, _, object int, value, rev int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets++
	var before, after error
	if m.fault != nil {
		before, after = m.fault(m.sets)
	}
	if before != nil {
		return 0, before
	}
	if m.other != nil {
		m.other(m, object)
	}
	if m.revs[object] != rev {
		return 0, errConflict
	}
	m.values[object], m.revs[object] = value, m.revs[object]+1
	return m.revs[object], after
}

func (m *memory) get(_ context.Context, _, object int) (int64, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[object], m.revs[object], nil
}

// memoryTarget drives cells on a memory.
type memoryTarget struct {
	m *memory
	c *cells
	// off is added to what is read back.
	off int64
}

func (t *memoryTarget) Do(ctx context.Context, op bench.Op) error { return t.c.increment(ctx, t.m, op) }
func (t *memoryTarget) Close() error                              { return nil }
func (t *memoryTarget) Verify(ctx context.Context, told *bench.Tally) (*bench.Check, error) {
	return checkCounts(ctx, told, "they add up", func(ctx context.Context, i int) (int64, error) {
		v, _, err := t.m.get(ctx, 0, i)
		return v + t.off, err
	})
}

func driveMemory(t *testing.T, target *memoryTarget) *bench.Result {
	t.Helper()
	r, err := bench.Drive(t.Context(), target, bench.Load{Callers: 16, Objects: 4, Window: 50 * time.Millisecond}, bench.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Increments by compare-and-set add up whatever else is written, and whatever an error leaves unknown.
func TestCells(t *testing.T) {
	down := errors.New("the store is down")
	for name, m := range map[string]*memory{
		"alone": newMemory(),
		"others write": {values: map[int]int64{}, revs: map[int]int64{}, other: func(m *memory, object int) {
			if rand.IntN(4) == 0 {
				m.revs[object]++ // the same value once more
			}
		}},
		"errors before": {values: map[int]int64{}, revs: map[int]int64{}, fault: func(n int) (error, error) { return when(n%10 == 0, down), nil }},
		"errors after":  {values: map[int]int64{}, revs: map[int]int64{}, fault: func(n int) (error, error) { return nil, when(n%10 == 0, down) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := driveMemory(t, &memoryTarget{m: m, c: newCells()})
			if !r.Check.OK || r.Check.Acknowledged == 0 {
				t.Errorf("check: %v", r.Check)
			}
			if faulty := m.fault != nil; (r.Check.MayHaveRun > 0) != faulty {
				t.Errorf("%d may have run", r.Check.MayHaveRun)
			}
		})
	}
}

func when(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

// A count that is off is noticed, in both directions.
func TestCountsThatDoNotAddUp(t *testing.T) {
	for _, off := range []int64{-1, 1} {
		if r := driveMemory(t, &memoryTarget{m: newMemory(), c: newCells(), off: off}); r.Check.OK {
			t.Errorf("off by %d: %v", off, r.Check)
		}
	}
}

// Who waits for a key's turn stops when its time is over.
func TestCellWait(t *testing.T) {
	c := newCells()
	<-c.of(0).turn
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.increment(ctx, newMemory(), bench.Op{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
