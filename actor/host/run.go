package host

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// run is a call on its way through the host. It also is the context that the method is given: one that costs nothing until
// somebody waits for its end.
type run struct {
	Event
	call   *Call
	class  *class
	method *method
	task   func(context.Context) error // instead of a method: what WaitUntil was given
	alarm  *ringing                    // instead of a method: the object's alarm
	s      *shard
	lane   atomic.Pointer[Lane] // while a goroutine that delivers events runs it
	a      *Activation
	b      *instance // nil until the activation has one
	res    Result

	proved  bool        // the lease proved by the clock, at the start, that the token was current
	touched atomic.Bool // storage was used
	denied  atomic.Bool // and refused it

	out atomic.Bool // the event is outside: it has given its turn away

	mu          sync.Mutex
	over        bool          // the code has returned: storage is closed to it
	back        chan struct{} // while a goroutine of the event asks for the turn: closed when it is there
	depth       int           // of critical sections
	attempt     *attempt      // nil unless it has an idempotency key and its method was entered
	pending     pending
	unconfirmed bool            // what the event has written at its end gates nothing
	inner       context.Context // made by the first Done
	cancel2     context.CancelFunc
}

// ending is how the code of an event ended.
type ending uint8

const (
	returned  ending = iota + 1 // by itself, with or without an error
	skipped                     // the code was not entered
	unborn                      // the constructor failed, or aborted
	resetting                   // a panic, an Abort, or writes that could not be submitted
)

func (r *run) fail(e ending, err *actor.Error) ending {
	if err.Object.IsZero() {
		err.Object = r.Object
	}
	if e == unborn {
		err.Outcome = actor.DidNotRun // whatever happened, it was not the method
	}
	r.res = Result{Err: err}
	return e
}

// exec runs the code of the event. If the code ends its goroutine (Abort does), exec does not return; another goroutine goes on.
func (r *run) exec() (e ending) {
	done := false
	defer func() {
		if done {
			return
		}
		kind := resetting
		if r.b == nil || !r.b.born.Load() {
			kind = unborn
		}
		if p := recover(); p != nil {
			e = r.fail(kind, r.panicked(p))
			return
		}
		e = r.fail(kind, &actor.Error{Code: actor.CodeAborted, Outcome: actor.Ran, Remote: true, Reset: true, Message: "the class's code ended its goroutine"})
		go func() {
			if a, next := r.s.end(r, e); next != nil {
				r.s.h.spawn(a, next)
			}
		}()
	}()
	e = r.body()
	done = true
	return e
}

func (r *run) panicked(p any) *actor.Error {
	stack := debug.Stack()
	r.s.h.log.Error("the class's code panicked; the object is reset", "object", r.Object.String(), "method", r.call.Method, "panic", p, "stack", string(stack))
	return &actor.Error{Code: actor.CodePanic, Outcome: actor.Ran, Remote: true, Reset: true, Message: fmt.Sprintf("the object's code panicked: %v", p)}
}

func (r *run) body() ending {
	h, enc := r.s.h, actor.Encoding(r.call.Encoding)
	if err := r.begin(); err != nil {
		return r.fail(skipped, err)
	}
	if r.alarm != nil {
		if over, due := r.alarmDue(); !due {
			return over
		}
	}
	var arg actor.Arg
	if r.method != nil {
		var bad *actor.Error
		if arg, bad = r.method.Decode(enc, r.call.Arg, h.opts.Skim); bad != nil {
			return r.fail(skipped, bad)
		}
	}
	h.counts.started.Add(1)
	defer h.counts.ended.Add(1)
	if r.a.instance.s == nil {
		if err := r.construct(); err != nil {
			return r.fail(unborn, err)
		}
		if r.expired() { // what the constructor wrote stays, as does the activation
			return r.fail(returned, r.late())
		}
	}
	if r.b = &r.a.instance; !r.b.born.Load() { // the constructor waits for a call that comes back
		return r.fail(skipped, r.call.cycle())
	}
	if r.task != nil {
		if err := r.task(r); err != nil {
			h.log.Warn("a task of WaitUntil failed", "object", r.Object.String(), "cause", err)
		}
		return returned
	}
	if r.call.Visit != nil {
		if err := r.call.Visit(r, r.b.object.Value()); err != nil {
			return r.fail(returned, actor.Returned(err))
		}
		return returned
	}
	if r.call.Idempotent != "" {
		if e, ok := r.recall(); ok {
			return e
		}
	}
	if r.alarm != nil {
		return r.ring()
	}
	value, enc, err := r.method.Call(r, r.b.object, arg, enc)
	if err != nil {
		return r.fail(returned, actor.Returned(err))
	}
	r.res = Result{Encoding: uint8(enc), Value: value}
	return returned
}

// begin decides whether the event may start now.
func (r *run) begin() *actor.Error {
	h := r.s.h
	if r.expired() {
		return r.late()
	}
	if r.s.over.Load() {
		return h.elsewhere(r.Object, moving)
	}
	if r.s.lease.Valid() {
		r.proved = r.s.lease.Proves()
		return nil
	}
	r.waits()
	err := r.s.lease.Check(r)
	var why *store.MovedError
	switch {
	case err == nil:
		r.proved = r.s.lease.Proves()
		return nil
	case errors.As(err, &why):
		r.s.lose(why)
		return h.elsewhere(r.Object, moving)
	}
	return waited(r.Object, err, actor.DidNotRun, "waiting for the owner's lease")
}

func (r *run) expired() bool { return !r.call.Deadline.IsZero() && !time.Now().Before(r.call.Deadline) }

