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
	abort   func(error)
}

// Backend is what a Storage rests on; a host implements it, once per activation. Each method returns an *Error: ErrNotInEvent if ctx is not, or
// does not descend from, the context of the activation's running event; ErrMoved if the lease is over. Storage has checked keys and sizes of
// values; the size of a batch is the Backend's to check. Keys are relative to the object. Safe for concurrent use.
type Backend interface {
	// Get returns the encoded value under key. Neither side changes the bytes.
	Get(ctx context.Context, key string) (raw []byte, ok bool, err error)
	// GetMany returns those of the keys that exist, in ascending order. No key comes twice.
	GetMany(ctx context.Context, keys []string) ([]Entry, error)
	// Put adds writes to the event's batch: all, or on error none. No key comes twice. It takes over the values' bytes.
	Put(ctx context.Context, entries []Entry) error
	// Delete adds deletions to the event's batch and returns how many of the keys existed. No key comes twice.
	Delete(ctx context.Context, keys []string) (int, error)
	// List returns the entries with o.Start <= key and, if o.End is not empty, key < o.End, at most o.Limit if that is not zero. StartAfter
	// and Prefix are empty: Storage has made them part of Start and End, which may be an empty range.
	List(ctx context.Context, o ListOptions) ([]Entry, error)
	// Sync submits what the event has written and waits until all that the activation has submitted is durable.
	Sync(ctx context.Context) error
}

// StateConfig is what a State is made of.
type StateConfig struct {
	ID      ID
	Backend Backend
	Logger  *slog.Logger
	Abort   func(reason error) // must not return
}

// NewState is for hosts.
func NewState(c StateConfig) *State {
	return &State{id: c.ID, storage: Storage{c.Backend}, logger: c.Logger, abort: c.Abort}
}

// ID is whose state it is.
func (s *State) ID() ID { return s.id }

// Storage is the object's durable storage.
func (s *State) Storage() *Storage { return &s.storage }

// Logger logs with the object's name.
func (s *State) Logger() *slog.Logger { return s.logger }

// Abort throws the activation away: what the running event has written since its last Sync is dropped, its caller gets ErrAborted with the
// reason, memory is gone, and the next event finds a new activation. It does not return; deferred functions run.
func (s *State) Abort(reason error) { s.abort(reason) }
