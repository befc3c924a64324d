package replica

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// tailBytes bounds the recent entries that a group keeps in memory, so that sending and applying them never reads the disk.
const tailBytes = 256 << 10

// A new group begins as if one entry had been committed and compacted, so that all its replicas start alike.
const (
	bootIndex = 1
	bootTerm  = 1
)

// LogStore is one group's Raft log in the node's engine; it implements [raft.Storage]. Raft reads it from the driver's
// goroutine. Stage and Compact are called by the one worker that appends; what they put into a batch becomes visible
// when the batch is committed. Locks are held for short, never across a read of the disk.
type LogStore struct {
	e         *store.Engine
	g         ring.GroupID
	replica   ring.ReplicaID
	regressed error

	mu       sync.Mutex
	idx      logIndex
	tail     []*raftpb.Entry // the newest entries, up to idx.last()
	tailSize int
	hs       *raftpb.HardState // replaced, never changed
	mark     store.Mark        // what is fsynced
	snapshot func() (*raftpb.Snapshot, error)

	// Of the appending worker.
	pending  []logChange
	next     uint64 // index after the last entry, staged ones included
	floor    uint64 // last compacted index, staged compaction included; guarded by mu
	scratch  []byte
	notified bool
}

var _ raft.Storage = (*LogStore)(nil)

// logChange is one staged change: exactly one field is set.
type logChange struct {
	hs      *raftpb.HardState
	entries []*raftpb.Entry
	compact uint64
	reset   *position
}

var errMissing = errors.New("it is missing")

// position is an index of a log and its term.
type position struct{ index, term uint64 }

// CreateLog makes a replica of a group, durably. With voters the group is new: every one of them starts alike, at index 1 of
// term 1 with that configuration; replica is one of them. Without voters the replica joins a group that exists: it is empty
// and waits for a snapshot. It is refused if a replica of the group lives here, or one of this ID or later has been here.
func CreateLog(e *store.Engine, g ring.GroupID, replica ring.ReplicaID, voters []ring.ReplicaID) (*LogStore, error) {
	var at position
	conf := &raftpb.ConfState{}
	if len(voters) > 0 {
		at = position{bootIndex, bootTerm}
		for _, v := range voters {
			if v == 0 || slices.Contains(conf.Voters, uint64(v)) {
				return nil, fmt.Errorf("%v: voters %v: each must be a replica's ID, once", g, voters)
			}
			conf.Voters = append(conf.Voters, uint64(v))
		}
		if !slices.Contains(voters, replica) {
			return nil, fmt.Errorf("%v: replica %d is not among the first voters %v", g, replica, voters)
		}
		slices.Sort(conf.Voters)
	}
	confBytes, err := proto.Marshal(conf)
	if err != nil {
		return nil, err
	}
	err = e.CreateReplica(g, replica, func(b *store.Batch) {
		setTruncated(b, g, at)
		setApplied(b, g, at.index)
		b.SetRecord(g, store.RecordConf, confBytes)
		b.SetRecord(g, store.RecordHardState, appendRecord(nil, g, uint64(store.RecordHardState), at.term, 0, at.index))
	})
	if err != nil {
		return nil, err
	}
	l, _, err := OpenLog(e, g)
	return l, err
}

// OpenLog reads the log of the group's replica; exists is false if there is none here. Every entry is read and checked: an
// error means that the data directory is damaged.
func OpenLog(e *store.Engine, g ring.GroupID) (l *LogStore, exists bool, err error) {
	rec, err := e.Replica(g)
	if err != nil || rec.Replica == 0 {
		return nil, false, err
	}
	l = &LogStore{e: e, g: g, replica: rec.Replica}
	if err := l.load(); err != nil {
		return nil, true, e.Damaged(err)
	}
	l.next, l.floor = l.idx.last()+1, l.idx.trunc
	l.mark = l.currentMark()
	l.regressed = e.Regressed(l.mark)
	l.mark.Regressed = l.regressed != nil
	return l, true, nil
}

func (l *LogStore) load() error {
	trunc, err := l.loadTruncated()
	if err != nil {
		return err
	}
	v, ok, err := l.e.GroupRecord(l.g, store.RecordApplied)
	applied, err := decodeApplied(l.g, v, ok, err)
	if err != nil {
		return err
	}
	var term, vote, commit uint64
	v, ok, err = l.e.GroupRecord(l.g, store.RecordHardState)
	if err == nil && !ok {
		err = errMissing
	}
	if err == nil {
		err = decodeRecord(l.g, uint64(store.RecordHardState), v, &term, &vote, &commit)
	}
	if err != nil {
		return fmt.Errorf("%v: hard state: %w", l.g, err)
	}
	l.idx.reset(trunc.index, trunc.term)
	if err := l.loadEntries(); err != nil {
		return err
	}
	// The hard state is not written each time the commit index grows; what is applied was committed.
	commit = max(commit, applied)
	switch {
	case applied < trunc.index:
		return fmt.Errorf("%v: state is applied up to %d, but the log begins after %d", l.g, applied, trunc.index)
	case commit > l.idx.last():
		return fmt.Errorf("%v: entries up to %d are committed or applied, but the log ends at %d", l.g, commit, l.idx.last())
	case l.idx.lastTerm() > term:
		return fmt.Errorf("%v: the log ends in term %d, but the hard state is of term %d", l.g, l.idx.lastTerm(), term)
	}
	l.hs = newHardState(term, vote, commit)
	return nil
}

