package replica

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

func benchEngine(b *testing.B) *store.Engine {
	e, err := store.Open(b.TempDir(), store.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	noErr(b, err)
	b.Cleanup(func() { noErr(b, e.Close()) })
	return e
}

func benchLogs(b *testing.B, e *store.Engine, n int) []*LogStore {
	var logs []*LogStore
	for g := range n {
		l, err := CreateLog(e, ring.GroupID(g+1), 1, []ring.ReplicaID{1})
		noErr(b, err)
		logs = append(logs, l)
	}
	return logs
}

// BenchmarkAppendSync appends one entry of 256 bytes to each of n groups, in one batch with one fsync.
func BenchmarkAppendSync(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("groups=%d", n), func(b *testing.B) {
			e := benchEngine(b)
			logs := benchLogs(b, e, n)
			batch := e.NewBatch()
			data := make([]byte, 256)
			b.ReportAllocs()
			next := uint64(2)
			for b.Loop() {
				for _, l := range logs {
					noErr(b, l.Stage(batch, newHardState(1, 1, next-1), []*raftpb.Entry{logEntry(next, 1, data)}))
					if next%1024 == 0 {
						noErr(b, l.Compact(batch, next-512))
					}
				}
				noErr(b, batch.Commit(true))
				next++
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkScanSpread reads the 10,000 entries of one of 64 groups that were appended in turn: each stands beside one of every other group.
func BenchmarkScanSpread(b *testing.B) {
	const n, groups = 10_000, 64
	e := benchEngine(b)
	batch := e.NewBatch()
	head, data := []byte("head"), make([]byte, 256)
	for i := range uint64(n) {
		for g := range ring.GroupID(groups) {
			batch.SetEntry(g+1, 2+i, head, data)
		}
		noErr(b, batch.Commit(i+1 == n))
	}
	b.ReportAllocs()
	for b.Loop() {
		seen := 0
		noErr(b, e.ScanEntries(7, 0, math.MaxUint64, func(uint64, []byte) error { seen++; return nil }))
		if seen != n {
			b.Fatal(seen)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkOpenLogs starts a node of 64 groups whose logs hold 5,000 entries of 256 bytes each, appended in turn: about 90 MB.
func BenchmarkOpenLogs(b *testing.B) {
	const n, groups = 5000, 64
	dir := b.TempDir()
	o := store.Options{Logger: slog.New(slog.DiscardHandler)}
	e, err := store.Open(dir, o)
	noErr(b, err)
	logs, batch, data := benchLogs(b, e, groups), e.NewBatch(), make([]byte, 256)
	for i := range uint64(n) {
		for _, l := range logs {
			noErr(b, l.Stage(batch, newHardState(1, 1, 1+i), []*raftpb.Entry{logEntry(2+i, 1, data)}))
		}
		noErr(b, batch.Commit(i+1 == n))
	}
	noErr(b, batch.Close())
	noErr(b, e.Close())
	for b.Loop() {
		e, err := store.Open(dir, o)
		noErr(b, err)
		for g := range ring.GroupID(groups) {
			l, _, err := OpenLog(e, g+1)
			noErr(b, err)
			if last, _ := l.LastIndex(); last != n+1 {
				b.Fatal(last)
			}
		}
		noErr(b, e.Close())
	}
}

// BenchmarkApply applies one task of ten writes to each of 64 groups, in one batch without a sync.
func BenchmarkApply(b *testing.B) {
	e := benchEngine(b)
	benchLogs(b, e, 64)
	var states []*StateStore
	for g := range 64 {
		states = append(states, NewStateStore(e, ring.GroupID(g+1)))
	}
	batch := e.NewBatch()
	ws := make([]store.Write, 10)
	b.ReportAllocs()
	index := uint64(2)
	for b.Loop() {
		for _, s := range states {
			for i := range ws {
				ws[i] = store.Write{Key: fmt.Appendf(ws[i].Key[:0], "object/%d/key", (index*10+uint64(i))%5000), Value: make([]byte, 64)}
			}
			noErr(b, only(s.StageApply(batch, &ApplyTask{Index: index, Fence: store.Fence{Token: 2, Seq: index}, Writes: ws})))
		}
		noErr(b, batch.Commit(false))
		index++
	}
	b.ReportMetric(float64(64*10*b.N)/b.Elapsed().Seconds(), "writes/s")
}

// BenchmarkGet reads values that are in the memtable or the cache.
func BenchmarkGet(b *testing.B) {
	e := benchEngine(b)
	benchLogs(b, e, 1)
	s := NewStateStore(e, 1)
	batch := e.NewBatch()
	noErr(b, only(s.StageApply(batch, &ApplyTask{Index: 2, Writes: []store.Write{{Key: []byte("object/key"), Value: make([]byte, 64)}}})))
	noErr(b, batch.Commit(true))
	r := s.Reader()
	key := []byte("object/key")
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := r.Get(key); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}
