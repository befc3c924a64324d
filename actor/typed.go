package actor

import "context"

// Objects is where references come from: a *client.Client, or the *State of an object that calls others. Stubs that `ringfence gen` writes
// are made from one.
type Objects interface {
	Object(class, key string) Ref
}

var _ Objects = (*State)(nil)

// PendingOf is a call that was started and whose result is an R. Make one with Start.
type PendingOf[R any] struct{ p *Pending }

// Start is Call without waiting. arg is encoded before it returns. ctx governs the call, not only its start.
func Start[R any](ctx context.Context, r Ref, method string, arg any, opts ...CallOption) PendingOf[R] {
	return PendingOf[R]{r.Start(ctx, method, arg, opts...)}
}

// Wait waits for the call's answer or for ctx, which does not cancel the call. It may be called again, also after ctx ended, from several
// goroutines; each gets a result of its own.
func (p PendingOf[R]) Wait(ctx context.Context) (R, error) {
	var reply R
	err := p.p.Wait(ctx, &reply)
	return reply, err
}
