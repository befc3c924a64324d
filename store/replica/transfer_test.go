package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// A snapshot is of no use when its sender leads no more: the sending ends at once, and the state is given back.
func TestSendEndsWithLeadership(t *testing.T) {
	w, nodes := startDrivers(t, 16<<10)
	owned(t, nodes...)
	nodes[2].stop(t, w)
	at := owned(t, nodes[:2]...)
	for g, n := range at { // the log is truncated beyond all that the third node can have
		shard := ring.ShardID(g)
		var had uint64
		if err := n.d.on(t.Context(), func() (err error) {
			had, err = n.d.groups[shard.Group()].log.LastIndex()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; {
			n.put(t, g, "a", 300)
			first, _ := truncated(t, n, shard.Group())
			if first > had+1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the log begins at %d, the third node may have %d", first, had)
			}
		}
	}
	w.mu.Lock()
	w.held = make(chan *SnapshotSource, 100)
	w.mu.Unlock()
	startDriver(t, w, nodes[2], 16<<10)
	var src *SnapshotSource
	select {
	case src = <-w.held:
	case <-time.After(20 * time.Second):
		t.Fatal("no snapshot is sent to a node that lacks the log")
	}
	shard, ok := src.group.Shard()
	if !ok {
		t.Fatal(src.group)
	}
	from, to := nodes[0], nodes[1]
	if at[shard] == nodes[1] {
		from, to = to, from
	}
	if s := from.d.Stats(); s.Sending == 0 || s.Led == 0 {
		t.Errorf("%+v", s)
	}
	unsent := from.d.Stats().Unsent
	handOver(t, nodes[:2], src.group, to.id)
	select {
	case <-src.Context().Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the sending goes on after the leadership")
	}
	if _, err := src.Next(); !errors.Is(err, errLeadsNoMore) {
		t.Errorf("the next chunk: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); from.d.Stats().Unsent == unsent; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", from.d.Stats())
		}
	}
}

// truncated tells where the log of a group begins and how many bytes it has, after a truncation, if there is to be one: the driver's own come
// too seldom for a test.
func truncated(t *testing.T, n *driverNode, group ring.GroupID) (first uint64, size int) {
	t.Helper()
	for asked, done := false, false; !done; asked = true {
		if err := n.d.on(t.Context(), func() (err error) {
			m := n.d.groups[group]
			if !asked {
				n.d.compact(m)
			}
			done = !m.compacting
			first, err = m.log.FirstIndex()
			size = int(m.log.Bytes())
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return first, size
}

func beginChunk(g ring.GroupID, id uint64) []byte {
	msg := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: new(uint64(1)), From: new(uint64(2)), Snapshot: &raftpb.Snapshot{Data: SnapshotData(store.Fence{}, nil),
		Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(9)), Term: new(uint64(3)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}}}}
	b, err := proto.Marshal(msg)
	if err != nil {
		panic(err)
	}
	return append(chunkHead(g, id, 0, chunkBegin), b...)
}

func chunkHead(g ring.GroupID, id, number uint64, kind byte) []byte {
	b := []byte{chunkVersion}
	for _, v := range [...]uint64{uint64(g), id, number} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, kind)
}

// A node receives so many snapshots at once, and each keeps its place until it is stored or given up: who comes late is told to wait.
func TestPlacesOfSnapshots(t *testing.T) {
	e, err := store.Open("data", store.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	d := NewDriver(DriverConfig{Engine: e, Node: 1, Boot: 1, Timing: LANTiming, Logger: slog.New(slog.DiscardHandler)})
	for g := range ring.GroupID(incomingMax + 1) {
		if err := e.CreateReplica(g+1, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	for g := range ring.GroupID(incomingMax) {
		if err := d.ReceiveChunk(2, beginChunk(g+1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	const late = ring.GroupID(incomingMax + 1)
	busy := func(when string) {
		t.Helper()
		if err := d.ReceiveChunk(2, beginChunk(late, 1)); !errors.Is(err, ErrBusy) || d.Stats().Receiving != incomingMax {
			t.Fatalf("%s: %v, %+v", when, err, d.Stats())
		}
	}
	busy("all are being received")
	if err := d.ReceiveChunk(2, beginChunk(2, 7)); err != nil { // the same group again takes its own place
		t.Fatal(err)
	}
	if err := d.ReceiveChunk(2, chunkHead(1, 1, 1, chunkEnd)); err != nil {
		t.Fatal(err)
	}
	busy("one is whole, and not stored")

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.Run(ctx) }() // which has no such group: the snapshot is given up
	for deadline := time.Now().Add(20 * time.Second); d.Stats().Receiving == incomingMax; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", d.Stats())
		}
	}
	if err := d.ReceiveChunk(2, beginChunk(late, 1)); err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
}

// The log from a snapshot on is kept while that is being sent, within bounds.
func TestLogIsKeptForSnapshots(t *testing.T) {
	const limit, shard = 64 << 10, 0
	w, nodes := startDrivers(t, limit)
	owned(t, nodes...)
	nodes[2].stop(t, w)
	n := owned(t, nodes[:2]...)[shard]
	group := ring.ShardID(shard).Group()
	log := func() (first uint64, size int) {
		t.Helper()
		return truncated(t, n, group)
	}
	write := func(until func(first uint64, size int) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; {
			first, size := log()
			if until(first, size) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the log begins at %d and has grown to %d bytes", first, size)
			}
			n.put(t, shard, "a", 100)
		}
	}
	var last uint64 // the node that has stopped has nothing after it
	noErr(t, n.d.on(t.Context(), func() (err error) { last, err = n.d.groups[group].log.LastIndex(); return err }))
	write(func(first uint64, _ int) bool { return first > last+1 })
	w.mu.Lock()
	w.held = make(chan *SnapshotSource, 100)
	w.mu.Unlock()
	startDriver(t, w, nodes[2], limit)
	var src *SnapshotSource
	select {
	case src = <-w.held:
	case <-time.After(20 * time.Second):
		t.Fatal("no snapshot is sent to a node that lacks the log")
	}
	most := 0
	write(func(first uint64, size int) bool {
		if first > src.state.Index+1 {
			return true
		}
		most = max(most, size)
		return false
	})
	if most < sendsKeep*limit/2 {
		t.Errorf("the log was truncated when it had at most %d bytes, and a snapshot was being sent", most)
	}
}
