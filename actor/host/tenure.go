package host

import (
	"math"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// Tenure is one shard under one token, on its owner: the mailboxes of its objects, the writes that are not yet applied, and the gate
// behind which replies wait. It is a machine: not safe for concurrent use, no goroutines, no clock, and the same calls give the same
// actions. Methods append what is to be done to out; actions are done in order, ActSubmit and ActConfirm before the next call.
//
// Per object at most one event has the turn, that is runs (turn.go). The next is started when the one before has ended, though its writes
// are not yet applied: they are seen through the overlay. A reply is held until
//
//  1. all batches that the object had submitted when the event ended are applied, except those of unconfirmed writes alone, and
//  2. a confirming round begun after the event was started is answered, or a batch submitted after it was started is applied, or
//     the lease proved by the clock that the token was current after it was started (waived by Policy.AllowStaleReplies), and
//  3. the token is not lost.
type Tenure struct {
	token    store.Token
	lost     bool
	draining bool

	next    uint64 // newest batch submitted
	applied uint64
	batches queue[batch] // not yet applied

	round     uint64 // newest confirming round begun
	confirmed uint64
	wanted    held // with the round and the batch that the next round must be later than, if somebody wants one

	objects     objects
	busy        list[desk]       // of the objects that have one, in the order in which they got it: output never depends on a map's order
	idle        list[Activation] // those on which nothing is in progress, idle longest first
	desks       spare[desk]
	turns       spare[turns]
	held        list[held] // in the order of ending
	holding     int        // its length
	seq         uint64     // of the newest
	unproved    heldHeap   // of those, the ones whose batch is applied
	due         []*held    // of those, the ones that the current step lets out
	running     int        // events in progress
	tasks       int        // queued
	activations int
	tick        uint64
}

// Policy is what a class allows its objects. All figures are per object.
type Policy struct {
	Mailbox           int    // events delivered and not yet answered, held replies included
	MailboxBytes      int    // their bytes; an event for an object that has none is always taken
	HeldBytes         int    // bytes of held replies above which the next event is not started
	CacheBytes        int    // bytes of values kept in memory beside those not yet applied
	StorageLimit      int64  // bytes that it may store; 0: any number. The driver's
	IdleTicks         uint64 // ticks after which an idle activation is dropped
	MaxAge            uint64 // ticks that the first event of a mailbox may have waited when one more is taken; 0: for ever
	Window            int    // events taken per object in windowTicks ticks; 0: any number
	Interleaved       bool   // other events run while one is outside
	Reentrant         bool   // an event that an outside one waits for runs meanwhile; implied by Interleaved
	AllowStaleReplies bool   // replies do not wait for a confirmation, and one that touched nothing survives the loss of the token
}

// Activation is an object in memory. Another one takes its place after a reset; what was submitted stays with the object.
//
// There may be millions that are quiet. So what is needed only while something happens stands in pieces of their own, which are taken when it begins and
// given back when it is over: the turns of an activation, the desk of an object, the overlay of one that remembers nothing. Meanwhile the pointers lead
// to noTurns, noDesk and noOverlay, which are empty and can be read like any other, but not written: wake, open and remember come before that.
type Activation struct {
	instance instance // of who drives the Tenure, which does not look at it

	o     *object
	since uint64 // tick at which it became idle
	*turns
	node[Activation]
	gone    bool // dropped; events that are still in progress take turns, but neither write nor answer
	counted bool // in Host.live; the driver's
}

// Object is the object's ID.
func (a *Activation) Object() actor.ID { return a.o.id }

type object struct {
	id     actor.ID
	same   *object // another with the same hash
	policy *Policy
	act    *Activation // nil until the first event, and after a reset until the next

	window   uint32 // tick at which the present window of arrivals began, modulo 2³²
	arrivals uint32 // in it
	pos      uint64 // newest batch submitted
	gate     uint64 // newest that is waited for by what leaves: not one of unconfirmed writes alone
	*desk
	*overlay
}

// desk is where an object's events wait. It has one from the delivery of an event until all are answered and none is in progress.
type desk struct {
	mailbox    eventQueue
	inner      eventQueue // those that an event in progress waits for
	unanswered int        // events delivered and not yet answered
	free       int        // of those, the ones that count in no limit
	bytes      int        // of those, and of their held replies
	heldBytes  int        // of held replies
	at         node[desk]
	o          *object
}

var noDesk = new(desk)

// open sees that o has a desk.
func (t *Tenure) open(o *object) {
	if o.desk == noDesk {
		o.desk = t.desks.get()
		o.desk.o, o.desk.at.value = o, o.desk
		t.busy.pushBack(&o.desk.at)
	}
}

// tidy takes the desk of an object that needs none any more.
func (t *Tenure) tidy(o *object) {
	if d := o.desk; d != noDesk && d.unanswered == 0 && (o.act == nil || o.act.turns == noTurns) {
		t.busy.remove(&d.at)
		o.desk = noDesk
		*d = desk{}
		t.desks.put(d)
	}
}

type batch struct {
	pos     uint64
	o       *object
	waiting *held // the first of those who wait for it
}

// NewTenure begins the tenure of token. Nothing is submitted or asked under it yet.
func NewTenure(token store.Token) *Tenure {
	return &Tenure{token: token, objects: newObjects()}
}

// Token is the token under which everything here happens.
func (t *Tenure) Token() store.Token { return t.token }

// Deliver puts ev into its object's mailbox and starts it if nothing runs there. p must stay the same for all events of a class.
func (t *Tenure) Deliver(out []Action, ev *Event, p *Policy) []Action {
	o := t.objects.find(ev.Object)
	if why := t.refuses(o, ev, p); why != 0 {
		return append(out, Action{Kind: ActRefuse, Event: ev, Why: why, Outcome: actor.DidNotRun})
	}
	if o == nil {
		o = &object{id: ev.Object, policy: p, desk: noDesk, overlay: noOverlay}
		t.objects.add(o)
	}
	t.open(o)
	o.unanswered++
	o.bytes += ev.Bytes
	if ev.Free {
		o.free++
	} else {
		o.arrive(t.tick)
	}
	ev.since = t.tick
	if t.isInner(o, ev) {
		o.inner.push(ev)
	} else {
		o.mailbox.push(ev)
	}
	return t.start(out, o)
}

func (t *Tenure) refuses(o *object, ev *Event, p *Policy) Why {
	switch {
	case t.lost:
		return WhyMoved
	case t.draining && !(o != nil && t.isInner(o, ev)):
		return WhyDraining
	case o == nil || ev.Free || o.unanswered == o.free:
		return 0
	case o.unanswered-o.free >= p.Mailbox:
		return WhyCount
	case o.bytes+ev.Bytes > p.MailboxBytes:
		return WhyBytes
	case p.MaxAge > 0 && o.mailbox.first != nil && t.tick-o.mailbox.first.since > p.MaxAge:
		return WhyAge
	case p.Window > 0 && uint32(t.tick)-o.window < windowTicks && int(o.arrivals) >= p.Window:
		return WhyRate
	}
	return 0
}

// windowTicks is how long arrivals are counted together.
const windowTicks = 10

func (o *object) arrive(tick uint64) {
	if o.policy.Window <= 0 {
		return
	}
	if now := uint32(tick); now-o.window >= windowTicks || o.arrivals == 0 {
		o.window, o.arrivals = now, 0
	}
	if o.arrivals < math.MaxUint32 {
		o.arrivals++
	}
}

// End is how the code of an event ended.
type End struct {
	Writes []store.Write // taken over; what the event wrote since its last Submit
	// Unconfirmed: nothing that leaves waits for Writes.
	Unconfirmed bool
	Reply       any  // comes back with ActRespond
	Bytes       int  // size of Reply
	Touched     bool // storage was read or written, by whatever outcome
	Denied      bool // an access to storage was refused because the token is over
	Proved      bool // the lease was valid, by the clock, at some moment since the event was started
}

// Ended: the code of ev has returned.
func (t *Tenure) Ended(out []Action, ev *Event, e End) []Action {
	a, o := ev.a, ev.a.o
	out = t.stop(out, ev)
	switch {
	case ev.answered:
		return t.rest(out, a)
	case t.lost:
		return t.endedLost(out, ev, &e)
	}
	if len(e.Writes) > 0 {
		out = t.submit(out, o, e.Writes, !e.Unconfirmed)
	}
	if !ev.task {
		out = t.hold(out, o, ev, &e)
	}
	return t.rest(out, a)
}

// endedLost: nothing leaves a lost tenure but the reply of a class that allows it, of an event to which the loss made no difference.
func (t *Tenure) endedLost(out []Action, ev *Event, e *End) []Action {
	a := ev.a
	stale := a.o.policy.AllowStaleReplies && !e.Denied && len(e.Writes) == 0 && a.o.gate <= t.applied
	if stale || mutStaleRelease() {
		out = append(out, Action{Kind: ActRespond, Event: ev, Reply: e.Reply})
	} else {
		out = append(out, Action{Kind: ActRefuse, Event: ev, Why: WhyMoved, Outcome: actor.MayHaveRun})
	}
	if a.busy == 0 && !a.gone {
		return t.drop(out, a)
	}
	return t.rest(out, a)
}

// Submit: the event that runs on a commits what it wrote so far and goes on (before it waits for its writes, or calls out).
// It must not be called on a lost tenure.
func (t *Tenure) Submit(out []Action, a *Activation, writes []store.Write) []Action {
	return t.submit(out, a.o, writes, true)
}

// SubmitUnconfirmed is Submit for writes that nothing which leaves has to wait for.
func (t *Tenure) SubmitUnconfirmed(out []Action, a *Activation, writes []store.Write) []Action {
	return t.submit(out, a.o, writes, false)
}

func (t *Tenure) submit(out []Action, o *object, writes []store.Write, gates bool) []Action {
	t.next++
	if o.pos = t.next; gates {
		o.gate = t.next
	}
	t.batches.push(batch{pos: t.next, o: o})
	if len(writes) > 0 {
		o.remember()
	}
	for i := range writes {
		o.put(&writes[i], t.next)
	}
	return append(out, Action{Kind: ActSubmit, Activation: o.act, Writes: writes, Pos: t.next})
}

// Pos is the newest batch that the object of a has submitted.
func (t *Tenure) Pos(a *Activation) uint64 { return a.o.pos }

// Await: waiter goes on (ActWake) when all batches that the object of a has submitted are applied, or the token is lost.
func (t *Tenure) Await(out []Action, a *Activation, waiter any) []Action {
	return t.await(out, a.o, a.o.pos, waiter)
}

// AwaitGate is Await for what leaves: unconfirmed writes are not waited for.
func (t *Tenure) AwaitGate(out []Action, a *Activation, waiter any) []Action {
	return t.await(out, a.o, a.o.gate, waiter)
}

func (t *Tenure) await(out []Action, o *object, pos uint64, waiter any) []Action {
	switch {
	case t.lost:
		return append(out, Action{Kind: ActWake, Waiter: waiter, Why: WhyMoved})
	case t.applied >= pos:
		return append(out, Action{Kind: ActWake, Waiter: waiter})
	}
	t.enqueue(&held{o: o, pos: pos, free: true, waiter: waiter})
	return out
}

// Submitted is the newest batch.
func (t *Tenure) Submitted() uint64 { return t.next }

// Running is how many events are in progress: they have their activation's turn, or wait for it to come back.
func (t *Tenure) Running() int { return t.running }

// Activations is how many are in memory.
func (t *Tenure) Activations() int { return t.activations }

// Held is how many replies wait at the gate, those that Await included.
func (t *Tenure) Held() int { return t.holding }

// Quiet says that nothing runs, nothing is held and everything submitted is applied.
func (t *Tenure) Quiet() bool {
	return t.running == 0 && t.tasks == 0 && t.holding == 0 && (t.lost || t.applied == t.next)
}

// IsLost reports whether the token is over.
func (t *Tenure) IsLost() bool { return t.lost }
