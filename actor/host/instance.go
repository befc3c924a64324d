package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// instance is one activation in memory: what the constructor returned, and the storage that it was given. It knows one lease for ever.
type instance struct {
	s       *shard
	a       *Activation
	id      actor.ID
	prefix  []byte
	object  actor.Instance
	born    atomic.Bool           // the constructor has returned
	counted bool                  // in Host.live; under the shard's lock
	broken  atomic.Pointer[fatal] // why it was reset
}

var (
	_ actor.Backend = (*instance)(nil)
	_ actor.Runtime = (*instance)(nil)
)

// fatal is what an activation was reset with.
type fatal struct{ err *actor.Error }

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// of is the error for one of those that it concerns.
func (f fatal) of(o actor.Outcome) *actor.Error {
	e := *f.err
	e.Outcome = o
	return &e
}

// maxListBytes bounds what one List holds in memory.
const maxListBytes = 64 << 20

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
	err = b.s.lease.Check(ctx)
	var why *store.MovedError
	switch {
	case err == nil:
		return r, nil
	case errors.As(err, &why):
		return nil, b.deny(r, why)
	}
	e := waited(b.id, err, actor.Ran, "waiting for the owner's lease")
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
	return moved(b.id, b.s.lease, why)
}

func (b *instance) ended() error {
	return &actor.Error{Code: actor.CodeNotInEvent, Outcome: actor.Ran, Remote: true, Object: b.id,
		Message: "storage used after the method had returned: wait in the method for the goroutines that it starts"}
}

// Get is of actor.Backend.
func (b *instance) Get(ctx context.Context, key string) ([]byte, bool, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return nil, false, err
	}
	return b.get(r, key)
}

func (b *instance) get(r *run, key string) ([]byte, bool, error) {
	var room [256]byte
	k := append(append(room[:0], b.prefix...), key...)
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil, false, b.ended()
	}
	if i := r.pending.find(k); i >= 0 {
		w := &r.pending.writes[i]
		value, present := w.Value, !w.Delete
		r.mu.Unlock()
		return value, present, nil
	}
	r.mu.Unlock()

	b.s.mu.Lock()
	value, present, found := b.s.t.Lookup(b.a, k)
	pos := b.s.t.Pos(b.a)
	b.s.mu.Unlock()
	if found {
		return value, present, nil
	}
	value, present, err := b.s.lease.Get(bytes.Clone(k))
	if err != nil {
		return nil, false, b.failed("read", err)
	}
	b.s.mu.Lock()
	b.s.t.Fill(b.a, k, value, present, pos)
	b.s.mu.Unlock()
	return value, present, nil
}

func (b *instance) failed(what string, err error) error {
	b.s.h.log.Error("storage failed", "object", b.id.String(), "operation", what, "cause", err)
	e := &actor.Error{Code: actor.CodeInternal, Outcome: actor.Ran, Object: b.id, Message: "storage failed on the owner: see its log"}
	return e.WithCause(err)
}

// GetMany is of actor.Backend.
func (b *instance) GetMany(ctx context.Context, keys []string) ([]actor.Entry, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	entries := make([]actor.Entry, 0, len(keys))
	for _, key := range slices.Sorted(slices.Values(keys)) {
		value, ok, err := b.get(r, key)
		if err != nil {
			return nil, err
		}
		if ok {
			entries = append(entries, actor.Entry{Key: key, Value: actor.NewValue(value)})
		}
	}
	return entries, nil
}

// Put is of actor.Backend.
func (b *instance) Put(ctx context.Context, entries []actor.Entry) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	if len(entries) == 1 { // without a slice of its own
		w := [1]store.Write{b.write(entries[0].Key, entries[0].Value.Raw(), false)}
		return b.add(r, w[:])
	}
	ws := make([]store.Write, len(entries))
	for i := range entries {
		ws[i] = b.write(entries[i].Key, entries[i].Value.Raw(), false)
	}
	return b.add(r, ws)
}

