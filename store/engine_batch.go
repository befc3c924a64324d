package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// maxCommitBytes bounds one batch; Pebble itself panics at 4 GiB.
const maxCommitBytes = 1 << 30

// batchRetainBytes is how much of a batch's buffer Reset keeps.
const batchRetainBytes = 4 << 20

// Committed hears that a batch took effect. durable says whether it, and all before it, is fsynced.
type Committed interface{ Committed(durable bool) }

// Batch gathers changes of many groups that take effect together or not at all. It belongs to one goroutine. Bytes given to it
// are copied. Operations apply in their order: a later one to the same key wins.
type Batch struct {
	e      *Engine
	b      *pebble.Batch
	tell   []Committed
	key    []byte
	record []byte // of the journal: what the batch does to logs
	err    error  // first thing that went wrong; Commit returns it
}

// NewBatch makes an empty batch. Reset makes it empty again for reuse; Close gives it back.
func (e *Engine) NewBatch() *Batch {
	return &Batch{e: e, b: e.db.NewBatch(pebble.WithMaxRetainedSizeBytes(batchRetainBytes))}
}

// Len is the size in bytes of what is in the batch.
func (b *Batch) Len() int { return b.b.Len() + len(b.record) }

// Empty reports whether nothing is in the batch.
func (b *Batch) Empty() bool { return b.b.Empty() && len(b.record) == 0 }

// Reset empties the batch.
func (b *Batch) Reset() {
	b.b.Reset()
	if b.record = b.record[:0]; cap(b.record) > batchRetainBytes {
		b.record = nil
	}
	clear(b.tell)
	b.tell, b.err = b.tell[:0], nil
}

// Close gives the batch back without committing it.
func (b *Batch) Close() error { return b.b.Close() }

// Notify makes Commit tell c, on its own goroutine, before it returns, after everything registered before.
func (b *Batch) Notify(c Committed) { b.tell = append(b.tell, c) }

// Fail makes Commit return err, unless something else went wrong before. A nil err does nothing.
func (b *Batch) Fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// Commit makes the batch take effect, and empties it. With sync it returns when the batch, and everything committed before it, is fsynced;
// without, it is visible but a crash may lose it, together with all that came later. After an error nothing took effect. A failed
// write or fsync does not come back: it ends the process.
func (b *Batch) Commit(sync bool) error {
	err := b.err
	if err == nil && !b.e.gate.enter() {
		err = ErrClosed
	}
	if err != nil {
		b.Reset()
		return err
	}
	defer b.e.gate.leave()
	opts := pebble.NoSync
	if sync {
		opts = pebble.Sync
	}
	switch {
	case len(b.record) > 0:
		err = b.e.commitLogs(b, opts)
	case !b.b.Empty():
		err = b.b.Commit(opts)
	case sync:
		// An empty batch would return at once; what was committed before it without sync must be durable all the same.
		err = b.e.db.LogData(nil, pebble.Sync)
	}
	if err != nil {
		b.Reset()
		return err
	}
	for _, c := range b.tell {
		c.Committed(sync)
	}
	b.Reset()
	return nil
}

func (b *Batch) room(n int) bool {
	if b.err == nil && b.Len()+n > maxCommitBytes {
		b.err = fmt.Errorf("store: a batch of more than %d bytes", maxCommitBytes)
	}
	return b.err == nil
}

func (b *Batch) set(key, value []byte) {
	b.key = key
	if b.room(len(key) + len(value)) {
		b.Fail(b.b.Set(key, value, nil))
	}
}

func (b *Batch) deleteRange(from, to []byte) {
	if b.room(len(from) + len(to)) {
		b.Fail(b.b.DeleteRange(from, to, nil))
	}
}

// item begins what the batch says to the journal of a group, of n bytes at most behind the item's head. It reports whether there is room.
func (b *Batch) item(kind byte, g ring.GroupID, n int) bool {
	const head = 1 + 3*binary.MaxVarintLen64
	if !b.room(head + n) {
		return false
	}
	if len(b.record) == 0 {
		b.record = append(b.record, 0, 0, 0, 0, journalFormat)
	}
	b.record = binary.AppendUvarint(append(b.record, kind), uint64(g))
	return true
}

// SetRecord stores a group's small value.
func (b *Batch) SetRecord(g ring.GroupID, r GroupRecord, value []byte) {
	if r != RecordHardState {
		b.set(appendRecordKey(b.key[:0], g, r), value)
	} else if b.item(itemHardState, g, len(value)) {
		b.record = append(binary.AppendUvarint(b.record, uint64(len(value))), value...)
	}
}

// SetEntry stores the log entry at index; its value is head ‖ data.
func (b *Batch) SetEntry(g ring.GroupID, index uint64, head, data []byte) {
	if index == endOfLog {
		b.Fail(fmt.Errorf("store: %v: log entry %d", g, index))
	} else if b.item(itemEntry, g, len(head)+len(data)) {
		b.record = binary.AppendUvarint(binary.AppendUvarint(b.record, index), uint64(len(head)+len(data)))
		b.record = append(append(b.record, head...), data...)
	}
}

// DeleteEntries removes the log entries from … to-1; none if to is not above from.
func (b *Batch) DeleteEntries(g ring.GroupID, from, to uint64) {
	if from < to && b.item(itemDelete, g, 0) {
		b.record = binary.AppendUvarint(binary.AppendUvarint(b.record, from), to)
	}
}

// clearGroup removes all of a group.
func (b *Batch) clearGroup(g ring.GroupID) {
	for _, space := range [...]byte{spaceLog, spaceState} {
		from := appendGroup(nil, space, g)
		b.deleteRange(from, PrefixEnd(from))
	}
	b.item(itemClear, g, 0)
}

// ApplyWrites applies writes to the group's data, in order.
func (b *Batch) ApplyWrites(g ring.GroupID, writes []Write) {
	if len(writes) == 0 {
		return
	}
	gs, err := b.e.group(g)
	if err != nil {
		b.Fail(err)
		return
	}
	b.key = appendDataPrefix(b.key[:0], g, gs.generation.Load())
	for i := range writes {
		w := &writes[i]
		b.key = append(b.key[:dataPrefixLen], w.Key...)
		switch {
		case !b.room(len(b.key) + len(w.Value)):
			return
		case w.IsRange():
			// Pebble's memtable must not see a range that ends before it begins.
			if bytes.Compare(w.Key, w.End) < 0 {
				b.deleteRange(b.key, append(b.key[:dataPrefixLen:dataPrefixLen], w.End...))
			}
		case w.Delete:
			b.Fail(b.b.Delete(b.key, nil))
		default:
			b.Fail(b.b.Set(b.key, w.Value, nil))
		}
	}
}
