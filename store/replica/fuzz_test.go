package replica

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// bounded fails if f allocates more than so many times n, and 64 KiB. The least of five: the runtime counts for the whole process, and the fuzzer's own
// goroutines allocate too.
func bounded(t *testing.T, n, times int, f func()) {
	t.Helper()
	least := uint64(math.MaxUint64)
	for range 5 {
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		f()
		runtime.ReadMemStats(&b)
		least = min(least, b.TotalAlloc-a.TotalAlloc)
	}
	if least > uint64(times*n+64<<10) {
		t.Fatalf("%d bytes allocated for %d", least, n)
	}
}

// protoTimes is how many times its bytes a protobuf message of Raft's may take: an entry without a field is two bytes, and a struct of 100 with a pointer to it.
const protoTimes = 200

// FuzzSnapshot: what a snapshot carries beside its data, and what its chunks hold.
func FuzzSnapshot(f *testing.F) {
	fence := store.Fence{Token: 9, Seq: 3, Epoch: 2, Term: 4, Holder: store.Holder{Replica: 1, Node: 2, Boot: 3}}
	head := store.NewHistory(7, fence, nil).Head()
	f.Add(SnapshotData(fence, store.AppendHistoryHead(nil, &head)), []byte("\x01k\x01v\x02kk\x00"), uint64(7))
	f.Add(SnapshotData(fence, nil), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint64(7))
	e, err := store.Open("data", store.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = e.Close() })
	if err := e.CreateReplica(1, 1, nil); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data, chunk []byte, index uint64) {
		s := &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: &index}}
		bounded(t, len(data), 16, func() { _, _ = SnapshotFence(s) })
		got, payload, err := SplitSnapshotData(data)
		if err == nil {
			if again, p, err := SplitSnapshotData(SnapshotData(got, payload)); err != nil || again != got || !bytes.Equal(p, payload) {
				t.Fatalf("%+v became %+v, %v", got, again, err)
			}
			// Whatever came along, the history begins where the snapshot is.
			if h := snapshotHistory(s, got).Head(); h.Index != index || h.Since != index || h.Fence != got {
				t.Fatalf("%+v", h)
			}
		}
		in, err := e.NewInstall(1)
		if err != nil {
			t.Fatal(err)
		}
		_ = addChunk(in, chunk)
		if err := in.Abort(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRecords: positions, hard states, configurations and their changes, waivers. The checksum of a record is made right, or the fuzzer would never get past it.
func FuzzRecords(f *testing.F) {
	conf, err := proto.Marshal(&raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}, AutoLeave: proto.Bool(true)})
	if err != nil {
		f.Fatal(err)
	}
	change, err := proto.Marshal(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(4)}}, Context: binary.AppendUvarint(nil, 7)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendRecord(nil, 7, 1, 5, 6)[4:])
	f.Add(conf)
	f.Add(change)
	f.Add((&waiver{leader: 1, term: 2, number: 3}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := append(binary.BigEndian.AppendUint32(nil, checksum(7, 1, b, nil)), b...)
		var x, y uint64
		if err := decodeRecord(7, 1, rec, &x, &y); err == nil {
			var x2, y2 uint64
			if err := decodeRecord(7, 1, appendRecord(nil, 7, 1, x, y), &x2, &y2); err != nil || x != x2 || y != y2 {
				t.Fatalf("%d, %d became %d, %d: %v", x, y, x2, y2, err)
			}
		}
		var err error
		bounded(t, len(b), protoTimes, func() { _, err = decodeConf(ring.GroupID(1), b, true, nil) })
		for _, kind := range []raftpb.EntryType{raftpb.EntryConfChange, raftpb.EntryConfChangeV2} {
			e := &raftpb.Entry{Type: kind.Enum(), Data: b, Index: proto.Uint64(5), Term: proto.Uint64(1)}
			bounded(t, len(b), protoTimes, func() {
				var cc raftpb.ConfChangeV2
				if err = unmarshalConfChange(e, &cc); err == nil {
					_, _ = changeEpoch(&cc)
				}
			})
			var c store.Command
			next, err := retrace(nil, store.Fence{Epoch: 3}, &c, e)
			if err == nil && next.Epoch < 3 {
				t.Fatalf("%x took the epoch back to %d", b, next.Epoch)
			}
		}
		if w, ok := parseWaiver(b); ok && !bytes.Equal(w.append(nil), b) {
			t.Fatalf("%x became %x", b, w.append(nil))
		}
	})
}