// Delete is of actor.Backend. A key that does not exist is not written.
func (b *instance) Delete(ctx context.Context, keys []string) (int, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return 0, err
	}
	ws := make([]store.Write, 0, len(keys))
	for _, key := range keys {
		_, ok, err := b.get(r, key)
		if err != nil {
			return 0, err
		}
		if ok {
			ws = append(ws, b.write(key, nil, true))
		}
	}
	return len(ws), b.add(r, ws)
}

func (b *instance) write(key string, value []byte, del bool) store.Write {
	k := make([]byte, 0, len(b.prefix)+len(key))
	return store.Write{Key: append(append(k, b.prefix...), key...), Value: value, Delete: del}
}

// add adds writes to the event's batch: all or none.
func (b *instance) add(r *run, ws []store.Write) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return b.ended()
	}
	if keys, size := r.pending.after(ws); keys > actor.MaxBatchKeys || size > actor.MaxBatchBytes {
		return &actor.Error{Code: actor.CodeBatchTooLarge, Outcome: actor.Ran, Remote: true, Object: b.id,
			Message: fmt.Sprintf("the event's batch would have %d keys and %d bytes, the object's name with each key: at most %d and %d are allowed; nothing of this operation was written: Sync before it, or write less",
				keys, size, actor.MaxBatchKeys, actor.MaxBatchBytes)}
	}
	for _, w := range ws {
		r.pending.add(w)
	}
	return nil
}

// List is of actor.Backend.
func (b *instance) List(ctx context.Context, o actor.ListOptions) ([]actor.Entry, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	start, end := append(bytes.Clone(b.prefix), o.Start...), store.PrefixEnd(b.prefix)
	if o.End != "" {
		end = append(bytes.Clone(b.prefix), o.End...)
	}
	if bytes.Compare(start, end) >= 0 {
		return nil, nil
	}
	b.s.mu.Lock()
	mem := b.s.t.Unapplied(b.a, start, end)
	b.s.mu.Unlock()
	r.mu.Lock()
	over := r.over
	mem = r.pending.over(mem, start, end)
	r.mu.Unlock()
	if over {
		return nil, b.ended()
	}
	m := merger{mem: mem, prefix: len(b.prefix), limit: o.Limit, less: -1}
	if o.Reverse {
		slices.Reverse(m.mem)
		m.less = 1
	}
	if err := b.s.lease.Scan(start, end, o.Reverse, m.next); err != nil {
		return nil, b.failed("list", err)
	}
	m.rest()
	if m.bytes > maxListBytes {
		return nil, &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Remote: true, Object: b.id,
			Message: fmt.Sprintf("List: the result has more than %d bytes: set a Limit and go on with StartAfter", maxListBytes)}
	}
	return m.out, nil
}

// merger lays what is in memory over a scan of the shard's state. Both come in the order of the scan.
type merger struct {
	mem    []store.Write
	prefix int
	limit  int
	less   int // what bytes.Compare gives for a key that comes before another
	out    []actor.Entry
	bytes  int
}

func (m *merger) full() bool { return m.limit > 0 && len(m.out) == m.limit || m.bytes > maxListBytes }

// next takes one entry of the scan; false ends it.
func (m *merger) next(key, value []byte) bool {
	for len(m.mem) > 0 && !m.full() && bytes.Compare(m.mem[0].Key, key) == m.less {
		m.take()
	}
	switch {
	case m.full():
	case len(m.mem) > 0 && bytes.Equal(m.mem[0].Key, key):
		m.take()
	default:
		m.emit(key, bytes.Clone(value))
	}
	return !m.full()
}

func (m *merger) take() {
	w := &m.mem[0]
	m.mem = m.mem[1:]
	if !w.Delete {
		m.emit(w.Key, w.Value)
	}
}

func (m *merger) rest() {
	for len(m.mem) > 0 && !m.full() {
		m.take()
	}
}

func (m *merger) emit(key, value []byte) {
	m.out = append(m.out, actor.Entry{Key: string(key[m.prefix:]), Value: actor.NewValue(value)})
	m.bytes += len(key) + len(value)
}

// Sync is of actor.Backend.
func (b *instance) Sync(ctx context.Context) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	wait := make(chan Why, 1)
	if err := b.push(ctx, r, wait); err != nil {
		return err
	}
	return b.settled(ctx, r, wait)
}
