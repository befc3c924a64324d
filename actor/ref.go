package actor

import "context"

// Ref is an object as a caller holds it. Making one does no I/O. Safe for concurrent use; calls of one Ref reach the object in
// the order in which Call or Start was entered, or fail.
type Ref interface {
	ID() ID
	// Call calls method with arg (nil for none) and stores the result in reply, a pointer, or nil to drop it. The error is an *Error.
	Call(ctx context.Context, method string, arg, reply any, opts ...CallOption) error
	// Start is Call without waiting. arg is encoded before it returns. ctx governs the call, not only its start.
	Start(ctx context.Context, method string, arg any, opts ...CallOption) *Pending
}

// CallOption changes one call.
type CallOption func(*CallOptions)

// CallOptions is what the options of a call add up to, for implementations of Ref.
type CallOptions struct {
	Idempotent string // the idempotency key; empty for none
	Err        *Error // what is wrong with an option: the call is to fail with a copy of it
}

// ApplyCallOptions adds up opts.
func ApplyCallOptions(opts []CallOption) CallOptions {
	if len(opts) == 0 { // without an allocation
		return CallOptions{}
	}
	var o CallOptions
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	return o
}

// Waiter waits for the answer of one call; implementations of Ref give one to NewPending.
type Waiter interface {
	Wait(ctx context.Context, reply any) error
}

// Pending is a call that was started.
type Pending struct{ w Waiter }

// NewPending is for implementations of Ref.
func NewPending(w Waiter) *Pending { return &Pending{w} }

// Wait waits for the call's answer or for ctx, which does not cancel the call, and stores the result in reply, a pointer, or nil to
// drop it. It may be called again, also after ctx ended, from several goroutines.
func (p *Pending) Wait(ctx context.Context, reply any) error {
	if ctx == nil {
		return &Error{Code: CodeBadArgument, Outcome: MayHaveRun, Message: "Wait: the context is nil; the call goes on"}
	}
	return p.w.Wait(ctx, reply)
}

// Call calls method on r and returns its result as an R.
func Call[R any](ctx context.Context, r Ref, method string, arg any, opts ...CallOption) (R, error) {
	var reply R
	err := r.Call(ctx, method, arg, &reply, opts...)
	return reply, err
}
