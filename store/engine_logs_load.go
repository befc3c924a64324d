package store

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// loadedBytes is how much of the end of each log is kept when the journal is read at open, for who opens the log then.
const loadedBytes = 1 << 20

// loadedHead is how many bytes of each value are kept.
const loadedHead = 16

// LoadedLog is what the journal said at open of one group's log, all of it read in one pass: a log for itself would be read from the records of all. It is the entries
// First, First+1, …; of the last ones the values are there. What is below First may stand under keys of its own.
type LoadedLog struct {
	First  uint64
	heads  []loadedEntry
	values [][]byte // of the last entries
	size   int
}

type loadedEntry struct {
	head [loadedHead]byte
	size uint32
}

// Len is how many entries there are.
func (l *LoadedLog) Len() int { return len(l.heads) }

// Entry is the first bytes of the k-th entry's value, 16 at most, and how many it has in all. value is the whole of it, or nil if only its beginning was kept. Its
// record's checksum was right; the entry's own was not looked at.
func (l *LoadedLog) Entry(k int) (head []byte, size int, value []byte) {
	e := &l.heads[k]
	if i := k - (len(l.heads) - len(l.values)); i >= 0 {
		value = l.values[i]
	}
	return e.head[:min(e.size, loadedHead)], int(e.size), value
}

func (l *LoadedLog) add(v []byte) {
	e := loadedEntry{size: uint32(len(v))}
	copy(e.head[:], v)
	l.heads = append(l.heads, e)
	l.values = append(l.values, append(make([]byte, 0, len(v)), v...))
	l.size += len(v)
	drop := 0
	for l.size > loadedBytes && drop < len(l.values)-1 {
		l.size -= len(l.values[drop])
		l.values[drop] = nil // the array lives on for a while
		drop++
	}
	l.values = l.values[drop:]
}

// LoadedLog gives away what was read of a group's log at open; nil if that was given away before, or if the log has changed since.
func (e *Engine) LoadedLog(g ring.GroupID) *LoadedLog {
	j := &e.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.loaded[g]
	delete(j.loaded, g)
	return l
}

// loadLogs reads all records once more, now that it is known what of them counts. Logs with gaps, or in another order, are left to who scans them: no log is like that.
func (e *Engine) loadLogs() error {
	j := &e.journal
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: []byte{spaceJournal + 1}})
	if err != nil {
		return err
	}
	loaded := make(map[ring.GroupID]*LoadedLog)
	number := j.first
	var pending []journalItem
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var rec []byte
		if rec, err = it.ValueAndErr(); err != nil {
			break
		}
		pending = pending[:0]
		err = items(rec[journalHead:], func(i *journalItem) error {
			if i.kind == itemEntry && j.logs[i.group] != nil && j.logs[i.group].of(i.from) == number {
				pending = append(pending, *i)
			}
			return nil
		})
		pending = lastOfEach(pending)
		for k := range pending {
			i := &pending[k]
			l := loaded[i.group]
			if l == nil {
				l = &LoadedLog{First: i.from}
				loaded[i.group] = l
			}
			if i.from == l.First+uint64(len(l.heads)) {
				l.add(i.value)
			}
		}
		number++
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return err
	}
	for g, l := range loaded {
		if p := j.logs[g]; len(l.heads) != len(p.at) || p.to > l.First {
			delete(loaded, g)
		}
	}
	j.loaded = loaded
	return nil
}
