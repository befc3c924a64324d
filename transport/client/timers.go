package client

import (
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// timerLists is over how many lists the calls of a client are spread, so that their locks are not in the way.
const timerLists = 8

// timerList ends calls whose context has no deadline when Options.Timeout is over. That is the same time for all of them: they stand in the
// order in which they end, and one timer, for the first, does for all.
type timerList struct {
	mu          sync.Mutex
	first, last *call
	timer       *time.Timer
	armed       bool
}

// timed is the part of a call that its list works with.
type timed struct {
	list           *timerList // nil: not in one, and never was
	out            bool       // of the list again
	earlier, later *call
}

func (l *timerList) add(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.list, c.earlier = l, l.last
	if l.last != nil {
		l.last.later = c
	} else {
		l.first = c
	}
	l.last = c
	if !l.armed {
		l.arm()
	}
}

// remove takes a call out, which is complete.
func (l *timerList) remove(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlink(c)
}

func (l *timerList) unlink(c *call) {
	if c.out {
		return
	}
	c.out = true
	if c.earlier != nil {
		c.earlier.later = c.later
	} else {
		l.first = c.later
	}
	if c.later != nil {
		c.later.earlier = c.earlier
	} else {
		l.last = c.earlier
	}
	c.earlier, c.later = nil, nil
}

// arm sets the timer for the first call. Calls that end meanwhile leave it as it is. Called with the lock.
func (l *timerList) arm() {
	d := time.Until(l.first.deadline)
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.fire)
	} else {
		l.timer.Reset(d)
	}
	l.armed = true
}

// fire ends the calls whose time is over.
func (l *timerList) fire() {
	var over []*call
	l.mu.Lock()
	now := time.Now()
	for l.first != nil && !now.Before(l.first.deadline) {
		over = append(over, l.first)
		l.unlink(l.first)
	}
	if l.armed = false; l.first != nil {
		l.arm()
	}
	l.mu.Unlock()
	for _, c := range over {
		c.ref.giveUp(c, actor.CodeDeadline)
	}
}

func (l *timerList) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}
