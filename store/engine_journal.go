package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// The journal is how the logs of all groups are stored: all that one batch does to logs is one value, a record, under a number that grows. What a key for each
// entry and each hard state cost was finding its place in the memtable, on every replica for every write; most entries are gone before anybody reads them
// again. Where each entry is stands in memory (places), and is found again at open by reading the records in order.
//
// Records are removed from the front, when nothing in them is needed any more. What a group that rests still needs of the first ones would keep all the others: if most of
// the journal is of no use, or it is larger than it may be, that is written under keys of its own (moved), as all entries were in format 1. So a log is what its own
// keys say, and then what the records say; it does no harm if both say the same.
//
//	record     crc32c u32 ‖ 1 ‖ items         the checksum covers the number and all after it
//	item       1 ‖ uvarint group, index ‖ uvarint length ‖ value      an entry
//	           2 ‖ uvarint group, from, to                            entries from … to-1 are removed
//	           3 ‖ uvarint group ‖ uvarint length ‖ value             a hard state
//	           4 ‖ uvarint group                                      nothing of the group is left
const (
	journalFormat = 1
	journalHead   = 4 + 1

	itemEntry     byte = 1
	itemDelete    byte = 2
	itemHardState byte = 3
	itemClear     byte = 4
)

// defaultJournalBytes is twice what the logs of a node keep, see Engine.LogBytes.
const defaultJournalBytes = 512 << 20

// maxGap bounds what an index far from a group's others takes in memory.
const maxGap = 1 << 22

// journal is where everything is.
type journal struct {
	limit   int // bytes of all records; above it things are moved however many are needed
	atLeast int // below it nothing is moved
	chunk   int // about so many bytes of the front are moved at a time: a batch of others waits for it
	rest    int // so many bytes of the front must be of no use before they are removed

	// order is held while a record is committed, and while the front is trimmed: the records' numbers are the order in which they took effect.
	order sync.Mutex

	mu    sync.RWMutex // guards what follows, for short: never while the disk is read or written
	logs  map[ring.GroupID]*places
	recs  []journalRecord // first, first+1, …
	first uint64
	bytes int // of all records
	dead  int // so many of the first records are of no use
	waste int // their bytes
	all   int // entries in all records
	live  int // of these, those that are needed

	loaded map[ring.GroupID]*LoadedLog // logs as they were at open, until they change or are opened
}

type journalRecord struct {
	bytes   int32
	entries int32
	live    int32 // entries and hard states that are read from it
}

func newJournal(limit int) journal {
	if limit <= 0 {
		limit = defaultJournalBytes
	}
	return journal{limit: limit, atLeast: limit / 16, chunk: min(limit/4, 4<<20), rest: min(limit/64, 1<<20), first: 1, logs: make(map[ring.GroupID]*places)}
}

// places says where one group's log is.
type places struct {
	first uint64   // index that the first of at belongs to
	at    []uint64 // records of entries first, first+1, …; 0: not in the journal
	hard  uint64   // record of the hard state; 0: under its own key, if anywhere
	from  uint64   // entries from … to-1 may stand under keys of their own
	to    uint64
}

func (p *places) of(index uint64) uint64 {
	if index < p.first || index-p.first >= uint64(len(p.at)) {
		return 0
	}
	return p.at[index-p.first]
}

func (p *places) moved(from, to uint64) bool { return from < p.to && p.from < to }

// overlap limits from … to-1 to the indices that may be in the journal.
func (p *places) overlap(from, to uint64) (uint64, uint64) {
	return max(from, p.first), min(to, p.first+uint64(len(p.at)))
}

// next is the number of the next record.
func (j *journal) next() uint64 { return j.first + uint64(len(j.recs)) }

func (j *journal) log(g ring.GroupID) *places {
	p := j.logs[g]
	if p == nil {
		p = new(places)
		j.logs[g] = p
	}
	return p
}

// release says that an entry is not read from a record any more; 0 for no record.
func (j *journal) release(rec uint64) {
	if rec != 0 {
		j.recs[rec-j.first].live--
		j.live--
	}
}

func (j *journal) setHard(p *places, rec uint64) {
	if p.hard != 0 {
		j.recs[p.hard-j.first].live--
	}
	if p.hard = rec; rec != 0 {
		j.recs[rec-j.first].live++
	}
}

