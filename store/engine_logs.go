package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// GroupRecord reads a group's small value. The caller owns the bytes.
func (e *Engine) GroupRecord(g ring.GroupID, r GroupRecord) (value []byte, ok bool, err error) {
	if r == RecordHardState {
		return e.hardState(g)
	}
	return e.get(appendRecordKey(nil, g, r))
}

func (e *Engine) hardState(g ring.GroupID) (value []byte, ok bool, err error) {
	if !e.gate.enter() {
		return nil, false, ErrClosed
	}
	defer e.gate.leave()
	want := journalItem{kind: itemHardState, group: g}
	for before := uint64(0); ; {
		number := e.journal.where(&want)
		if number == 0 {
			return getCopy(e.db, appendRecordKey(nil, g, RecordHardState))
		}
		err := e.record(number, func(it *journalItem) {
			if it.kind == itemHardState && it.group == g {
				value, ok = slices.Clone(it.value), true
			}
		})
		if err == nil && !ok {
			err = recordError(number, fmt.Errorf("it lacks %v's hard state", g))
		}
		if !errors.Is(err, pebble.ErrNotFound) || number == before {
			return value, ok, err
		}
		before = number // it was moved, or replaced, while we looked
	}
}

// Entry reads the value of one log entry. The caller owns the bytes.
func (e *Engine) Entry(g ring.GroupID, index uint64) (value []byte, ok bool, err error) {
	err = e.ScanEntries(g, index, index+1, func(_ uint64, v []byte) error {
		value, ok = slices.Clone(v), true
		return nil
	})
	return value, ok, err
}

// LogBytes is how much the logs of all groups may keep together, in bytes, if nothing is to be moved out of the journal: what is of no use any more needs room too,
// and waits behind what is.
func (e *Engine) LogBytes() int { return e.journal.limit / 2 }

// scanWindow is for how many entries the places are looked up at a time, or for all that one record says.
const scanWindow = 1024

// ScanEntries calls fn for the log entries from … to-1 that exist, in ascending order, until it returns an error, which comes
// back. value is valid only during the call. to may be math.MaxUint64. Of what is changed meanwhile it may see some.
func (e *Engine) ScanEntries(g ring.GroupID, from, to uint64, fn func(index uint64, value []byte) error) error {
	if !e.gate.enter() {
		return ErrClosed
	}
	defer e.gate.leave()
	s := logScan{e: e, g: g, fn: fn}
	for from < to {
		next, err := s.window(from, to)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// logScan reads a run of a group's entries, from the journal and from keys of their own.
type logScan struct {
	e  *Engine
	g  ring.GroupID
	fn func(index uint64, value []byte) error

	at      []uint64 // records of entries first, first+1, …
	first   uint64
	lost    uint64        // record that was not there
	number  uint64        // record that was read last
	entries []journalItem // of it and of the group, ascending
	key     [entryKeyLen]byte
}

// look looks up where entries from on are. What it says is all that there is up to end-1.
func (s *logScan) look(from, to uint64) (end uint64, moved bool) {
	j := &s.e.journal
	j.mu.RLock()
	defer j.mu.RUnlock()
	p := j.logs[s.g]
	if s.at = s.at[:0]; p == nil {
		return to, false
	}
	lo, hi := p.overlap(from, to)
	end = to
	if lo < hi && hi-lo > scanWindow {
		last := hi
		for hi = lo + scanWindow; hi < last && p.of(hi) == p.of(hi-1); hi++ { // no record is read twice
		}
		if hi < last {
			end = hi
		}
	}
	if s.first = lo; lo < hi {
		s.at = append(s.at, p.at[lo-p.first:hi-p.first]...)
	}
	return end, p.moved(from, end)
}

// window reads some entries from on, and returns where to go on.
func (s *logScan) window(from, to uint64) (next uint64, err error) {
	end, moved := s.look(from, to)
	if len(s.at) == 0 && !moved {
		return end, nil
	}
	recs, err := s.e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: []byte{spaceJournal + 1}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, recs.Close()) }()
	var own *pebble.Iterator
	ok := false
	if moved {
		if own, err = s.e.db.NewIter(&pebble.IterOptions{LowerBound: appendEntryKey(nil, s.g, from), UpperBound: appendEntryKey(nil, s.g, end)}); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, own.Close()) }()
		ok = own.First()
	}
	s.number, s.entries = 0, s.entries[:0] // they were of another iterator
	for k := 0; ; {
		for k < len(s.at) && s.at[k] == 0 {
			k++
		}
		index := uint64(math.MaxUint64)
		if k < len(s.at) {
			index = s.first + uint64(k)
		}
		for ; ok; ok = own.Next() {
			i, err := entryIndex(own.Key())
			if err == nil && i >= index {
				break
			}
			var v []byte
			if err == nil {
				v, err = own.ValueAndErr()
			}
			if err == nil {
				err = s.fn(i, v)
			}
			if err != nil {
				return 0, err
			}
		}
		if own != nil && own.Error() != nil {
			return 0, own.Error()
		}
		if k == len(s.at) {
			return end, nil
		}
		v, err := s.read(recs, s.at[k], index)
		if errors.Is(err, pebble.ErrNotFound) && s.lost != s.at[k] {
			s.lost = s.at[k] // it was trimmed meanwhile: what was needed of it stands elsewhere
			return index, nil
		}
		if err == nil {
			err = s.fn(index, v)
		}
		if err != nil {
			return 0, err
		}
		if ok && bytes.Equal(own.Key(), appendEntryKey(s.key[:0], s.g, index)) { // an older one
			ok = own.Next()
		}
		k++
	}
}

// read reads an entry out of a record.
func (s *logScan) read(recs *pebble.Iterator, number, index uint64) ([]byte, error) {
	if s.number != number {
		if err := s.open(recs, number); err != nil {
			return nil, recordError(number, err)
		}
		s.number = number
	}
	k, ok := slices.BinarySearchFunc(s.entries, index, func(it journalItem, index uint64) int { return cmp.Compare(it.from, index) })
	if !ok {
		return nil, recordError(number, fmt.Errorf("it lacks %v's entry %d", s.g, index))
	}
	return s.entries[k].value, nil
}

// open reads what a record says of the group's entries. They are valid until recs moves.
func (s *logScan) open(recs *pebble.Iterator, number uint64) error {
	key := appendRecordNumber(nil, number)
	if !recs.SeekGE(key) || !bytes.Equal(recs.Key(), key) {
		return cmp.Or(recs.Error(), pebble.ErrNotFound)
	}
	rec, err := recs.ValueAndErr()
	if err != nil {
		return err
	}
	body, err := opened(number, rec)
	if err != nil {
		return err
	}
	s.entries = s.entries[:0]
	if err := items(body, func(it *journalItem) error {
		if it.kind == itemEntry && it.group == s.g {
			s.entries = append(s.entries, *it)
		}
		return nil
	}); err != nil {
		return err
	}
	s.entries = lastOfEach(s.entries)
	return nil
}

// endOfLog is above every index.
const endOfLog = math.MaxUint64
