package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// A snapshot travels as chunks, each answered before the next: version ‖ uvarint(group) ‖ uvarint(transfer) ‖ uvarint(number) ‖ kind ‖ body.
// Chunk 0 (begin) holds Raft's MsgSnap, without data but with the fence; then data chunks of uvarint(len) ‖ key ‖ uvarint(len) ‖ value …;
// the last (end) is empty. The receiver loads the data beside its current state, so memory stays bounded on both sides.
const (
	chunkVersion = 1

	chunkBegin byte = 1
	chunkData  byte = 2
	chunkEnd   byte = 3

	// ChunkBytes is about how large a chunk gets. One key with its value may make it larger.
	ChunkBytes = 1 << 20
	// ChunkMost is the longest chunk: one key with its value as large as a batch may hold.
	ChunkMost = store.MaxBatchBytes + 2 + 5*binary.MaxVarintLen64
	// incomingMax is how many snapshots a node receives at once; incomingIdle is when one is given up.
	incomingMax  = 4
	incomingIdle = 30 * time.Second
)

// snapshot is Raft's Storage.Snapshot: the state as applied now; what of it is only in the lease's view is stored first. It is called on the driver's goroutine, within a
// step of the group.
func (m *member) snapshot() (*raftpb.Snapshot, error) {
	m.storeTold()
	f, err := m.state.Freeze()
	if err != nil {
		return nil, err
	}
	if !proto.Equal(f.Conf, m.g.conf) {
		// The newest configuration is decided and not stored yet. A snapshot without it may not name its receiver, who would ignore it.
		return nil, errors.Join(raft.ErrSnapshotTemporarilyUnavailable, f.Close())
	}
	term, err := m.log.Term(f.Index)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	m.dropFrozen()
	m.frozen = f
	return &raftpb.Snapshot{Data: SnapshotData(f.Fence, m.historyPayload(f.Index)),
		Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(f.Index), Term: proto.Uint64(term), ConfState: f.Conf}}, nil
}

func (m *member) dropFrozen() {
	if m.frozen != nil {
		_ = m.frozen.Close()
		m.frozen = nil
	}
}

// sendSnapshot hands a MsgSnap with the state it stands for to the network. The sending ends, and gives its place and the state back, when
// this replica leads no more: whoever leads then sends its own.
func (m *member) sendSnapshot(to ring.NodeID, msg *raftpb.Message) {
	r := ring.ReplicaID(msg.GetTo())
	if m.frozen == nil || m.frozen.Index != msg.GetSnapshot().GetMetadata().GetIndex() {
		m.g.ReportSnapshot(r, false) // asked twice for one snapshot: Raft asks again
		return
	}
	src := &SnapshotSource{group: m.id, msg: msg, state: m.frozen, id: m.d.transfers.next()}
	src.ctx, src.cancel = context.WithCancelCause(context.Background())
	m.frozen = nil
	m.sends = append(m.sends, src)
	m.d.stats.sending.Add(1)
	m.d.cfg.Logger.Info("sending a snapshot", "group", m.id.String(), "to", to.String(), "index", src.state.Index)
	m.d.cfg.Network.SendSnapshot(to, src, func(err error) {
		m.d.stats.sending.Add(-1)
		m.d.inbox.call(func() {
			src.cancel(nil)
			m.sends = slices.DeleteFunc(m.sends, func(s *SnapshotSource) bool { return s == src })
			if err == nil {
				m.d.stats.sent.Add(1)
			} else {
				m.d.stats.unsent.Add(1)
				m.d.cfg.Logger.Warn("a snapshot was not delivered; it will be tried again", "group", m.id.String(), "to", to.String(), "cause", err)
			}
			m.guard(func() { m.g.ReportSnapshot(r, err == nil) })
			m.d.mark(m)
		})
	})
}

// endSends gives up what is being sent.
func (m *member) endSends(why error) {
	for _, s := range m.sends {
		s.cancel(why)
	}
}

// sendsKeep is how many times its limit a log may grow while a snapshot is being sent.
const sendsKeep = 8