// put says which record an entry is in.
func (j *journal) put(p *places, index, rec uint64) error {
	if index == endOfLog {
		return errors.New("an entry at the end of all indices")
	}
	if len(p.at) == 0 {
		p.first = index
	}
	switch end := p.first + uint64(len(p.at)); {
	case index < p.first && p.first-index > maxGap, index >= end && index-end > maxGap:
		return fmt.Errorf("entry %d is far away from the others (%d to %d)", index, p.first, end-1)
	case index < p.first:
		p.at = append(make([]uint64, p.first-index, p.first-index+uint64(len(p.at))), p.at...)
		p.first = index
	case index >= end:
		p.grow(int(index - end + 1))
	}
	k := index - p.first
	j.release(p.at[k])
	p.at[k] = rec
	j.recs[rec-j.first].live++
	j.live++
	return nil
}

// grow makes room for n more entries, of which none is in the journal. What was given back at the front is lost to the array, so a new one has room for
// as many again: each entry is copied about once.
func (p *places) grow(n int) {
	if need := len(p.at) + n; need > cap(p.at) {
		p.at = append(make([]uint64, 0, need+len(p.at)), p.at...)
	}
	p.at = append(p.at, make([]uint64, n)...)
}

// forget says that entries from … to-1 are gone.
func (j *journal) forget(p *places, from, to uint64) {
	lo, hi := p.overlap(from, to)
	for i := lo; i < hi; i++ {
		j.release(p.at[i-p.first])
		p.at[i-p.first] = 0
	}
	p.shrink()
	switch {
	case !p.moved(from, to):
	case from <= p.from:
		p.from = min(to, p.to)
	case to >= p.to:
		p.to = from
	}
	if p.from == p.to {
		p.from, p.to = 0, 0
	}
}

// shrink gives back what stands for entries that are not in the journal, at both ends.
func (p *places) shrink() {
	n := 0
	for n < len(p.at) && p.at[n] == 0 {
		n++
	}
	p.at, p.first = p.at[n:], p.first+uint64(n)
	for n = len(p.at); n > 0 && p.at[n-1] == 0; n-- {
	}
	if p.at = p.at[:n]; n == 0 {
		p.at = nil
	}
}

// journalItem is one thing that a record says. value aliases the record.
type journalItem struct {
	kind     byte
	group    ring.GroupID
	from, to uint64 // an entry: from is its index
	value    []byte
}

// items calls fn for what a record says, in order, until it returns an error, which comes back. The item is fn's until it returns.
func items(b []byte, fn func(*journalItem) error) error {
	var it journalItem // one for all, on the heap
	for len(b) > 0 {
		rest, err := it.cut(b)
		if err != nil {
			return err
		}
		if err := fn(&it); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// cut reads the first item of b.
func (it *journalItem) cut(b []byte) (rest []byte, err error) {
	d := decoder{b: b[1:]}
	*it = journalItem{kind: b[0]}
	g := d.uvarint()
	if it.group = ring.GroupID(g); g > math.MaxUint32 {
		d.fail("group %d", g)
	}
	switch it.kind {
	case itemEntry:
		it.from = d.uvarint()
		it.value = d.bytes()
	case itemDelete:
		it.from, it.to = d.uvarint(), d.uvarint()
	case itemHardState:
		it.value = d.bytes()
	case itemClear:
	default:
		d.fail("an item of kind %d", it.kind)
	}
	return d.b, d.err
}

// opened is what is in a record, if it is whole.
func opened(number uint64, rec []byte) ([]byte, error) {
	switch {
	case len(rec) < journalHead || journalSum(number, rec[4:]) != binary.BigEndian.Uint32(rec):
		return nil, errors.New("a wrong checksum")
	case rec[4] != journalFormat:
		return nil, fmt.Errorf("format %d, and this version reads format %d", rec[4], journalFormat)
	}
	return rec[journalHead:], nil
}

func journalSum(number uint64, b []byte) uint32 {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], number)
	return crc32.Update(crc32.Checksum(n[:], castagnoli), castagnoli, b)
}

// take does to the places what a record says. The caller holds mu.
func (j *journal) take(size int, body []byte) error {
	number := j.next()
	j.recs = append(j.recs, journalRecord{bytes: int32(size)})
	j.bytes += size
	return items(body, func(it *journalItem) error {
		p := j.log(it.group)
		if it.kind != itemHardState {
			delete(j.loaded, it.group)
		}
		switch it.kind {
		case itemEntry:
			j.all++
			j.recs[number-j.first].entries++
			if err := j.put(p, it.from, number); err != nil {
				return fmt.Errorf("%v: %w", it.group, err)
			}
		case itemDelete:
			j.forget(p, it.from, it.to)
		case itemHardState:
			j.setHard(p, number)
		case itemClear:
			j.forget(p, 0, math.MaxUint64)
			j.setHard(p, 0)
			delete(j.logs, it.group)
		}
		return nil
	})
}

