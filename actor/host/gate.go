package host

import (
	"cmp"
	"slices"

	"github.com/ringfence/ringfence/actor"
)

// held is a reply at the gate, or something else that waits for batches (then waiter is set and ev is nil). Its list is in the order of
// ending. Beside that it stands in one of two places: first with the batch that must be applied; then, if only proof is missing that the token
// was current, in Tenure.unproved.
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

	seq  uint64 // of ending
	also *held  // waits for the same batch
	node[held]
}

// hold puts the reply of ev at the gate, lets it through if nothing is missing, and else sees that what is missing is under way.
func (t *Tenure) hold(out []Action, o *object, ev *Event, e *End) []Action {
	h := &ev.held
	*h = held{ev: ev, o: o, pos: o.gate, round: ev.round, after: ev.after, reply: e.Reply, bytes: e.Bytes,
		free: o.policy.AllowStaleReplies || e.Proved || mutNoConfirm()}
	if mutMemoryReadsNotHeld() && !e.Touched {
		h.pos = 0
	}
	if mutReplyAtPropose() {
		h.pos, h.free = 0, h.free || o.pos > h.after
	}
	if t.applied >= h.pos && t.proved(h) {
		return t.respond(out, h)
	}
	o.heldBytes += h.bytes
	o.bytes += h.bytes
	t.enqueue(h)
	if t.needsRound(h) {
		return t.confirm(out, h)
	}
	return out
}

// enqueue lets h wait for what it needs.
func (t *Tenure) enqueue(h *held) {
	t.seq++
	h.seq, h.node.value = t.seq, h
	t.held.pushBack(&h.node)
	t.holding++
	if t.applied >= h.pos {
		t.unproved.push(h)
		return
	}
	b := t.batches.at(int(h.pos - t.applied - 1))
	h.also, b.waiting = b.waiting, h
}

// proved: the token was current at some time after the event was started.
func (t *Tenure) proved(h *held) bool {
	return h.free || t.confirmed > h.round || t.applied > h.after
}

// needsRound: neither a round nor a batch that would do is under way.
func (t *Tenure) needsRound(h *held) bool { return !h.free && t.round <= h.round && t.next <= h.after }

// confirm begins a round for h, or sees that one is begun when the one under way is answered.
func (t *Tenure) confirm(out []Action, h *held) []Action {
	if t.round > t.confirmed {
		// Of all who want a round the one that started last is remembered: what does for it does for the others.
		t.wanted.round, t.wanted.after = max(t.wanted.round, h.round), max(t.wanted.after, h.after)
		return out
	}
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
	if ev.Free {
		o.free--
	}
	o.bytes -= ev.Bytes
}

// release lets out what is due, and what has become proved, in the order of ending.
func (t *Tenure) release(out []Action) []Action {
	for len(t.unproved) > 0 && t.proved(t.unproved[0]) {
		t.due = append(t.due, t.unproved.pop())
	}
	if len(t.due) > 1 {
		slices.SortFunc(t.due, func(a, b *held) int { return cmp.Compare(a.seq, b.seq) })
	}
	for _, h := range t.due {
		o := h.o
		t.held.remove(&h.node)
		t.holding--
		if h.ev != nil {
			o.heldBytes -= h.bytes
			o.bytes -= h.bytes
		}
		out = t.respond(out, h)
		out = t.start(out, o) // what held replies kept back in the mailbox
		t.forget(o)
	}
	clear(t.due)
	t.due = t.due[:0]
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
		if b.o.settle(b.pos, b.o.policy.CacheBytes); b.o.count == 0 {
			b.o.overlay = noOverlay
		}
		for h := b.waiting; h != nil; {
			next := h.also
			h.also = nil
			if t.proved(h) {
				t.due = append(t.due, h)
			} else {
				t.unproved.push(h)
			}
			h = next
		}
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
	if w := &t.wanted; w.round > 0 && t.confirmed == t.round && t.needsRound(w) {
		out = t.confirm(out, w)
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
	for n := t.held.first; n != nil; n = n.next {
		h := n.value
		switch {
		case h.ev == nil:
			out = append(out, Action{Kind: ActWake, Waiter: h.waiter, Why: WhyMoved})
		case mutStaleRelease():
			out = append(out, Action{Kind: ActRespond, Event: h.ev, Reply: h.reply})
		default:
			out = append(out, Action{Kind: ActRefuse, Event: h.ev, Why: WhyMoved, Outcome: actor.MayHaveRun})
		}
	}
	t.held, t.holding, t.unproved, t.batches, t.objects = list[held]{}, 0, nil, queue[batch]{}, objects{}
	for n := t.busy.first; n != nil; n = n.next {
		o := n.value.o
		out = o.refuseQueued(out, WhyMoved)
		o.overlay = noOverlay
		if a := o.act; a != nil {
			if out = t.dropTasks(out, a, WhyMoved); a.busy == 0 {
				out = t.drop(out, a)
			}
		}
	}
	for t.idle.first != nil {
		a := t.idle.first.value
		a.o.overlay = noOverlay
		out = t.drop(out, a)
	}
	t.busy = list[desk]{}
	return out
}

func (o *object) refuseQueued(out []Action, why Why) []Action {
	for _, q := range []*eventQueue{&o.inner, &o.mailbox} {
		for q.first != nil && (why != WhyDraining || q == &o.mailbox) {
			ev := q.pop()
			o.answered(ev)
			out = append(out, Action{Kind: ActRefuse, Event: ev, Why: why, Outcome: actor.DidNotRun})
		}
	}
	return out
}
