package replica

import (
	"errors"
	"fmt"

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
	reader store.Reader
}

// OpenState opens the state of the group's replica.
func OpenState(e *store.Engine, g ring.GroupID) (*StateStore, error) {
	r, err := e.StateReader(g)
	if err != nil {
		return nil, err
	}
	return &StateStore{e: e, g: g, reader: r}, nil
}

// Reader reads the applied data. Safe for concurrent use, and good for as long as the replica lives.
func (s *StateStore) Reader() store.Reader { return s.reader }

// Load returns what the stored state reflects. fence is nil if nothing was ever applied.
func (s *StateStore) Load() (applied uint64, fence []byte, conf *raftpb.ConfState, err error) {
	m, err := loadMeta(s.g, func(r store.GroupRecord) ([]byte, bool, error) { return s.e.GroupRecord(s.g, r) })
	if err != nil {
		return 0, nil, nil, s.e.Damaged(err)
	}
	return m.Index, m.Fence, m.Conf, nil
}

// StateMeta is what a state reflects: the log up to Index, whose entry is of Term.
type StateMeta struct {
	Index, Term uint64
	Fence       []byte            // opaque; nil if there is none yet
	Conf        *raftpb.ConfState // the configuration applied
}

func loadMeta(g ring.GroupID, get func(store.GroupRecord) ([]byte, bool, error)) (StateMeta, error) {
	v, ok, err := get(store.RecordApplied)
	p, err := decodePosition(g, store.RecordApplied, v, ok, err)
	if err != nil {
		return StateMeta{}, err
	}
	m := StateMeta{Index: p.index, Term: p.term}
	if m.Fence, _, err = get(store.RecordFence); err != nil {
		return m, fmt.Errorf("%v: fence: %w", g, err)
	}
	v, ok, err = get(store.RecordConf)
	m.Conf, err = decodeConf(g, v, ok, err)
	return m, err
}

func decodeConf(g ring.GroupID, v []byte, ok bool, err error) (*raftpb.ConfState, error) {
	conf := new(raftpb.ConfState)
	if err == nil && !ok {
		err = errors.New("it is missing")
	}
	if err == nil {
		err = proto.Unmarshal(v, conf)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: configuration: %w", g, err)
	}
	return conf, nil
}

// StageApply puts into b the effects of the log up to applied, whose entry is of term. A nil fence or conf is unchanged. Batches are
// staged and committed in the order of the log.
func (s *StateStore) StageApply(b *store.Batch, applied, term uint64, fence []byte, conf *raftpb.ConfState, writes []store.Write) {
	b.ApplyWrites(s.g, writes)
	s.stageMeta(b, StateMeta{Index: applied, Term: term, Fence: fence, Conf: conf})
}

func (s *StateStore) stageMeta(b *store.Batch, m StateMeta) {
	setPosition(b, s.g, store.RecordApplied, position{m.Index, m.Term})
	if m.Fence != nil {
		b.SetRecord(s.g, store.RecordFence, m.Fence)
	}
	if m.Conf != nil {
		v, err := proto.Marshal(m.Conf)
		b.Fail(err)
		b.SetRecord(s.g, store.RecordConf, v)
	}
}

// FrozenState is a group's state at one moment, with what it reflects. Close it soon.
type FrozenState struct {
	*store.Frozen
	StateMeta
}

// Freeze takes the state as it is now: what a snapshot for another replica is made of. Its Export gives the data.
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
// configuration and the whole log, which begins anew after m.Index. A crash leaves all of the old or all of the new.
// The hard state that Raft hands out with the snapshot, and entries that follow it, are staged after it. Commit b with sync. m.Fence and m.Conf are required.
// Called by the appending worker, while no apply of this group is under way.
func (s *StateStore) StageInstall(b *store.Batch, l *LogStore, in *store.Install, m StateMeta) {
	if m.Fence == nil || m.Conf == nil || m.Index == 0 || m.Term == 0 {
		b.Fail(fmt.Errorf("%v: a snapshot at index %d of term %d without fence or configuration", s.g, m.Index, m.Term))
		return
	}
	s.stageMeta(b, m)
	l.stageReset(b, position{m.Index, m.Term})
	l.stageCommit(b, m)
	b.Fail(in.Stage(b))
}
