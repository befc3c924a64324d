package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// A history is stored as a head and two rings of rows. Row n takes the slot of row n − HistoryTenures (or HistoryCheckpoints), so nothing is ever
// deleted. A head may be older than the rows: what lies between is found again in the log, and written again, the same but for its time.
//
// Versions before the history neither read nor write these keys, and leave them where they are.
const (
	rowTenure     byte = 1
	rowCheckpoint byte = 2
)

func appendHistoryRow(b []byte, g ring.GroupID, kind byte, slot uint64) []byte {
	b = append(appendRecordKey(b, g, recordHistory), kind)
	return binary.BigEndian.AppendUint16(b, uint16(slot))
}

// sealed puts a CRC-32C of key and value before a value: bytes in a wrong place are found as well as wrong bytes.
func sealed(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(value)), sum), value...)
}

func unsealed(key, v []byte) ([]byte, error) {
	if len(v) < 4 || crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, v[4:]) != binary.BigEndian.Uint32(v) {
		return nil, errors.New("its checksum is wrong")
	}
	return v[4:], nil
}

func (b *Batch) setSealed(key, value []byte) { b.set(key, sealed(key, value)) }

// SetHistory stores what a history says is to be stored.
func (b *Batch) SetHistory(g ring.GroupID, c *HistoryChange) {
	for i := range c.Tenures {
		t := &c.Tenures[i]
		b.setSealed(appendHistoryRow(nil, g, rowTenure, t.Number%HistoryTenures), AppendTenure(nil, t))
	}
	for i := range c.Checkpoints {
		p := &c.Checkpoints[i]
		b.setSealed(appendHistoryRow(nil, g, rowCheckpoint, p.Number%HistoryCheckpoints), AppendCheckpoint(nil, p))
	}
	b.setSealed(appendRecordKey(nil, g, recordHistory), AppendHistoryHead(nil, &c.Head))
}

// ReplaceHistory removes the group's history and stores the head of another.
func (b *Batch) ReplaceHistory(g ring.GroupID, h *HistoryHead) {
	from := appendRecordKey(nil, g, recordHistory)
	b.deleteRange(from, PrefixEnd(from))
	b.SetHistory(g, &HistoryChange{Head: *h})
}

// HistoryHead reads the head of the group's history; ok is false if there is none.
func (e *Engine) HistoryHead(g ring.GroupID) (h HistoryHead, ok bool, err error) {
	key := appendRecordKey(nil, g, recordHistory)
	v, ok, err := e.get(key)
	if err != nil || !ok {
		return h, false, err
	}
	if v, err = unsealed(key, v); err == nil {
		h, err = DecodeHistoryHead(v)
	}
	if err != nil {
		return h, true, fmt.Errorf("%v: history: %w", g, err)
	}
	return h, true, nil
}

// HistoryRows reads the rows that belong to a head, ascending: those that the head counts, as far back as they are kept. They may be read while the replica goes on:
// a row that was overwritten meanwhile is left out with all before it.
func (e *Engine) HistoryRows(g ring.GroupID, h *HistoryHead) (tenures []Tenure, checkpoints []Checkpoint, err error) {
	if !e.gate.enter() {
		return nil, nil, ErrClosed
	}
	defer e.gate.leave()
	head := appendRecordKey(nil, g, recordHistory)
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clip(head), 0), UpperBound: PrefixEnd(head)})
	if err != nil {
		return nil, nil, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			v, err = unsealed(it.Key(), v)
		}
		if err != nil {
			break
		}
		switch it.Key()[len(head)] {
		case rowTenure:
			var t Tenure
			if t, err = DecodeTenure(v); err == nil && t.Number < h.Tenure.Number {
				tenures = append(tenures, t)
			}
		case rowCheckpoint:
			var c Checkpoint
			if c, err = DecodeCheckpoint(v); err == nil && c.Number <= h.Checked {
				checkpoints = append(checkpoints, c)
			}
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return nil, nil, fmt.Errorf("%v: history: %w", g, err)
	}
	tenures = newest(tenures, h.Tenure.Number-1, func(t *Tenure) uint64 { return t.Number })
	checkpoints = newest(checkpoints, h.Checked, func(c *Checkpoint) uint64 { return c.Number })
	return tenures, checkpoints, nil
}

// newest sorts rows by their numbers and returns those without a hole up to last.
func newest[T any](rows []T, last uint64, number func(*T) uint64) []T {
	slices.SortFunc(rows, func(x, y T) int { return cmp.Compare(number(&x), number(&y)) })
	from := len(rows)
	for from > 0 && number(&rows[from-1]) == last-uint64(len(rows)-from) {
		from--
	}
	return rows[from:]
}
