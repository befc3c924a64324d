package replica

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// StateStore is one group's applied state in the node's engine: data, applied index, fence and configuration, which change
// together. What is staged is visible when the batch is committed; it needs no sync, because the log before it is synced and a
// crash replays it.
type StateStore struct {
	e      *store.Engine
	g      ring.GroupID
	reader *store.StateReader
	buf    []byte // of who stages, as is all below
	writes []store.Write
	later  map[string]struct{}
}

// NewStateStore is the state of the group's replica.
func NewStateStore(e *store.Engine, g ring.GroupID) *StateStore {
	return &StateStore{e: e, g: g, reader: e.StateReader(g)}
}

// Reader reads the stored data. Safe for concurrent use, and good for as long as the replica lives.
func (s *StateStore) Reader() *store.StateReader { return s.reader }

// StateMeta is what a state reflects: the log up to Index.
type StateMeta struct {
	Index uint64
	Fence store.Fence
	Conf  *raftpb.ConfState // the configuration applied
}

// Load returns what the stored state reflects. The fence is the zero one if nothing was ever applied.
func (s *StateStore) Load() (applied uint64, fence store.Fence, err error) {
	m, err := loadMeta(s.g, func(r store.GroupRecord) ([]byte, bool, error) { return s.e.GroupRecord(s.g, r) })
	if err != nil {
		return 0, store.Fence{}, s.e.Damaged(err)
	}
	return m.Index, m.Fence, nil
}

func loadMeta(g ring.GroupID, get func(store.GroupRecord) ([]byte, bool, error)) (m StateMeta, err error) {
	v, ok, err := get(store.RecordApplied)
	if m.Index, err = decodeApplied(g, v, ok, err); err != nil {
		return m, err
	}
	v, ok, err = get(store.RecordFence)
	if err == nil && ok {
		m.Fence, err = store.DecodeFence(v)
	}
	if err != nil {
		return m, fmt.Errorf("%v: %w", g, err)
	}
	v, ok, err = get(store.RecordConf)
	m.Conf, err = decodeConf(g, v, ok, err)
	return m, err
}

func decodeApplied(g ring.GroupID, v []byte, ok bool, err error) (applied uint64, _ error) {
	if err == nil && !ok {
		err = errMissing
	}
	if err == nil {
		err = decodeRecord(g, uint64(store.RecordApplied), v, &applied)
	}
	if err != nil {
		return 0, fmt.Errorf("%v: applied index: %w", g, err)
	}
	return applied, nil
}

func decodeConf(g ring.GroupID, v []byte, ok bool, err error) (*raftpb.ConfState, error) {
	conf := new(raftpb.ConfState)
	if err == nil && !ok {
		err = errMissing
	}
	if err == nil {
		err = proto.Unmarshal(v, conf)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: configuration: %w", g, err)
	}
	return conf, nil
}

// StageApply puts the effects of tasks, one after the other, into b, and reports whether the configuration is among them. What there is of a
// state only once, the index, the fence, the configuration and each key, is staged as the last of them leaves it. Tasks are staged and committed in the
// order of the log, by one goroutine.
func (s *StateStore) StageApply(b *store.Batch, tasks ...*ApplyTask) (conf bool, err error) {
	if len(tasks) == 0 {
		return false, nil
	}
	var m StateMeta
	all := s.writes[:0]
	for _, t := range tasks {
		all = append(all, t.Writes...)
		if t.History != nil {
			b.SetHistory(s.g, t.History)
		}
		m.Index, m.Fence = t.Index, t.Fence
		if t.Conf != nil {
			m.Conf = t.Conf
		}
	}
	ws := all
	if len(tasks) > 1 {
		ws = s.newest(all)
	}
	b.ApplyWrites(s.g, ws)
	clear(all) // they hold on to entries
	if s.writes = all; cap(all) > keepWrites {
		s.writes = nil
	}
	return m.Conf != nil, s.stageMeta(b, m)
}

// keepWrites is how many writes have room in what is kept between two batches.
const keepWrites = 1024

// newest leaves out writes that later ones of the same key replace. Writes of whole ranges are few: where there is one, all stay as they are.
func (s *StateStore) newest(ws []store.Write) []store.Write {
	if slices.ContainsFunc(ws, isRange) {
		return ws
	}
	if s.later == nil {
		s.later = make(map[string]struct{})
	}
	defer clear(s.later)
	to := len(ws)
	for i := len(ws) - 1; i >= 0; i-- {
		key := unsafe.String(unsafe.SliceData(ws[i].Key), len(ws[i].Key)) // good until the map is cleared
		if _, ok := s.later[key]; ok {
			continue
		}
		s.later[key] = struct{}{}
		to--
		ws[to] = ws[i]
	}
	return ws[to:]
}

func (s *StateStore) stageMeta(b *store.Batch, m StateMeta) error {
	setApplied(b, s.g, m.Index)
	s.buf = store.AppendFence(s.buf[:0], m.Fence)
	b.SetRecord(s.g, store.RecordFence, s.buf)
	if m.Conf == nil {
		return nil
	}
	v, err := proto.Marshal(m.Conf)
	b.SetRecord(s.g, store.RecordConf, v)
	return err
}

func setApplied(b *store.Batch, g ring.GroupID, index uint64) {
	var buf [24]byte
	b.SetRecord(g, store.RecordApplied, appendRecord(buf[:0], g, uint64(store.RecordApplied), index))
}

// FrozenState is a group's state at one moment, with what it reflects; its Export gives the data. Close it soon.
type FrozenState struct {
	*store.Frozen
	StateMeta
}

// Freeze takes the state as it is now: what a snapshot for another replica is made of. The term of its Index is in the log,
// until that is compacted further.
func (s *StateStore) Freeze() (*FrozenState, error) {
	f, err := s.e.Freeze(s.g)
	if err != nil {
		return nil, err
	}
	m, err := loadMeta(s.g, f.Record)
	if err != nil {
		return nil, errors.Join(s.e.Damaged(err), f.Close())
	}
	return &FrozenState{Frozen: f, StateMeta: m}, nil
}

// Install begins to receive a snapshot. Its Add takes the data, in any order; StageInstall ends it, or its Abort.
func (s *StateStore) Install() (*store.Install, error) { return s.e.NewInstall(s.g) }

// StageInstall puts into b what makes the received data the group's state: it replaces data, applied index, fence,
// configuration and the whole log, which begins anew after m.Index, whose entry is of term. A crash leaves all of the old or all of the new;
// readers too see one or the other. The hard state that Raft hands out with the snapshot, and entries that follow it, are staged after
// this. Commit b with sync. Called by the appending worker, while no apply of this group is under way.
func (s *StateStore) StageInstall(b *store.Batch, l *LogStore, in *store.Install, m StateMeta, term uint64) error {
	if m.Conf == nil || m.Index == 0 || term == 0 {
		return fmt.Errorf("%v: a snapshot at index %d of term %d without a configuration", s.g, m.Index, term)
	}
	if err := in.Stage(b); err != nil {
		return err
	}
	if err := s.stageMeta(b, m); err != nil {
		return err
	}
	at := position{m.Index, term}
	l.stageReset(b, at)
	return l.stageCommit(b, at)
}
