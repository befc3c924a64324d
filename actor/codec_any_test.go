package actor

import (
	"math"
	"reflect"
	"testing"
)

type inner struct{ In any }

type anyhow struct {
	inner
	A    any            `json:"a"`
	List []any          `json:"list"`
	Map  map[string]any `json:"map"`
	Deep map[string][]*anyhow
	Fix  [2]any
	U    uint64
	Next *anyhow
	none any // the decoder leaves it alone
}

// Whatever an integer's size, an any holds an int64 if that has room for it.
func TestIntegersInAnys(t *testing.T) {
	for _, n := range []uint64{0, 127, 128, 255, 256, 65535, 65536, 1 << 31, 1 << 32, math.MaxInt64} {
		v := anyhow{inner: inner{n}, A: n, List: []any{n, []any{n}}, Map: map[string]any{"k": map[string]any{"k": n}}, Fix: [2]any{n, "s"}, U: n}
		v.Deep = map[string][]*anyhow{"d": {{A: n}, nil}}
		v.Next = &anyhow{A: []byte("b")}
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got := anyhow{none: uint64(1)}
		if err := Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		i := int64(n)
		want := anyhow{inner: inner{i}, A: i, List: []any{i, []any{i}}, Map: map[string]any{"k": map[string]any{"k": i}}, Fix: [2]any{i, "s"}, U: n, none: uint64(1)}
		want.Deep = map[string][]*anyhow{"d": {{A: i}, nil}}
		want.Next = &anyhow{A: "b"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d:\ngot  %#v, %#v, %#v\nwant %#v, %#v, %#v", n, got, *got.Next, *got.Deep["d"][0], want, *want.Next, *want.Deep["d"][0])
		}
	}
	for _, v := range []any{uint64(math.MaxUint64), int64(math.MinInt64), 1.5, "s", true} {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := Unmarshal(b, &got); err != nil || got != v {
			t.Errorf("%v becomes %T %v, %v", v, got, got, err)
		}
	}
}

// A caller's value that leads back to itself does not hold it up.
func TestUnmarshalIntoACycle(t *testing.T) {
	b, err := Marshal(map[string]any{"a": 200})
	if err != nil {
		t.Fatal(err)
	}
	into := &anyhow{}
	into.Next = into
	into.List = []any{into.List}
	if err := Unmarshal(b, into); err != nil || into.A != int64(200) {
		t.Errorf("%v, %v", into.A, err)
	}
}
