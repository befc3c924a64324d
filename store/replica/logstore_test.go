package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

func openEngine(t testing.TB, fs vfs.FS) *store.Engine {
	t.Helper()
	return openSmallJournal(t, fs, 0)
}

// smallJournal is the size of a journal that is trimmed, and out of which things are moved, all the time.
const smallJournal = 16 << 10

// openSmallJournal is openEngine with a journal of at most so many bytes; 0 for the default.
func openSmallJournal(t testing.TB, fs vfs.FS, journal int) *store.Engine {
	t.Helper()
	e, err := store.Open("/data", store.Options{FS: fs, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), JournalBytes: journal,
		CacheBytes: 1 << 20, MemTableBytes: 1 << 20, Fatal: func(msg string) { panic("fatal: " + msg) }})
	noErr(t, err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func only[T any](_ T, err error) error { return err }

func errorHas(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func logEntry(index, term uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Data: data}
}

// entries makes entries first … first+n-1 of a term, small ones.
func logEntries(first uint64, n int, term uint64) []*raftpb.Entry {
	var es []*raftpb.Entry
	for i := range uint64(n) {
		es = append(es, logEntry(first+i, term, fmt.Appendf(nil, "%d.%d", first+i, term)))
	}
	return es
}

func stageAndCommit(t testing.TB, l *LogStore, e *store.Engine, hs *raftpb.HardState, es []*raftpb.Entry) {
	t.Helper()
	b := e.NewBatch()
	defer b.Close()
	noErr(t, l.Stage(b, hs, es))
	noErr(t, b.Commit(true))
}

func reopenLog(t testing.TB, e *store.Engine, g ring.GroupID) *LogStore {
	t.Helper()
	l, exists, err := OpenLog(e, g)
	noErr(t, err)
	if !exists {
		t.Fatalf("%v: the log is gone", g)
	}
	return l
}

func TestNewGroupStartsAlike(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	if _, exists, err := OpenLog(e, 5); exists || err != nil {
		t.Fatal(exists, err)
	}
	_, err := CreateLog(e, 5, 4, []ring.ReplicaID{1, 2, 3})
	errorHas(t, err, "shard-4", "replica 4", "[1 2 3]")
	for _, bad := range [][]ring.ReplicaID{{1, 1}, {0, 1}} {
		_, err = CreateLog(e, 5, 1, bad)
		errorHas(t, err, "each must be")
	}
	if _, err = CreateLog(e, 5, 2, []ring.ReplicaID{3, 1, 2}); err != nil {
		t.Fatal(err)
	}
	_, err = CreateLog(e, 5, 3, []ring.ReplicaID{3, 1, 2})
	errorHas(t, err, "replica 2 lives here")
	l := reopenLog(t, e, 5)
	hs, conf, err := l.InitialState()
	noErr(t, err)
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	term, err := l.Term(1)
	noErr(t, err)
	if l.Replica() != 2 || hs.GetTerm() != 1 || hs.GetCommit() != 1 || hs.GetVote() != 0 || first != 2 || last != 1 || term != 1 ||
		fmt.Sprint(conf.GetVoters()) != "[1 2 3]" {
		t.Fatalf("hs %v conf %v first %d last %d term %d", hs, conf, first, last, term)
	}
	// A replica that joins begins with nothing, so that the leader must send it a snapshot, configuration included.
	l, err = CreateLog(e, 6, 9, nil)
	noErr(t, err)
	hs, conf, err = l.InitialState()
	noErr(t, err)
	first, _ = l.FirstIndex()
	if !raft.IsEmptyHardState(hs) || len(conf.GetVoters()) != 0 || first != 1 || l.Bytes() != 0 {
		t.Fatalf("hs %v conf %v first %d", hs, conf, first)
	}
	if _, err := l.Snapshot(); err != raft.ErrSnapshotTemporarilyUnavailable {
		t.Fatal(err)
	}
	l.SetSnapshot(func() (*raftpb.Snapshot, error) { return &raftpb.Snapshot{Data: []byte("x")}, nil })
	if s, err := l.Snapshot(); err != nil || string(s.GetData()) != "x" {
		t.Fatal(s, err)
	}
}

// TestRaftStartsOnIt lets Raft itself elect a single voter and commit on the store, across restarts.
func TestRaftStartsOnIt(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	_, err := CreateLog(e, 1, 1, []ring.ReplicaID{1})
	noErr(t, err)
	s := NewStateStore(e, 1)
	b := e.NewBatch()
	for restart := range 3 {
		l := reopenLog(t, e, 1)
		applied, fence, err := s.Load()
		noErr(t, err)
		rn, err := raft.NewRawNode(&raft.Config{ID: 1, ElectionTick: 4, HeartbeatTick: 1, Storage: l, Applied: applied, AsyncStorageWrites: true,
			MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 8, CheckQuorum: true, PreVote: true,
			Logger: raftLogger{slog.New(slog.NewTextHandler(io.Discard, nil))}})
		noErr(t, err)
		noErr(t, rn.Campaign())
		before := fence.Seq
		for rounds := 0; fence.Seq < before+20; rounds++ {
			if rounds > 1000 {
				t.Fatalf("restart %d: nothing commits; %d applied", restart, applied)
			}
			if !rn.HasReady() {
				noErr(t, rn.Propose([]byte("x")))
				continue
			}
			for _, m := range rn.Ready().Messages {
				switch m.GetType() {
				case raftpb.MsgStorageAppend:
					noErr(t, l.Stage(b, &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}, m.GetEntries()))
					noErr(t, b.Commit(len(m.GetResponses()) > 0))
				case raftpb.MsgStorageApply:
					es := m.GetEntries()
					for _, en := range es {
						if string(en.GetData()) == "x" {
							fence.Seq++
						}
					}
					applied = es[len(es)-1].GetIndex()
					noErr(t, only(s.StageApply(b, &ApplyTask{Index: applied, Fence: fence})))
					noErr(t, b.Commit(false))
				}
				for _, r := range m.GetResponses() {
					noErr(t, rn.Step(r))
				}
			}
		}
		if got, f, err := s.Load(); err != nil || got != applied || f.Seq != fence.Seq {
			t.Fatalf("stored %d %+v %v, want %d", got, f, err, applied)
		}
		noErr(t, l.Compact(b, applied-3))
		noErr(t, b.Commit(true))
	}
}