// due reports whether the front is to be trimmed, and whether what is needed of it is to be moved.
func (j *journal) due() (trim, move bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.dead < len(j.recs) && j.recs[j.dead].live == 0 {
		j.waste += int(j.recs[j.dead].bytes)
		j.dead++
	}
	move = j.bytes-j.waste > j.limit || j.bytes-j.waste > j.atLeast && 2*j.live < j.all
	return move || j.waste >= j.rest, move
}

// loadJournal finds out where everything is.
func (e *Engine) loadJournal() error {
	if err := e.findMoved(); err != nil {
		return err
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: []byte{spaceJournal + 1}})
	if err != nil {
		return openError(e.dir, err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		err = e.loadRecord(it)
	}
	if err = errors.Join(err, it.Close()); err == nil {
		err = e.loadLogs()
	}
	if err != nil {
		return openError(e.dir, err)
	}
	return nil
}

func (e *Engine) loadRecord(it *pebble.Iterator) error {
	j := &e.journal
	if len(it.Key()) != 1+8 {
		return fmt.Errorf("key %x is no record of the journal", it.Key())
	}
	number := binary.BigEndian.Uint64(it.Key()[1:])
	rec, err := it.ValueAndErr()
	if err != nil {
		return err
	}
	body, err := opened(number, rec)
	if len(j.recs) == 0 && number > 0 {
		j.first = number
	}
	if err == nil && number != j.next() {
		err = fmt.Errorf("record %d is missing before it", j.next())
	}
	if err == nil {
		err = j.take(len(rec), body)
	}
	if err != nil {
		return recordError(number, err)
	}
	return nil
}

// findMoved looks which entries stand under keys of their own. Only the ends of a log are looked at; what stands between them is checked when it is read.
func (e *Engine) findMoved() error {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceLog}, UpperBound: []byte{spaceLog + 1}})
	if err != nil {
		return openError(e.dir, err)
	}
	for ok := it.First(); ok && err == nil; {
		g, isGroup := parseGroup(it.Key())
		if !isGroup {
			err = fmt.Errorf("key %x belongs to no group", it.Key())
			break
		}
		to := PrefixEnd(appendGroup(nil, spaceLog, g))
		if ok = it.SeekGE(append(appendGroup(nil, spaceLog, g), partItems)); ok && bytes.Compare(it.Key(), to) < 0 {
			p := e.journal.log(g)
			p.from, err = entryIndex(it.Key())
			if err == nil && it.SeekLT(to) {
				p.to, err = entryIndex(it.Key())
				p.to++
			}
			ok = it.SeekGE(to)
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return openError(e.dir, err)
	}
	return nil
}

// entryIndex reads the index out of the key of an entry.
func entryIndex(key []byte) (uint64, error) {
	if len(key) != entryKeyLen || key[5] != partItems {
		return 0, fmt.Errorf("key %x is no log entry's", key)
	}
	return binary.BigEndian.Uint64(key[len(key)-8:]), nil
}

func appendRecordNumber(b []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, spaceJournal), number)
}

// commitLogs commits a batch that does something to logs.
func (e *Engine) commitLogs(b *Batch, opts *pebble.WriteOptions) error {
	j := &e.journal
	j.order.Lock()
	defer j.order.Unlock()
	if err := e.removeMoved(b); err != nil {
		return err
	}
	j.mu.RLock()
	number := j.next()
	j.mu.RUnlock()
	binary.BigEndian.PutUint32(b.record, journalSum(number, b.record[4:]))
	b.key = appendRecordNumber(b.key[:0], number)
	if err := b.b.Set(b.key, b.record, nil); err != nil {
		return err
	}
	if err := b.b.Commit(opts); err != nil {
		return err
	}
	j.mu.Lock()
	err := j.take(len(b.record), b.record[journalHead:])
	j.mu.Unlock()
	if trim, move := j.due(); trim && err == nil {
		err = e.trim(move, len(b.record))
	}
	if err != nil {
		e.Fatal(e.Damaged(fmt.Errorf("keeping the logs: %w", err))) // the batch has taken effect
	}
	return nil
}

// removeMoved adds to a batch the removal of entries that stand under keys of their own. The caller holds order.
func (e *Engine) removeMoved(b *Batch) error {
	j := &e.journal
	return items(b.record[journalHead:], func(it *journalItem) error {
		if it.kind != itemDelete {
			return nil // who clears a group removes all its keys
		}
		j.mu.RLock()
		p := j.logs[it.group]
		moved := p != nil && p.moved(it.from, it.to)
		j.mu.RUnlock()
		if !moved {
			return nil
		}
		return b.b.DeleteRange(appendEntryKey(nil, it.group, it.from), appendEntryKey(nil, it.group, it.to), nil)
	})
}

