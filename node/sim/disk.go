package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"sort"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// disk is a node's one store: an ordered log of operations that all its groups share. A crash keeps what is synced and a prefix
// of the rest, as an engine with one write-ahead log does.
type disk struct {
	base []*image // synced; by shard, nil where the node has no replica
	cur  []*image // with all operations written
	tail []diskOp // between the two
	done uint64   // operations synced ever

	inLog, inFile uint64  // number of the newest watermark, in the log and in its file
	lost          bool    // the log was once found behind the file
	before        []saved // what was synced at the newest watermarks, in their order

	lived []bool // by group: the replica was there when the process started
}

func newDisk(groups int) *disk {
	return &disk{base: make([]*image, groups), cur: make([]*image, groups), lived: make([]bool, groups)}
}

// opened notes what a starting process finds.
func (d *disk) opened() {
	for g, m := range d.cur {
		d.lived[g] = m != nil
	}
}

// old reports whether the replica was there before this process.
func (d *disk) old(group int) bool { return d.lived[group] }

// diskOp is one atomic write. Exactly one of msg, task and truncate is set.
type diskOp struct {
	group    int
	rid      uint64          // the replica it belongs to; if another has taken its place, it is void
	msg      *raftpb.Message // Raft's MsgStorageAppend
	task     *replica.ApplyTask
	truncate uint64
	noFence  bool // of a task: without its fence; onlyFence: nothing else. Only a mutant splits them.
	onlyFnce bool
}

func (d *disk) write(op diskOp) (pos uint64) {
	d.cur[op.group].do(&op)
	op.rid = d.cur[op.group].rid
	d.tail = append(d.tail, op)
	return d.done + uint64(len(d.tail))
}

func (d *disk) end() uint64 { return d.done + uint64(len(d.tail)) }

// sync makes the operations up to pos durable.
func (d *disk) sync(pos uint64) {
	if pos <= d.done {
		return
	}
	n := int(pos - d.done)
	for i := range d.tail[:n] {
		if m := d.base[d.tail[i].group]; m != nil && m.rid == d.tail[i].rid {
			m.do(&d.tail[i])
		}
	}
	d.tail = append(d.tail[:0], d.tail[n:]...)
	d.done = pos
}

// crash loses a suffix of what was not synced.
func (d *disk) crash(rng *rand.Rand) (lost int) {
	keep := rng.IntN(len(d.tail) + 1)
	lost = len(d.tail) - keep
	d.sync(d.done + uint64(keep))
	clear(d.tail)
	d.tail = d.tail[:0]
	for i, b := range d.base {
		if b != nil {
			d.cur[i] = b.clone()
		}
	}
	return lost
}

// copied is a copy of the directory, as a crash would leave it.
func (d *disk) copied() *disk {
	c := newDisk(len(d.cur))
	c.inLog, c.inFile, c.lost = d.inLog, d.inFile, d.lost
	for g, m := range d.base {
		if m != nil {
			c.base[g], c.cur[g] = m.clone(), m.clone()
		}
	}
	return c
}

// place puts a replica on the disk, or with nil takes it away, durably.
func (d *disk) place(group int, m *image) {
	d.cur[group], d.base[group] = m, nil
	d.lived[group] = false
	if m != nil {
		d.base[group] = m.clone()
	}
}

// image is one replica as its store has it: log, hard state and state. It is the raft.Storage of the group.
type image struct {
	rid       uint64 // the replica's ID
	regressed bool   // found behind its own watermark: it may have forgotten entries and votes, and neither votes nor campaigns

	term, vote, commit uint64
	trunc, truncTerm   uint64 // the log begins behind this entry
	ents               []*raftpb.Entry
	conf               *raftpb.ConfState

	applied uint64
	fence   store.Fence
	kv      map[string]string
	sum     uint64 // of kv, whatever the order

	snap  *raftpb.Snapshot // of applied, made when asked for
	asked func()           // before that; nil for nothing
}

// newImage is a replica bootstrapped from the synthetic snapshot that all first replicas of a group share.
func newImage(rid uint64, voters []uint64) *image {
	return &image{rid: rid, term: 1, commit: 1, trunc: 1, truncTerm: 1, applied: 1, kv: map[string]string{},
		conf: &raftpb.ConfState{Voters: voters}}
}

// emptyImage is a replica that waits to be filled.
func emptyImage(rid uint64) *image {
	return &image{rid: rid, kv: map[string]string{}, conf: &raftpb.ConfState{}}
}

func (m *image) clone() *image {
	c := *m
	c.ents = append([]*raftpb.Entry(nil), m.ents...)
	c.kv = maps.Clone(m.kv)
	c.snap, c.asked = nil, nil
	return &c
}

func (m *image) do(op *diskOp) {
	switch {
	case op.msg != nil:
		m.append(op.msg)
	case op.task != nil:
		m.apply(op)
	default:
		m.truncateTo(op.truncate)
	}
}

func (m *image) append(msg *raftpb.Message) {
	if s := msg.GetSnapshot(); !raft.IsEmptySnap(s) {
		m.install(s)
	}
	if msg.GetTerm() != 0 && (!mutant.has(commitApart) || msg.GetTerm() != m.term || msg.GetVote() != m.vote) {
		m.term, m.vote, m.commit = msg.GetTerm(), msg.GetVote(), msg.GetCommit()
	}
	ents := msg.GetEntries()
	if len(ents) == 0 {
		return
	}
	first := ents[0].GetIndex()
	if first > m.last()+1 || first <= m.trunc {
		panic(fmt.Sprintf("append at %d to a log of (%d, %d]", first, m.trunc, m.last()))
	}
	if keep := int(first - m.trunc - 1); keep < len(m.ents) {
		m.ents = append(m.ents[:keep:keep], ents...) // a new array: Raft may hold the old one
	} else {
		m.ents = append(m.ents, ents...)
	}
}

