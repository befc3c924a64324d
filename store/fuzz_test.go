package store

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"reflect"
	"runtime"
	"testing"

	"github.com/ringfence/ringfence/ring"
)

// allocated is how many bytes f allocates. The least of five: the runtime counts for the whole process, and the fuzzer's own goroutines allocate too.
func allocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 5 {
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		f()
		runtime.ReadMemStats(&b)
		least = min(least, b.TotalAlloc-a.TotalAlloc)
	}
	return least
}

// bounded fails if f allocates more than so many times n, and 64 KiB.
func bounded(t *testing.T, n, times int, f func()) {
	t.Helper()
	if got := allocated(f); got > uint64(times*n+64<<10) {
		t.Fatalf("%d bytes allocated for %d", got, n)
	}
}

// FuzzDecodeHistory: heads, rows and whole histories come from disk and from the network.
func FuzzDecodeHistory(f *testing.F) {
	tenure := tenureOf(3, 30, 20, 4)
	tenure.LastRefused = Refusal{Index: 35, Token: 20, Seq: 6, Verdict: StaleToken}
	tenure.Refused, tenure.When = 1, 1_700_000_000_000
	point := Checkpoint{Number: 2, Print: Print{Index: 2047, Window: 1, Hash: math.MaxUint64, Chain: 7}, When: 5}
	head := HistoryHead{Index: 50, Since: 1, Origin: 1, Entries: 9, Now: Print{Index: 49, Hash: 3}, Fence: Fence{Token: 40, Seq: 3, Released: true}, Tenure: tenureOf(4, 40, 30, 3),
		Ended: 3, Checked: 2, Faulty: 1, Faults: []Fault{{Kind: FaultSequence, Index: 44, Token: 40, Seq: 9, Current: 40, Last: 3}}}
	f.Add(AppendTenure(nil, &tenure))
	f.Add(AppendCheckpoint(nil, &point))
	f.Add(AppendHistoryHead(nil, &head))
	f.Add(AppendReplicaHistory(nil, &ReplicaHistory{Node: 1, Replica: 2, Head: head, Tenures: []Tenure{tenure, tenure}, Checkpoints: []Checkpoint{point}, Recent: []Print{point.Print}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), 1, func() { _, _ = DecodeTenure(b) })
		if v, err := DecodeTenure(b); err == nil {
			if again, err := DecodeTenure(AppendTenure(nil, &v)); err != nil || again != v {
				t.Fatalf("%+v became %+v, %v", v, again, err)
			}
		}
		if v, err := DecodeCheckpoint(b); err == nil {
			if again, err := DecodeCheckpoint(AppendCheckpoint(nil, &v)); err != nil || again != v {
				t.Fatalf("%+v became %+v, %v", v, again, err)
			}
		}
		bounded(t, len(b), 12, func() { _, _ = DecodeHistoryHead(b) })
		if v, err := DecodeHistoryHead(b); err == nil {
			if again, err := DecodeHistoryHead(AppendHistoryHead(nil, &v)); err != nil || !reflect.DeepEqual(again, v) {
				t.Fatalf("%+v became %+v, %v", v, again, err)
			}
			ResumeHistory(v).Take(v.Index+1, v.Fence)
		}
		bounded(t, len(b), 12, func() { _, _ = DecodeReplicaHistory(b) })
		v, err := DecodeReplicaHistory(b)
		if err != nil {
			return
		}
		if again, err := DecodeReplicaHistory(AppendReplicaHistory(nil, &v)); err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
		// Whatever it says, holding it against itself and another ends, and makes no more of it than its rows are worth.
		Audit(1, []ReplicaHistory{v, v, {Node: 1, Replica: 1, Head: HistoryHead{Index: 9, Tenure: tenure}}})
	})
}

// FuzzDecodeWatermark makes the checksum right itself, or the fuzzer would never get past it.
func FuzzDecodeWatermark(f *testing.F) {
	b := appendWatermark(nil, watermark{seq: 9, lost: true, marks: []Mark{{Group: 1, Replica: 2, Last: 3, LastTerm: 4, Term: 5, Vote: 6, Commit: 7, Regressed: true}, {Group: 2}}})
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := binary.BigEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		bounded(t, len(b), 24, func() { _, _ = decodeWatermark(b) }) // a mark of 64 bytes takes 8 at least, and the list grows by doubling
		w, err := decodeWatermark(b)
		if err != nil {
			return
		}
		if again, err := decodeWatermark(appendWatermark(nil, w)); err != nil || !reflect.DeepEqual(again, w) {
			t.Fatalf("%+v became %+v, %v", w, again, err)
		}
	})
}

// FuzzDecodeNodeRecords: who a directory is, which replicas it holds, and its FORMAT file.
func FuzzDecodeNodeRecords(f *testing.F) {
	f.Add(appendIdentity(nil, Identity{Node: 5, Cluster: ring.ClusterID{1, 2}, Shards: 64, Replicas: 3, Timing: "lan"}))
	f.Add(appendReplica(nil, ReplicaRecord{Replica: 7, MinNext: 8, generation: 9}))
	f.Add([]byte("ringfence-data 1 node 00000000000000ab\n"))
	f.Add([]byte("ringfence-data 3 node 00000000000000ab\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), 4, func() { _, _ = decodeIdentity(b) })
		if id, err := decodeIdentity(b); err == nil {
			if again, err := decodeIdentity(appendIdentity(nil, id)); err != nil || again != id {
				t.Fatalf("%+v became %+v, %v", id, again, err)
			}
		}
		bounded(t, len(b), 1, func() { _, _ = decodeReplica(3, b) })
		if r, err := decodeReplica(3, b); err == nil {
			if again, err := decodeReplica(3, appendReplica(nil, r)); err != nil || again != r {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
		bounded(t, len(b), 20, func() { _, _, _ = parseFormat("data", b) }) // a field of one byte takes a string's header
		if n, _, err := parseFormat("data", b); err == nil && n == 0 {
			t.Fatalf("%q names no node", b)
		}
	})
}

// FuzzDescribeKey: what is told of a key is told of any bytes.
func FuzzDescribeKey(f *testing.F) {
	f.Add(append(ObjectPrefix("Counter", "a/b"), "n"...))
	f.Add(MetaKey("Counter", "a", MetaAlarm))
	f.Add(AlarmKey(1_700_000_000_000, "Counter", "a"))
	f.Add(SystemKey("ring"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := DescribeKey(b); s == "" || len(s) > 10*len(b)+200 {
			t.Fatalf("%x: %q", b, s)
		}
		_, _ = parseGroup(b)
	})
}
