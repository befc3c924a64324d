package client

import (
	"context"
	"errors"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// sender is how the calls of a stream leave: over a connection, or straight to the node in this process. The first send of a
// generation picks one, and the stream stays with it while anything is in flight.
type sender interface {
	// send hands over one call, in order, without blocking. If sent, the answer comes later, exactly once, through
	// ref.answered; if not, a is the answer. Called under the ref's lock.
	send(c *call) (a answer, sent bool)
	// withdraw takes back a call that has not left yet.
	withdraw(c *call) bool
	// usable: new streams may pick it.
	usable() bool
}

// ref is one stream of calls to one object: the shell around the machine in stream.go.
type ref struct {
	client *Client
	id     actor.ID
	stream uint64
	fault  error // what is wrong with the ID

	mu     sync.Mutex
	s      stream
	shard  ring.ShardID
	placed bool // shard is known
	way    sender
	wayTo  ring.NodeID
}

func (r *ref) ID() actor.ID { return r.id }

// Call implements actor.Ref.
func (r *ref) Call(ctx context.Context, method string, arg, reply any, opts ...actor.CallOption) error {
	b, enc, err := encode(arg)
	if err != nil {
		return r.badArgument(method, err)
	}
	c, err := r.enter(ctx, method, enc, b, opts, false)
	if err != nil {
		return err
	}
	c.await(ctx)
	return c.result(reply)
}

// await waits for the call's end, which the end of ctx brings about at once. It is called once, of a call that is not shared.
func (c *call) await(ctx context.Context) {
	if done := ctx.Done(); done == nil {
		<-c.finished
	} else {
		select {
		case <-c.finished:
		case <-done:
			c.ref.giveUp(c, codeOf(ctx))
			<-c.finished
		}
	}
	c.ref.client.signals.Put(c.finished) // nobody sends any more: a call is completed once
	c.finished = nil
}

// Start implements actor.Ref.
func (r *ref) Start(ctx context.Context, method string, arg any, opts ...actor.CallOption) *actor.Pending {
	b, enc, err := encode(arg)
	if err != nil {
		return actor.NewPending(refused{r.badArgument(method, err)})
	}
	c, err := r.enter(ctx, method, enc, b, opts, true)
	if err != nil {
		return actor.NewPending(refused{err})
	}
	return actor.NewPending(c)
}

// refused is a call that failed before it was entered.
type refused struct{ err error }

func (r refused) Wait(context.Context, any) error { return r.err }

func (r *ref) badArgument(method string, err error) error {
	return failed(r.id, actor.CodeBadArgument, "the argument of %s cannot be encoded: %v", method, err).WithCause(err)
}

// enter checks a call and gives it to the stream. watch: nobody waits for ctx, so its end has to be watched.
func (r *ref) enter(ctx context.Context, method string, enc transport.Encoding, arg []byte, opts []actor.CallOption, watch bool) (*call, error) {
	if err := r.check(ctx, method, arg); err != nil {
		return nil, err
	}
	options := actor.ApplyCallOptions(opts)
	if options.Err != nil {
		e := *options.Err
		e.Object = r.id
		return nil, &e
	}
	cl := r.client
	var chain []string
	if cl.opts.Chain != nil {
		if chain = cl.opts.Chain(ctx); len(chain) > transport.MaxChain {
			return nil, failed(r.id, actor.CodeCallCycle, "%d objects wait for this call; at most %d may", len(chain), transport.MaxChain)
		}
	}
	if n := cl.calls.Add(1); n > int64(cl.opts.MaxCalls) {
		cl.calls.Add(-1)
		e := failed(r.id, actor.CodeOverloaded, "%d calls of this client are underway: wait for some, or raise Options.MaxCalls", cl.opts.MaxCalls)
		e.Overloaded = true
		return nil, e
	}
	c := newCall(r, watch)
	c.method, c.encoding, c.arg, c.size, c.chain, c.idempotent = method, enc, arg, len(arg), chain, options.Idempotent
	c.again = c.idempotent != ""
	deadline, has := ctx.Deadline()
	if !has {
		deadline = time.Now().Add(cl.opts.Timeout)
	}
	c.deadline = deadline

	r.mu.Lock()
	defer r.mu.Unlock()
	if !has {
		cl.timers[r.stream%timerLists].add(c)
	}
	if watch && ctx.Done() != nil {
		c.unwatch = context.AfterFunc(ctx, func() { r.giveUp(c, codeOf(ctx)) })
	}
	v := r.view()
	r.s.enter(c, &v)
	r.do(&v)
	return c, nil
}

func (r *ref) check(ctx context.Context, method string, arg []byte) error {
	switch {
	case r.fault != nil:
		return r.fault
	case ctx == nil:
		return failed(r.id, actor.CodeBadArgument, "%.100s: the context is nil", method)
	case method == "" || len(method) > transport.MaxMethod:
		return failed(r.id, actor.CodeBadArgument, "method %.40q: want a name of 1 to %d bytes", method, transport.MaxMethod)
	case !utf8.ValidString(method):
		return failed(r.id, actor.CodeBadArgument, "method %.40q is not UTF-8", method)
	case len(arg) > maxPayload:
		return failed(r.id, actor.CodeBadArgument, "the argument of %s has %d bytes; at most %d are allowed", method, len(arg), maxPayload)
	case r.client.closed.Load():
		return failed(r.id, actor.CodeStopping, "the client is closed")
	case ctx.Err() != nil:
		return failed(r.id, codeOf(ctx), "the call's context had ended before it was entered").WithCause(context.Cause(ctx))
	}
	return nil
}

// view is the stream's row of the table now. Called with the lock.
func (r *ref) view() view {
	t := r.client.table.Load()
	if t == nil {
		return view{}
	}
	if !r.placed {
		r.shard, r.placed = ring.ShardOf(r.id.Class, r.id.Key, len(t.hints)), true
	}
	v := view{routes: t.routes, shard: r.shard}
	if h := t.hints[r.shard].Load(); h != nil {
		v.hint = *h
	}
	if v.rests = r.client.rests.load(); v.rests != nil {
		v.now = time.Now()
	}
	return v
}

// answered takes the answer of a call that was sent.
func (r *ref) answered(c *call, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(c, a)
}

func (r *ref) take(c *call, a answer) {
	v := r.view()
	r.s.answered(c, a, &v)
	r.do(&v)
}

// giveUp ends a call for its caller.
func (r *ref) giveUp(c *call, why actor.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.done {
		return
	}
	c.why = why
	if c.state == callFlying && r.way.withdraw(c) {
		r.take(c, answer{kind: answerUnsent, text: "still connecting"})
	}
	r.s.giveUp(c)
	r.do(nil)
}

// retry is the end of a back-off.
func (r *ref) retry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client.closed.Load() {
		for len(r.s.queue) > 0 {
			c := r.s.queue[0]
			c.why = actor.CodeStopping
			r.s.giveUp(c)
			r.do(nil)
		}
	}
	v := r.view()
	r.s.retry(&v)
	r.do(&v)
}