func (m *image) install(s *raftpb.Snapshot) {
	fence, payload, err := replica.SplitSnapshotData(s.GetData())
	if err != nil {
		panic(err)
	}
	m.trunc, m.truncTerm = s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm()
	m.ents, m.snap = nil, nil
	m.conf = s.GetMetadata().GetConfState()
	m.applied = m.trunc
	m.fence = fence
	m.kv, m.sum = decodeState(payload)
}

func (m *image) apply(op *diskOp) {
	t := op.task
	if !op.noFence {
		m.fence = t.Fence
	}
	m.snap = nil
	if op.onlyFnce {
		return
	}
	for i := range t.Writes {
		m.put(&t.Writes[i])
	}
	if t.Conf != nil {
		m.conf = t.Conf
	}
	m.applied = t.Index
}

func (m *image) put(w *store.Write) { m.sum += putState(m.kv, w) }

// putState applies a write to a state and says by how much its sum changes.
func putState(kv map[string]string, w *store.Write) (delta uint64) {
	if w.IsRange() {
		for k, v := range kv {
			if w.Removes([]byte(k)) {
				delta -= pairSum([]byte(k), v)
				delete(kv, k)
			}
		}
		return delta
	}
	if old, ok := kv[string(w.Key)]; ok {
		delta -= pairSum(w.Key, old)
	}
	if w.Delete {
		delete(kv, string(w.Key))
		return delta
	}
	v := string(w.Value)
	kv[string(w.Key)] = v
	return delta + pairSum(w.Key, v)
}

func pairSum(k []byte, v string) uint64 {
	return xxhash.Sum64(k)*0x9e3779b97f4a7c15 ^ xxhash.Sum64String(v)
}

func (m *image) truncateTo(index uint64) {
	if index <= m.trunc || index > m.applied {
		return // overtaken by a snapshot
	}
	term, _ := m.Term(index)
	m.ents = append([]*raftpb.Entry(nil), m.ents[index-m.trunc:]...)
	m.trunc, m.truncTerm = index, term
}

func (m *image) last() uint64 { return m.trunc + uint64(len(m.ents)) }

// holds reports whether the entry is in this replica's log, or in its state.
func (m *image) holds(index, term uint64) bool {
	if index <= m.trunc {
		return true
	}
	t, err := m.Term(index)
	return err == nil && t == term
}

func (m *image) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	commit := max(m.commit, m.applied) // the state is written behind the log it comes from
	return &raftpb.HardState{Term: proto.Uint64(m.term), Vote: proto.Uint64(m.vote), Commit: proto.Uint64(commit)}, m.conf, nil
}

func (m *image) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= m.trunc {
		return nil, raft.ErrCompacted
	}
	if hi > m.last()+1 {
		return nil, raft.ErrUnavailable
	}
	from, to := int(lo-m.trunc-1), int(hi-m.trunc-1)
	size := uint64(0)
	for i := from; i < to; i++ {
		size += uint64(len(m.ents[i].GetData())) + 16
		if size > maxSize && i > from {
			to = i
		}
	}
	return m.ents[from:to:to], nil
}

func (m *image) Term(i uint64) (uint64, error) {
	switch {
	case i == m.trunc:
		return m.truncTerm, nil
	case i < m.trunc:
		return 0, raft.ErrCompacted
	case i > m.last():
		return 0, raft.ErrUnavailable
	}
	return m.ents[i-m.trunc-1].GetTerm(), nil
}

func (m *image) LastIndex() (uint64, error)  { return m.last(), nil }
func (m *image) FirstIndex() (uint64, error) { return m.trunc + 1, nil }

func (m *image) Snapshot() (*raftpb.Snapshot, error) {
	if m.asked != nil {
		m.asked()
	}
	if m.snap == nil {
		term, err := m.Term(m.applied)
		if err != nil {
			return nil, err
		}
		m.snap = &raftpb.Snapshot{Data: replica.SnapshotData(m.fence, encodeState(m.kv)),
			Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(m.applied), Term: proto.Uint64(term), ConfState: m.conf}}
	}
	return m.snap, nil
}

// encodeState writes a state in key order: the same state is the same bytes.
func encodeState(kv map[string]string) []byte {
	keys := make([]string, 0, len(kv))
	for k := range kv {
		if mutant.has(snapshotNoDedup) && isReply(k) {
			continue
		}
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b []byte
	for _, k := range keys {
		b = binary.AppendUvarint(b, uint64(len(k)))
		b = append(b, k...)
		b = binary.AppendUvarint(b, uint64(len(kv[k])))
		b = append(b, kv[k]...)
	}
	return b
}

// isReply reports whether a key is that of a remembered reply.
func isReply(key string) bool {
	id := objectID(0)
	p := string(store.MetaKey(id.Class, id.Key, store.MetaReply))
	return len(key) == len(p)+8 && key[len(p)-1] == store.MetaReply
}

func decodeState(b []byte) (kv map[string]string, sum uint64) {
	kv = map[string]string{}
	r := bytes.NewReader(b)
	next := func() []byte {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(r.Len()) {
			panic("damaged snapshot")
		}
		v := make([]byte, n)
		_, _ = r.Read(v) // of a bytes.Reader that holds as many
		return v
	}
	for r.Len() > 0 {
		w := store.Write{Key: next()}
		w.Value = next()
		sum += putState(kv, &w)
	}
	return kv, sum
}
