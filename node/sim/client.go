package sim

import (
	"time"
)

// opKind is what a call does.
type opKind uint8

const (
	opIncrement  opKind        = iota // read from storage, write the next
	opBlind                           // write the next of what the activation remembers, without a read
	opRead                            // read from storage
	opMemoryRead                      // answer from the activation's memory
	opEcho                            // touch nothing of the object
	opStale                           // memory reads and writes of an object whose class allows stale replies
	opOnce                            // increment, with an idempotency key: sent again until it is answered
	opAlarm                           // increment, and set the object's alarm
	clientKinds                       // of calls
	opRing       = clientKinds        // an alarm
	opKinds      = opRing + 1
)

var opKindNames = [opKinds]string{"increment", "blind write", "stored read", "memory read", "echo", "call where replies may be stale", "idempotent increment", "increment that sets an alarm", "alarm"}

func (k opKind) writes() bool {
	return k == opIncrement || k == opBlind || k == opOnce || k == opAlarm || k == opRing
}

// request is a call on its way: what a node is asked to run.
type request struct {
	op      uint64
	kind    opKind
	group   int           // of the shard
	object  int           // within the shard
	wait    time.Duration // the event waits this long in the middle
	answer  func(answer)
	arrived time.Duration
}

// answer is what a node says of a request.
type answer struct {
	outcome Outcome // Open means: may have run
	version Version
	hint    int   // node to try, -1 if unknown
	failed  bool  // the method panicked: an answer, but nothing was written
	stored  int64 // of an alarm that was not due: when it is; 0: it is not set
}

// client calls in a closed loop: one call at a time, each operation once, sent again only if it did not run.
type client struct {
	w       *world
	id      int
	group   int // of the shard that it calls; 0: any
	guess   []int
	op      int // index into w.ops of the call under way, -1 if none
	tries   int
	request request

	inFlight bool // sent, not answered
	maybe    bool // sent before, and perhaps it ran: only of idempotent calls
}

func newClient(w *world, id, group int) *client {
	c := &client{w: w, id: id, group: group, op: -1, guess: make([]int, len(w.models))}
	for i := range c.guess {
		c.guess[i] = w.pick(len(w.nodes))
	}
	c.think()
	return c
}

func (c *client) think() {
	think := c.w.cfg.Profile.Think
	if c.group > 0 { // it only asks whether a shard serves
		think *= 5
	}
	c.w.after(time.Duration(c.w.rng.ExpFloat64()*float64(think)), c.call)
}

func (c *client) call() {
	w := c.w
	if w.now >= w.stop {
		return
	}
	group := c.group
	if group == 0 {
		group = w.aShard()
	}
	r := request{op: uint64(len(w.ops)) + 1, kind: w.drawKind(), group: group, object: w.pick(objects)}
	if r.kind == opStale {
		r.object = objects
	}
	if c.group > 0 {
		r.object = w.pick(objects)
		r.kind = []opKind{opRead, opIncrement}[w.pick(2)]
	} else if w.chance(w.cfg.Profile.LongEvents) {
		w.stats.Long++
		r.wait = time.Duration(w.rng.ExpFloat64() * float64(timing.Election()))
	}
	c.op, c.tries, c.maybe = len(w.ops), 0, false
	w.ops = append(w.ops, Op{ID: r.op, Object: objectOf(group, min(r.object, objects-1)), Write: r.kind.writes(), Echo: r.kind == opEcho || r.kind == opStale, Call: w.now})
	w.kinds = append(w.kinds, r.kind)
	op := c.op
	r.answer = func(a answer) { c.answered(op, a) }
	c.request = r
	w.trace("call", r.op, uint64(r.kind), uint64(objectOf(group, r.object)))
	w.after(w.cfg.Profile.Timeout, func() { c.timeout(op) })
	c.send()
	if r.kind == opOnce {
		c.sendAgain(op)
	}
}

// objectOf numbers the objects of all shards.
func objectOf(group, object int) int { return (group-1)*objects + object }

// aShard draws a shard's group; most calls go to few shards, so that they meet.
func (w *world) aShard() int {
	if w.chance(0.8) {
		return 1 + w.pick(min(hotShards, w.groups-1))
	}
	return 1 + w.pick(w.groups-1)
}

const hotShards = 4

