package transport

import (
	"bufio"
	"bytes"
	"testing"
)

// benchCall is the call of an increment, and benchReply its answer.
var (
	benchCall = Call{Class: "Counter", Key: "orders-2026-11-25", Method: "Increment", Encoding: EncodingMsgpack, Arg: []byte{1},
		TimeoutMillis: 30_000, Stream: 1 << 40, Generation: 1}
	benchReply = Reply{Encoding: EncodingMsgpack, Result: []byte{0xcd, 1, 2}, Epoch: 5, Token: 77}
)

// BenchmarkAppendCall writes a whole frame, as the client does for each call.
func BenchmarkAppendCall(b *testing.B) {
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendHeader(buf[:0], Header{Kind: KindCall, ID: 1 << 20, Epoch: 5})
		buf = AppendCall(buf, &benchCall)
		FinishFrame(buf)
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkAppendReply writes a whole frame, as the owner does for each call.
func BenchmarkAppendReply(b *testing.B) {
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendHeader(buf[:0], Header{Kind: KindReply, ID: 1 << 20, Epoch: 5})
		buf = AppendReply(buf, &benchReply)
		FinishFrame(buf)
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkDecodeReply reads what BenchmarkAppendReply writes, less the frame.
func BenchmarkDecodeReply(b *testing.B) {
	body := AppendReply(nil, &benchReply)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var p Reply
		if err := DecodeReply(body, &p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadFrame reads frames of calls one after the other into a buffer that is used again, as a connection does.
func BenchmarkReadFrame(b *testing.B) {
	frame := AppendFrame(nil, Header{Kind: KindCall, ID: 1 << 20, Epoch: 5}, AppendCall(nil, &benchCall))
	stream := bytes.Repeat(frame, 1000)
	r := bytes.NewReader(stream)
	br := bufio.NewReaderSize(r, 64<<10)
	buf := make([]byte, 4096)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for left := 1000; b.Loop(); left-- {
		if left == 0 {
			r.Reset(stream)
			br.Reset(r)
			left = 1000
		}
		if _, _, err := ReadFrame(br, anyLimit, buf); err != nil {
			b.Fatal(err)
		}
	}
}
