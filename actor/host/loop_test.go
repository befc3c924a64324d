package host

import (
	"context"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
)

// loop is the way from the test's host to its own objects, and to objects that are not there: a call to key "outside" waits until the test
// answers it.
type loop struct {
	w *world

	mu   sync.Mutex
	left []*loopCall // calls to "outside", in the order in which they left
}

type loopRef struct {
	l  *loop
	id actor.ID
}

type loopCall struct {
	method string
	arg    msgpack.RawMessage
	chain  []string
	ctx    context.Context
	key    string // idempotency key
	done   chan struct{}
	res    *Result
}

func (l *loop) object(id actor.ID) actor.Ref { return &loopRef{l, id} }

func (r *loopRef) ID() actor.ID { return r.id }

func (r *loopRef) Call(ctx context.Context, method string, arg, reply any, opts ...actor.CallOption) error {
	return r.Start(ctx, method, arg, opts...).Wait(ctx, reply)
}

func (r *loopRef) Start(ctx context.Context, method string, arg any, opts ...actor.CallOption) *actor.Pending {
	c := &loopCall{method: method, chain: Chain(ctx), ctx: ctx, key: actor.ApplyCallOptions(opts).Idempotent, done: make(chan struct{})}
	if arg != nil {
		c.arg = arg.(msgpack.RawMessage)
	}
	if r.id.Key == "outside" {
		r.l.mu.Lock()
		r.l.left = append(r.l.left, c)
		r.l.mu.Unlock()
		return actor.NewPending(c)
	}
	call := &Call{Object: r.id, Method: method, Arg: c.arg, Chain: c.chain, Idempotent: c.key, Respond: c.answer}
	if len(c.arg) > 0 {
		call.Encoding = uint8(actor.EncodingMsgpack)
	}
	call.Deadline, _ = ctx.Deadline()
	r.l.w.h.Deliver(fakeShard, call)
	return actor.NewPending(c)
}

func (c *loopCall) answer(r *Result) {
	c.res = r
	close(c.done)
}

// reply answers a call to "outside".
func (c *loopCall) reply(v any) {
	b, err := actor.Marshal(v)
	if err != nil {
		panic(err)
	}
	c.answer(&Result{Value: b})
}

func (c *loopCall) Wait(ctx context.Context, into any) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.res.Err != nil {
		return c.res.Err
	}
	if into == nil || c.res.Value == nil {
		return nil
	}
	return msgpack.Unmarshal(c.res.Value, into)
}

// sent is the calls that have left to "outside".
func (l *loop) sent() []*loopCall {
	l.w.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*loopCall(nil), l.left...)
}

func (l *loop) methods() (names []string) {
	for _, c := range l.sent() {
		names = append(names, c.method)
	}
	return names
}
