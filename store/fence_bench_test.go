package store

import (
	"fmt"
	"testing"
)

// benchBatch is the entry of n batches of one write each.
func benchBatch(n int) []byte {
	b := AppendBatchHead(nil, 7, 1, uint32(n))
	for i := range n {
		b = AppendWrite(b, &Write{Key: fmt.Appendf(nil, "Counter/object-%d/n", i), Value: make([]byte, 64)})
	}
	return b
}

// BenchmarkFence is what the fence does with each entry of a log: it decides, and the state that it leaves is encoded beside the writes.
func BenchmarkFence(b *testing.B) {
	c := Command{Kind: KindBatch, Token: 7, Seq: 1, Count: 1}
	f := Fence{Token: 7}
	var buf []byte
	b.ReportAllocs()
	for index := uint64(8); b.Loop(); index++ {
		next, verdict := f.Step(index, 2, &c)
		if verdict != Accepted {
			b.Fatal(verdict)
		}
		buf = AppendFence(buf[:0], next)
		f, c.Seq = next, c.Seq+1
	}
}

// BenchmarkCommand writes and reads the entry of a commit.
func BenchmarkCommand(b *testing.B) {
	for _, n := range []int{1, 64} {
		encoded := benchBatch(n)
		b.Run(fmt.Sprintf("encode/batches=%d", n), func(b *testing.B) {
			w := Write{Key: []byte("Counter/object-1/n"), Value: make([]byte, 64)}
			buf := make([]byte, 0, len(encoded))
			b.SetBytes(int64(len(encoded)))
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendBatchHead(buf[:0], 7, 1, uint32(n))
				for range n {
					buf = AppendWrite(buf, &w)
				}
			}
		})
		b.Run(fmt.Sprintf("decode/batches=%d", n), func(b *testing.B) {
			var c Command
			b.SetBytes(int64(len(encoded)))
			b.ReportAllocs()
			for b.Loop() {
				if err := DecodeCommand(encoded, &c); err != nil || len(c.Writes) != n {
					b.Fatal(err, len(c.Writes))
				}
			}
		})
	}
}
