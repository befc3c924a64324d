package node

import (
	"math"
	"reflect"
	"runtime"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// FuzzAnswers: what nodes ask and answer each other, and the records that they keep, which are the same bytes.
func FuzzAnswers(f *testing.F) {
	member := ring.Member{ID: 7, Addr: "127.0.0.1:7420", GossipAddr: "127.0.0.1:7421", Boot: 3}
	history := store.AppendReplicaHistory(nil, &store.ReplicaHistory{Node: 7, Replica: 1, Head: store.NewHistory(5, store.Fence{Token: 2}, nil).Head()})
	for _, v := range []any{
		Proposal{ID: ring.ClusterID{1}, Proposer: 7, Members: []ring.Member{member}, Shards: 64, Replicas: 3, Timing: "lan"},
		Status{Cluster: "c", Nodes: []NodeStatus{{ID: "a", Addr: "b"}}, Moves: []Move{{Group: "shard-1"}}},
		Where{Object: "C/k", Owner: NodeInfo{ID: "a"}, Replicas: []NodeInfo{{}}},
		report{Node: 7, Addr: "a", Groups: []replica.Facts{{Group: 1, Voters: []ring.ReplicaID{1, 2, 3}}}},
		admission{Member: member, Shards: 64}, admitted{Ring: []byte{1, 2}, Timing: "lan"},
		historyRequest{From: 1, Count: 16}, []historyAnswer{{Group: 1, History: history}, {Group: 2, Error: "gone"}},
		[]seenRing{{Epoch: 1, Hash: 2, When: 3}, {Epoch: 2, Hash: 5}}, ownerAnswer{Node: 1}, WhereRequest{Class: "C", Key: "k"}, uint64(7),
	} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(append([]byte("\x81\xa6groups\xdc\xff\xff"), make([]byte, 1<<16)...)) // a report of nothing but zeros
	into := []reflect.Type{reflect.TypeFor[Status](), reflect.TypeFor[Where](), reflect.TypeFor[NodeStatus](), reflect.TypeFor[report](), reflect.TypeFor[admission](),
		reflect.TypeFor[admitted](), reflect.TypeFor[historyRequest](), reflect.TypeFor[[]seenRing](), reflect.TypeFor[ownerAnswer](), reflect.TypeFor[WhereRequest](), reflect.TypeFor[uint64](), reflect.TypeFor[uint32]()}
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded := func(what any, f func()) {
			least := uint64(math.MaxUint64)
			for range 3 { // the runtime counts for the whole process, and the fuzzer's own goroutines allocate too
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				f()
				runtime.ReadMemStats(&after)
				least = min(least, after.TotalAlloc-before.TotalAlloc)
			}
			if least > uint64(2<<20+100*len(b)) {
				t.Fatalf("%v: %d bytes allocated for %d", what, least, len(b))
			}
		}
		for _, typ := range into {
			bounded(typ, func() { _ = decode(b, reflect.New(typ).Interface()) })
		}
		bounded("a proposal", func() { _, _ = decodeProposal(b) })
		bounded("histories", func() { _, _ = decodeHistories(b) })
		if p, err := decodeProposal(b); err == nil && (p.ID.IsZero() || len(p.Members) == 0) {
			t.Fatalf("%+v was accepted", p)
		}
		if seen, err := decodeRings(b); err == nil {
			ringViolations(map[string][]seenRing{"a": seen, "b": {{Epoch: 1, Hash: 1}}})
		}
		if all, err := decodeHistories(b); err == nil {
			for g, h := range all {
				store.Audit(g, []store.ReplicaHistory{h})
			}
		}
	})
}

// A body of nothing but nils must not become a list of large structs.
func TestBombsAreRefused(t *testing.T) {
	const n = 4 << 20
	b := append([]byte("\x81\xa6groups\xdd\x00\x40\x00\x00"), make([]byte, n)...)
	for i := len(b) - n; i < len(b); i++ {
		b[i] = 0xc0
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var r report
	err := decode(b, &r)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 64<<20 {
		t.Errorf("%d bytes were allocated for %d, and the error is %v", got, len(b), err)
	}
}
