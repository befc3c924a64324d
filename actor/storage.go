package actor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// Limits of storage.
const (
	MaxStorageKey   = 2048    // bytes; at least one
	MaxStorageValue = 2 << 20 // bytes, encoded
	MaxBatchBytes   = 8 << 20 // keys and values of one batch
	MaxBatchKeys    = 10_000
	MaxKeysPerCall  = 128 // of GetMany and Delete
)

// Storage is an object's durable storage: values, encoded with Marshal, under keys in byte order. A key is any 1 to 2,048 bytes, UTF-8 or not. A
// value is anything that Marshal takes, of at most 2 MiB encoded; nil is a value like any other (msgpack's nil: Get finds it), and no way to
// delete. What does not fit fails with ErrBadArgument, and nothing of the operation is written. It works only with the context of a
// running event of its own activation, or one derived from it; otherwise every method fails with ErrNotInEvent. Every access makes sure first
// that the object has not moved; if it has, it fails with ErrMoved, and so do all that follow.
//
// All that an event writes, up to a Sync, takes effect as one batch when the event ends, also if it ends with an error; the reply leaves when
// the batch is durable. Reads see it at once.
type Storage struct {
	b      Backend
	writes atomic.Uint64 // grows with every change: tells All that what it has read ahead may be old
}

// Getter is what Get reads from.
type Getter interface {
	Get(ctx context.Context, key string, into any) (bool, error)
}

// Get returns the value under key as a T, and whether there is one.
func Get[T any](ctx context.Context, g Getter, key string) (T, bool, error) {
	var v T
	ok, err := g.Get(ctx, key, &v)
	return v, ok, err
}

// Value is a stored value, still encoded.
type Value struct{ raw []byte }

// NewValue is for hosts. raw is shared.
func NewValue(raw []byte) Value { return Value{raw} }

// SharedBytes is for hosts: the encoded value, which nobody may change.
func SharedBytes(v Value) []byte { return v.raw }

// Decode stores the value in into, a pointer. What it stores shares nothing with storage. The zero Value, which a map has for keys that were not
// found, is an error.
func (v Value) Decode(into any) error {
	if len(v.raw) == 0 {
		return inEvent(CodeBadArgument, "there is no value to be read as a %T: its key was not found", into)
	}
	return Unmarshal(v.raw, into)
}

// Entry is one key with its value.
type Entry struct {
	Key string
	Value
}

// Get stores the value under key in into, a pointer, and reports whether there is one; if not, into is left alone.
func (s *Storage) Get(ctx context.Context, key string, into any) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	raw, ok, err := s.b.Get(ctx, key)
	if err != nil || !ok {
		return false, err
	}
	if err := Unmarshal(raw, into); err != nil { // nil, no pointer, or one to another type
		return true, inEvent(CodeBadArgument, "storage key %.100q: the stored value cannot be read as a %T: %v", key, into, err).WithCause(err)
	}
	return true, nil
}

// GetMany returns the values of those of at most 128 keys that exist. For their order, sort the map's keys, or List.
func (s *Storage) GetMany(ctx context.Context, keys ...string) (map[string]Value, error) {
	if err := checkKeys(keys); err != nil {
		return nil, err
	}
	entries, err := s.b.GetMany(ctx, distinct(keys))
	if err != nil {
		return nil, err
	}
	values := make(map[string]Value, len(entries))
	for _, e := range entries {
		values[e.Key] = e.Value
	}
	return values, nil
}

// PutOptions is what the options of a Put add up to.
type PutOptions struct {
	Unconfirmed bool
}

// PutOption changes a Put.
type PutOption func(*PutOptions)

// Unconfirmed lets what leaves the object go without waiting for this write: replies, and calls to other objects. A caller may hear of it and
// then find it gone, with all that came after it, if the owner dies just then; the object is reset then as always. If the batch has
// any other write, what leaves waits for all of it. Sync waits for every write.
func Unconfirmed() PutOption { return func(o *PutOptions) { o.Unconfirmed = true } }

func putOptions(opts []PutOption) PutOptions {
	if len(opts) == 0 { // without an allocation
		return PutOptions{}
	}
	o := new(PutOptions)
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
	return *o
}

// Put stores value under key. It is encoded before Put returns: later changes of value do not count.
func (s *Storage) Put(ctx context.Context, key string, value any, opts ...PutOption) error {
	e, err := newEntry(key, value)
	if err != nil {
		return err
	}
	defer s.writes.Add(1)
	return s.b.Put(ctx, []Entry{e}, putOptions(opts))
}

// PutMany stores all entries, at most 10,000, or on error none.
func (s *Storage) PutMany(ctx context.Context, entries map[string]any, opts ...PutOption) error {
	if len(entries) > MaxBatchKeys {
		return inEvent(CodeBatchTooLarge, "PutMany of %d keys: a batch has at most %d; nothing was written", len(entries), MaxBatchKeys)
	}
	encoded := make([]Entry, 0, len(entries))
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		e, err := newEntry(key, entries[key])
		if err != nil {
			return err
		}
		encoded = append(encoded, e)
	}
	defer s.writes.Add(1)
	return s.b.Put(ctx, encoded, putOptions(opts))
}

// Delete removes at most 128 keys and returns how many of them existed.
func (s *Storage) Delete(ctx context.Context, keys ...string) (int, error) {
	if err := checkKeys(keys); err != nil {
		return 0, err
	}
	defer s.writes.Add(1)
	return s.b.Delete(ctx, distinct(keys))
}

// distinct returns keys sorted, each once.
func distinct(keys []string) []string {
	if len(keys) < 2 {
		return keys
	}
	return slices.Compact(slices.Sorted(slices.Values(keys)))
}

// DeleteAll removes all that the object has stored, and its alarm: as part of the event's batch, whatever the amount. It is the only way to
// leave nothing behind. It fails within a transaction.
func (s *Storage) DeleteAll(ctx context.Context) error {
	defer s.writes.Add(1)
	return s.b.DeleteAll(ctx)
}

// Sync makes a batch of what the event has written so far, and waits until that and all before it is durable. After an error it may
// or may not take effect.
func (s *Storage) Sync(ctx context.Context) error { return s.b.Sync(ctx) }

func newEntry(key string, value any) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, err
	}
	b, err := Marshal(value)
	if err != nil {
		return Entry{}, inEvent(CodeBadArgument, "storage key %.100q: a %T cannot be stored: %v", key, value, err).WithCause(err)
	}
	if len(b) > MaxStorageValue {
		return Entry{}, inEvent(CodeBadArgument, "Values cannot be larger than %d bytes. A value of size %d was provided.", MaxStorageValue, len(b))
	}
	return Entry{key, Value{b}}, nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return inEvent(CodeBadArgument, "the storage key is empty: want 1 to %d bytes", MaxStorageKey)
	case len(key) > MaxStorageKey:
		return inEvent(CodeBadArgument, "Keys cannot be larger than %d bytes. A key of size %d was provided.", MaxStorageKey, len(key))
	}
	return nil
}

func checkKeys(keys []string) error {
	if len(keys) > MaxKeysPerCall {
		return inEvent(CodeBadArgument, "Maximum number of key value pairs is %d. %d pairs were provided.", MaxKeysPerCall, len(keys))
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return nil
}

// inEvent is an error that arises in an object's code.
func inEvent(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Outcome: Ran, Remote: true, Message: fmt.Sprintf(format, args...)}
}