// logModel drives a LogStore and raft's own MemoryStorage with the same changes.
type logModel struct {
	t   *testing.T
	rng *rand.Rand
	fs  *vfs.MemFS
	e   *store.Engine
	l   *LogStore
	s   *StateStore
	mem *raft.MemoryStorage
	hs  *raftpb.HardState

	journal int
}

func (m *logModel) memLast() uint64  { v, _ := m.mem.LastIndex(); return v }
func (m *logModel) memFirst() uint64 { v, _ := m.mem.FirstIndex(); return v }

func (m *logModel) randEntries(first uint64, n int) []*raftpb.Entry {
	var es []*raftpb.Entry
	for i := range uint64(n) {
		en := logEntry(first+i, m.hs.GetTerm(), nil)
		size := []int{0, 1, 10, 3000, 200 << 10}[m.rng.IntN(5)]
		if size == 200<<10 && m.rng.IntN(4) > 0 {
			size = 100
		}
		if size > 0 {
			en.Data = bytes.Repeat([]byte{byte(m.rng.Uint32())}, size)
		}
		if m.rng.IntN(8) == 0 {
			en.Type = raftpb.EntryConfChangeV2.Enum()
		}
		es = append(es, en)
	}
	return es
}

// write stages one to three changes in a batch and commits it.
func (m *logModel) write() {
	b := m.e.NewBatch()
	defer b.Close()
	last := m.memLast()
	for range 1 + m.rng.IntN(3) {
		hs := newHardState(m.hs.GetTerm(), uint64(m.rng.IntN(3)), m.hs.GetCommit())
		if m.rng.IntN(4) == 0 {
			*hs.Term++
		}
		m.hs = hs
		first := last + 1
		if m.rng.IntN(3) == 0 && last > hs.GetCommit() { // replaces a suffix that is not committed
			first = hs.GetCommit() + 1 + uint64(m.rng.IntN(int(last-hs.GetCommit())))
		}
		es := m.randEntries(first, m.rng.IntN(6))
		if len(es) > 0 {
			last = first + uint64(len(es)) - 1
		}
		if m.rng.IntN(2) == 0 {
			*hs.Commit += uint64(m.rng.IntN(int(last-hs.GetCommit()) + 1))
		}
		saved := proto.Clone(hs).(*raftpb.HardState)
		noErr(m.t, m.l.Stage(b, hs, es))
		noErr(m.t, m.mem.Append(es))
		noErr(m.t, m.mem.SetHardState(saved))
	}
	noErr(m.t, b.Commit(m.rng.IntN(2) == 0))
}

