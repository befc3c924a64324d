package actor

import (
	"context"
	"log/slog"
)

// State is what an activation is given: who it is, its storage, its way out. It belongs to one activation.
type State struct {
	storage Storage
	runtime Runtime
	given   *StateConfig // what it was made of; nil if ID and Logger are the Runtime's: a quiet activation is to be small
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
	Put(ctx context.Context, entries []Entry, o PutOptions) error
	// Delete adds deletions to the event's batch and returns how many of the keys existed. No key comes twice.
	Delete(ctx context.Context, keys []string) (int, error)
	// DeleteAll adds to the event's batch that all keys are removed, and the alarm.
	DeleteAll(ctx context.Context) error
	// List returns the entries with o.Start <= key and, if o.End is not empty, key < o.End, at most o.Limit if that is not zero. StartAfter
	// and Prefix are empty: Storage has made them part of Start and End, which may be an empty range. It ends with the entry with which there
	// are more than maxBytes; more says that it did.
	List(ctx context.Context, o ListOptions, maxBytes int) (entries []Entry, more bool, err error)
	// Transaction runs fn in a critical section, with a new savepoint, within those that are open; fn has closed it on return. The error is
	// fn's, or says that the activation was reset meanwhile. If the event ends before it, it is rolled back.
	Transaction(ctx context.Context, fn func(Savepoint) error) error
	// Sync submits what the event has written and waits until all that the activation has submitted is durable.
	Sync(ctx context.Context) error
	AlarmBackend
}

// Runtime is what a State needs of its host beside storage; once per activation. Safe for concurrent use.
type Runtime interface {
	// Object is a reference for the code of the activation.
	Object(class, key string) Ref
	// WaitUntil is State.WaitUntil.
	WaitUntil(fn func(context.Context) error)
	// BlockConcurrency is State.BlockConcurrency.
	BlockConcurrency(ctx context.Context, fn func(context.Context) error) error
	// Await is State.Await.
	Await(ctx context.Context, fn func(context.Context) error) error
	// Abort is State.Abort: it does not return.
	Abort(reason error)
}

// StateConfig is what a State is made of.
type StateConfig struct {
	ID      ID // zero: the Runtime has a method ID
	Backend Backend
	Logger  *slog.Logger // nil: the Runtime has a method Logger, which makes one when it is asked for
	Runtime Runtime
}

// NewState is for hosts.
func NewState(c StateConfig) *State {
	s := new(State)
	InitState(s, c)
	return s
}

// InitState makes a State of a zero one, which may be part of what the host keeps of the activation. For hosts.
func InitState(s *State, c StateConfig) {
	s.storage.b, s.runtime = c.Backend, c.Runtime
	if !c.ID.IsZero() || c.Logger != nil {
		s.given = &c
	}
}

// ID is whose state it is.
func (s *State) ID() ID {
	if s.given != nil {
		return s.given.ID
	}
	return s.runtime.(interface{ ID() ID }).ID()
}

// Storage is the object's durable storage.
func (s *State) Storage() *Storage { return &s.storage }

// Logger logs with the object's name.
func (s *State) Logger() *slog.Logger {
	if s.given != nil && s.given.Logger != nil {
		return s.given.Logger
	}
	if r, ok := s.runtime.(interface{ Logger() *slog.Logger }); ok {
		return r.Logger()
	}
	return slog.Default()
}

// Object is another object, or the same, for calls that this one makes. Its calls need the context of a running event of this activation; else
// they fail with ErrNotInEvent. What the event has written is submitted before a call, and the call leaves only when that and all before it is
// durable. While the event waits for an answer (Call, Pending.Wait), it is outside: in a class that is Interleaved other events run. A
// call goes on although the event that started it has ended, and fails unsent if the activation is reset before it could leave. At
// most 1,024 calls of one Ref may be held back so; one more fails with ErrOverloaded.
func (s *State) Object(class, key string) Ref { return s.runtime.Object(class, key) }

// Await runs fn outside: for whatever takes time and is not storage. As with a call, what the event has written is made durable first, and
// other events run meanwhile if the class is Interleaved. Storage and calls to objects fail with ErrNotInEvent in fn's context, and fn must
// not touch the class's memory: bring what it finds back in variables of the method. The error is that of fn, or says that the activation
// was reset, or the object moved, meanwhile. fn runs on the calling goroutine, and its context ends with the event.
func (s *State) Await(ctx context.Context, fn func(context.Context) error) error {
	if fn == nil {
		return inEvent(CodeBadArgument, "Await: the function is nil")
	}
	return s.runtime.Await(ctx, fn)
}

// WaitUntil has fn run later, as an event of its own without a caller: under the rules of a method, with storage, and with a batch of its own. In a
// class that is not Interleaved other events wait for it. The activation stays in memory until it has ended, and a hand-over waits
// for it as for any event. Its error is logged. It is lost when the activation is reset, or its node dies: for what must happen, set an
// alarm. At most 1,024 wait; one more panics, and so does nil.
func (s *State) WaitUntil(fn func(context.Context) error) {
	if fn == nil {
		panic("WaitUntil: the function is nil")
	}
	s.runtime.WaitUntil(fn)
}

// BlockConcurrency runs fn in a critical section: until it returns no other event begins or goes on, even while fn is outside, except
// calls that come back along fn's own. Sections may be nested, up to 64 deep. If fn fails, or takes longer than 30 s, the activation is reset,
// events that wait for it fail with that error, and BlockConcurrency does not return. It is meant for constructors, and for what must not be
// interleaved with anything; a Transaction is the same with a way back.
func (s *State) BlockConcurrency(ctx context.Context, fn func(context.Context) error) error {
	if fn == nil {
		return inEvent(CodeBadArgument, "BlockConcurrency: the function is nil")
	}
	return s.runtime.BlockConcurrency(ctx, fn)
}

// Abort throws the activation away: what the running event has written since its last Sync, Await or call is dropped, its caller gets ErrAborted
// with the reason, other events in progress get the same, memory is gone, and the next event finds a new activation. It does not
// return; deferred functions run.
func (s *State) Abort(reason error) { s.runtime.Abort(reason) }
