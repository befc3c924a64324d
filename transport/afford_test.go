package transport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// row is what a table's row looks like; wide takes much place for few bytes.
type row struct {
	ID      int64  `json:"id"`
	Name    string `json:"name"`
	Tags    []string
	At      time.Time `json:"at,omitzero"`
	Next    *row
	Numbers map[string]float64
	wide
}

type wide struct{ Words [40]uint64 }

type table struct {
	Rows  []row `json:"rows"`
	IDs   []int64
	Index map[string]row
	Links []*wide
	Any   any
	Grid  [][]wide
}

// array is a msgpack array of n copies of an element.
func array(n int, elem string) []byte {
	return append([]byte{0xdd, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, strings.Repeat(elem, n)...)
}

// in is a map with one entry.
func in(name string, v []byte) []byte {
	return append(append([]byte{0x81, 0xa0 | byte(len(name))}, name...), v...)
}

// decodeAs decodes as a node does.
func decodeAs(t reflect.Type, isJSON bool, b []byte) error {
	into := reflect.New(t).Interface()
	if isJSON {
		return json.Unmarshal(b, into)
	}
	d := msgpack.NewDecoder(bytes.NewReader(b))
	d.SetCustomStructTag("json")
	d.UseLooseInterfaceDecoding(true)
	return d.Decode(into)
}

// affordable is the most that a value which SkimFor let through may make a decoder allocate: JSON's grows lists by doubling.
func affordable(n int) uint64 { return 3*(affordBase+affordPerByte*uint64(n)) + 1<<20 }

func TestSkimForRefusesBombs(t *testing.T) {
	type links struct{ L *links }
	tableType := reflect.TypeFor[table]()
	const many = 4 << 20
	for name, c := range map[string]struct {
		t    reflect.Type
		json bool
		b    []byte
	}{
		"nils in a list of structs":           {reflect.TypeFor[[]row](), false, array(many, "\xc0")},
		"numbers in a list of structs":        {reflect.TypeFor[[]row](), false, array(many, "\x01")},
		"empty structs":                       {reflect.TypeFor[[]row](), false, array(many, "\x80")},
		"in a field":                          {tableType, false, in("rows", array(many, "\xc0"))},
		"in a field, by its other name":       {tableType, false, in("Rows", array(many, "\xc0"))},
		"in a list of lists":                  {tableType, false, in("Grid", array(many/64, "\xdc\x00\x3d"+strings.Repeat("\xc0", 61)))},
		"behind pointers":                     {tableType, false, in("Links", array(many, "\x80"))},
		"maps in an any":                      {tableType, false, in("Any", array(many/4, "\x81\xa1a\xc0"))},
		"maps in a list of any":               {reflect.TypeFor[[]any](), false, array(many/4, "\x81\xa1a\xc0")},
		"JSON, nulls in a list of structs":    {reflect.TypeFor[[]row](), true, []byte("[" + strings.Repeat("null,", many/5) + "null]")},
		"JSON, empty structs in a field":      {tableType, true, []byte(`{"ROWS":[` + strings.Repeat("{},", many/3) + "{}]}")},
		"JSON, maps in an any":                {tableType, true, []byte(`{"Any":[` + strings.Repeat(`{"a":1},`, many/8) + "{}]}")},
		"structs in a list of lists, in JSON": {tableType, true, []byte(`{"Grid":[` + strings.Repeat(`[{},{},{}],`, many/11) + "[]]}")},
	} {
		if err := SkimFor(c.t, c.json, c.b); err == nil || !strings.Contains(err.Error(), "send fewer items") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := SkimFor(reflect.TypeFor[links](), false, in("L", in("L", in("L", []byte{0xc0})))); err != nil {
		t.Errorf("a type that leads back to itself: %v", err)
	}
}

func TestSkimForLetsThroughWhatUsersSend(t *testing.T) {
	var rows []row
	var sparse []map[string]any
	ids := make([]int64, 0, 2<<20)
	for i := range 100_000 {
		rows = append(rows, row{ID: int64(i), Name: fmt.Sprint("name of row ", i), Tags: []string{"a", "b"}})
	}
	for i := range 5000 {
		sparse = append(sparse, map[string]any{"id": i})
	}
	for i := range 2 << 20 {
		ids = append(ids, int64(i%100))
	}
	docs := map[string]any{}
	for i := range 50_000 {
		docs[fmt.Sprint("document-", i)] = map[string]any{"title": "a title", "n": i, "tags": []string{"x"}}
	}
	for name, c := range map[string]struct {
		v any
		t reflect.Type
	}{
		"100,000 rows":                          {rows, reflect.TypeFor[[]row]()},
		"5,000 rows of one number":              {sparse, reflect.TypeFor[[]row]()},
		"rows beside millions of small numbers": {map[string]any{"rows": rows[:1000], "IDs": ids}, reflect.TypeFor[table]()},
		"documents in an any":                   {docs, reflect.TypeFor[any]()},
		"documents in a map":                    {docs, reflect.TypeFor[map[string]any]()},
		"bytes":                                 {make([]byte, 8<<20), reflect.TypeFor[[]byte]()},
	} {
		b, err := msgpack.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		if err := SkimFor(c.t, false, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, err = json.Marshal(c.v); err != nil {
			t.Fatal(err)
		}
		if err := SkimFor(c.t, true, b); err != nil {
			t.Errorf("%s in JSON: %v", name, err)
		}
	}
}

// The reckoning is right: the largest list that is let through takes no more than the budget.
func TestSkimForReckonsRight(t *testing.T) {
	const base = 128 << 10
	for _, typ := range []reflect.Type{reflect.TypeFor[[]row](), reflect.TypeFor[[]any](), reflect.TypeFor[any](), reflect.TypeFor[[]*wide](),
		reflect.TypeFor[map[string]row](), reflect.TypeFor[[]int64](), reflect.TypeFor[[]string]()} {
		for _, elem := range []string{"\xc0", "\x80", "\x01", "\xcd\x01\x01", "\xa0", "\x90", "\x81\xa1a\x01"} {
			lo, hi := 0, 1<<17
			for hi-lo > 10 {
				if n := (lo + hi) / 2; skimFor(typ, false, array(n, elem), base) == nil {
					lo = n
				} else {
					hi = n
				}
			}
			b := array(lo, elem)
			if n := allocated(func() { _ = decodeAs(typ, false, b) }); n > affordable(len(b))-3*(affordBase-base) {
				t.Errorf("%v of %d times %q: %d bytes allocated for %d", typ, lo, elem, n, len(b))
			}
		}
	}
}

// FuzzSkimFor: what is let through, the decoders read with no more memory than reckoned.
func FuzzSkimFor(f *testing.F) {
	v := table{Rows: []row{{ID: 1, Name: "a", Tags: []string{"x"}, Next: &row{ID: 2}}}, IDs: []int64{1, 300}, Index: map[string]row{"k": {}},
		Links: []*wide{nil, {}}, Any: map[string]any{"a": []any{1, nil}}, Grid: [][]wide{{{}}}}
	m, err := msgpack.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m, false)
	f.Add(j, true)
	f.Add(in("rows", array(70, "\xc0")), false)
	f.Add([]byte(`{"rows":[{},{"Next":{"Next":null}}],"Any":[[[{"a":"\"]"}]]]}`), true)
	types := []reflect.Type{reflect.TypeFor[table](), reflect.TypeFor[[]row](), reflect.TypeFor[any](), reflect.TypeFor[map[string]any](),
		reflect.TypeFor[*[]*wide](), reflect.TypeFor[[4]map[int]row]()}
	f.Fuzz(func(t *testing.T, b []byte, isJSON bool) {
		for _, typ := range types {
			var err error
			if n := allocated(func() { err = SkimFor(typ, isJSON, b) }); n > uint64(4*len(b)+64<<10) {
				t.Fatalf("%v: reckoning allocates %d bytes for %d", typ, n, len(b))
			}
			if err != nil {
				continue
			}
			func() {
				defer func() { _ = recover() }() // the library panics on some values; who decodes recovers
				if n := allocated(func() { _ = decodeAs(typ, isJSON, b) }); n > affordable(len(b)) {
					t.Errorf("%v: %d bytes allocated for %d", typ, n, len(b))
				}
			}()
		}
	})
}

func BenchmarkSkimFor(b *testing.B) {
	small, err := msgpack.Marshal(map[string]any{"id": 5, "name": "a"})
	if err != nil {
		b.Fatal(err)
	}
	typ := reflect.TypeFor[row]()
	b.ReportAllocs()
	for b.Loop() {
		if err := SkimFor(typ, false, small); err != nil {
			b.Fatal(err)
		}
	}
}