func (m *logModel) compact() {
	first, commit := m.memFirst(), m.hs.GetCommit()
	if commit < first {
		return
	}
	upTo := first + uint64(m.rng.IntN(int(commit-first)+1))
	b := m.e.NewBatch()
	defer b.Close()
	noErr(m.t, only(m.s.StageApply(b, &ApplyTask{Index: commit})))
	noErr(m.t, m.l.Compact(b, upTo))
	noErr(m.t, b.Commit(m.rng.IntN(2) == 0))
	noErr(m.t, m.mem.Compact(upTo))
}

func (m *logModel) install() {
	index := m.memLast() + 1 + uint64(m.rng.IntN(50))
	term := m.hs.GetTerm() + 1
	in, err := m.s.Install()
	noErr(m.t, err)
	b := m.e.NewBatch()
	defer b.Close()
	conf := &raftpb.ConfState{Voters: []uint64{1, index}}
	noErr(m.t, m.s.StageInstall(b, m.l, in, StateMeta{Index: index, Conf: conf}, term))
	m.hs = newHardState(term, 0, index)
	es := m.randEntries(index+1, m.rng.IntN(3))
	noErr(m.t, m.l.Stage(b, m.hs, es))
	noErr(m.t, b.Commit(true))
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}
	noErr(m.t, m.mem.ApplySnapshot(snap))
	noErr(m.t, m.mem.Append(es))
}

func (m *logModel) reopen() {
	if m.rng.IntN(2) == 0 {
		noErr(m.t, m.e.Close())
		m.e = openSmallJournal(m.t, m.fs, m.journal)
		m.s = NewStateStore(m.e, 3)
	}
	m.l = reopenLog(m.t, m.e, 3)
}

func (m *logModel) check(step int) {
	t := m.t
	t.Helper()
	first, last := m.memFirst(), m.memLast()
	gotFirst, _ := m.l.FirstIndex()
	gotLast, _ := m.l.LastIndex()
	if gotFirst != first || gotLast != last {
		t.Fatalf("step %d: log %d to %d, want %d to %d", step, gotFirst, gotLast, first, last)
	}
	for i := max(first, 3) - 3; i <= last+2; i++ {
		want, wantErr := m.mem.Term(i)
		got, err := m.l.Term(i)
		if got != want || err != wantErr {
			t.Fatalf("step %d: term of %d: %d %v, want %d %v", step, i, got, err, want, wantErr)
		}
	}
	hs, _, err := m.l.InitialState()
	noErr(t, err)
	if !proto.Equal(hs, m.hs) {
		t.Fatalf("step %d: hard state %v, want %v", step, hs, m.hs)
	}
	var size uint64
	for lo := first; lo <= last; lo++ {
		es, err := m.mem.Entries(lo, lo+1, 0)
		noErr(t, err)
		size += uint64(proto.Size(es[0]))
	}
	if m.l.Bytes() != size {
		t.Fatalf("step %d: %d bytes, want %d", step, m.l.Bytes(), size)
	}
	for range 4 {
		if last < first {
			break
		}
		lo := first + uint64(m.rng.IntN(int(last-first)+1))
		hi := lo + 1 + uint64(m.rng.IntN(int(last-lo)+1))
		limit := []uint64{0, 20, 4000, 300 << 10, 1 << 40}[m.rng.IntN(5)]
		want, wantErr := m.mem.Entries(lo, hi, limit)
		got, err := m.l.Entries(lo, hi, limit)
		if err != wantErr || len(got) != len(want) {
			t.Fatalf("step %d: entries [%d,%d) max %d: %d %v, want %d %v", step, lo, hi, limit, len(got), err, len(want), wantErr)
		}
		for i := range got {
			if !proto.Equal(got[i], want[i]) {
				t.Fatalf("step %d: entry %d: %v, want %v", step, lo+uint64(i), got[i], want[i])
			}
		}
	}
	if first > 1 {
		if _, err := m.l.Entries(first-1, last+1, 1); err != raft.ErrCompacted {
			t.Fatalf("step %d: a compacted entry: %v", step, err)
		}
	}
	if _, err := m.l.Entries(first, last+2, 1); err != raft.ErrUnavailable {
		t.Fatalf("step %d: an entry after the last: %v", step, err)
	}
}

func TestLogStoreAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := &logModel{t: t, rng: rand.New(rand.NewPCG(seed, 99)), fs: vfs.NewMem(), mem: raft.NewMemoryStorage(), hs: newHardState(1, 0, 1)}
			if seed%2 == 1 {
				m.journal = smallJournal
			}
			m.e = openSmallJournal(t, m.fs, m.journal)
			var err error
			m.l, err = CreateLog(m.e, 3, 1, []ring.ReplicaID{1})
			noErr(t, err)
			m.s = NewStateStore(m.e, 3)
			noErr(t, m.mem.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1))}}))
			for step := range 250 {
				switch n := m.rng.IntN(20); {
				case n == 0:
					m.reopen()
				case n == 1:
					m.install()
				case n < 5:
					m.compact()
				default:
					m.write()
				}
				m.check(step)
			}
		})
	}
}

// TestOpenedLogIsWhole: of a log that is larger than what is kept of it in memory each term, size and entry is the same after a restart.
func TestOpenedLogIsWhole(t *testing.T) {
	for _, journal := range []int{0, 2 << 20} { // 2 MiB: the first entries are moved
		fs, rng := vfs.NewMem(), rand.New(rand.NewPCG(8, uint64(journal)))
		e := openSmallJournal(t, fs, journal)
		l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
		noErr(t, err)
		mem := raft.NewMemoryStorage()
		noErr(t, mem.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1))}}))
		term, size := uint64(1), uint64(0)
		for i := uint64(2); i < 2000; i++ {
			if rng.IntN(100) == 0 {
				term += 1 << rng.IntN(30)
			}
			en := logEntry(i, term, nil)
			if n := rng.IntN(5000) - 500; n > 0 {
				en.Data = bytes.Repeat([]byte{byte(i)}, n)
			}
			if rng.IntN(9) == 0 {
				en.Type = raftpb.EntryConfChangeV2.Enum()
			}
			size += uint64(proto.Size(en))
			stageAndCommit(t, l, e, newHardState(term, 1, 1), []*raftpb.Entry{en})
			noErr(t, mem.Append([]*raftpb.Entry{en}))
		}
		noErr(t, e.Close())
		e = openSmallJournal(t, fs, journal)
		for range 2 { // by what the engine has read, and by a scan of its own
			l = reopenLog(t, e, 3)
			if size < 3*tailBytes || l.Bytes() != size {
				t.Fatalf("%d bytes, want %d", l.Bytes(), size)
			}
			for i := uint64(1); i < 2000; i++ {
				want, _ := mem.Term(i)
				if got, err := l.Term(i); err != nil || got != want {
					t.Fatalf("term of %d: %d %v, want %d", i, got, err, want)
				}
			}
			want, err := mem.Entries(2, 2000, 1<<40)
			noErr(t, err)
			got, err := l.Entries(2, 2000, 1<<40)
			noErr(t, err)
			for i := range want {
				if !proto.Equal(want[i], got[i]) {
					t.Fatalf("entry %d is another one", want[i].GetIndex())
				}
			}
		}
	}
}

