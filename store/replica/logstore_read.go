package replica

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store"
)

// InitialState implements raft.Storage. The configuration is the one that was applied; the commit index is at least the
// applied one.
func (l *LogStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	v, ok, err := l.e.GroupRecord(l.g, store.RecordConf)
	conf, err := decodeConf(l.g, v, ok, err)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return newHardState(l.hs.GetTerm(), l.hs.GetVote(), l.hs.GetCommit()), conf, nil
}

// FirstIndex implements raft.Storage.
func (l *LogStore) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idx.first(), nil
}

// LastIndex implements raft.Storage.
func (l *LogStore) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idx.last(), nil
}

// Term implements raft.Storage. It never reads the disk.
func (l *LogStore) Term(i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idx.term(i)
}

// Snapshot implements raft.Storage.
func (l *LogStore) Snapshot() (*raftpb.Snapshot, error) {
	if l.snapshot == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return l.snapshot()
}

// Entries implements raft.Storage. Entries must not be changed by anybody. What is not in memory any more is read from disk;
// if it cannot be read the process ends, because Raft has no use for a log with holes.
func (l *LogStore) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	switch {
	case lo < l.idx.first():
		l.mu.Unlock()
		return nil, raft.ErrCompacted
	case hi > l.idx.last()+1 || lo > hi:
		l.mu.Unlock()
		return nil, raft.ErrUnavailable
	}
	hi = l.idx.fit(lo, hi, maxSize)
	held := l.idx.last() + 1 - uint64(len(l.tail)) // first index in memory
	onDisk := min(max(held, lo), hi)
	out := make([]*raftpb.Entry, hi-lo)
	for i := onDisk; i < hi; i++ {
		out[i-lo] = l.tail[i-held]
	}
	l.mu.Unlock()
	if onDisk == lo {
		return out, nil
	}
	if err := l.readEntries(out[:onDisk-lo], lo); err != nil {
		return nil, err
	}
	return out, nil
}

// readEntries fills out with entries from disk, from index lo on.
func (l *LogStore) readEntries(out []*raftpb.Entry, lo uint64) error {
	n := 0
	err := l.e.ScanEntries(l.g, lo, lo+uint64(len(out)), func(index uint64, v []byte) error {
		e, err := decodeEntry(l.g, index, v)
		if err == nil && index != lo+uint64(n) {
			err = fmt.Errorf("%v: log entry %d is missing", l.g, lo+uint64(n))
		}
		if err != nil {
			return err
		}
		out[n] = e
		n++
		return nil
	})
	if err == nil && n == len(out) {
		return nil
	}
	if errors.Is(err, store.ErrClosed) {
		return err
	}
	l.mu.Lock()
	compacted := lo <= l.floor
	l.mu.Unlock()
	if compacted { // while we read
		return raft.ErrCompacted
	}
	if err == nil {
		err = fmt.Errorf("%v: log entry %d is missing", l.g, lo+uint64(n))
	}
	err = l.e.Damaged(err)
	l.e.Fatal(err)
	return err
}
