package host

import "github.com/ringfence/ringfence/actor"

// turns is who may run on an activation. One event at a time has the turn. It gives it away while it waits for something outside (Yield), and
// asks for it again afterwards (Regain): whatever else happens, the class's memory is touched by one event at a time, also on an activation that
// was dropped, where events in progress run to their end.
//
// While an event is outside, another may begin
//   - in an interleaved class, unless some event is in a critical section (Pin);
//   - if it is the answer to a call on whose way this object stands already (Event.Inner), and the class is interleaved or reentrant: the event
//     that is outside waits for it.
//
// In all other classes the next event begins when none is in progress.
type turns struct {
	turn     *Event // who runs; nil if all that are in progress are outside
	progress list[Event]
	ready    eventQueue // those that are back from outside and want the turn
	tasks    eventQueue // the activation's own
	busy     int32      // length of progress
	pinned   int32      // of those, the ones in a critical section
	queued   int32      // length of tasks
	tasked   bool       // the last to begin was a task: it is a caller's turn
}

var noTurns = new(turns)

// wake sees that a has turns, before something is to be in progress or to wait there.
func (t *Tenure) wake(a *Activation) {
	if a.turns == noTurns {
		a.turns = t.turns.get()
	}
}

// calm takes the turns of an activation on which nothing is in progress, and its object's desk if nobody needs that.
func (t *Tenure) calm(a *Activation) {
	if x := a.turns; x != noTurns && x.busy == 0 && x.queued == 0 && x.turn == nil && x.ready.first == nil {
		a.turns = noTurns
		*x = turns{}
		t.turns.put(x)
	}
	if !t.lost {
		t.tidy(a.o)
	}
}

// maxTasks is how many tasks of an activation may wait to begin.
const maxTasks = 1024

// isInner: ev must be let in while events are in progress, or those would wait for ever.
func (t *Tenure) isInner(o *object, ev *Event) bool {
	return ev.Inner && (o.policy.Reentrant || o.policy.Interleaved) && o.act != nil && o.act.busy > 0
}

// start gives the turn of the object's activation, if it is free, to who is next: an event that comes back from outside, else a new one.
func (t *Tenure) start(out []Action, o *object) []Action {
	a := o.act
	if a != nil {
		if a.turn != nil {
			return out
		}
		if ev := a.returning(); ev != nil {
			return t.grant(out, ev)
		}
	}
	ev := t.pick(o)
	if ev == nil {
		return out
	}
	if a = o.act; a == nil {
		a = &Activation{o: o, turns: noTurns}
		a.node.value = a
		o.act = a
		t.activations++
	}
	t.idle.remove(&a.node)
	t.wake(a)
	ev.round, ev.after = t.round, t.next
	if mutJoinEarlierRound() && t.round > t.confirmed {
		ev.round--
	}
	ev.a, a.turn = a, ev
	ev.progress.value = ev
	a.progress.pushBack(&ev.progress)
	a.busy++
	t.running++
	return append(out, Action{Kind: ActStart, Activation: a, Event: ev})
}

// pick takes the next event that may begin, of an object whose activation has no turn given out.
func (t *Tenure) pick(o *object) *Event {
	if t.lost {
		return nil
	}
	a := o.act
	if o.inner.first != nil {
		return o.inner.pop()
	}
	if a != nil {
		if a.busy > 0 && (a.pinned > 0 || !o.policy.Interleaved) {
			return nil
		}
		if a.tasks.first != nil && !(a.tasked && o.mailbox.first != nil && !t.draining) {
			a.tasked = true
			a.queued--
			t.tasks--
			return a.tasks.pop()
		}
		if a.tasked { // of turns that can be written
			a.tasked = false
		}
	}
	if o.mailbox.first == nil || t.draining || o.heldBytes > o.policy.HeldBytes {
		return nil
	}
	return o.mailbox.pop()
}

// returning takes the next event that may have the turn back. During a critical section that is who is in it, and who they wait for.
func (a *Activation) returning() *Event {
	if a.ready.first == nil {
		return nil
	}
	return a.ready.take(func(ev *Event) bool { return a.pinned == 0 || a.gone || ev.pins > 0 || ev.Inner })
}

