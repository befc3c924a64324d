package host

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// Lane runs events on the goroutine that delivers them: an event that can begin at once, and is over soon, costs no change of goroutines then.
// There is one for each connection, used by the goroutine whose turn it is to read there. What runs may turn out to wait, or to take long;
// then the lane is told to go on without it (yield). So that this stays rare a method is run so only as long as it is quick (pace).
type Lane struct {
	h       *Host
	yield   func()
	running atomic.Pointer[run] // on the goroutine whose turn it is
	used    atomic.Bool         // since the last look
	seen    *run                // running at the last look; the watcher's
}

// NewLane makes a lane; End forgets it. yield is called while Deliver runs an event that waits, or runs for long, so that what comes behind
// it is delivered, in order, by another goroutine. It may come from any goroutine, more than once, and late.
func (h *Host) NewLane(yield func()) *Lane {
	l := &Lane{h: h, yield: yield}
	h.watch.mu.Lock()
	defer h.watch.mu.Unlock()
	h.watch.lanes[l] = struct{}{}
	return l
}

// End forgets the lane. An event may still run on it.
func (l *Lane) End() {
	l.h.watch.mu.Lock()
	defer l.h.watch.mu.Unlock()
	delete(l.h.watch.lanes, l)
}

// Deliver is Host.Deliver, but runs the event before it returns if it can begin at once and its method is a quick one.
func (l *Lane) Deliver(s ring.ShardID, c *Call) {
	a, r := l.h.accept(s, c)
	switch {
	case r == nil:
	case r.method == nil || !r.method.pace.quick():
		l.h.spawn(a, r)
	default:
		l.run(a, r)
	}
}

// run runs one event; another goroutine goes on with what follows it in the same mailbox.
func (l *Lane) run(a *Activation, r *run) {
	r.lane.Store(l)
	l.running.Store(r)
	if !l.used.Load() {
		l.used.Store(true)
		l.h.watch.begin()
	}
	defer l.running.CompareAndSwap(r, nil) // the code may end the goroutine
	began := time.Now()
	r.a = a
	next, follows := r.s.end(r, r.exec())
	if r.lane.Swap(nil) != nil {
		r.method.pace.took(time.Since(began))
	}
	if follows != nil {
		l.h.spawn(next, follows)
	}
}

// waits is called before an event waits for anything: whoever delivers events behind it goes on without it.
func (r *run) waits() {
	if r.lane.Load() == nil {
		return
	}
	if l := r.lane.Swap(nil); l != nil {
		r.method.pace.waited()
		l.yield()
	}
}

// pace is how long a method's events take, as its lanes have seen it, in nanoseconds: a moving average.
type pace struct{ mean atomic.Int64 }

const (
	// paceQuick is what is run on a lane: little more than handing it over would cost.
	paceQuick = 20 * time.Microsecond
	// paceMost bounds what one event counts for: it may have been the processor that was taken away.
	paceMost = 200 * time.Microsecond
	// paceWaited is what an event counts for that waited. So its method is tried again after some 200 calls.
	paceWaited = 4 * time.Millisecond
	// paceShare: an event counts for one of so many.
	paceShare = 8
)

// quick reports whether the method's events run on lanes. One that is not quick is forgiven a little with each event, so it is tried again.
func (p *pace) quick() bool {
	mean := p.mean.Load()
	if mean < int64(paceQuick) {
		return true
	}
	p.mean.Store(mean - mean/32) // races only lose some of this
	return false
}

func (p *pace) took(d time.Duration) {
	mean := p.mean.Load()
	p.mean.Store(mean + (int64(min(d, paceMost))-mean)/paceShare)
}

func (p *pace) waited() { p.mean.Store(int64(paceWaited)) }

// watch looks after lanes: code that sleeps, or computes, does not say that it does.
type watch struct {
	mu    sync.Mutex
	lanes map[*Lane]struct{}
	awake atomic.Bool
	wake  chan struct{}
	done  chan struct{}
}

func (w *watch) init() {
	w.lanes, w.wake, w.done = make(map[*Lane]struct{}), make(chan struct{}, 1), make(chan struct{})
}

// watchTick is how often lanes are looked at while they are used: an event that is still running then, one look after, is told to wait aside.
const watchTick = 2 * time.Millisecond

// watchRest is after how many looks at unused lanes nobody looks any more until one is used.
const watchRest = 3

// begin: a lane is used.
func (w *watch) begin() {
	if !w.awake.Load() && w.awake.CompareAndSwap(false, true) {
		w.wake <- struct{}{} // has room for one, and nobody else sends while it is awake
	}
}

// keep looks after lanes until stop.
func (w *watch) keep(stop <-chan struct{}) {
	defer close(w.done)
	for {
		select {
		case <-w.wake:
		case <-stop:
			return
		}
		tick := time.NewTicker(watchTick)
		for idle := 0; idle < watchRest; idle++ {
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				return
			}
			if w.look() {
				idle = 0
			}
		}
		tick.Stop()
		w.awake.Store(false)
		if w.look() { // used between the last look and now, when nobody would have woken us
			w.begin()
		}
	}
}

// look makes lanes go on without events that have run since the last look, and reports whether a lane is used.
func (w *watch) look() (used bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.lanes {
		r := l.running.Load()
		if l.used.Load() || r != nil {
			used = true
			l.used.Store(false)
		}
		if r != nil && r == l.seen {
			r.waits()
		}
		l.seen = r
	}
	return used
}