// trim removes the records at the front that are of no use; with move it first makes some more of them so, not fewer than were added. The caller holds order. No batch of it needs a sync:
// the WAL has the copies before it has the removal.
func (e *Engine) trim(move bool, added int) error {
	j := &e.journal
	if move {
		if err := e.moveFront(max(e.journal.chunk, added)); err != nil {
			return err
		}
		j.due()
	}
	j.mu.RLock()
	from, to := j.first, j.first+uint64(j.dead)
	j.mu.RUnlock()
	if from == to {
		return nil
	}
	if err := e.db.DeleteRange(appendRecordNumber(nil, from), appendRecordNumber(nil, to), pebble.NoSync); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.recs[:j.dead] {
		j.bytes -= int(r.bytes)
		j.all -= int(r.entries)
	}
	j.recs, j.first = j.recs[j.dead:], to
	j.dead, j.waste = 0, 0
	return nil
}

// moveFront moves what is needed of the first records. Who reads finds it at its new place before the old one is gone.
func (e *Engine) moveFront(chunk int) error {
	j := &e.journal
	j.mu.RLock()
	from := j.dead
	to, size := from, 0
	for ; to < len(j.recs) && size < chunk; to++ {
		size += int(j.recs[to].bytes)
	}
	first := j.first
	j.mu.RUnlock()
	live, err := e.needed(first+uint64(from), first+uint64(to))
	if err != nil {
		return err
	}
	b := e.db.NewBatch()
	defer b.Close()
	for _, it := range live {
		key := appendRecordKey(nil, it.group, RecordHardState)
		if it.kind == itemEntry {
			key = appendEntryKey(nil, it.group, it.from)
		}
		if err := b.Set(key, it.value, nil); err != nil {
			return err
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range live {
		j.move(&live[i])
	}
	for i, r := range j.recs[from:to] {
		if r.live != 0 {
			return recordError(first+uint64(from+i), fmt.Errorf("it lacks %d things that are needed", r.live))
		}
	}
	return nil
}

// move says that something stands under its own key from now on.
func (j *journal) move(it *journalItem) {
	p := j.logs[it.group]
	delete(j.loaded, it.group)
	if it.kind == itemHardState {
		j.setHard(p, 0)
		return
	}
	i := it.from - p.first
	j.release(p.at[i])
	if p.at[i] = 0; i == 0 || i == uint64(len(p.at)-1) {
		p.shrink()
	}
	if p.from == p.to {
		p.from, p.to = it.from, it.from+1
	}
	p.from, p.to = min(p.from, it.from), max(p.to, it.from+1)
}

// needed is what is read from the records from … to-1, group by group. Each thing comes once. The values are copies. The caller holds order.
func (e *Engine) needed(from, to uint64) ([]journalItem, error) {
	var live []journalItem
	for number := from; number < to; number++ {
		err := e.record(number, func(it *journalItem) {
			if e.journal.where(it) == number {
				c := *it
				c.value = slices.Clone(it.value)
				live = append(live, c)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return lastOfEach(live), nil
}

// lastOfEach sorts what records say, and leaves of what is said of one thing what was said last.
func lastOfEach(all []journalItem) []journalItem {
	if slices.IsSortedFunc(all, func(a, b journalItem) int { return cmp.Or(a.compare(&b), -1) }) {
		return all
	}
	slices.SortStableFunc(all, func(a, b journalItem) int { return a.compare(&b) })
	last := all[:0]
	for i := range all {
		if i+1 == len(all) || all[i].compare(&all[i+1]) != 0 {
			last = append(last, all[i])
		}
	}
	return last
}

func (it *journalItem) compare(o *journalItem) int {
	return cmp.Or(cmp.Compare(it.group, o.group), cmp.Compare(it.kind, o.kind), cmp.Compare(it.from, o.from))
}

// where is the record that a thing is read from; 0 for none.
func (j *journal) where(it *journalItem) uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	p := j.logs[it.group]
	switch {
	case p == nil:
		return 0
	case it.kind == itemEntry:
		return p.of(it.from)
	case it.kind == itemHardState:
		return p.hard
	}
	return 0
}

// record calls fn for all that a record says.
func (e *Engine) record(number uint64, fn func(*journalItem)) error {
	rec, c, err := e.db.Get(appendRecordNumber(nil, number))
	if err != nil {
		return recordError(number, err)
	}
	body, err := opened(number, rec)
	if err == nil {
		err = items(body, func(it *journalItem) error { fn(it); return nil })
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return recordError(number, err)
	}
	return nil
}

func recordError(number uint64, err error) error {
	return fmt.Errorf("record %d of the logs' journal: %w", number, err)
}