// keepForSends lowers the index up to which the log may be truncated to those of the snapshots that are being sent: who has received one goes on from
// there by the log, and would need another at once if that began later. Under load that could go on for ever.
func (m *member) keepForSends(upTo uint64, size int) uint64 {
	if size > sendsKeep*m.d.cfg.LogBytes {
		return upTo
	}
	for _, s := range m.sends {
		upTo = min(upTo, s.state.Index)
	}
	return upTo
}

var errLeadsNoMore = errors.New("this replica leads the group no more")

// SnapshotSource gives a snapshot as chunks, for Network.SendSnapshot. One goroutine uses it, and closes it.
type SnapshotSource struct {
	group  ring.GroupID
	id     uint64
	msg    *raftpb.Message
	state  *FrozenState
	number uint64
	after  []byte
	ended  bool
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Context ends when the snapshot is of no use any more; its cause says why.
func (s *SnapshotSource) Context() context.Context { return s.ctx }

var errChunkFull = errors.New("chunk is full")

// Next returns the next chunk, or nil after the last one. The caller owns the bytes.
func (s *SnapshotSource) Next() ([]byte, error) {
	if err := context.Cause(s.ctx); err != nil {
		return nil, err
	}
	if s.ended {
		return nil, nil
	}
	b := []byte{chunkVersion}
	for _, v := range [...]uint64{uint64(s.group), s.id, s.number} {
		b = binary.AppendUvarint(b, v)
	}
	s.number++
	if s.number == 1 {
		return proto.MarshalOptions{}.MarshalAppend(append(b, chunkBegin), s.msg)
	}
	head := len(b)
	b = append(b, chunkData)
	err := s.state.Export(s.after, func(key, value []byte) error {
		if len(b)+len(key)+len(value) > ChunkBytes && len(b) > head+1 {
			return errChunkFull
		}
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
		b = binary.AppendUvarint(b, uint64(len(value)))
		b = append(b, value...)
		s.after = append(s.after[:0], key...)
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return nil, err
	}
	if len(b) == head+1 {
		b[head], s.ended = chunkEnd, true
	}
	return b, nil
}

// Close gives the state back.
func (s *SnapshotSource) Close() error { return s.state.Close() }

// incoming is one snapshot being received.
type incoming struct {
	from   ring.NodeID
	id     uint64
	number uint64 // of the next chunk
	msg    *raftpb.Message
	in     *store.Install
	last   time.Time
}

// transfers holds the snapshots being received, by group.
type transfers struct {
	seq    atomic.Uint64 // not under mu: that is held while chunks are written, and the driver's goroutine waits for no disk
	mu     sync.Mutex
	groups map[ring.GroupID]*incoming
	// whole counts those received, and neither stored nor given up: each keeps its place. It too is the driver's goroutine's to change.
	whole atomic.Int32
}

// places is how many snapshots have one.
func (t *transfers) places() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.groups) + int(t.whole.Load())
}

// ErrBusy is why a node takes no snapshot now: it receives as many as it may. The sender waits and sends the first chunk again.
var ErrBusy = errors.New("replica: as many snapshots are being received as may be at once; try again later")

func (t *transfers) next() uint64 { return t.seq.Add(1) }

// ReceiveChunk takes one chunk of a snapshot from a node, on any goroutine; it may write to disk. After an error the sender starts over.
func (d *Driver) ReceiveChunk(from ring.NodeID, b []byte) error {
	c, err := decodeChunk(b)
	if err != nil {
		return err
	}
	d.transfers.mu.Lock()
	defer d.transfers.mu.Unlock()
	if c.kind == chunkBegin {
		return d.begin(from, c)
	}
	in := d.transfers.groups[c.group]
	if in == nil || in.from != from || in.id != c.id || in.number != c.number {
		return fmt.Errorf("replica: chunk %d of a snapshot of %s is not the one expected", c.number, c.group)
	}
	in.number++
	in.last = time.Now()
	if c.kind == chunkData {
		if err := addChunk(in.in, c.body); err != nil {
			delete(d.transfers.groups, c.group)
			return errors.Join(err, in.in.Abort())
		}
		return nil
	}
	delete(d.transfers.groups, c.group)
	d.transfers.whole.Add(1)
	d.inbox.call(func() { d.received(from, c.group, in) })
	return nil
}

