package host

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// maxSections is how deep critical sections may be nested.
const maxSections = 64

// inside finds the running event of ctx, and brings it back if one of its goroutines is outside: storage is touched by who has the turn.
func (b *instance) inside(ctx context.Context) (*run, error) {
	var r *run
	if ctx != nil {
		r, _ = ctx.Value(runKey{}).(*run)
	}
	if r == nil || r.b != b {
		return nil, &actor.Error{Code: actor.CodeNotInEvent, Outcome: actor.Ran, Remote: true, Object: b.id()}
	}
	if r.out.Load() {
		if err := b.comeBack(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// push submits what r has written, once the lease has room for it, and has waiter hear when all of the object is applied. outward: r does it to
// go outside, where it may have effects; unconfirmed writes are not waited for then.
func (b *instance) push(ctx context.Context, r *run, waiter any, outward bool) error {
	for {
		space, err := b.submit(r, waiter, outward)
		if space == nil {
			return err
		}
		r.waits()
		if err := b.s.waitSpace(ctx.Done(), b.s.h.opts.CommitTimeout, space); err != nil {
			err.Reset, err.Object, err.Remote = false, b.id(), true
			return err
		}
	}
}

// submit makes a batch of what r has written and has waiter hear when it is applied. If the lease is too busy it returns what to wait for.
func (b *instance) submit(r *run, waiter any, outward bool) (space chan struct{}, _ error) {
	var buf acts
	s := b.s
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil, b.ended()
	}
	if err := r.within(textDurableInTx); err != nil {
		r.mu.Unlock()
		return nil, err
	}
	if outward || len(r.pending.writes) > 0 {
		r.begun()
	}
	s.mu.Lock()
	out := buf[:0]
	if ws := r.pending.writes; len(ws) > 0 && s.t.Broken(&r.Event) == 0 {
		var err error
		if out, err = s.commit(out, ws); err != nil {
			space = s.awaitSpace()
			s.mu.Unlock()
			r.mu.Unlock()
			return space, nil
		}
		if r.attempt != nil {
			r.attempt.noted = true
		}
		switch gates := r.pending.gates || r.attempt != nil; {
		case s.t.IsLost():
		case gates:
			out = s.t.Submit(out, b.a, r.pending.take())
		default:
			out = s.t.SubmitUnconfirmed(out, b.a, r.pending.take())
		}
	}
	switch why := s.t.Broken(&r.Event); {
	case why != 0:
		out = append(out, Action{Kind: ActWake, Waiter: waiter, Why: why})
	case outward:
		out = s.t.AwaitGate(out, b.a, waiter)
	default:
		out = s.t.Await(out, b.a, waiter)
	}
	s.settle(out)
	r.mu.Unlock()
	s.do(out)
	return nil, nil
}

// publish submits what r has written, if another event may come in while r is outside, and must see it.
func (b *instance) publish(ctx context.Context, r *run) error {
	r.mu.Lock()
	needless := len(r.pending.writes) == 0 && len(r.pending.marks) == 0 || r.out.Load() || !r.class.policy.Interleaved && !r.class.policy.Reentrant
	r.mu.Unlock()
	if needless {
		return nil
	}
	return b.push(ctx, r, make(chan Why, 1), false)
}

// settled waits until what was pushed is applied.
func (b *instance) settled(ctx context.Context, r *run, wait chan Why) error {
	r.waits()
	select {
	case why := <-wait:
		return b.refused(r, why)
	case <-ctx.Done():
		e := waited(b.id(), context.Cause(ctx), actor.Ran, "waiting for writes to be durable")
		e.Remote = true
		return e
	}
}

// refused is the error for an event that is told why it can do nothing any more; nil if it can.
func (b *instance) refused(r *run, why Why) error {
	switch why {
	case 0:
		return nil
	case WhyReset:
		return b.resetError()
	}
	return b.deny(r, nil)
}

func (b *instance) resetError() error {
	if f := b.broken.Load(); f != nil {
		return f.of(actor.Ran)
	}
	return &actor.Error{Code: actor.CodeAborted, Outcome: actor.Ran, Remote: true, Reset: true, Object: b.id(), Message: "the activation was reset"}
}

// leave gives the turn away, unless another goroutine of the event has.
func (b *instance) leave(r *run) {
	r.waits()
	var buf acts
	r.mu.Lock()
	if r.out.Load() || r.over {
		r.mu.Unlock()
		return
	}
	b.s.mu.Lock()
	r.out.Store(true)
	out := b.s.t.Yield(buf[:0], &r.Event)
	b.s.settle(out)
	r.mu.Unlock()
	b.s.do(out)
}

// comeBack waits for the turn. The wait has no end of its own: without the turn the event's code may not go on, not even to fail. All
// goroutines of the event share one request, and the turn.
func (b *instance) comeBack(r *run) error {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return b.ended()
	}
	if !r.out.Load() {
		r.mu.Unlock()
		return b.standing(r)
	}
	if r.back != nil {
		back := r.back
		r.mu.Unlock()
		r.waits()
		<-back
		return b.standing(r)
	}
	r.back = make(chan struct{})
	var buf acts
	wait := make(chan Why, 1)
	b.s.mu.Lock()
	out := b.s.t.Regain(buf[:0], &r.Event, wait)
	b.s.settle(out)
	r.mu.Unlock()
	b.s.do(out)
	why := <-wait
	r.mu.Lock()
	r.out.Store(false)
	close(r.back)
	r.back = nil
	r.mu.Unlock()
	return b.refused(r, why)
}

// standing is whether r, which has the turn, can still do anything.
func (b *instance) standing(r *run) error {
	b.s.mu.Lock()
	why := b.s.t.Broken(&r.Event)
	b.s.mu.Unlock()
	return b.refused(r, why)
}

// Await is of actor.Runtime.
func (b *instance) Await(ctx context.Context, fn func(context.Context) error) error {
	r, err := b.inside(ctx)
	if err != nil {
		return err
	}
	wait := make(chan Why, 1)
	if err := b.push(ctx, r, wait, true); err != nil {
		return err
	}
	b.leave(r)
	err = b.settled(ctx, r, wait)
	back := false
	defer func() {
		if !back { // fn panicked, or ended the goroutine: what is deferred in the method must not run beside another event
			_ = b.comeBack(r)
		}
	}()
	if err == nil {
		err = fn(away{ctx})
	}
	back = true
	if e := b.comeBack(r); e != nil {
		return errors.Join(e, err)
	}
	return err
}

// away is the context of what runs outside: it does not lead to the event.
type away struct{ context.Context }

func (a away) Value(key any) any {
	if key == (runKey{}) {
		return nil
	}
	return a.Context.Value(key)
}

// WaitUntil is of actor.Runtime.
func (b *instance) WaitUntil(fn func(context.Context) error) {
	r := &run{task: fn, s: b.s, class: b.s.h.classes[b.id().Class], call: &Call{Object: b.id(), Method: "WaitUntil"}}
	r.Event = Event{Object: b.id(), Data: r}
	var buf acts
	b.s.mu.Lock()
	gone := b.s.t.IsLost() || b.a.gone
	out, ok := b.s.t.Task(buf[:0], b.a, &r.Event)
	b.s.settle(out)
	b.s.do(out)
	switch {
	case gone:
		r.refuse(WhyReset, actor.DidNotRun, nil)
	case !ok:
		panic(&actor.Error{Code: actor.CodeOverloaded, Outcome: actor.Ran, Overloaded: true, Object: b.id(), Message: "WaitUntil: more than 1,024 tasks of the object wait to begin"})
	}
}

// BlockConcurrency is of actor.Runtime.
func (b *instance) BlockConcurrency(ctx context.Context, fn func(context.Context) error) error {
	r, err := b.inside(ctx)
	if err != nil {
		return err
	}
	err = b.section(r, func() error { return fn(ctx) })
	if e := (*deep)(nil); errors.As(err, &e) {
		return e.error
	}
	if err != nil {
		e := actor.Returned(err)
		e.Reset, e.Retryable, e.Object = true, false, b.id()
		b.abandon(&fatal{err: e, all: true})
	}
	return nil
}

// deep refuses a section, which was not entered.
type deep struct{ error }

// section runs fn while no other event can run, and resets the activation if that takes too long. The error is fn's.
func (b *instance) section(r *run, fn func() error) error {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return &deep{b.ended()}
	}
	if r.depth >= maxSections {
		r.mu.Unlock()
		return &deep{&actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Remote: true, Object: b.id(), Message: textNested}}
	}
	r.depth++
	r.mu.Unlock()
	b.s.mu.Lock()
	b.s.t.Pin(&r.Event)
	b.s.mu.Unlock()
	timer := time.AfterFunc(b.s.h.opts.SectionTimeout, func() {
		e := &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.Ran, Remote: true, Overloaded: true, Reset: true, Object: b.id(), Message: textSection}
		b.timeUp(e, true)
	})
	defer func() {
		timer.Stop()
		r.mu.Lock()
		r.depth--
		r.mu.Unlock()
		var buf acts
		b.s.mu.Lock()
		out := b.s.t.Unpin(buf[:0], &r.Event)
		b.s.settle(out)
		b.s.do(out)
	}()
	return fn()
}

