package transport

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// edges are the numbers at which the encodings of integers and lengths change, and their neighbours.
func edges() []uint64 {
	out := []uint64{0, math.MaxUint64}
	for _, bits := range []uint{5, 7, 8, 15, 16, 31, 32, 63} {
		for d := range uint64(3) {
			out = append(out, 1<<bits-1+d-1, 1<<bits)
		}
	}
	return out
}

// TestPrimitivesAgainstTheLibrary: what the wire writes is byte for byte what the library writes, and each reads the other's.
func TestPrimitivesAgainstTheLibrary(t *testing.T) {
	encode := func(f func(*msgpack.Encoder) error) []byte {
		var buf bytes.Buffer
		if err := f(msgpack.NewEncoder(&buf)); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for _, v := range edges() {
		mine := appendUint(nil, v)
		if theirs := encode(func(e *msgpack.Encoder) error { return e.EncodeUint(v) }); !bytes.Equal(mine, theirs) {
			t.Errorf("%d: % x, the library: % x", v, mine, theirs)
		}
		if got, n, err := uintAt(mine); err != nil || got != v || n != len(mine) {
			t.Errorf("%d reads as %d in %d of %d bytes, %v", v, got, n, len(mine), err)
		}
		if v > 1<<17 {
			continue
		}
		s, b := strings.Repeat("s", int(v)), bytes.Repeat([]byte{7}, int(v))
		if mine, theirs := appendString(nil, s), encode(func(e *msgpack.Encoder) error { return e.EncodeString(s) }); !bytes.Equal(mine, theirs) {
			t.Errorf("a string of %d bytes differs from the library's", v)
		}
		if mine, theirs := appendBytes(nil, b), encode(func(e *msgpack.Encoder) error { return e.EncodeBytes(b) }); !bytes.Equal(mine, theirs) {
			t.Errorf("%d bytes differ from the library's", v)
		}
		if v <= math.MaxUint16 {
			if mine, theirs := appendArray(nil, int(v)), encode(func(e *msgpack.Encoder) error { return e.EncodeArrayLen(int(v)) }); !bytes.Equal(mine, theirs) {
				t.Errorf("an array of %d: % x, the library: % x", v, mine, theirs)
			}
		}
		r := &reader{b: append(appendBytes(appendString(nil, s), b), 1), left: 3}
		if got, bin := r.string("s", math.MaxInt32), r.bytes("b", math.MaxInt32); got != s || !bytes.Equal(bin, b) || r.uint("u", 1) != 1 || r.err != nil {
			t.Errorf("a string and bytes of length %d do not come back: %v", v, r.err)
		}
	}
}

// TestNoNarrowing: a number that its field cannot hold is an error and not another number, whatever the field.
func TestNoNarrowing(t *testing.T) {
	for _, limit := range []uint64{math.MaxUint8, math.MaxUint16, math.MaxUint32, math.MaxUint64} {
		for _, v := range edges() {
			r := &reader{b: appendUint(nil, v), left: 1}
			if got := r.uint("x", limit); (r.err == nil) != (v <= limit) || r.err == nil && got != v || r.err != nil && got != 0 {
				t.Errorf("%d with limit %d: %d, %v", v, limit, got, r.err)
			}
		}
	}
	for _, v := range []int64{-1, -33, math.MinInt8, math.MinInt16, math.MinInt32, math.MinInt64} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{b: b, left: 1}
		if r.uint("x", math.MaxUint64); r.err == nil {
			t.Errorf("%d was read as an unsigned integer", v)
		}
	}
	var p Reply
	if err := DecodeReply([]byte{0x92, 0, 0xcd, 300 >> 8, 300 & 0xff}, &p); err == nil || !strings.Contains(err.Error(), "outcome is 300; at most 255") {
		t.Error(err)
	}
}

// TestSkimAgainstTheLibrary: every value that the library writes passes, and every proper prefix of it is noticed.
func TestSkimAgainstTheLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	var value func(depth int) any
	value = func(depth int) any {
		kinds := 9
		if depth == 0 {
			kinds = 7
		}
		switch rng.IntN(kinds) {
		case 0:
			return nil
		case 1:
			return rng.IntN(2) == 0
		case 2:
			return int64(rng.Uint64()) >> rng.IntN(64)
		case 3:
			return rng.Float64()
		case 4:
			return float32(rng.Float64())
		case 5:
			return strings.Repeat("ü", rng.IntN(200))
		case 6:
			return make([]byte, rng.IntN(300))
		case 7:
			out := make([]any, rng.IntN(20))
			for i := range out {
				out[i] = value(depth - 1)
			}
			return out
		}
		out := make(map[string]any)
		for range rng.IntN(20) {
			out[strings.Repeat("k", rng.IntN(40))] = value(depth - 1)
		}
		return out
	}
	for range 2000 {
		b, err := msgpack.Marshal(value(3))
		if err != nil {
			t.Fatal(err)
		}
		if err := Skim(b); err != nil {
			t.Fatalf("% x: %v", b, err)
		}
		for range 20 {
			if n := rng.IntN(len(b)); Skim(b[:n]) == nil {
				t.Fatalf("% x cut at %d passes", b, n)
			}
		}
	}
}
