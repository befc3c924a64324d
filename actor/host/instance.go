package host

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// instance is the host's part of an activation: what the constructor returned, and the state and storage that it was given. It knows one lease for
// ever. It is zero until the constructor is about to run.
type instance struct {
	s      *shard
	a      *Activation // that it is part of
	object actor.Instance
	state  actor.State
	broken atomic.Pointer[fatal]  // why it was reset
	book   atomic.Pointer[ledger] // of idempotency keys; nil before the first
	quota  quota
	born   atomic.Bool // the constructor has returned
}

// id is the object's.
func (b *instance) id() actor.ID { return b.a.o.id }

// ID is what State.ID returns.
func (b *instance) ID() actor.ID { return b.id() }

// ledger is what is known of idempotency keys.
func (b *instance) ledger() *ledger {
	if b.book.Load() == nil {
		b.book.CompareAndSwap(nil, new(ledger))
	}
	return b.book.Load()
}

// prefix is what all keys of the object's storage begin with; what it is kept in has room for more bytes.
func (b *instance) prefix(more int) []byte {
	id := b.id()
	return store.AppendObjectPrefix(make([]byte, 0, len(id.Class)+len(id.Key)+3+more), id.Class, id.Key)
}

// Logger is what State.Logger returns.
func (b *instance) Logger() *slog.Logger { return b.s.h.log.With("object", b.id().String()) }

var (
	_ actor.Backend = (*instance)(nil)
	_ actor.Runtime = (*instance)(nil)
)

// fatal is what an activation was reset with.
type fatal struct {
	err *actor.Error
	all bool // events that wait fail with it, too
}

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// of is the error for one of those that it concerns.
func (f fatal) of(o actor.Outcome) *actor.Error {
	e := *f.err
	e.Outcome = o
	return &e
}

// enter is what every access to storage begins with: is ctx of a running event of this activation, and is the lease good?
func (b *instance) enter(ctx context.Context) (*run, error) {
	r, err := b.inside(ctx)
	if err != nil {
		return nil, err
	}
	r.touched.Store(true)
	if err := b.broken.Load(); err != nil {
		return nil, err.of(actor.Ran)
	}
	if b.s.over.Load() {
		return nil, b.deny(r, nil)
	}
	if r.lane.Load() != nil {
		if b.s.lease.Valid() {
			return r, nil
		}
		r.waits()
	}
	err = b.s.lease.Check(ctx)
	var why *store.MovedError
	switch {
	case err == nil:
		return r, nil
	case errors.As(err, &why):
		return nil, b.deny(r, why)
	}
	e := waited(b.id(), err, actor.Ran, "waiting for the owner's lease")
	e.Remote = true
	return nil, e
}

// deny refuses an access because the lease is over. Nothing of this token will leave or be written any more.
func (b *instance) deny(r *run, why *store.MovedError) error {
	r.denied.Store(true)
	if !b.s.over.Load() {
		b.s.lose(why)
	}
	if why == nil {
		b.s.mu.Lock()
		why = b.s.why
		b.s.mu.Unlock()
	}
	return moved(b.id(), b.s.lease, why)
}

func (b *instance) ended() error {
	return &actor.Error{Code: actor.CodeNotInEvent, Outcome: actor.Ran, Remote: true, Object: b.id(),
		Message: "storage used after the method had returned: wait in the method for the goroutines that it starts"}
}

func (b *instance) failed(what string, err error) error {
	b.s.h.log.Error("storage failed", "object", b.id().String(), "operation", what, "cause", err)
	e := &actor.Error{Code: actor.CodeInternal, Outcome: actor.Ran, Object: b.id(), Message: "storage failed on the owner: see its log"}
	return e.WithCause(err)
}

// Sync is of actor.Backend.
func (b *instance) Sync(ctx context.Context) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	wait := make(chan Why, 1)
	if err := b.push(ctx, r, wait, false); err != nil {
		return err
	}
	return b.settled(ctx, r, wait)
}
