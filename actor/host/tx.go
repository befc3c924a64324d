package host

import (
	"context"
	"slices"

	"github.com/ringfence/ringfence/actor"
)

const (
	textDeleteAllInTx = "Cannot call deleteAll() within a transaction"
	textDurableInTx   = "Sync, Await and calls to other objects must come before a transaction or after it: what they make durable, or tell others, could not be rolled back"
)

// savepoint is an actor.Savepoint: a mark in what its event has written.
type savepoint struct {
	r *run
	m *mark
}

// Transaction is of actor.Backend.
func (b *instance) Transaction(ctx context.Context, fn func(actor.Savepoint) error) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	err = b.section(r, func() error {
		r.mu.Lock()
		if r.over {
			r.mu.Unlock()
			return b.ended()
		}
		s := &savepoint{r, r.pending.mark()}
		r.mu.Unlock()
		return fn(s)
	})
	if f := b.broken.Load(); f != nil { // it took too long, or somebody called Abort
		return f.of(actor.Ran)
	}
	if e, ok := err.(*deep); ok {
		return e.error
	}
	return err
}

// within is the error for what cannot be done in a transaction; nil outside of one. Called with the run's lock held.
func (r *run) within(text string) error {
	if len(r.pending.marks) == 0 {
		return nil
	}
	return &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Remote: true, Object: r.Object, Message: text}
}

// index finds the mark among those that are open.
func (s *savepoint) index() int { return slices.Index(s.r.pending.marks, s.m) }

// Open is of actor.Savepoint.
func (s *savepoint) Open() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.index() >= 0
}

// Commit is of actor.Savepoint.
func (s *savepoint) Commit() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if i := s.index(); i < 0 || i < len(s.r.pending.marks)-1 {
		return false
	}
	s.r.pending.keep()
	return true
}

// Rollback is of actor.Savepoint.
func (s *savepoint) Rollback(inner bool) bool {
	s.r.b.quota.mu.Lock() // no size may be read on one side and written on the other
	defer s.r.b.quota.mu.Unlock()
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	i := s.index()
	if i < 0 {
		return true
	}
	if !inner && i < len(s.r.pending.marks)-1 {
		return false
	}
	s.r.pending.undo(i)
	return true
}
