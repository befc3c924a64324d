package host

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// quota is how much an object may store. What it stores is in a record of its own, which changes in the same batch as the data, through the
// same layers: so transactions, resets and changes of owner leave it right. Only objects whose class has a limit have the record. If it is missing
// the data is measured: it may be older than the limit.
type quota struct {
	mu   sync.Mutex  // from the reading of a size to the writing of the next: goroutines of one event may write at once
	none atomic.Bool // there is no limit, and no record from a time when there was one
}

// limit is how many bytes the object may store; 0: any number.
func (b *instance) limit() int64 { return b.a.o.policy.StorageLimit }

// quotaKey is the key of the record.
func (b *instance) quotaKey() []byte {
	id := b.id()
	return store.MetaKey(id.Class, id.Key, store.MetaSize)
}

// change adds writes to the event's batch, and what they do to the record: all or none.
func (b *instance) change(r *run, ws []store.Write, gates bool) error {
	q := &b.quota
	if b.limit() == 0 && q.none.Load() {
		return b.add(r, ws, gates)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var record []store.Write
	var err error
	if b.limit() == 0 {
		record, err = b.unmeasured()
	} else {
		record, err = b.measured(r, ws)
	}
	if err != nil {
		return err
	}
	return b.add(r, append(ws, record...), gates)
}

// unmeasured takes away the record of an object whose class has no limit any more: it would be wrong when the class has one again.
func (b *instance) unmeasured() ([]store.Write, error) {
	_, present, err := b.recall(b.quotaKey())
	if err != nil {
		return nil, err
	}
	if !present {
		b.quota.none.Store(true)
		return nil, nil
	}
	return []store.Write{{Key: b.quotaKey(), Delete: true}}, nil
}

// measured is the record after ws, if that changes it.
func (b *instance) measured(r *run, ws []store.Write) ([]store.Write, error) {
	before, known, err := b.size(r)
	if err != nil {
		return nil, err
	}
	after, prefix := before, len(b.prefix(0))
	for i := range ws {
		w := &ws[i]
		old, present, err := b.read(r, w.Key)
		if err != nil {
			return nil, err
		}
		name := int64(len(w.Key) - prefix)
		if present {
			after -= name + int64(len(old))
		}
		if !w.Delete {
			after += name + int64(len(w.Value))
		}
	}
	switch {
	case after > before && after > b.limit():
		return nil, &actor.Error{Code: actor.CodeStorageFull, Outcome: actor.Ran, Remote: true, Object: b.id(),
			Message: fmt.Sprintf("the object's storage is full: it holds %d bytes, this would make it %d, and its class allows %d; nothing of this operation was written", before, after, b.limit())}
	case after == before && known:
		return nil, nil
	case after == 0:
		return []store.Write{{Key: b.quotaKey(), Delete: true}}, nil
	}
	return []store.Write{{Key: b.quotaKey(), Value: binary.AppendUvarint(nil, uint64(after))}}, nil
}

// decodeSize reads the record of an object's size; ok is false for what is none.
func decodeSize(raw []byte) (n int64, ok bool) {
	u, w := binary.Uvarint(raw)
	return int64(u), w > 0 && w == len(raw) && u <= math.MaxInt64
}

// size is how many bytes the object stores, keys and values, as the event sees it, and whether the record says so.
func (b *instance) size(r *run) (size int64, known bool, _ error) {
	raw, present, err := b.read(r, b.quotaKey())
	if err != nil {
		return 0, false, err
	}
	if n, ok := decodeSize(raw); present && ok {
		return n, true, nil
	}
	o := actor.ListOptions{}
	for more := true; more; {
		var entries []actor.Entry
		if entries, more, err = b.list(r, o, 1<<20); err != nil {
			return 0, false, err
		}
		for _, e := range entries {
			size += int64(len(e.Key) + len(actor.SharedBytes(e.Value)))
			o.Start = e.Key + "\x00"
		}
	}
	return size, size == 0, nil
}

// emptied takes the record away with everything else. Called with quota.mu held.
func (b *instance) emptied() ([]store.Write, error) {
	if b.limit() == 0 {
		return b.unmeasured()
	}
	return []store.Write{{Key: b.quotaKey(), Delete: true}}, nil
}