// remaining is how long the event may wait for its batch to be taken.
func (r *run) remaining() time.Duration {
	limit := r.s.h.opts.CommitTimeout
	if !r.call.Deadline.IsZero() {
		limit = min(limit, time.Until(r.call.Deadline))
	}
	return limit
}

func (r *run) late() *actor.Error {
	return refused(actor.CodeDeadline, r.Object, "the deadline passed before the event could start")
}

// construct makes the activation's instance, in a critical section: no event is let in before it is there. The constructor is not bound by the
// deadline of the call that happens to come first.
func (r *run) construct() *actor.Error {
	h := r.s.h
	b := &r.a.instance
	r.b = b
	r.s.mu.Lock()
	b.s, b.a = r.s, r.a
	r.s.t.Pin(&r.Event)
	r.s.mu.Unlock()
	actor.InitState(&b.state, actor.StateConfig{Backend: b, Runtime: b})
	object, err := r.class.New(construction{r}, &b.state)
	if err == nil {
		if e := b.broken.Load(); e != nil {
			err = e
		}
	}
	if err != nil {
		e := &actor.Error{Code: actor.CodeConstructor, Outcome: actor.DidNotRun, Remote: true, Reset: true, Object: r.Object}
		e.Message = fmt.Sprintf("the constructor of %s failed: %v", r.Object.Class, err)
		return e.WithCause(err)
	}
	var buf acts
	r.s.mu.Lock()
	b.object = object
	b.born.Store(true)
	if !r.a.gone {
		r.a.counted = true
		if h.live.Add(1) > int64(h.opts.MaxActivations) {
			select {
			case h.crowd <- struct{}{}:
			default:
			}
		}
	}
	out := r.s.t.Unpin(buf[:0], &r.Event)
	r.s.settle(out)
	r.s.do(out)
	return nil
}

// seal closes storage to the event's code and takes what it has written, with what is to be remembered of it.
func (r *run) seal(e ending) []store.Write {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.cancel2 != nil {
		r.cancel2()
	}
	r.unconfirmed = !r.pending.gates && r.attempt == nil && r.alarm == nil
	ws := r.pending.take()
	if e == returned {
		ws = r.remember(ws)
	}
	return ws
}

func (r *run) cancel() {
	r.Done()
	r.cancel2()
}

// respond answers the caller. The result may be shared with other events whose constructor failed with this one's.
func (r *run) respond(res *Result) {
	if r.alarm != nil {
		r.alarmAnswered()
		return
	}
	h := r.s.h
	if res != &r.res { // which the event's code may be about to write, if it was reset meanwhile
		shared := *res
		if res = &shared; res.Err != nil {
			e := *res.Err
			res.Err = &e
		}
	}
	if res.Err != nil {
		if res.Err.Outcome == actor.DidNotRun {
			h.counts.refused.Add(1)
		} else {
			h.counts.failed.Add(1)
		}
	}
	r.answer(res)
}

// refuse answers the caller with why the Tenure refused the event.
func (r *run) refuse(why Why, o actor.Outcome, lost *store.MovedError) {
	h := r.s.h
	if r.alarm != nil {
		r.alarmRefused()
		return
	}
	if r.task != nil {
		h.log.Warn("a task of WaitUntil was dropped with its activation", "object", r.Object.String(), "reason", why.String())
		return
	}
	var err *actor.Error
	switch {
	case o != actor.DidNotRun:
		err = moved(r.Object, r.s.lease, lost)
		h.counts.lost.Add(1)
	case why == WhyCount:
		err = overloaded(r.Object, textCount)
	case why == WhyBytes:
		err = overloaded(r.Object, textBytes)
	case why == WhyAge:
		err = overloaded(r.Object, textAge)
	case why == WhyRate:
		err = overloaded(r.Object, textRate)
	default:
		err = h.elsewhere(r.Object, moving)
	}
	if o == actor.DidNotRun {
		h.counts.refused.Add(1)
	}
	r.answer(&Result{Err: err})
}

func (r *run) answer(res *Result) {
	r.s.h.bytes.Add(-int64(r.Bytes))
	res.Epoch, res.Token = uint64(r.s.lease.Epoch()), uint64(r.s.lease.Token())
	if e := res.Err; e != nil && e.Token == 0 {
		e.Epoch, e.Token = res.Epoch, res.Token
	}
	r.call.Respond(res)
}

// The methods of context.Context.

type runKey struct{}

func (r *run) Deadline() (time.Time, bool) { return r.call.Deadline, !r.call.Deadline.IsZero() }

func (r *run) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inner == nil {
		if r.call.Deadline.IsZero() {
			r.inner, r.cancel2 = context.WithCancel(context.Background())
		} else {
			r.inner, r.cancel2 = context.WithDeadline(context.Background(), r.call.Deadline)
		}
		if r.over {
			r.cancel2()
		}
	}
	return r.inner.Done()
}

func (r *run) Err() error {
	r.mu.Lock()
	inner, over := r.inner, r.over
	r.mu.Unlock()
	switch {
	case inner != nil:
		return inner.Err()
	case r.expired():
		return context.DeadlineExceeded
	case over:
		return context.Canceled
	}
	return nil
}

func (r *run) Value(key any) any {
	if key == (runKey{}) {
		return r
	}
	return nil
}

// AfterFunc spares the context package a goroutine per derived context.
func (r *run) AfterFunc(f func()) (stop func() bool) {
	r.Done()
	return context.AfterFunc(r.inner, f)
}

// construction is the context of a constructor.
type construction struct{ r *run }

func (construction) Deadline() (time.Time, bool) { return time.Time{}, false }
func (construction) Done() <-chan struct{}       { return nil }
func (construction) Err() error                  { return nil }
func (c construction) Value(key any) any         { return c.r.Value(key) }
