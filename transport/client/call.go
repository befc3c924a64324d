package client

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport"
)

// maxPayload leaves room in a frame for what goes beside an argument: names, chain, idempotency key.
const maxPayload = transport.MaxCallBody - 256<<10

// call is one call on its way. Its ref's lock guards it until done is closed; then it does not change any more.
type call struct {
	routed
	ref        *ref
	method     string
	encoding   transport.Encoding
	arg        []byte
	size       int // of arg, which ends with the call
	chain      []string
	idempotent string
	deadline   time.Time
	timed                  // has its deadline from the client, unless the caller's context has it
	unwatch    func() bool // ends watching the caller's context; nil if that is watched by the waiter
	why        actor.Code  // of giving up: deadline, cancelled, stopping

	finished chan struct{} // closed, or, if only await waits, given a token, when the call is complete
	shared   bool          // it is closed
	reply    *reply
	rep      reply // room for what the connection's reader has for it
	err      error
}

// newCall makes a call; shared if others than await wait for it.
func newCall(r *ref, shared bool) *call {
	c := &call{ref: r, shared: shared}
	if shared {
		c.finished = make(chan struct{})
	} else if old, ok := r.client.signals.Get().(chan struct{}); ok {
		c.finished = old
	} else {
		c.finished = make(chan struct{}, 1)
	}
	return c
}

// finish tells who waits. Called once.
func (c *call) finish() {
	if c.shared {
		close(c.finished)
	} else {
		c.finished <- struct{}{}
	}
}

// reply is what a server said; it owns its bytes.
type reply struct {
	transport.Reply
}

// Wait is the actor.Waiter of Start.
func (c *call) Wait(ctx context.Context, into any) error {
	select {
	case <-c.finished:
		return c.result(into)
	default:
	}
	select {
	case <-c.finished:
		return c.result(into)
	case <-ctx.Done():
		e := &actor.Error{Code: codeOf(ctx), Outcome: actor.MayHaveRun, Retryable: true, Object: c.ref.id,
			Message: "waiting for the answer ended before it came; the call goes on"}
		return e.WithCause(context.Cause(ctx))
	}
}

// codeOf says why a context ended.
func codeOf(ctx context.Context) actor.Code {
	if ctx.Err() == context.DeadlineExceeded {
		return actor.CodeDeadline
	}
	return actor.CodeCanceled
}

// result decodes the answer into what the caller gave, after finished was closed.
func (c *call) result(into any) error {
	if c.err != nil || into == nil {
		return c.err
	}
	var err error
	switch c.reply.Encoding {
	case transport.EncodingNone:
	case transport.EncodingMsgpack:
		err = decodeMsgpack(c.reply.Result, into)
	case transport.EncodingJSON:
		if err = skim(true, c.reply.Result, into); err == nil {
			err = json.Unmarshal(c.reply.Result, into)
		}
	default:
		err = fmt.Errorf("encoding %d, which this version does not know", c.reply.Encoding)
	}
	if err != nil {
		e := &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Object: c.ref.id,
			Message: fmt.Sprintf("%s ran, but its result cannot be stored in a %T: %v", c.method, into, err)}
		return e.WithCause(err)
	}
	return nil
}

// encode makes the bytes of an argument. nil has none.
func encode(arg any) (b []byte, enc transport.Encoding, err error) {
	if arg == nil {
		return nil, transport.EncodingNone, nil
	}
	defer func() { // the library panics on some values, and types may bring their own encoders
		if r := recover(); r != nil {
			err = fmt.Errorf("encoding a %T panicked: %v", arg, r)
		}
	}()
	if b, err = actor.Marshal(arg); err != nil {
		return nil, 0, err
	}
	return b, transport.EncodingMsgpack, nil
}

// skim looks at a result before it is decoded; what into must be is the decoder's to say.
func skim(isJSON bool, b []byte, into any) error {
	t := reflect.TypeOf(into)
	if t == nil || t.Kind() != reflect.Pointer {
		t = reflect.TypeFor[*any]()
	}
	return transport.SkimFor(t.Elem(), isJSON, b)
}

// decodeMsgpack reads what came from outside: it is skimmed first, because the library trusts lengths and depths.
func decodeMsgpack(b []byte, into any) (err error) {
	if err := skim(false, b, into); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decoding panicked: %v", r)
		}
	}()
	return actor.Unmarshal(b, into)
}