type chunk struct {
	group      ring.GroupID
	id, number uint64
	kind       byte
	body       []byte
}

func decodeChunk(b []byte) (c chunk, err error) {
	if len(b) == 0 || b[0] != chunkVersion {
		return c, errors.New("replica: a snapshot chunk of an unknown version")
	}
	b = b[1:]
	var v [3]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(b); n <= 0 {
			return c, errors.New("replica: a snapshot chunk ends too soon")
		}
		b = b[n:]
	}
	if len(b) == 0 || v[0] > 1<<31 || b[0] < chunkBegin || b[0] > chunkEnd {
		return c, errors.New("replica: a snapshot chunk of no known kind")
	}
	return chunk{ring.GroupID(v[0]), v[1], v[2], b[0], b[1:]}, nil
}

// begin opens a place for a snapshot. The caller holds the lock.
func (d *Driver) begin(from ring.NodeID, c chunk) error {
	msg := new(raftpb.Message)
	if err := proto.Unmarshal(c.body, msg); err != nil {
		return fmt.Errorf("replica: a snapshot's message: %w", err)
	}
	if msg.GetType() != raftpb.MsgSnap || raft.IsEmptySnap(msg.GetSnapshot()) || len(msg.GetEntries()) > 0 || len(msg.GetResponses()) > 0 {
		return errors.New("replica: a snapshot begins with something else")
	}
	if _, err := SnapshotFence(msg.GetSnapshot()); err != nil {
		return err
	}
	t := &d.transfers
	for g, in := range t.groups {
		if g == c.group || time.Since(in.last) > incomingIdle {
			delete(t.groups, g)
			if err := in.in.Abort(); err != nil {
				return err
			}
		}
	}
	if len(t.groups)+int(t.whole.Load()) >= incomingMax {
		return ErrBusy
	}
	in, err := d.cfg.Engine.NewInstall(c.group)
	if err != nil {
		return err
	}
	t.groups[c.group] = &incoming{from: from, id: c.id, number: 1, msg: msg, in: in, last: time.Now()}
	return nil
}

func addChunk(in *store.Install, b []byte) error {
	for len(b) > 0 {
		var kv [2][]byte
		for i := range kv {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errors.New("replica: a snapshot chunk ends within a key or a value")
			}
			kv[i], b = b[n:n+int(size)], b[n+int(size):]
		}
		if err := in.Add(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// received gives a whole snapshot to its group, on the driver's goroutine. Raft may have no use for it any more.
func (d *Driver) received(from ring.NodeID, g ring.GroupID, in *incoming) {
	m := d.groups[g]
	if m == nil || m.halted || in.msg.GetTo() != uint64(m.self) || !m.speaks(ring.ReplicaID(in.msg.GetFrom()), from) || m.install != nil {
		d.abort(in.in)
		return
	}
	m.install, m.installIndex = in.in, in.msg.GetSnapshot().GetMetadata().GetIndex()
	m.guard(func() { m.g.Step(d.now(), in.msg) })
	d.mark(m)
}

// claim gives the received data to the Append task whose snapshot it is.
func (m *member) claim(msg *raftpb.Message) *store.Install {
	in := m.install
	if s := msg.GetSnapshot(); in == nil || raft.IsEmptySnap(s) || s.GetMetadata().GetIndex() != m.installIndex {
		return nil
	}
	m.install = nil
	return in
}

// dropInstall gives received data up that Raft did not claim at once: it has all of it already.
func (m *member) dropInstall() {
	if m.install != nil {
		m.d.abort(m.install)
		m.install = nil
	}
}

// abort gives up a whole snapshot.
func (d *Driver) abort(in *store.Install) {
	d.transfers.whole.Add(-1)
	if err := in.Abort(); err != nil {
		d.cfg.Logger.Warn("an unused snapshot was not removed; the next start does", "cause", err)
	}
}
