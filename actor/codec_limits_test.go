package actor

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

// An integer arrives as it was sent, or not at all.
func TestIntegersFitOrFail(t *testing.T) {
	ints := []any{int8(0), int16(0), int32(0), int64(0), int(0), uint8(0), uint16(0), uint32(0), uint64(0), uint(0), time.Duration(0)}
	check := func(sent reflect.Value, n *big.Int) {
		b, err := Marshal(sent.Interface())
		if err != nil {
			t.Fatal(err)
		}
		for _, into := range ints {
			p := reflect.New(reflect.TypeOf(into))
			err := Unmarshal(b, p.Interface())
			got := new(big.Int)
			if v := p.Elem(); v.CanInt() {
				got.SetInt64(v.Int())
			} else {
				got.SetUint64(v.Uint())
			}
			fits := json.Unmarshal([]byte(n.String()), reflect.New(reflect.TypeOf(into)).Interface()) == nil
			if fits != (err == nil) || fits && got.Cmp(n) != 0 {
				t.Errorf("%v sent as %v: read as %T: %v, %v", n, sent.Type(), into, got, err)
			}
		}
	}
	for shift := range 64 {
		for _, u := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1, math.MaxUint64 >> shift} {
			check(reflect.ValueOf(u), new(big.Int).SetUint64(u))
			check(reflect.ValueOf(int64(u)), big.NewInt(int64(u)))
			check(reflect.ValueOf(-int64(u)), big.NewInt(-int64(u)))
		}
	}
}

type Base struct {
	A int8 `json:"a"`
	B uint16
}

type deeper struct {
	B string // hides Base's
	*Base
}

type narrow struct {
	deeper
	L    []int16
	M    map[uint8]int32
	P    **uint32
	In   struct{ X uint8 } `msgpack:"in"`
	Skip int8              `json:"-"`
	Raw  []byte
	Arr  [2]uint16
	At   time.Time
	Self *narrow
	Any  any
	//lint:ignore U1000 what is not exported has no encoding, and the check must know that
	priv int8
}

// What a type can hold, it is given back: the check knows shapes as the library does.
func TestLimitsKnowShapes(t *testing.T) {
	check := func(a int8, b string, c uint16, l []int16, m map[uint8]int32, p uint32, x uint8, raw []byte, arr [2]uint16, sec uint32) bool {
		q := &p
		v := narrow{deeper: deeper{b, &Base{a, c}}, L: l, M: m, P: &q, Raw: raw, Arr: arr, At: time.Unix(int64(sec), 0).UTC(), Any: string(raw)}
		v.In.X = x
		self := v
		v.Self = &self
		enc, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back narrow
		if err := Unmarshal(enc, &back); err != nil {
			t.Errorf("%+v: %v", v, err)
			return false
		}
		return back.A == a && back.deeper.B == b && back.In.X == x && **back.P == p && back.Self.Arr == arr && reflect.DeepEqual(back.Self.M, back.M) && back.At.Equal(v.At)
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

func TestLimitsLookEverywhere(t *testing.T) {
	for path, sent := range map[string]any{
		"a":    map[string]any{"a": 128},
		"L":    map[string]any{"L": []int{1, 2, 40_000}},
		"M":    map[string]any{"M": map[int]int{256: 1}},
		"M ":   map[string]any{"M": map[int]int64{255: 1 << 31}},
		"P":    map[string]any{"P": -1},
		"in":   map[string]any{"in": map[string]int{"X": 300}},
		"Arr":  map[string]any{"Arr": []int{1, 1 << 16}},
		"Self": map[string]any{"Self": map[string]any{"Self": map[string]any{"in": map[string]int{"X": -1}}}},
	} {
		b, err := Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		err = Unmarshal(b, new(narrow))
		if err == nil || !strings.Contains(err.Error(), "does not fit") || !strings.HasPrefix(err.Error(), strings.TrimSpace(path)+": ") {
			t.Errorf("%v: %v", sent, err)
		}
	}
	// Nothing is read there, or it is no integer, or the decoder finds that it is of another shape.
	for _, sent := range []any{map[string]any{"Skip": 300}, map[string]any{"unknown": []any{1 << 40, map[string]any{"a": 1 << 40}}}, map[string]any{"priv": 300},
		map[string]any{"Any": map[string]any{"a": uint64(math.MaxUint64)}}, map[string]any{"B": "x"}, nil} {
		b, err := Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(b, new(narrow)); err != nil {
			t.Errorf("%v: %v", sent, err)
		}
	}
	// A wide type is looked into only where a byte may begin what is too large.
	type wide struct{ N, M int64 }
	b, _ := Marshal(map[string]uint64{"N": 1, "M": math.MaxUint64})
	if err := Unmarshal(b, new(wide)); err == nil {
		t.Error("the largest uint64 was read as an int64")
	}
	b, _ = Marshal(map[string]uint64{"N": 1, "M": math.MaxInt64})
	var w wide
	if err := Unmarshal(b, &w); err != nil || w.M != math.MaxInt64 {
		t.Error(w, err)
	}
}

// Bytes of any kind are judged without a panic.
func FuzzUnmarshalNarrow(f *testing.F) {
	for _, v := range []any{narrow{}, map[string]any{"L": []int{1}, "M": map[int]int{1: 1}}, []any{1, "x"}, -1, strings.Repeat("x", 300)} {
		b, err := Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if wellFormed(b) != nil { // callers skim first
			return
		}
		var n narrow
		if Unmarshal(b, &n) != nil {
			return
		}
		// What was read is read again from its own encoding.
		if enc, err := Marshal(n); err == nil {
			if err := Unmarshal(enc, new(narrow)); err != nil {
				t.Errorf("%x was read, its encoding %x is not: %v", b, enc, err)
			}
		}
	})
}

func BenchmarkUnmarshalStruct(b *testing.B) {
	type order struct {
		Item  string
		Count int32
		Price int64
		At    time.Time
	}
	enc, err := Marshal(order{"umbrella", 3, 1999, time.Unix(1, 0)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var o order
		if err := Unmarshal(enc, &o); err != nil {
			b.Fatal(err)
		}
	}
}
