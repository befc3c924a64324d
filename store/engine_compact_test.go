package store

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactor plays the database of a scheduler: how many compactions may run, wait and run.
type compactor struct {
	mu                      sync.Mutex
	allowed, waiting, asked int
	running                 []pebble.CompactionGrantHandle
	declines                bool
}

func (f *compactor) GetAllowedWithoutPermission() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allowed
}

func (f *compactor) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.waiting > 0, pebble.WaitingCompaction{}
}

func (f *compactor) Schedule(h pebble.CompactionGrantHandle) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.declines {
		return false
	}
	f.waiting--
	f.running = append(f.running, h)
	return true
}

func (f *compactor) set(change func()) (asked int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	asked, f.asked = f.asked, 0
	return asked
}

func TestCompactionsRunWhenTheyMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := &compactor{allowed: 1}, newCompactions()
		c.Register(1, f)
		ok, first := c.TrySchedule()
		if !ok {
			t.Fatal("the first was refused")
		}
		f.set(func() { f.waiting = 2 })
		if ok, _ := c.TrySchedule(); ok {
			t.Fatal("two run where one may")
		}
		time.Sleep(10 * compactionPoll)
		if asked := f.set(func() {}); len(f.running) != 0 || asked < 9 {
			t.Fatalf("%d run, %d looks", len(f.running), asked)
		}
		first.Done()
		synctest.Wait()
		f.set(func() {
			if len(f.running) != 1 || f.waiting != 1 {
				t.Errorf("one has ended: %d run, %d wait", len(f.running), f.waiting)
			}
			f.allowed = 2
		})
		time.Sleep(2 * compactionPoll) // nobody says that more are allowed
		f.set(func() {
			if len(f.running) != 2 || f.waiting != 0 {
				t.Errorf("more are allowed: %d run, %d wait", len(f.running), f.waiting)
			}
		})
		for _, h := range f.running {
			h.Done()
		}
		f.set(func() { f.waiting, f.declines = 1, true })
		c.UpdateGetAllowedWithoutPermission()
		synctest.Wait()
		if ok, _ := c.TrySchedule(); !ok {
			t.Error("a place that was declined is not free")
		}
		f.set(func() { f.waiting = 0 })
		time.Sleep(time.Hour)
		if asked := f.set(func() {}); asked > 0 {
			t.Errorf("looked %d times though nothing waits", asked)
		}
		c.Unregister()
		if ok, _ := c.TrySchedule(); ok {
			t.Error("granted after the end")
		}
	})
}
