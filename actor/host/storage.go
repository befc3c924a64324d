package host

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

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
	id := b.id()
	return b.read(r, append(store.AppendObjectPrefix(room[:0], id.Class, id.Key), key...))
}

// read is what r sees under a key of the shard. The key is not kept.
func (b *instance) read(r *run, k []byte) ([]byte, bool, error) {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil, false, b.ended()
	}
	value, present, found := r.pending.lookup(k)
	r.mu.Unlock()
	if found {
		return value, present, nil
	}
	return b.recall(k)
}

// recall is what is under a key without what the running event has written.
func (b *instance) recall(k []byte) ([]byte, bool, error) {
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
func (b *instance) Put(ctx context.Context, entries []actor.Entry, o actor.PutOptions) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	if len(entries) == 1 { // without a slice of its own
		w := [1]store.Write{b.write(entries[0].Key, actor.SharedBytes(entries[0].Value), false)}
		return b.change(r, w[:], !o.Unconfirmed)
	}
	ws := make([]store.Write, len(entries))
	for i := range entries {
		ws[i] = b.write(entries[i].Key, actor.SharedBytes(entries[i].Value), false)
	}
	return b.change(r, ws, !o.Unconfirmed)
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
	return len(ws), b.change(r, ws, true)
}

// DeleteAll is of actor.Backend.
func (b *instance) DeleteAll(ctx context.Context) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	b.quota.mu.Lock()
	defer b.quota.mu.Unlock()
	size, err := b.emptied()
	if err != nil {
		return err
	}
	alarm, err := b.clearAlarm(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return b.ended()
	}
	if err := r.within(textDeleteAllInTx); err != nil {
		return err
	}
	prefix := b.prefix(0)
	r.pending.clear(store.Write{Key: prefix, End: store.PrefixEnd(prefix), Delete: true})
	for _, w := range append(size, alarm...) { // few, and what was pending has gone: the batch has room
		r.pending.add(w)
	}
	r.pending.gates = true
	return nil
}

func (b *instance) write(key string, value []byte, del bool) store.Write {
	return store.Write{Key: append(b.prefix(len(key)), key...), Value: value, Delete: del}
}

// add adds writes to the event's batch: all or none. If gates is set, what leaves waits for the batch.
func (b *instance) add(r *run, ws []store.Write, gates bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return b.ended()
	}
	maxKeys, maxBytes := r.room()
	if keys, size := r.pending.after(ws); keys > maxKeys || size > maxBytes {
		return &actor.Error{Code: actor.CodeBatchTooLarge, Outcome: actor.Ran, Remote: true, Object: b.id(),
			Message: fmt.Sprintf("the event's batch would have %d keys and %d bytes, the object's name with each key: at most %d and %d are allowed; nothing of this operation was written: Sync before it, or write less",
				keys, size, maxKeys, maxBytes)}
	}
	for _, w := range ws {
		r.pending.add(w)
	}
	r.pending.gates = r.pending.gates || gates && len(ws) > 0
	return nil
}