func (t *Tenure) grant(out []Action, ev *Event) []Action {
	ev.a.turn = ev
	w := ev.waiter
	ev.waiter = nil
	return append(out, Action{Kind: ActWake, Waiter: w, Why: t.Broken(ev)})
}

// Broken is why an event in progress can neither write nor answer any more; 0 if it can.
func (t *Tenure) Broken(ev *Event) Why {
	switch {
	case t.lost:
		return WhyMoved
	case ev.a.gone:
		return WhyReset
	}
	return 0
}

// Yield: ev waits for something outside and gives its turn away. It must have submitted what it wrote.
func (t *Tenure) Yield(out []Action, ev *Event) []Action {
	if ev.a.turn != ev {
		return out
	}
	ev.a.turn = nil
	return t.advance(out, ev.a)
}

// Regain: ev, which has yielded, goes on (ActWake with waiter) when it has the turn again. Why then says whether it can still do anything.
func (t *Tenure) Regain(out []Action, ev *Event, waiter any) []Action {
	ev.waiter = waiter
	if ev.a.turn == ev {
		return t.grant(out, ev)
	}
	t.wake(ev.a)
	ev.a.ready.push(ev)
	return t.advance(out, ev.a)
}

// advance gives the turn of a on, if it is free.
func (t *Tenure) advance(out []Action, a *Activation) []Action {
	if !a.gone {
		return t.start(out, a.o)
	}
	if a.turn == nil {
		if ev := a.returning(); ev != nil {
			return t.grant(out, ev)
		}
	}
	return out
}

// Pin begins a critical section of ev: until Unpin no event begins, and none that is outside goes on, but those that ev waits for.
func (t *Tenure) Pin(ev *Event) {
	if ev.pins++; ev.pins == 1 {
		t.wake(ev.a)
		ev.a.pinned++
	}
}

// Unpin ends what Pin began.
func (t *Tenure) Unpin(out []Action, ev *Event) []Action {
	if ev.pins == 0 { // the event has ended, and its sections with it
		return out
	}
	if ev.pins--; ev.pins == 0 {
		ev.a.pinned--
	}
	return t.advance(out, ev.a)
}

// Task queues an event that the activation gives itself: it begins before the next call, even if the shard is being drained, and nobody
// is answered. It ends with the activation. ok is false if that is over, or too many wait.
func (t *Tenure) Task(out []Action, a *Activation, ev *Event) (_ []Action, ok bool) {
	if t.lost || a.gone || a.queued >= maxTasks {
		return out, false
	}
	ev.task = true
	t.open(a.o)
	t.wake(a)
	a.tasks.push(ev)
	a.queued++
	t.tasks++
	return t.start(out, a.o), true
}

// stop notes that ev is no longer in progress; rest goes on with what waits for its activation, or lets that lie idle.
func (t *Tenure) stop(out []Action, ev *Event) []Action {
	a := ev.a
	if a.turn == ev {
		a.turn = nil
	} else if a.ready.take(func(e *Event) bool { return e == ev }) != nil {
		// Its code has ended although one of its goroutines waits for the turn.
		out = append(out, Action{Kind: ActWake, Waiter: ev.waiter, Why: WhyReset})
	}
	if ev.pins > 0 {
		ev.pins = 0
		a.pinned--
	}
	a.progress.remove(&ev.progress)
	a.busy--
	t.running--
	return out
}

func (t *Tenure) rest(out []Action, a *Activation) []Action {
	out = t.advance(out, a)
	if a.busy == 0 && !a.gone && !t.lost {
		a.since = t.tick
		t.idle.pushBack(&a.node)
	}
	t.calm(a)
	return out
}

// drop takes the activation from its object. Its tasks are off; events in progress go on alone.
func (t *Tenure) drop(out []Action, a *Activation) []Action {
	a.gone = true
	t.idle.remove(&a.node)
	if a.o.act == a {
		a.o.act = nil
		t.activations--
	}
	out = t.dropTasks(out, a, WhyReset)
	t.calm(a)
	return append(out, Action{Kind: ActDrop, Activation: a})
}

func (t *Tenure) dropTasks(out []Action, a *Activation, why Why) []Action {
	for a.tasks.first != nil {
		t.tasks--
		a.queued--
		out = append(out, Action{Kind: ActRefuse, Event: a.tasks.pop(), Why: why, Outcome: actor.DidNotRun})
	}
	return out
}
