package host

import "github.com/ringfence/ringfence/actor"

// held is a reply at the gate, or something else that waits for batches (then waiter is set and ev is nil).
type held struct {
	ev     *Event
	o      *object
	pos    uint64 // must be applied
	round  uint64 // a later round must be confirmed,
	after  uint64 // or a later batch applied,
	free   bool   // unless this is set
	reply  any
	bytes  int
	waiter any
}

// hold puts the reply of ev at the gate, lets it through if nothing is missing, and else sees that what is missing is under way.
func (t *Tenure) hold(out []Action, o *object, ev *Event, e *End) []Action {
	h := held{ev: ev, o: o, pos: o.pos, round: ev.round, after: ev.after, reply: e.Reply, bytes: e.Bytes,
		free: o.policy.AllowStaleReplies || mutNoConfirm()}
	if mutMemoryReadsNotHeld() && !e.Touched {
		h.pos = 0
	}
	if mutReplyAtPropose() {
		h.pos, h.free = 0, h.free || o.pos > h.after
	}
	if t.ready(&h) {
		return t.respond(out, &h)
	}
	o.heldBytes += h.bytes
	o.bytes += h.bytes
	t.held = append(t.held, h)
	if t.needsRound(&h) {
		return t.confirm(out)
	}
	return out
}

func (t *Tenure) ready(h *held) bool {
	return t.applied >= h.pos && (h.free || t.confirmed > h.round || t.applied > h.after)
}

// needsRound: neither a round nor a batch that would do is under way.
func (t *Tenure) needsRound(h *held) bool { return !h.free && t.round <= h.round && t.next <= h.after }

// confirm begins a round, or sees that one is begun when the one under way is answered.
func (t *Tenure) confirm(out []Action) []Action {
	if t.round > t.confirmed {
		t.wanted = true
		return out
	}
	t.wanted = false
	t.round++
	return append(out, Action{Kind: ActConfirm, Round: t.round})
}

// respond lets h out, which is not (or no longer) in the list.
func (t *Tenure) respond(out []Action, h *held) []Action {
	if h.ev == nil {
		return append(out, Action{Kind: ActWake, Waiter: h.waiter})
	}
	h.o.answered(h.ev)
	return append(out, Action{Kind: ActRespond, Event: h.ev, Reply: h.reply})
}

func (o *object) answered(ev *Event) {
	o.unanswered--
	o.bytes -= ev.Bytes
}

// release lets out what became ready, in the order of ending.
func (t *Tenure) release(out []Action) []Action {
	kept := 0
	for i := range t.held {
		h := &t.held[i]
		if !t.ready(h) {
			if kept != i {
				t.held[kept] = *h
			}
			kept++
			continue
		}
		o := h.o
		o.heldBytes -= h.bytes
		o.bytes -= h.bytes
		out = t.respond(out, h)
		out = t.start(out, o) // what held replies kept back in the mailbox
		t.forget(o)
	}
	clear(t.held[kept:])
	t.held = t.held[:kept]
	return out
}

// Applied: all batches up to and including pos are applied on the owner.
func (t *Tenure) Applied(out []Action, pos uint64) []Action {
	if t.lost || pos <= t.applied || pos > t.next {
		return out
	}
	t.applied = pos
	for t.batches.len() > 0 && t.batches.front().pos <= pos {
		b := t.batches.pop()
		b.o.settle(b.pos, b.o.policy.CacheBytes)
		t.forget(b.o)
	}
	return t.release(out)
}

// Confirmed: confirming round n, and all before it, are answered.
func (t *Tenure) Confirmed(out []Action, n uint64) []Action {
	if t.lost || n <= t.confirmed || n > t.round {
		return out
	}
	t.confirmed = n
	out = t.release(out)
	if !t.wanted || t.round > t.confirmed {
		return out
	}
	t.wanted = false
	for i := range t.held {
		if t.needsRound(&t.held[i]) {
			return t.confirm(out)
		}
	}
	return out
}

// Lost: the token is over. Replies at the gate are refused, since nobody knows whether what they depend on takes effect; what waits
// in mailboxes did not run. Events that run are refused when they end.
func (t *Tenure) Lost(out []Action) []Action {
	if t.lost {
		return out
	}
	t.lost = true
	for i := range t.held {
		h := &t.held[i]
		switch {
		case h.ev == nil:
			out = append(out, Action{Kind: ActWake, Waiter: h.waiter, Why: WhyMoved})
		case mutStaleRelease():
			out = append(out, Action{Kind: ActRespond, Event: h.ev, Reply: h.reply})
		default:
			out = append(out, Action{Kind: ActRefuse, Event: h.ev, Why: WhyMoved, Outcome: actor.MayHaveRun})
		}
	}
	t.held, t.batches, t.idle, t.objects = nil, queue[batch]{}, list[Activation]{}, nil
	for n := t.all.first; n != nil; n = n.next {
		o := n.value
		out = o.refuseQueued(out, WhyMoved)
		o.overlay = overlay{}
		if o.act != nil && o.act.running == nil {
			out = t.drop(out, o.act)
		}
	}
	t.all = list[object]{}
	return out
}

func (o *object) refuseQueued(out []Action, why Why) []Action {
	for o.first != nil {
		ev := o.pop()
		o.answered(ev)
		out = append(out, Action{Kind: ActRefuse, Event: ev, Why: why, Outcome: actor.DidNotRun})
	}
	return out
}