// do carries out the actions of the last event, and of those that follow from them at once. Called with the lock.
func (r *ref) do(v *view) {
	type unsent struct {
		c *call
		a answer
	}
	var back []unsent
	for i := range r.s.out {
		switch a := &r.s.out[i]; a.kind {
		case actSend:
			if a.fresh && (r.way == nil || r.wayTo != a.node || !r.way.usable()) {
				r.way, r.wayTo = r.client.senderTo(a.node, v.routes, r.stream), a.node
			}
			if ans, sent := r.way.send(a.call); !sent {
				back = append(back, unsent{a.call, ans})
			}
		case actComplete:
			r.complete(a.call, a.verdict, &a.answer)
		case actLearn:
			r.client.learn(r.shard, a.hint)
		case actFetch:
			r.client.fetchRing()
		case actRetry:
			time.AfterFunc(a.delay, r.retry)
		}
	}
	for _, b := range back {
		r.take(b.c, b.a)
	}
}

func (r *ref) complete(c *call, how verdict, a *answer) {
	if c.list != nil {
		c.list.remove(c)
	}
	if c.unwatch != nil {
		c.unwatch()
	}
	c.reply, c.err = a.reply, c.verdictError(how, a)
	c.arg, c.unwatch = nil, nil
	r.client.calls.Add(-1)
	c.finish()
}

// target names the node that the stream's calls go to, for messages.
func (r *ref) target() string { return r.client.nodeText(r.wayTo) }

// callJSON is Call with argument and result in JSON, as they are. No argument is an empty one tagged JSON, so that the owner
// knows how to answer.
func (r *ref) callJSON(ctx context.Context, method string, arg []byte, opts []actor.CallOption) ([]byte, error) {
	c, err := r.enter(ctx, method, transport.EncodingJSON, arg, opts, false)
	if err != nil {
		return nil, err
	}
	c.await(ctx)
	if c.err != nil {
		return nil, c.err
	}
	switch c.reply.Encoding {
	case transport.EncodingNone:
		return nil, nil
	case transport.EncodingJSON:
		return c.reply.Result, nil
	}
	e := &actor.Error{Code: actor.CodeInternal, Outcome: actor.Ran, Object: r.id, Message: "the call in JSON ran, but was not answered in JSON"}
	return nil, e.WithCause(errors.ErrUnsupported)
}
