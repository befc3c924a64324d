package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
)

func anyLimit(Kind) int { return MaxCallBody }

func TestFrameRoundTrip(t *testing.T) {
	var wire []byte
	sizes := []int{0, 1, 27, 4096, growStep - 1, growStep, growStep + 1, 3*growStep + 5}
	for i, n := range sizes {
		wire = AppendFrame(wire, Header{Kind: KindCall, Flags: uint16(i), ID: uint64(i) << 40, Epoch: ring.Epoch(i)}, bytes.Repeat([]byte{byte(i)}, n))
	}
	br := bufio.NewReader(bytes.NewReader(wire))
	for i, n := range sizes {
		h, body, err := ReadFrame(br, anyLimit, nil)
		if err != nil {
			t.Fatal(err)
		}
		if h != (Header{Kind: KindCall, Flags: uint16(i), ID: uint64(i) << 40, Epoch: ring.Epoch(i)}) || !bytes.Equal(body, bytes.Repeat([]byte{byte(i)}, n)) {
			t.Fatalf("frame %d changed on the way: %+v, %d bytes", i, h, len(body))
		}
	}
	if _, _, err := ReadFrame(br, anyLimit, nil); err != io.EOF {
		t.Fatalf("after the last frame: %v", err)
	}
}

func TestFrameDamage(t *testing.T) {
	good := AppendFrame(nil, Header{Kind: KindReply, ID: 7}, []byte("hello"))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(bad)), anyLimit, nil); err == nil {
			t.Errorf("byte %d flipped and not noticed", i)
		}
		if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(good[:i])), anyLimit, nil); i > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	future := bytes.Clone(good)
	future[8] = 9
	if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(future)), anyLimit, nil); !errors.Is(err, ErrFrameVersion) || !strings.Contains(err.Error(), "9") {
		t.Error(err)
	}
}

// TestFrameLengthIsNotBelieved: a header that declares 32 MiB and then ends costs no 32 MiB.
func TestFrameLengthIsNotBelieved(t *testing.T) {
	b := AppendFrame(nil, Header{Kind: KindCall}, []byte("x"))
	binary.LittleEndian.PutUint32(b, MaxCallBody)
	if n := allocated(func() { ReadFrame(bufio.NewReaderSize(bytes.NewReader(b), 16), anyLimit, nil) }); n > 4*growStep {
		t.Fatalf("%d bytes allocated for a frame of %d", n, len(b))
	}
	binary.LittleEndian.PutUint32(b, MaxCallBody+1)
	if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(b)), anyLimit, nil); !errors.Is(err, ErrFrameTooLong) {
		t.Fatal(err)
	}
	if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(b)), func(k Kind) int { return BodyLimit(PurposeRaft, k) }, nil); !errors.Is(err, ErrFrameTooLong) {
		t.Fatalf("a call on a connection for Raft: %v", err)
	}
}

// allocated is what f allocates, in bytes: the least of five runs, because the runtime counts for the whole process and the fuzzer's own
// goroutines allocate too.
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

func sampleBodies() map[string]struct {
	in     any
	bytes  []byte
	decode func([]byte) (any, error)
} {
	hello := Hello{MinVersion: 1, MaxVersion: 200, Purpose: PurposeBulk, Cluster: ring.ClusterID{1, 2}, Node: math.MaxUint64, Boot: 3, WantNode: 300}
	helloReply := HelloReply{Version: 1, Cluster: ring.ClusterID{9}, Node: 70000, Boot: 1 << 33, Error: "läuft nicht"}
	call := Call{Class: "Counter", Key: "a/b", Method: "Increment", Encoding: EncodingJSON, Arg: []byte(`{"x":1}`), TimeoutMillis: 30000, Stream: 5, Generation: 2,
		Chain: []string{"A/1", "B/2"}, Idempotent: "k"}
	reply := Reply{Code: 65535, Outcome: 3, Flags: 15, Encoding: EncodingMsgpack, Result: bytes.Repeat([]byte{1}, 300), App: "sold-out", Message: strings.Repeat("m", 70),
		Epoch: 4, Token: 1 << 40, Hint: 77}
	request := Request{Name: "where", Body: []byte{1}}
	response := Response{Error: "no", Body: bytes.Repeat([]byte{2}, 70000)}
	errBody := ErrorBody{Message: "what?"}
	type sample = struct {
		in     any
		bytes  []byte
		decode func([]byte) (any, error)
	}
	return map[string]sample{
		"hello":       {hello, AppendHello(nil, &hello), func(b []byte) (any, error) { var v Hello; err := DecodeHello(b, &v); return v, err }},
		"hello reply": {helloReply, AppendHelloReply(nil, &helloReply), func(b []byte) (any, error) { var v HelloReply; err := DecodeHelloReply(b, &v); return v, err }},
		"call":        {call, AppendCall(nil, &call), func(b []byte) (any, error) { var v Call; err := DecodeCall(b, &v); return v, err }},
		"reply":       {reply, AppendReply(nil, &reply), func(b []byte) (any, error) { var v Reply; err := DecodeReply(b, &v); return v, err }},
		"request":     {request, AppendRequest(nil, &request), func(b []byte) (any, error) { var v Request; err := DecodeRequest(b, &v); return v, err }},
		"response":    {response, AppendResponse(nil, &response), func(b []byte) (any, error) { var v Response; err := DecodeResponse(b, &v); return v, err }},
		"error":       {errBody, AppendError(nil, &errBody), func(b []byte) (any, error) { var v ErrorBody; err := DecodeError(b, &v); return v, err }},
	}
}