func TestImpossibleRequests(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	b := e.NewBatch()
	errorHas(t, l.Stage(b, nil, logEntries(5, 1, 1)), "shard-2", "from 5", "ends at 1")
	errorHas(t, l.Stage(b, nil, []*raftpb.Entry{logEntry(2, 1, nil), logEntry(4, 1, nil)}), "entry 4 where entry 3")
	b.Reset()
	l = reopenLog(t, e, 3)
	stageAndCommit(t, l, e, newHardState(2, 1, 3), logEntries(2, 5, 2))
	errorHas(t, l.Compact(b, 4), "up to 4", "committed up to 3")
	errorHas(t, l.Compact(b, 40), "up to 40")
	s := NewStateStore(e, 3)
	in, err := s.Install()
	noErr(t, err)
	errorHas(t, s.StageInstall(b, l, in, StateMeta{Index: 4}, 2), "without a configuration")
	noErr(t, in.Abort())
}

// TestStagedIsInvisible: nothing of a batch is seen, or counted as durable, before it is.
func TestStagedIsInvisible(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	b := e.NewBatch()
	noErr(t, l.Stage(b, newHardState(4, 1, 1), logEntries(2, 3, 4)))
	if last, _ := l.LastIndex(); last != 1 {
		t.Fatal("staged entries are visible")
	}
	noErr(t, b.Commit(false))
	if last, _ := l.LastIndex(); last != 4 {
		t.Fatal("committed entries are not visible")
	}
	if m := l.Mark(); m.Last != 1 || m.Term != 1 {
		t.Fatalf("mark %+v counts what no fsync covers", m)
	}
	noErr(t, l.Stage(b, newHardState(4, 1, 3), nil))
	noErr(t, b.Commit(true))
	want := store.Mark{Group: 3, Replica: 1, Last: 4, LastTerm: 4, Term: 4, Vote: 1, Commit: 3}
	if m := l.Mark(); m != want {
		t.Fatalf("mark %+v, want %+v", m, want)
	}
}

// TestRegressedReplica: a log behind its watermark is known as such, at this start and all later ones.
func TestRegressedReplica(t *testing.T) {
	fs := vfs.NewMem()
	e := openEngine(t, fs)
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	stageAndCommit(t, l, e, newHardState(2, 1, 3), logEntries(2, 5, 2))
	ahead := l.Mark()
	ahead.Last += 5
	noErr(t, e.WriteWatermark([]store.Mark{ahead}))
	for range 3 {
		noErr(t, e.Close())
		e = openEngine(t, fs)
		l = reopenLog(t, e, 3)
		if !l.Regressed() {
			t.Fatal("not noticed")
		}
		errorHas(t, l.Regression(), "shard-2", "must not vote", "/data")
		stageAndCommit(t, l, e, newHardState(9, 0, 6), nil) // gets ahead of the mark again
		noErr(t, e.WriteWatermark([]store.Mark{l.Mark()}))
	}
	noErr(t, e.RemoveReplica(3, 2))
	l, err = CreateLog(e, 3, 2, nil)
	noErr(t, err)
	if l.Regressed() {
		t.Fatal("a new replica inherits it")
	}
}