// loadEntries reads all entries: those that the engine has read already from what it kept of them, the others from disk.
func (l *LogStore) loadEntries() error {
	read := l.e.LoadedLog(l.g)
	to := uint64(math.MaxUint64)
	if read != nil {
		to = read.First
	}
	if err := l.e.ScanEntries(l.g, 0, to, l.loadEntry); err != nil || read == nil {
		return err
	}
	for k := range read.Len() {
		index := read.First + uint64(k)
		head, size, value := read.Entry(k)
		if value != nil {
			if err := l.loadEntry(index, value); err != nil {
				return err
			}
			continue
		}
		e, n, err := decodeEntryHead(l.g, index, head)
		if err == nil {
			err = l.follows(e)
		}
		if err != nil {
			return err
		}
		l.idx.push(e.GetTerm(), entrySizeWith(e, size-n))
	}
	return nil
}

func (l *LogStore) loadEntry(index uint64, v []byte) error {
	e, err := decodeEntry(l.g, index, v)
	if err == nil {
		err = l.follows(e)
	}
	if err != nil {
		return err
	}
	l.push(e)
	return nil
}

// follows reports an error if e is not what may come after the last entry.
func (l *LogStore) follows(e *raftpb.Entry) error {
	if e.GetIndex() != l.idx.last()+1 || e.GetTerm() < l.idx.lastTerm() {
		return fmt.Errorf("%v: log entry %d of term %d follows entry %d of term %d", l.g, e.GetIndex(), e.GetTerm(), l.idx.last(), l.idx.lastTerm())
	}
	return nil
}

// newHardState makes a hard state and its numbers in one piece: there is one for every few entries.
func newHardState(term, vote, commit uint64) *raftpb.HardState {
	x := &struct {
		hs raftpb.HardState
		n  [3]uint64
	}{n: [3]uint64{term, vote, commit}}
	x.hs.Term, x.hs.Vote, x.hs.Commit = &x.n[0], &x.n[1], &x.n[2]
	return &x.hs
}

func setTruncated(b *store.Batch, g ring.GroupID, p position) {
	b.SetRecord(g, store.RecordTruncated, appendRecord(nil, g, uint64(store.RecordTruncated), p.index, p.term))
}

func (l *LogStore) loadTruncated() (p position, err error) {
	v, ok, err := l.e.GroupRecord(l.g, store.RecordTruncated)
	if err == nil && !ok {
		err = errMissing
	}
	if err == nil {
		err = decodeRecord(l.g, uint64(store.RecordTruncated), v, &p.index, &p.term)
	}
	if err != nil {
		err = fmt.Errorf("%v: truncation point: %w", l.g, err)
	}
	return p, err
}

// push adds the next entry to index and tail. The caller holds l.mu, or owns l.
func (l *LogStore) push(e *raftpb.Entry) {
	size := entrySize(e)
	l.idx.push(e.GetTerm(), size)
	l.tail = append(l.tail, e)
	l.tailSize += int(size)
	drop := 0
	for l.tailSize > tailBytes && drop < len(l.tail)-1 {
		l.tailSize -= int(entrySize(l.tail[drop]))
		l.tail[drop] = nil // the array lives on for a while
		drop++
	}
	l.tail = l.tail[drop:]
}

// cut removes entry from and all after it from index and tail. The caller holds l.mu.
func (l *LogStore) cut(from uint64) {
	for last := l.idx.last(); last >= from && len(l.tail) > 0; last-- {
		n := len(l.tail) - 1
		l.tailSize -= int(entrySize(l.tail[n]))
		l.tail[n] = nil
		l.tail = l.tail[:n]
	}
	l.idx.cut(from)
}

// Replica is the replica's ID.
func (l *LogStore) Replica() ring.ReplicaID { return l.replica }

// Regressed reports that this replica has lost entries or votes: it must neither vote nor campaign. See [store.Engine.Regressed].
func (l *LogStore) Regressed() bool { return l.regressed != nil }

// Regression says what is known of the loss and what helps; nil if there is none.
func (l *LogStore) Regression() error { return l.regressed }

// Mark is how far the log has certainly come on disk, for Engine.WriteWatermark. Safe for concurrent use.
func (l *LogStore) Mark() store.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mark
}

func (l *LogStore) currentMark() store.Mark {
	return store.Mark{Group: l.g, Replica: l.replica, Last: l.idx.last(), LastTerm: l.idx.lastTerm(), Term: l.hs.GetTerm(),
		Vote: ring.ReplicaID(l.hs.GetVote()), Commit: l.hs.GetCommit(), Regressed: l.regressed != nil}
}

// Bytes is the size of the log's entries, as Raft counts it, for the truncation policy. Safe for concurrent use.
func (l *LogStore) Bytes() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idx.bytes
}

// SetSnapshot sets what Snapshot calls, on the goroutine of its caller. Call it before Raft starts.
func (l *LogStore) SetSnapshot(fn func() (*raftpb.Snapshot, error)) { l.snapshot = fn }
