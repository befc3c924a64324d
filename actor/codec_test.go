package actor

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"testing/quick"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// reference encodes by the library alone.
func reference(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := msgpack.NewEncoder(&b)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestIntegersAsTheLibrary(t *testing.T) {
	check := func(n int64) bool {
		got, err := Marshal(n)
		var back int64
		return err == nil && bytes.Equal(got, reference(t, n)) && Unmarshal(got, &back) == nil && back == n
	}
	for shift := range 64 {
		for _, n := range []int64{1<<shift - 1, 1 << shift, 1<<shift + 1, -1 << shift, -1<<shift + 1, -1<<shift - 1} {
			if !check(n) {
				got, _ := Marshal(n)
				t.Errorf("%d: %x, the library writes %x", n, got, reference(t, n))
			}
		}
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

type document struct {
	Name  string            `json:"name"`
	Other string            `msgpack:"o" json:"x"`
	Tags  []string          `json:"tags,omitempty"`
	Raw   []byte            `json:"raw"`
	More  map[string]string `json:"more"`
	At    time.Time         `json:"at"`
	F     float64
	N     *int64
}

func TestRoundTrip(t *testing.T) {
	n := int64(math.MinInt64)
	in := document{"a", "b", []string{"x", ""}, []byte{0, 255}, map[string]string{"k": "v"}, time.Unix(1, 2).UTC(), 1.5, &n}
	b, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out document
	if err := Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	out.At = out.At.UTC()
	if !reflect.DeepEqual(in, out) {
		t.Errorf("%+v became %+v", in, out)
	}
	var loose map[string]any
	if err := Unmarshal(b, &loose); err != nil {
		t.Fatal(err)
	}
	if loose["name"] != "a" || loose["o"] != "b" || loose["N"] != n || loose["F"] != 1.5 {
		t.Errorf("names or types of fields: %v", loose)
	}
}

// The short cut for integers must read whatever the library reads, and nothing else.
func FuzzReadInt(f *testing.F) {
	for _, b := range []string{"\x00", "\x7f", "\x80", "\xdf", "\xe0", "\xff", "\xcc\x80", "\xcd\x01", "\xcf\x80\x00\x00\x00\x00\x00\x00\x00",
		"\xd0\x80", "\xd1\x80\x00", "\xd2\x80\x00\x00\x00", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "\xd3\x7f\xff\xff\xff\xff\xff\xff\xff", "\xcc"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := readInt(b)
		if !ok {
			return
		}
		var want int64
		if err := msgpack.Unmarshal(b, &want); err != nil || n != want {
			t.Errorf("%x: %d, the library reads %d, %v", b, n, want, err)
		}
	})
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, b := range []string{"", "\x01\x02", "\xa5abc", "\xc1"} {
		var v any
		if err := Unmarshal([]byte(b), &v); err == nil {
			t.Errorf("%q: no error, got %v", b, v)
		}
	}
	if _, err := Marshal(make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

// What is encoded into must be left alone by later encodings, which take the same pooled encoder.
func TestMarshalOwnsItsBytes(t *testing.T) {
	a, _ := Marshal("first")
	copyOfA := bytes.Clone(a)
	if _, err := Marshal("other"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, copyOfA) {
		t.Errorf("%q", a)
	}
}

func BenchmarkMarshal(b *testing.B) {
	b.Run("int64", func(b *testing.B) {
		for n := int64(0); b.Loop(); n++ {
			if _, err := Marshal(n); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("struct", func(b *testing.B) {
		for b.Loop() {
			if _, err := Marshal(pair{7, []byte("abc")}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUnmarshalInt(b *testing.B) {
	raw, _ := Marshal(int64(1000))
	for b.Loop() {
		var n int64
		if err := Unmarshal(raw, &n); err != nil {
			b.Fatal(err)
		}
	}
}