// TestDamagedLogs: each kind of damage is an error that names group, place and remedy.
func TestDamagedLogs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(e *store.Engine, b *store.Batch)
		want   string
	}{
		{"bit in an entry", func(e *store.Engine, b *store.Batch) {
			v, _, _ := e.Entry(3, 4)
			v[len(v)-1] ^= 1
			b.SetEntry(3, 4, v, nil)
		}, "log entry 4 has a wrong checksum"},
		{"entry of another place", func(e *store.Engine, b *store.Batch) {
			v, _, _ := e.Entry(3, 4)
			b.SetEntry(3, 5, v, nil)
		}, "log entry 5 has a wrong checksum"},
		{"hole", func(e *store.Engine, b *store.Batch) { b.DeleteEntries(3, 4, 5) }, "log entry 5 of term 2 follows entry 3"},
		{"hole after the truncation point", func(e *store.Engine, b *store.Batch) { b.DeleteEntries(3, 2, 3) }, "log entry 3 of term 2 follows entry 1"},
		{"short entry", func(e *store.Engine, b *store.Batch) { b.SetEntry(3, 4, []byte{1}, nil) }, "wrong checksum"},
		{"committed end gone", func(e *store.Engine, b *store.Batch) { b.DeleteEntries(3, 3, 9) }, "up to 3 are committed"},
		{"hard state", func(e *store.Engine, b *store.Batch) { b.SetRecord(3, store.RecordHardState, []byte("xxxxxxx")) }, "hard state: its checksum"},
		{"hard state of an older term", func(e *store.Engine, b *store.Batch) {
			b.SetRecord(3, store.RecordHardState, appendRecord(nil, 3, uint64(store.RecordHardState), 1, 0, 3))
		}, "hard state is of term 1"},
		{"newer record", func(e *store.Engine, b *store.Batch) {
			v := appendRecord(nil, 3, uint64(store.RecordTruncated), 1, 1)
			v[4] = 9
			c := checksum(3, uint64(store.RecordTruncated), v[4:], nil)
			v[0], v[1], v[2], v[3] = byte(c>>24), byte(c>>16), byte(c>>8), byte(c)
			b.SetRecord(3, store.RecordTruncated, v)
		}, "truncation point: it has format 9"},
		{"applied index", func(e *store.Engine, b *store.Batch) { b.SetRecord(3, store.RecordApplied, nil) }, "applied index: its checksum"},
		{"applied before the log", func(e *store.Engine, b *store.Batch) { setApplied(b, 3, 0) }, "applied up to 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := openEngine(t, vfs.NewMem())
			l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
			noErr(t, err)
			stageAndCommit(t, l, e, newHardState(2, 1, 3), logEntries(2, 5, 2))
			b := e.NewBatch()
			tc.damage(e, b)
			noErr(t, b.Commit(true))
			_, _, err = OpenLog(e, 3)
			errorHas(t, err, tc.want, "shard-2", "/data", "empty the directory")
		})
	}
}

// TestHoleFoundWhileReadingEndsTheProcess: Raft has no use for a log that cannot be read.
func TestHoleFoundWhileReadingEndsTheProcess(t *testing.T) {
	fatal := make(chan string, 1)
	e, err := store.Open("/data", store.Options{FS: vfs.NewMem(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Fatal: func(msg string) { fatal <- msg; runtime.Goexit() }})
	noErr(t, err)
	defer e.Close()
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	big := make([]byte, tailBytes)
	stageAndCommit(t, l, e, nil, []*raftpb.Entry{logEntry(2, 1, big), logEntry(3, 1, big), logEntry(4, 1, big)})
	b := e.NewBatch()
	b.DeleteEntries(3, 3, 4)
	noErr(t, b.Commit(true))
	came := make(chan error, 1)
	go func() { _, err := l.Entries(2, 5, 1<<40); came <- err }()
	select {
	case msg := <-fatal:
		if !strings.Contains(msg, "log entry 3 is missing") {
			t.Error(msg)
		}
	case err := <-came:
		t.Fatalf("came back with %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing happened")
	}
}

// TestWatermarkWaitsForFiles: a process that may open no more files goes on, and writes its watermark when it may.
func TestWatermarkWaitsForFiles(t *testing.T) {
	mem := vfs.NewMem()
	var none atomic.Bool // Pebble's goroutines ask too
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if none.Load() && o.Kind == errorfs.OpCreate && strings.HasSuffix(o.Path, "WATERMARK.tmp") {
			return syscall.EMFILE
		}
		return nil
	}))
	e := openEngine(t, fs)
	none.Store(true)
	w := watermarkWriter{engine: e, log: slog.New(slog.DiscardHandler)}
	marks := []store.Mark{{Group: 1, Replica: 1, Last: 7}}
	w.finish(marks)
	none.Store(false)
	w.finish(marks)
	noErr(t, e.Close())
	if got := openEngine(t, mem).Watermark(); len(got) != 1 || got[0] != marks[0] {
		t.Errorf("the watermark is %+v", got)
	}
}