func TestBodies(t *testing.T) {
	for name, s := range sampleBodies() {
		got, err := s.decode(s.bytes)
		if err != nil || !reflect.DeepEqual(got, s.in) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, s.in)
		}
		var generic []any // another implementation reads the same
		if err := msgpack.Unmarshal(s.bytes, &generic); err != nil {
			t.Errorf("%s is not msgpack: %v", name, err)
		}
		if _, err := s.decode(append(bytes.Clone(s.bytes), 0)); !errors.Is(err, ErrTrailing) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		for i := range s.bytes {
			if _, err := s.decode(s.bytes[:i]); err == nil {
				t.Errorf("%s cut at %d was accepted", name, i)
			}
		}
		longer := bytes.Clone(s.bytes) // what a newer version appends is skipped
		longer[0]++
		longer = append(longer, 0xa3, 'n', 'e', 'w')
		if got, err := s.decode(longer); err != nil || !reflect.DeepEqual(got, s.in) {
			t.Errorf("%s with a field more: %v", name, err)
		}
	}
	var c Call
	if err := DecodeCall([]byte{0x92, 0xa1, 'C', 0xa1, 'k'}, &c); err != nil || c.Key != "k" || c.Method != "" {
		t.Errorf("a call with fewer fields: %+v, %v", c, err)
	}
	for name, s := range sampleBodies() { // what an older version does not send is zero
		if got, err := s.decode([]byte{0x90}); err != nil || !reflect.ValueOf(got).IsZero() {
			t.Errorf("%s without a field: %+v, %v", name, got, err)
		}
	}
}