// Abort is of actor.Runtime.
func (b *instance) Abort(reason error) {
	text := textAbort
	if reason != nil {
		text = reason.Error()
	}
	e := &actor.Error{Code: actor.CodeAborted, Outcome: actor.Ran, Remote: true, Reset: true, Message: text, Object: b.id()}
	b.abandon(&fatal{err: e.WithCause(reason)})
}

// abandon ends the calling goroutine, and with it the event whose code it is; the activation is reset when that has unwound, so that nothing of
// the next one runs beside it. A goroutine that the event has started ends alone; the reset comes with the event's end.
func (b *instance) abandon(f *fatal) {
	b.broken.CompareAndSwap(nil, f)
	var buf acts
	b.s.mu.Lock()
	out, _ := b.s.t.Discard(buf[:0], b.a) // if no event is in progress, a goroutine that outlived its event has called
	b.s.settle(out)
	b.s.do(out)
	runtime.Goexit()
}

// timeUp throws the activation away although an event on it does not end: all in progress are answered with err, and, if all is set, those that wait.
func (b *instance) timeUp(err *actor.Error, all bool) {
	f := &fatal{err: err, all: all}
	if !b.broken.CompareAndSwap(nil, f) {
		return
	}
	var buf acts
	var runs []*run
	s := b.s
	s.mu.Lock()
	if !b.a.gone {
		for p := b.a.progress.first; p != nil; p = p.next {
			runs = append(runs, p.value.Data.(*run))
		}
		s.h.counts.resets.Add(1)
	}
	running := f.of(actor.Ran)
	if len(runs) > 1 { // which of them it was nobody knows; the others are cut off half-way
		running = f.of(actor.MayHaveRun)
	}
	out := s.alarmReset(buf[:0], b.a, running)
	var queued any
	if all {
		queued = &Result{Err: f.of(actor.DidNotRun)}
	}
	out = s.t.Break(out, b.a, &Result{Err: running}, queued)
	s.settle(out)
	s.do(out)
	for _, r := range runs {
		r.cancel()
	}
}