// TestReadsWhileWriting reads like Raft does, on another goroutine, while entries are appended, replaced and compacted.
func TestReadsWhileWriting(t *testing.T) {
	t.Run("journal", func(t *testing.T) { readsWhileWriting(t, openEngine(t, vfs.NewMem())) })
	t.Run("small journal", func(t *testing.T) { readsWhileWriting(t, openSmallJournal(t, vfs.NewMem(), smallJournal)) })
}

func readsWhileWriting(t *testing.T, e *store.Engine) {
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := e.NewBatch()
		defer b.Close()
		next, data := uint64(2), make([]byte, 40<<10)
		for round := range 250 {
			term := uint64(round + 1)
			es := []*raftpb.Entry{logEntry(next, term, data), logEntry(next+1, term, data), logEntry(next+2, term, data)}
			if err := l.Stage(b, newHardState(term, 0, next), es); err != nil { // the last two will be replaced
				t.Error(err)
			}
			if round%10 == 9 && next > 30 {
				if err := l.Compact(b, next-20); err != nil {
					t.Error(err)
				}
			}
			if err := b.Commit(round%3 == 0); err != nil {
				t.Error(err)
			}
			next++
		}
	}()
	reads := 0
	for running := true; running; reads++ {
		select {
		case <-done:
			running = false
		default:
		}
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		es, err := l.Entries(first, max(first, last-1), 1<<20)
		if err == raft.ErrCompacted {
			continue
		}
		noErr(t, err)
		for i, en := range es {
			if en.GetIndex() != first+uint64(i) || len(en.GetData()) != 40<<10 {
				t.Fatalf("entry %d of %d bytes where %d is expected", en.GetIndex(), len(en.GetData()), first+uint64(i))
			}
		}
		if _, err := l.Term(last); err != nil && err != raft.ErrCompacted {
			t.Fatal(err)
		}
		l.Bytes()
		l.Mark()
	}
	if reads < 3 {
		t.Fatalf("%d reads only", reads)
	}
}

func TestEntrySizeIsRafts(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for range 2000 {
		en := logEntry(rng.Uint64()>>rng.IntN(64), rng.Uint64()>>rng.IntN(64), nil)
		if rng.IntN(3) > 0 {
			en.Data = make([]byte, rng.IntN(40000))
		}
		if rng.IntN(2) == 0 {
			en.Type = raftpb.EntryType(rng.IntN(3)).Enum()
		}
		if got := entrySize(en); int(got) != proto.Size(en) {
			t.Fatalf("%v: %d, want %d", en, got, proto.Size(en))
		}
		b := append(appendEntryHead(nil, 7, en), en.GetData()...)
		back, err := decodeEntry(7, en.GetIndex(), b)
		noErr(t, err)
		if back.GetIndex() != en.GetIndex() || back.GetTerm() != en.GetTerm() || back.GetType() != en.GetType() || !bytes.Equal(back.GetData(), en.GetData()) {
			t.Fatalf("%v became %v", en, back)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	en := logEntry(9, 3, []byte("data"))
	f.Add(append(appendEntryHead(nil, 7, en), en.GetData()...)[4:])
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, body []byte) {
		v := append(binary.BigEndian.AppendUint32(nil, checksum(7, 9, body, nil)), body...) // or the fuzzer would never get past it
		bounded(t, len(v), 2, func() { _, _ = decodeEntry(7, 9, v) })
		if en, err := decodeEntry(7, 9, v); err == nil {
			back, err := decodeEntry(7, 9, append(appendEntryHead(nil, 7, en), en.GetData()...))
			if err != nil || !proto.Equal(en, back) {
				t.Fatalf("%v became %v: %v", en, back, err)
			}
		}
		var a, b uint64
		_ = decodeRecord(7, 1, v, &a, &b)
	})
}

func TestChecksumOfThePlaceIsTheLibrarys(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for range 1000 {
		g, n := ring.GroupID(rng.Uint32()), rng.Uint64()
		place := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(g)), n)
		if crcPlace(g, n) != crc32.Checksum(place, castagnoli) {
			t.Fatal(g, n)
		}
	}
}
