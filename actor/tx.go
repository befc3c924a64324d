package actor

import (
	"context"
	"iter"
	"sync"
)

// Tx is a transaction; see Storage.Transaction. Its methods are those of Storage, under the same rules, for as long as the transaction is open.
// Safe for concurrent use.
type Tx struct {
	s  *Storage
	sp Savepoint

	mu    sync.Mutex
	state txState
}

type txState uint8

const (
	txOpen txState = iota
	txCommitted
	txRolledBack
)

// Savepoint is what a Tx rests on: a place in what the event has written. A host implements it. Safe for concurrent use.
type Savepoint interface {
	// Open reports whether it was neither committed nor rolled back.
	Open() bool
	// Commit closes it and keeps what was written since. It does nothing and returns false if it is not open, or one within it is.
	Commit() bool
	// Rollback closes it and takes back what was written since; also those within it, if inner is set. If it is not and there is one, it
	// does nothing and returns false.
	Rollback(inner bool) bool
}

// Transaction runs fn, and either all that is written meanwhile takes effect, with the rest of the event's batch, or nothing of it. If fn returns
// an error, or panics, all is rolled back; an error comes back as it is, and the object goes on.
//
// In the transaction is all that the event writes until fn returns, be it by tx or by the Storage. Reads see it at once. A transaction
// within one, begun by tx or by the Storage, is a savepoint: rolled back alone, committed with the outer one.
//
// It is a critical section (State.BlockConcurrency): no other event runs meanwhile, and if fn takes longer than 30 s the object is reset. There
// are no conflicts, hence no retries. Sync, Await, calls to other objects and DeleteAll fail within it.
func (s *Storage) Transaction(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if fn == nil {
		return inEvent(CodeBadArgument, "Transaction: the function is nil")
	}
	return s.b.Transaction(ctx, func(sp Savepoint) error {
		tx := &Tx{s: s, sp: sp}
		return tx.run(ctx, fn)
	})
}

func (tx *Tx) run(ctx context.Context, fn func(context.Context, *Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or Abort
			tx.undo()
		}
	}()
	err := fn(ctx, tx)
	returned = true
	if err != nil {
		tx.undo()
		return err
	}
	return tx.commit()
}

// undo rolls back whatever the state.
func (tx *Tx) undo() {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.state == txOpen {
		tx.state = txRolledBack
		tx.sp.Rollback(true)
		tx.s.writes.Add(1)
	}
}

func (tx *Tx) commit() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	switch {
	case tx.state == txRolledBack: // by fn, which is no error
		return nil
	case tx.sp.Commit():
		tx.state = txCommitted
		return nil
	}
	tx.state = txRolledBack
	if !tx.sp.Open() {
		return inEvent(CodeBadArgument, "Cannot commit a transaction whose outer transaction was rolled back.")
	}
	tx.sp.Rollback(true)
	tx.s.writes.Add(1)
	return inEvent(CodeBadArgument, "Cannot commit an outer transaction while a nested transaction is still running.")
}

// Rollback takes back what the transaction has written, and ends it: every later operation on tx fails. It is no error: the transaction returns
// what its function returns. A second Rollback does nothing. It fails while a transaction within this one runs, and after the function has returned.
func (tx *Tx) Rollback() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	switch {
	case tx.state == txRolledBack:
		return nil
	case tx.state == txCommitted:
		return committed("rollback()")
	case !tx.sp.Rollback(false):
		return inEvent(CodeBadArgument, "Cannot roll back an outer transaction while a nested transaction is still running.")
	}
	tx.state = txRolledBack
	tx.s.writes.Add(1)
	return nil
}

// check refuses an operation, named as the hosted original has it, on a transaction that is over.
func (tx *Tx) check(op string) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	switch {
	case tx.state == txCommitted:
		return committed(op)
	case tx.state == txRolledBack || !tx.sp.Open():
		return inEvent(CodeBadArgument, "Cannot %s on rolled back transaction", op)
	}
	return nil
}

func committed(op string) error {
	return inEvent(CodeBadArgument, "Cannot call %s on transaction that has already committed: did you move `txn` outside of the closure?", op)
}

// Get is Storage.Get.
func (tx *Tx) Get(ctx context.Context, key string, into any) (bool, error) {
	if err := tx.check("get()"); err != nil {
		return false, err
	}
	return tx.s.Get(ctx, key, into)
}

// GetMany is Storage.GetMany.
func (tx *Tx) GetMany(ctx context.Context, keys ...string) (map[string]Value, error) {
	if err := tx.check("get()"); err != nil {
		return nil, err
	}
	return tx.s.GetMany(ctx, keys...)
}

// Put is Storage.Put.
func (tx *Tx) Put(ctx context.Context, key string, value any, opts ...PutOption) error {
	if err := tx.check("put()"); err != nil {
		return err
	}
	return tx.s.Put(ctx, key, value, opts...)
}

// PutMany is Storage.PutMany.
func (tx *Tx) PutMany(ctx context.Context, entries map[string]any, opts ...PutOption) error {
	if err := tx.check("put()"); err != nil {
		return err
	}
	return tx.s.PutMany(ctx, entries, opts...)
}

// Delete is Storage.Delete.
func (tx *Tx) Delete(ctx context.Context, keys ...string) (int, error) {
	if err := tx.check("delete()"); err != nil {
		return 0, err
	}
	return tx.s.Delete(ctx, keys...)
}

// List is Storage.List.
func (tx *Tx) List(ctx context.Context, o ListOptions) ([]Entry, error) {
	if err := tx.check("list()"); err != nil {
		return nil, err
	}
	return tx.s.List(ctx, o)
}

// All is Storage.All. A loop that goes on when the transaction is over gets an error.
func (tx *Tx) All(ctx context.Context, o ListOptions) iter.Seq2[Entry, error] {
	return tx.s.all(ctx, o, func() error { return tx.check("list()") })
}

// Transaction is Storage.Transaction: a savepoint within this one.
func (tx *Tx) Transaction(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if err := tx.check("transaction()"); err != nil {
		return err
	}
	return tx.s.Transaction(ctx, fn)
}