func (w *world) drawKind() opKind {
	if w.chance(w.cfg.Profile.Reads) {
		return opMemoryRead
	}
	switch p := w.rng.Float64(); {
	case p < 0.24:
		return opIncrement
	case p < 0.31:
		return opOnce
	case p < 0.35:
		return opAlarm
	case p < 0.45:
		return opBlind
	case p < 0.65:
		return opRead
	case p < 0.92:
		return opMemoryRead
	case p < 0.96:
		return opStale
	}
	return opEcho
}

func (w *world) callDelay() time.Duration { return w.between(100*time.Microsecond, time.Millisecond) }

// send tries the node that the client believes to own the shard. Requests and answers get lost as messages do.
func (c *client) send() {
	w := c.w
	r := c.request
	to := c.guess[r.group]
	if w.faulty(wrongHint) && w.chance(w.cfg.Profile.Wander) {
		w.count(wrongHint)
		to = w.pick(len(w.nodes))
	}
	back := r.answer
	c.inFlight = true
	r.answer = func(a answer) {
		if w.faulty(drop) && w.chance(w.net.loss/4) {
			return
		}
		w.after(w.callDelay(), func() { back(a) })
	}
	if w.faulty(drop) && w.chance(w.net.loss/4) {
		return
	}
	w.after(w.callDelay(), func() {
		n := w.nodes[to]
		if !n.up {
			if n.name == 0 || w.now >= w.calm || w.chance(0.8) { // connection refused; otherwise nobody answers at all
				r.answer(answer{outcome: DidNotRun, hint: -1})
			}
			return
		}
		r.arrived = w.now
		n.do(n.inc, func() { n.receive(r) })
	})
}

// sendAgain sends an idempotent call once more that is not answered yet: the first may run at the same time, or later.
func (c *client) sendAgain(op int) {
	w := c.w
	w.after(w.between(timing.Election()/2, 3*timing.Election()), func() {
		if c.op != op || w.now >= w.stop {
			return
		}
		if c.inFlight {
			c.maybe = true
			w.stats.Again++
			w.trace("sent again", uint64(op), 0, 0)
			c.guess[c.request.group] = w.pick(len(w.nodes))
			c.send()
		}
		c.sendAgain(op)
	})
}

// answered ends the call, or sends it again if it did not run.
func (c *client) answered(op int, a answer) {
	if c.op != op {
		return // timed out before: it stays open
	}
	w := c.w
	c.inFlight = false
	o := &w.ops[op]
	switch a.outcome {
	case Ran:
		if a.failed && c.maybe { // this try did nothing; another may have
			w.trace("panicked", o.ID, 1, 0)
			break
		}
		if a.failed {
			o.Outcome = DidNotRun
			w.trace("panicked", o.ID, 0, 0)
			break
		}
		o.Outcome, o.Return, o.Number = Ran, w.now, a.version.Number
		if !o.Write {
			o.Seen = a.version.Op
		}
		w.trace("answered", o.ID, a.version.Number, a.version.Op)
		w.acknowledged(c, o)
	case DidNotRun:
		c.retry(a.hint)
		return
	default:
		if c.request.kind == opOnce {
			c.maybe = true
			c.retry(-1)
			return
		}
		w.stats.MayHaveRun++
		w.trace("may have run", o.ID, 0, 0)
	}
	c.op = -1
	c.think()
}

func (c *client) retry(hint int) {
	w := c.w
	c.tries++
	w.stats.Refused++
	switch {
	case w.faulty(wrongHint) && w.chance(0.3):
		w.count(wrongHint)
		c.guess[c.request.group] = w.pick(len(w.nodes))
	case hint >= 0:
		c.guess[c.request.group] = hint
	default:
		c.guess[c.request.group] = w.pick(len(w.nodes))
	}
	op := c.op
	w.after(w.between(time.Millisecond, min(time.Duration(c.tries)*10*time.Millisecond, 100*time.Millisecond)), func() {
		if c.op == op {
			c.send()
		}
	})
}

// timeout gives a call up. If its last try was refused it did not run; otherwise nobody knows.
func (c *client) timeout(op int) {
	if c.op != op {
		return
	}
	c.w.stats.TimedOut++
	if !c.inFlight && !c.maybe {
		c.w.ops[op].Outcome = DidNotRun
	}
	c.w.trace("timed out", c.w.ops[op].ID, 0, 0)
	c.guess[c.request.group] = c.w.pick(len(c.w.nodes))
	c.op = -1
	c.think()
}
