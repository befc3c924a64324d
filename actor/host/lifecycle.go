package host

// Reset: the event that runs on a panicked or aborted. The activation is thrown away with what the event wrote since its last
// Submit. Batches submitted before go on, they belong to earlier events (or to a Sync that this event was told has happened), and
// replies of earlier events stay at the gate: they saw nothing of this event. The reply of this one (an error) is held like any
// other, since it may tell of what is not yet applied. Waiting events go to a new activation, which sees the object's overlay.
func (t *Tenure) Reset(out []Action, a *Activation, e End) []Action {
	o, ev := a.o, t.stop(a)
	e.Writes = nil
	if t.lost {
		e.Denied = true
		return t.endedLost(out, a, ev, &e)
	}
	out = t.drop(out, a)
	out = t.hold(out, o, ev, &e)
	out = t.start(out, o)
	t.forget(o)
	return out
}

// Failed: the constructor of a failed before its first event. That event and all that wait with it get e.Reply, which is held like
// any other (the constructor may have read what is not yet applied). The next event tries again on a new activation.
func (t *Tenure) Failed(out []Action, a *Activation, e End) []Action {
	o, ev := a.o, t.stop(a)
	e.Writes = nil
	if t.lost {
		e.Denied = true
		return t.endedLost(out, a, ev, &e)
	}
	out = t.drop(out, a)
	round, after := ev.round, ev.after
	out = t.hold(out, o, ev, &e)
	for o.first != nil {
		ev = o.pop()
		ev.round, ev.after = round, after
		out = t.hold(out, o, ev, &e)
	}
	t.forget(o)
	return out
}

// Skip: the event that was started on a did not run, and its caller gets reply at once: nothing was computed that could be held.
func (t *Tenure) Skip(out []Action, a *Activation, reply any) []Action {
	o, ev := a.o, t.stop(a)
	o.answered(ev)
	out = append(out, Action{Kind: ActRespond, Event: ev, Reply: reply})
	if t.lost {
		return t.drop(out, a)
	}
	return t.rest(out, a)
}

// Discard throws a away if no event runs on it; else it does nothing and returns false.
func (t *Tenure) Discard(out []Action, a *Activation) ([]Action, bool) {
	if a.running != nil {
		return out, false
	}
	if a.o.act != a {
		return out, true
	}
	t.idle.remove(&a.node)
	out = t.drop(out, a)
	out = t.start(out, a.o)
	t.forget(a.o)
	return out, true
}

func (t *Tenure) drop(out []Action, a *Activation) []Action {
	a.o.act = nil
	t.activations--
	return append(out, Action{Kind: ActDrop, Activation: a})
}

// forget removes an object of which nothing is left.
func (t *Tenure) forget(o *object) {
	if o.act == nil && o.unanswered == 0 && o.dirty.first == nil && t.objects[o.id] == o {
		delete(t.objects, o.id)
		t.all.remove(&o.node)
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

// Drain: nothing is started any more; what waits in mailboxes is refused. What runs goes on, and replies still leave.
func (t *Tenure) Drain(out []Action) []Action {
	if t.draining || t.lost {
		return out
	}
	t.draining = true
	for n := t.all.first; n != nil; n = n.next {
		out = n.value.refuseQueued(out, WhyDraining)
	}
	return out
}

// Resume takes Drain back.
func (t *Tenure) Resume() { t.draining = false }

// EachRunning calls fn for the events that run.
func (t *Tenure) EachRunning(fn func(*Event)) {
	for n := t.all.first; n != nil; n = n.next {
		if a := n.value.act; a != nil && a.running != nil {
			fn(a.running)
		}
	}
}
