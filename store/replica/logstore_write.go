package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store"
)

// Stage puts a hard state (nil or empty: unchanged) and entries (may be none) into b. Entries replace what the log has from the first one's index
// on. They become visible, and the log's Mark moves, when b is committed. An error means an impossible request, such as a gap. After an
// error, or a batch that failed or was abandoned, the LogStore must be opened anew.
//
// The entries are kept in memory for a while and must not be changed. Called by the appending worker only, in the order of Raft's messages.
func (l *LogStore) Stage(b *store.Batch, hs *raftpb.HardState, entries []*raftpb.Entry) error {
	if err := l.stageEntries(b, entries); err != nil {
		return err
	}
	if !raft.IsEmptyHardState(hs) {
		l.scratch = appendRecord(l.scratch[:0], l.g, uint64(store.RecordHardState), hs.GetTerm(), hs.GetVote(), hs.GetCommit())
		b.SetRecord(l.g, store.RecordHardState, l.scratch)
		l.stage(b, logChange{hs: newHardState(hs.GetTerm(), hs.GetVote(), hs.GetCommit())})
	}
	return nil
}

func (l *LogStore) stageEntries(b *store.Batch, entries []*raftpb.Entry) error {
	for len(entries) > 0 && entries[0].GetIndex() <= l.floor { // compacted, so long since committed
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].GetIndex()
	if first > l.next {
		return fmt.Errorf("%v: entries from %d on, but the log ends at %d", l.g, first, l.next-1)
	}
	for i, e := range entries {
		if e.GetIndex() != first+uint64(i) {
			return fmt.Errorf("%v: entry %d where entry %d is expected", l.g, e.GetIndex(), first+uint64(i))
		}
		l.scratch = appendEntryHead(l.scratch[:0], l.g, e)
		b.SetEntry(l.g, e.GetIndex(), l.scratch, e.GetData())
	}
	next := first + uint64(len(entries))
	if next < l.next {
		b.DeleteEntries(l.g, next, l.next) // the rest of a log that lost against another leader's
	}
	l.next = next
	l.stage(b, logChange{entries: entries})
	return nil
}

// Compact puts into b the removal of all entries up to and including upTo, which must be applied; the term of upTo is kept. Nothing
// is done if they are gone already. Called by the appending worker only.
func (l *LogStore) Compact(b *store.Batch, upTo uint64) error {
	if upTo <= l.floor {
		return nil
	}
	l.mu.Lock()
	term, err := l.idx.term(upTo)
	if err == nil && upTo > l.hs.GetCommit() {
		err = fmt.Errorf("entries are committed up to %d", l.hs.GetCommit())
	}
	if err != nil {
		l.mu.Unlock()
		return fmt.Errorf("%v: compacting the log up to %d: %w", l.g, upTo, err)
	}
	from := l.floor + 1
	l.floor = upTo
	l.mu.Unlock()
	setTruncated(b, l.g, position{upTo, term})
	b.DeleteEntries(l.g, from, upTo+1)
	l.stage(b, logChange{compact: upTo})
	return nil
}

// stageReset puts into b the removal of the whole log, which begins anew after p: a snapshot at p takes its place.
func (l *LogStore) stageReset(b *store.Batch, p position) {
	l.mu.Lock()
	from := l.floor + 1
	l.floor = max(l.floor, p.index)
	l.mu.Unlock()
	b.DeleteEntries(l.g, from, max(l.next, from))
	setTruncated(b, l.g, p)
	l.next = p.index + 1
	l.stage(b, logChange{reset: &p})
}

func (l *LogStore) stage(b *store.Batch, c logChange) {
	l.pending = append(l.pending, c)
	if !l.notified {
		l.notified = true
		b.Notify(l)
	}
}

// Committed is called by Batch.Commit: what was staged becomes visible.
func (l *LogStore) Committed(durable bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.pending {
		l.apply(c)
	}
	clear(l.pending)
	l.pending, l.notified = l.pending[:0], false
	if durable {
		l.mark = l.currentMark()
	}
}

func (l *LogStore) apply(c logChange) {
	switch {
	case c.hs != nil:
		l.hs = c.hs
	case c.reset != nil:
		l.tail, l.tailSize = nil, 0
		l.idx.reset(c.reset.index, c.reset.term)
	case c.compact != 0:
		held := l.idx.last() + 1 - uint64(len(l.tail))
		for ; held <= c.compact && len(l.tail) > 0; held++ {
			l.tailSize -= int(entrySize(l.tail[0]))
			l.tail[0] = nil
			l.tail = l.tail[1:]
		}
		l.idx.compact(c.compact)
	default:
		l.cut(c.entries[0].GetIndex())
		for _, e := range c.entries {
			l.push(e)
		}
	}
}

// stageCommit raises the hard state's commit index and term to a snapshot's, so that the log is whole even if its caller stages no
// hard state of its own.
func (l *LogStore) stageCommit(b *store.Batch, p position) error {
	l.mu.Lock()
	hs := l.hs
	l.mu.Unlock()
	for _, c := range l.pending {
		if c.hs != nil {
			hs = c.hs
		}
	}
	term, vote := hs.GetTerm(), hs.GetVote()
	if p.term > term {
		term, vote = p.term, 0
	}
	return l.Stage(b, newHardState(term, vote, max(hs.GetCommit(), p.index)), nil)
}
