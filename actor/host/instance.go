package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
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
	aborted atomic.Pointer[abortion]
}

var _ actor.Backend = (*instance)(nil)

type abortion struct{ reason error }

// maxListBytes bounds what one List holds in memory.
const maxListBytes = 64 << 20

// enter is what every access to storage begins with: is ctx of a running event of this activation, and is the lease good?
func (b *instance) enter(ctx context.Context) (*run, error) {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok || r.b != b {
		return nil, &actor.Error{Code: actor.CodeNotInEvent, Outcome: actor.Ran, Remote: true, Object: b.id}
	}
	r.touched.Store(true)
	if b.aborted.Load() != nil {
		return nil, b.abortError()
	}
	if b.s.over.Load() {
		return nil, b.deny(r, nil)
	}
	err := b.s.lease.Check(ctx)
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
		return nil, false, b.broken("read", err)
	}
	b.s.mu.Lock()
	b.s.t.Fill(b.a, k, value, present, pos)
	b.s.mu.Unlock()
	return value, present, nil
}

func (b *instance) broken(what string, err error) error {
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
		return nil, b.broken("list", err)
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
	wait := make(chan bool, 1)
	for {
		space, err := b.submit(r, wait)
		if err != nil {
			return err
		}
		if space == nil {
			break
		}
		if err := b.s.waitSpace(ctx.Done(), b.s.h.opts.CommitTimeout, space); err != nil {
			err.Reset, err.Object, err.Remote = false, b.id, true
			return err
		}
	}
	select {
	case ok := <-wait:
		if !ok {
			return b.deny(r, nil)
		}
		return nil
	case <-ctx.Done():
		e := waited(b.id, context.Cause(ctx), actor.Ran, "waiting for writes to be durable")
		e.Remote = true
		return e
	}
}

// submit makes a batch of what r has written and has wait hear when it is applied. If the lease is too busy it returns what to wait for.
func (b *instance) submit(r *run, wait chan bool) (space chan struct{}, _ error) {
	var buf acts
	s := b.s
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil, b.ended()
	}
	s.mu.Lock()
	out := buf[:0]
	if ws := r.pending.writes; len(ws) > 0 && !s.t.IsLost() {
		var err error
		if out, err = s.commit(out, ws); err != nil {
			space = s.awaitSpace()
			s.mu.Unlock()
			r.mu.Unlock()
			return space, nil
		}
		if !s.t.IsLost() {
			out = s.t.Submit(out, b.a, r.pending.take())
		}
	}
	out = s.t.Await(out, b.a, wait)
	s.settle(out)
	r.mu.Unlock()
	s.do(out)
	return nil, nil
}

// abort is State.Abort.
func (b *instance) abort(reason error) {
	b.aborted.CompareAndSwap(nil, &abortion{reason})
	var buf acts
	b.s.mu.Lock()
	// An event that runs is reset when it ends; if none runs, a goroutine that outlived its event has called.
	out, _ := b.s.t.Discard(buf[:0], b.a)
	b.s.settle(out)
	b.s.do(out)
	runtime.Goexit()
}

func (b *instance) abortError() *actor.Error {
	text := textAbort
	if a := b.aborted.Load(); a != nil && a.reason != nil {
		text = a.reason.Error()
	}
	return &actor.Error{Code: actor.CodeAborted, Outcome: actor.Ran, Remote: true, Reset: true, Message: text, Object: b.id}
}
