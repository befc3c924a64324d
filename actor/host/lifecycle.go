package host

import "github.com/ringfence/ringfence/actor"

// Reset: ev panicked or aborted. The activation is thrown away with what the event wrote since its last Submit. Batches submitted before go
// on, they belong to earlier events (or to a Sync that this event was told has happened), and replies of earlier events stay at the
// gate: they saw nothing of this event. The reply of this one (an error) is held like any other, since it may tell of what is not
// yet applied. Other events in progress get the reply others. Waiting events get queued if that is not nil, and else go to a new
// activation, which sees the object's overlay.
func (t *Tenure) Reset(out []Action, ev *Event, e End, others, queued any) []Action {
	a, o := ev.a, ev.a.o
	out = t.stop(out, ev)
	e.Writes = nil
	switch {
	case ev.answered:
		return t.rest(out, a)
	case t.lost:
		e.Denied = true
		return t.endedLost(out, ev, &e)
	}
	out = t.drop(out, a)
	if !ev.task {
		out = t.hold(out, o, ev, &e)
	}
	out = t.answerAll(out, a, others)
	if queued != nil {
		out = t.failQueued(out, o, &End{Reply: queued, Proved: e.Proved}, ev.round, ev.after)
	}
	return t.renew(out, a)
}

// Failed: the constructor of ev's activation failed before its first event. That event and all that wait with it get e.Reply, which is
// held like any other (the constructor may have read what is not yet applied). The next event tries again on a new activation.
func (t *Tenure) Failed(out []Action, ev *Event, e End) []Action {
	a, o := ev.a, ev.a.o
	out = t.stop(out, ev)
	e.Writes = nil
	switch {
	case ev.answered:
		return t.rest(out, a)
	case t.lost:
		e.Denied = true
		return t.endedLost(out, ev, &e)
	}
	out = t.drop(out, a)
	round, after := ev.round, ev.after
	if !ev.task {
		out = t.hold(out, o, ev, &e)
	}
	out = t.answerAll(out, a, e.Reply)
	out = t.failQueued(out, o, &e, round, after)
	return t.renew(out, a)
}

// Break throws a away though no event of it ends: those in progress are answered with running, and go on without effect. Those that wait are
// answered with queued if that is not nil, and else go to a new activation.
func (t *Tenure) Break(out []Action, a *Activation, running, queued any) []Action {
	if a.gone || t.lost {
		return out
	}
	round, after := t.round, t.next
	out = t.drop(out, a)
	out = t.answerAll(out, a, running)
	if queued != nil {
		out = t.failQueued(out, a.o, &End{Reply: queued}, round, after)
	}
	return t.renew(out, a)
}

// answerAll holds reply for all events in progress on a that have none yet.
func (t *Tenure) answerAll(out []Action, a *Activation, reply any) []Action {
	for n := a.progress.first; n != nil; n = n.next {
		ev := n.value
		if ev.answered {
			continue
		}
		ev.answered = true
		if !ev.task {
			out = t.hold(out, a.o, ev, &End{Reply: reply})
		}
	}
	return out
}

func (t *Tenure) failQueued(out []Action, o *object, e *End, round, after uint64) []Action {
	for _, q := range []*eventQueue{&o.inner, &o.mailbox} {
		for q.first != nil {
			ev := q.pop()
			ev.round, ev.after = round, after
			out = t.hold(out, o, ev, e)
		}
	}
	return out
}

// renew goes on after a was dropped: with the events on it that are in progress, and with the object on a new activation.
func (t *Tenure) renew(out []Action, a *Activation) []Action {
	out = t.advance(out, a)
	out = t.start(out, a.o)
	t.forget(a.o)
	return out
}

// Skip: ev was started but its code was not entered, and its caller gets reply at once: nothing was computed that could be held.
func (t *Tenure) Skip(out []Action, ev *Event, reply any) []Action {
	a := ev.a
	out = t.stop(out, ev)
	if !ev.task && !ev.answered {
		a.o.answered(ev)
		out = append(out, Action{Kind: ActRespond, Event: ev, Reply: reply})
	}
	if t.lost && a.busy == 0 && !a.gone {
		return t.drop(out, a)
	}
	return t.rest(out, a)
}

// Discard throws a away if no event of it is in progress; else it does nothing and returns false.
func (t *Tenure) Discard(out []Action, a *Activation) ([]Action, bool) {
	if a.busy > 0 {
		return out, false
	}
	if a.gone {
		return out, true
	}
	return t.renew(t.drop(out, a), a), true
}

// forget takes an object's desk when it needs none any more, and removes an object of which nothing is left.
func (t *Tenure) forget(o *object) {
	if t.lost { // which has forgotten them all
		return
	}
	t.tidy(o)
	if o.act == nil && o.unanswered == 0 && o.dirty.first == nil {
		t.objects.remove(o)
	}
}

func (t *Tenure) evictable(a *Activation) bool { return a.o.unanswered == 0 && a.o.dirty.first == nil }

// Tick lets time pass by one tick: activations that were idle for longer than their policy's IdleTicks are dropped.
func (t *Tenure) Tick(out []Action) []Action {
	t.tick++
	for n := t.idle.first; n != nil; {
		a := n.value
		n = n.next
		if t.tick-a.since > a.o.policy.IdleTicks && t.evictable(a) {
			out, _ = t.Discard(out, a)
		}
	}
	return out
}

// Evict drops the activation that was idle longest, of those of which nothing is unapplied or held. ok is false if there is none.
func (t *Tenure) Evict(out []Action) (_ []Action, ok bool) {
	for n := t.idle.first; n != nil; n = n.next {
		if t.evictable(n.value) {
			return t.Discard(out, n.value)
		}
	}
	return out, false
}

// EvictObject is Evict for one object.
func (t *Tenure) EvictObject(out []Action, id actor.ID) (_ []Action, ok bool) {
	o := t.objects.find(id)
	if o == nil || o.act == nil || !t.evictable(o.act) {
		return out, false
	}
	return t.Discard(out, o.act)
}

// Active reports whether an object has an activation.
func (t *Tenure) Active(id actor.ID) bool {
	o := t.objects.find(id)
	return o != nil && o.act != nil
}

// Drain: nothing is started any more; what waits in mailboxes is refused. What runs goes on, and replies still leave.
func (t *Tenure) Drain(out []Action) []Action {
	if t.draining || t.lost {
		return out
	}
	t.draining = true
	for n := t.busy.first; n != nil; {
		o := n.value.o
		n = n.next
		out = o.refuseQueued(out, WhyDraining)
		t.forget(o)
	}
	return out
}

// Resume takes Drain back.
func (t *Tenure) Resume() { t.draining = false }

// EachRunning calls fn for the events in progress, but not those of activations that were dropped.
func (t *Tenure) EachRunning(fn func(*Event)) {
	for n := t.busy.first; n != nil; n = n.next {
		if a := n.value.o.act; a != nil {
			for p := a.progress.first; p != nil; p = p.next {
				fn(p.value)
			}
		}
	}
}
