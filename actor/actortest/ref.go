package actortest

import (
	"context"
	"fmt"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
)

// ref is an actor.Ref to an object of the world. What a client library does about nodes is missing: a call is delivered at once, and sent
// again only if the shard changes hands just then.
type ref struct {
	w  *world
	id actor.ID
}

// ID is of actor.Ref.
func (r *ref) ID() actor.ID { return r.id }

// Call is of actor.Ref.
func (r *ref) Call(ctx context.Context, method string, arg, reply any, opts ...actor.CallOption) error {
	p := r.Start(ctx, method, arg, opts...)
	if ctx == nil {
		ctx = context.Background() // the answer is there
	}
	return p.Wait(ctx, reply)
}

// Start is of actor.Ref.
func (r *ref) Start(ctx context.Context, method string, arg any, opts ...actor.CallOption) *actor.Pending {
	c := r.start(ctx, method, opts)
	if arg != nil {
		b, err := actor.Marshal(arg)
		if err != nil {
			c.answer(&host.Result{Err: &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Object: r.id,
				Message: fmt.Sprintf("the argument of %s cannot be encoded: %v", method, err)}})
			return actor.NewPending(c)
		}
		c.Encoding, c.Arg = uint8(actor.EncodingMsgpack), b
	}
	return actor.NewPending(c.send(r.w))
}

func (r *ref) start(ctx context.Context, method string, opts []actor.CallOption) *call {
	o := actor.ApplyCallOptions(opts)
	c := &call{done: make(chan struct{}), bad: o.Err}
	if ctx == nil {
		ctx = context.Background()
		c.bad = &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Message: method + ": the context is nil"}
	}
	c.Call = host.Call{Object: r.id, Method: method, Chain: host.Chain(ctx), Idempotent: o.Idempotent, Respond: c.answer}
	c.Deadline, _ = ctx.Deadline()
	return c
}

// call is one call on its way. It is an actor.Waiter.
type call struct {
	host.Call
	bad  *actor.Error // what is wrong with its options
	done chan struct{}
	res  *host.Result
}

func (c *call) send(w *world) *call {
	if c.bad != nil {
		e := *c.bad
		e.Object = c.Object
		c.answer(&host.Result{Err: &e})
		return c
	}
	respond := c.Respond
	c.Respond = func(r *host.Result) {
		if e := r.Err; e != nil && e.Outcome == actor.DidNotRun && e.Retryable && !e.Remote {
			w.again(c, r)
			return
		}
		respond(r)
	}
	w.h.Deliver(0, &c.Call)
	return c
}

// again delivers a call that found the shard between two owners when that is over. It runs where the shard's work is done, so in order.
func (w *world) again(c *call, r *host.Result) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.over {
		c.answer(r)
		return
	}
	w.s.work <- func() { w.h.Deliver(0, &c.Call) }
}

func (c *call) answer(r *host.Result) {
	c.res = r
	close(c.done)
}

// Wait is of actor.Waiter.
func (c *call) Wait(ctx context.Context, into any) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		e := &actor.Error{Code: actor.CodeCanceled, Outcome: actor.MayHaveRun, Object: c.Object, Message: "waiting for the answer ended before it came; the call goes on"}
		if ctx.Err() == context.DeadlineExceeded {
			e.Code = actor.CodeDeadline
		}
		return e.WithCause(context.Cause(ctx))
	}
	if c.res.Err != nil {
		return c.res.Err
	}
	if into == nil || c.res.Encoding == uint8(actor.EncodingNone) {
		return nil
	}
	if err := actor.Unmarshal(c.res.Value, into); err != nil {
		e := &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Object: c.Object, Message: fmt.Sprintf("%s ran, but its result cannot be stored in a %T: %v", c.Method, into, err)}
		return e.WithCause(err)
	}
	return nil
}
