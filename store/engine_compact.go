package store

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactionPoll is how often a compaction that was refused is offered its turn, beside the times at which another one ends.
const compactionPoll = 100 * time.Millisecond

// compactions lets as many compactions run at once as Pebble allows by itself. Unlike Pebble's own scheduler it has no ticker that goes on for
// ever: it looks again only while a compaction waits that was refused, so a node that does nothing is not woken for it.
type compactions struct {
	db   pebble.DBForCompaction // set before anything else is called
	poke chan struct{}          // something may be granted now; room for one
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	running int
	over    bool
}

func newCompactions() *compactions {
	return &compactions{poke: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
}

// Register implements pebble.CompactionScheduler.
func (c *compactions) Register(_ int, db pebble.DBForCompaction) {
	c.db = db
	go c.run()
}

// Unregister implements pebble.CompactionScheduler. It waits until nothing is granted any more.
func (c *compactions) Unregister() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	close(c.stop)
	<-c.done
}

// TrySchedule implements pebble.CompactionScheduler.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if c.take() {
		return true, c
	}
	c.UpdateGetAllowedWithoutPermission()
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (c *compactions) UpdateGetAllowedWithoutPermission() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// take takes a place among those that run, if one is free.
func (c *compactions) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.running >= c.db.GetAllowedWithoutPermission() {
		return false
	}
	c.running++
	return true
}

func (c *compactions) give() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
}

// run grants what waits: when it is poked, and again and again while something cannot be granted yet.
func (c *compactions) run() {
	defer close(c.done)
	t := time.NewTimer(compactionPoll)
	t.Stop()
	for {
		select {
		case <-c.poke:
		case <-t.C:
		case <-c.stop:
			t.Stop()
			return
		}
		if c.grant() {
			t.Reset(compactionPoll)
		}
	}
}

// grant lets waiting compactions run, and reports whether one still waits.
func (c *compactions) grant() (waiting bool) {
	for {
		if waiting, _ := c.db.GetWaitingCompaction(); !waiting {
			return false
		}
		if !c.take() {
			return true
		}
		if !c.db.Schedule(c) {
			c.give()
			return false
		}
	}
}

// Started, MeasureCPU, CumulativeStats and Done implement pebble.CompactionGrantHandle.
func (c *compactions) Started()                                          {}
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}

func (c *compactions) Done() {
	c.give()
	c.UpdateGetAllowedWithoutPermission()
}
