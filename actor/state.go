package actor

import (
	"context"
	"log/slog"
)

// State is what an activation is given: who it is, its storage, its way out. It belongs to one activation.
type State struct {
	id      ID
	storage Storage
	logger  *slog.Logger
}

// Backend is what a State rests on; a host implements it, once per activation. Each method but Abort returns an *Error: ErrNotInEvent
// if ctx is not, or does not descend from, the context of the activation's running event; ErrMoved if the lease is over. Keys are
// relative to the object. Safe for concurrent use.
type Backend interface {
	// Get returns the value under key. The caller must not change the bytes.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Write adds changes, of different keys, to the event's batch: all, or on error none. It takes over the values.
	Write(ctx context.Context, changes []Change) error
	// List returns what is in [start, end), at most limit entries if limit is positive. An empty end means no bound.
	List(ctx context.Context, start, end string, reverse bool, limit int) ([]Entry, error)
	// Sync submits what the event has written and waits until all that the activation has submitted is durable.
	Sync(ctx context.Context) error
	// Abort does not return.
	Abort(reason error)
}

// Change is one write of a batch.
type Change struct {
	Key    string
	Value  []byte
	Delete bool
}

// NewState is for hosts.
func NewState(id ID, b Backend, logger *slog.Logger) *State {
	return &State{id: id, storage: Storage{b}, logger: logger}
}

// ID is whose state it is.
func (s *State) ID() ID { return s.id }

// Storage is the object's durable storage.
func (s *State) Storage() *Storage { return &s.storage }

// Logger logs with the object's name.
func (s *State) Logger() *slog.Logger { return s.logger }

// Abort throws the activation away: what the running event has written since its last Sync is dropped, its caller gets ErrAborted with the
// reason, memory is gone, and the next event finds a new activation. It does not return; deferred functions run.
func (s *State) Abort(reason error) { s.storage.b.Abort(reason) }