func TestBodiesRefuse(t *testing.T) {
	long := Call{Class: strings.Repeat("C", MaxClass+1)}
	chain := Call{Class: "C", Chain: make([]string, MaxChain+1)}
	for what, b := range map[string][]byte{
		"a class that is too long":        AppendCall(nil, &long),
		"a chain that is too long":        AppendCall(nil, &chain),
		"an encoding that does not exist": {0x94, 0xa0, 0xa0, 0xa0, 0x07},
		"a class that is not UTF-8":       {0x91, 0xa1, 0xff},
		"a map instead of an array":       {0x81, 0xa1, 'a', 0x01},
		"a number instead of a class":     {0x91, 0x05},
		"a negative encoding":             {0x94, 0xa0, 0xa0, 0xa0, 0xff},
		"a timeout no duration can hold":  {0x96, 0xa0, 0xa0, 0xa0, 0, 0xc4, 0, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"five bytes that end a process":   {0xdd, 0x7f, 0xff, 0xff, 0xff},
		"another five":                    {0xdf, 0x7f, 0xff, 0xff, 0xff},
	} {
		var c Call
		if err := DecodeCall(b, &c); err == nil || !strings.HasPrefix(err.Error(), "transport: call: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSkim(t *testing.T) {
	deep := func(n int) []byte { return append(bytes.Repeat([]byte{0x91}, n), 0xc0) }
	for _, c := range []struct {
		b    []byte
		want error
	}{
		{[]byte{0xc0}, nil},
		{[]byte{}, ErrTruncated},
		{[]byte{0xc0, 0xc0}, ErrTrailing},
		{deep(MaxDepth), nil},
		{deep(MaxDepth + 1), ErrTooDeep},
		{bytes.Repeat([]byte{0x91}, 5<<20), ErrTooDeep},
		{[]byte{0xdd, 0x7f, 0xff, 0xff, 0xff}, ErrTruncated},
		{[]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, ErrTruncated},
		{[]byte{0xc6, 0x7f, 0xff, 0xff, 0xff}, ErrTruncated},
		{[]byte{0x81, 0x91, 0x01, 0x01}, ErrBadType}, // an array as a key
		{[]byte{0x81, 0xc4, 0x01, 0x41, 0x01}, ErrBadType},
		{[]byte{0xd6, 0xff, 0, 0, 0, 1}, nil},             // timestamp 32
		{[]byte{0xd7, 0xff, 0, 0, 0, 1, 0, 0, 0, 1}, nil}, // timestamp 64
		{append([]byte{0xc7, 12, 0xff}, make([]byte, 12)...), nil},
		{[]byte{0xd6, 0x01, 0, 0, 0, 1}, ErrBadType}, // another extension
		{[]byte{0xc7, 5, 0xff, 1, 2, 3, 4, 5}, ErrBadType},
		{[]byte{0xc1}, ErrBadType},
	} {
		if err := Skim(c.b); !errors.Is(err, c.want) {
			t.Errorf("% x…: got %v, want %v", c.b[:min(len(c.b), 8)], err, c.want)
		}
	}
	for _, v := range []any{nil, true, -5, 1 << 40, 3.5, "x", strings.Repeat("y", 70000), []byte{1}, map[string]any{"a": []int{1, 2}, "b": map[int]string{1: "z"}}} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Skim(b); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
	b := AppendCall(nil, &Call{Class: "Counter", Key: "a", Method: "Increment", Arg: []byte{5}})
	if n := testing.AllocsPerRun(100, func() { _ = Skim(b) }); n != 0 {
		t.Errorf("Skim allocates %v times", n)
	}
}

// FuzzFlat: the short way says of nothing that it is safe of which the long way does not.
func FuzzFlat(f *testing.F) {
	for _, s := range sampleBodies() {
		f.Add(s.bytes)
	}
	f.Add(append(bytes.Repeat([]byte{0x91}, MaxDepth+1), 0xc0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if flat(b) && skim(b) != nil {
			t.Errorf("% x: %v", b, skim(b))
		}
	})
}

// FuzzSkim: what Skim lets through, the library decodes without a panic and without allocating far more than the input.
func FuzzSkim(f *testing.F) {
	for _, s := range sampleBodies() {
		f.Add(s.bytes)
	}
	f.Add([]byte{0xdd, 0x7f, 0xff, 0xff, 0xff})
	f.Add([]byte{0x81, 0xa1, 'a', 0x93, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if Skim(b) != nil {
			return
		}
		n := allocated(func() {
			var v any
			_ = msgpack.Unmarshal(b, &v)
		})
		if n > uint64(600*len(b)+128<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
	})
}

// again writes what a decoder has read.
func again(v any) []byte {
	switch v := v.(type) {
	case Hello:
		return AppendHello(nil, &v)
	case HelloReply:
		return AppendHelloReply(nil, &v)
	case Call:
		return AppendCall(nil, &v)
	case Reply:
		return AppendReply(nil, &v)
	case Request:
		return AppendRequest(nil, &v)
	case Response:
		return AppendResponse(nil, &v)
	case ErrorBody:
		return AppendError(nil, &v)
	}
	return nil
}

// FuzzBodies: no decoder panics or allocates beyond a small multiple of its input, and what one has read and written again is the same
// to the last byte when it is read and written once more.
func FuzzBodies(f *testing.F) {
	for _, s := range sampleBodies() {
		f.Add(s.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, s := range sampleBodies() {
			var err error
			var v any
			if n := allocated(func() { v, err = s.decode(b) }); n > uint64(4*len(b)+64<<10) {
				t.Fatalf("%s: %d bytes allocated for %d", name, n, len(b))
			}
			if err != nil {
				continue
			}
			once := again(v)
			v2, err := s.decode(once)
			if err != nil {
				t.Fatalf("%s: % x was read, but not when written again: %v", name, b, err)
			}
			if twice := again(v2); len(once) == 0 || !bytes.Equal(once, twice) {
				t.Fatalf("%s: %+v became %+v", name, v, v2)
			}
		}
	})
}

// FuzzFrame: what a header declares is not believed, and a frame that is accepted is the one that would be written for it.
func FuzzFrame(f *testing.F) {
	f.Add(AppendFrame(nil, Header{Kind: KindRaft}, []byte("abc")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		var body []byte
		var err error
		if n := allocated(func() { h, body, err = ReadFrame(bufio.NewReaderSize(bytes.NewReader(b), 64), anyLimit, nil) }); n > uint64(4*len(b)+growStep+4096) {
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
		if err == nil && !bytes.HasPrefix(b, AppendFrame(nil, h, body)) {
			t.Fatalf("% x was read as %+v with a body of %d bytes", b, h, len(body))
		}
	})
}

func TestClip(t *testing.T) {
	if s := Clip(strings.Repeat("ä", MaxText)); len(s) > MaxText || !strings.HasSuffix(s, "ä…") {
		t.Error(len(s))
	}
	if Clip("short") != "short" {
		t.Error("changed")
	}
}

func BenchmarkSkim(b *testing.B) {
	body := AppendCall(nil, &Call{Class: "Counter", Key: "a", Method: "Increment", Arg: []byte{5}, Stream: 1, Generation: 1, TimeoutMillis: 30000})
	b.ReportAllocs()
	for b.Loop() {
		if err := Skim(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeCall(b *testing.B) {
	body := AppendCall(nil, &Call{Class: "Counter", Key: "a", Method: "Increment", Arg: []byte{5}, Stream: 1, Generation: 1, TimeoutMillis: 30000})
	b.ReportAllocs()
	for b.Loop() {
		var c Call
		if err := DecodeCall(body, &c); err != nil {
			b.Fatal(err)
		}
	}
}
