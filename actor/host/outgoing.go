package host

import (
	"context"
	"errors"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
)

// maxOutgoing is how many calls of one reference may wait for the writes before them.
const maxOutgoing = 1024

// outRef is a reference of an object's code to an object. Its calls leave in the order in which they were made, each when all is applied that
// the calling object had submitted by then.
type outRef struct {
	b  *instance
	id actor.ID
	to actor.Ref // nil if the host has no way to objects

	mu      sync.Mutex
	held    queue[*outCall]
	sending bool
}

// Object is of actor.Runtime.
func (b *instance) Object(class, key string) actor.Ref {
	r := &outRef{b: b, id: actor.ID{Class: class, Key: key}}
	if objects := b.s.h.opts.Objects; objects != nil {
		r.to = objects(r.id)
	}
	return r
}

// ID is of actor.Ref.
func (o *outRef) ID() actor.ID { return o.id }

// Call is of actor.Ref.
func (o *outRef) Call(ctx context.Context, method string, arg, reply any, opts ...actor.CallOption) error {
	p := o.Start(ctx, method, arg, opts...)
	if ctx == nil {
		ctx = context.Background() // the call was refused
	}
	return p.Wait(ctx, reply)
}

// Start is of actor.Ref.
func (o *outRef) Start(ctx context.Context, method string, arg any, opts ...actor.CallOption) *actor.Pending {
	c := &outCall{ref: o, method: method, left: make(chan struct{})}
	if len(opts) > 0 { // now: they are the class's code, which runs nowhere but in its event
		all := actor.ApplyCallOptions(opts)
		c.opts = []actor.CallOption{func(o *actor.CallOptions) { *o = all }}
	}
	r, err := o.b.inside(ctx)
	if err != nil {
		if e := (*actor.Error)(nil); errors.As(err, &e) && e.Code == actor.CodeNotInEvent && e.Message == "" {
			e.Message, e.Outcome = "an object called another outside of its running event: pass on the context that the method was given", actor.DidNotRun
		}
		return c.fail(err)
	}
	if o.to == nil {
		return c.fail(&actor.Error{Code: actor.CodeUnreachable, Outcome: actor.DidNotRun, Object: o.id, Message: "this host has no way to other objects"})
	}
	if err := o.id.Validate(); err != nil {
		return c.fail(err) // which shows of the key what is fit to print
	}
	if arg != nil {
		if c.arg, err = actor.Marshal(arg); err != nil {
			e := &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Object: o.id, Message: "the argument of " + method + " cannot be encoded: " + err.Error()}
			return c.fail(e.WithCause(err))
		}
	}
	o.mu.Lock()
	full := o.held.len() >= maxOutgoing
	if !full {
		o.held.push(c)
	}
	o.mu.Unlock()
	if full {
		return c.fail(&actor.Error{Code: actor.CodeOverloaded, Outcome: actor.DidNotRun, Overloaded: true, Object: o.id, Message: "1,024 calls of this Ref wait for the writes before them: wait for some, or Sync"})
	}
	c.ctx, c.cancel = detached(ctx, r)
	if err := o.b.push(ctx, r, c, true); err != nil {
		c.err = err
		c.opened(WhyReset)
	}
	return actor.NewPending(c)
}

// detached is ctx, but for the end of the event: a call goes on although the event that started it has ended.
func detached(ctx context.Context, r *run) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if d, ok := ctx.Deadline(); ok {
		inner := cancel
		var timed context.CancelFunc
		out, timed = context.WithDeadline(out, d)
		cancel = func() { timed(); inner() }
	}
	if ctx.Done() == nil {
		return out, cancel
	}
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		over := r.over
		r.mu.Unlock()
		if !over {
			cancel()
		}
	})
	return out, func() { stop(); cancel() }
}

// outCall is one call of an outRef. It is an actor.Waiter.
type outCall struct {
	ref    *outRef
	method string
	arg    []byte
	opts   []actor.CallOption
	ctx    context.Context
	cancel context.CancelFunc

	open bool // may leave, or has failed; under the ref's lock
	err  error
	p    *actor.Pending
	left chan struct{} // closed when p or err is set for good
}

func (c *outCall) fail(err error) *actor.Pending {
	c.err = err
	close(c.left)
	return actor.NewPending(c)
}

// opened: what the call waited for is applied, or never will be.
func (c *outCall) opened(why Why) {
	if why != 0 && c.err == nil {
		e := c.ref.b.unsent(why)
		e.Outcome, e.Object = actor.DidNotRun, c.ref.id
		c.err = e
	}
	o := c.ref
	o.mu.Lock()
	c.open = true
	if o.sending { // who sends sees it
		o.mu.Unlock()
		return
	}
	o.sending = true
	for o.held.len() > 0 && (*o.held.front()).open {
		next := o.held.pop()
		o.mu.Unlock()
		next.send()
		o.mu.Lock()
	}
	o.sending = false
	o.mu.Unlock()
}

// unsent is the error for a call that never left.
func (b *instance) unsent(why Why) *actor.Error {
	if f := b.broken.Load(); why == WhyReset && f != nil {
		return f.of(actor.DidNotRun)
	}
	b.s.mu.Lock()
	cause := b.s.why
	b.s.mu.Unlock()
	return moved(b.id(), b.s.lease, cause)
}

func (c *outCall) send() {
	if c.err == nil {
		var arg any
		if c.arg != nil {
			arg = msgpack.RawMessage(c.arg)
		}
		c.p = c.ref.to.Start(c.ctx, c.method, arg, c.opts...)
		c.arg = nil
	}
	close(c.left)
}

// Wait is of actor.Waiter. An event that waits is outside.
func (c *outCall) Wait(ctx context.Context, into any) error {
	r, _ := ctx.Value(runKey{}).(*run)
	mine := r != nil && r.b == c.ref.b
	if mine {
		if err := r.b.publish(ctx, r); err != nil {
			return err
		}
		r.b.leave(r)
	}
	var raw msgpack.RawMessage // decoded only when the turn is back: into may be the class's memory
	err := c.answer(ctx, &raw)
	if c.cancel != nil && ctx.Err() == nil {
		c.cancel() // it has its answer: nothing is left to be cancelled
	}
	if mine {
		if e := r.b.comeBack(r); e != nil {
			return e
		}
	}
	if err != nil || into == nil || raw == nil {
		return err
	}
	if err := actor.Unmarshal(raw, into); err != nil {
		e := &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Object: c.ref.id, Message: c.method + " ran, but its result cannot be stored: " + err.Error()}
		return e.WithCause(err)
	}
	return nil
}

func (c *outCall) answer(ctx context.Context, raw *msgpack.RawMessage) error {
	select {
	case <-c.left:
	case <-ctx.Done():
		return waited(c.ref.id, context.Cause(ctx), actor.MayHaveRun, "waiting for the writes before the call")
	}
	if c.err != nil {
		return c.err
	}
	return c.p.Wait(ctx, raw)
}

// Chain is which objects wait for a call that is made with ctx, outermost first: those on the way of the event that ctx belongs to, and its own.
func Chain(ctx context.Context) []string {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok {
		return nil
	}
	return append(append(make([]string, 0, len(r.call.Chain)+1), r.call.Chain...), r.Object.String())
}
