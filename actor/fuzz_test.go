package actor

import (
	"math"
	"runtime"
	"testing"
)

// allocated is how many bytes f allocates. The least of five: the runtime counts for the whole process, and the fuzzer's own goroutines allocate too.
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

// FuzzParseID: the text form of an object that is accepted is written the same way, and names an object that is valid.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"Counter/a", "Counter/a/b/ä", "C/", "/k", "9/a", "C_0/\x00", "C/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if id.String() != s || id.Validate() != nil || ValidateClass(id.Class) != nil {
			t.Fatalf("%q became %q", s, id)
		}
	})
}

// FuzzUnmarshal: stored values, arguments and results, into what users decode into. What comes out can be encoded and read again. Values that are stored
// have been written by the class itself, and arguments are reckoned first (transport.SkimFor), so only well-formed bytes come here.
func FuzzUnmarshal(f *testing.F) {
	type inner struct {
		A int8
		B []string
	}
	type outer struct {
		N     uint16 `json:"n"`
		Inner *inner
		Map   map[string]inner
		Any   any
		inner
	}
	for _, v := range []any{1, "x", []int{1, 2}, map[string]any{"n": 5, "Any": []any{1, nil}}, outer{Inner: &inner{A: 1, B: []string{"b"}}, Map: map[string]inner{"k": {}}}} {
		b, err := Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if wellFormed(b) != nil || len(b) > 1<<16 {
			return
		}
		for _, into := range []func() any{func() any { return new(any) }, func() any { return new(outer) }, func() any { return new([]int32) }, func() any { return new(map[string]float64) }} {
			v := into()
			if Unmarshal(b, v) != nil {
				continue
			}
			again, err := Marshal(v)
			if err != nil {
				continue // a key of a map that JSON's rules do not know, or nested too deep
			}
			if err := Unmarshal(again, into()); err != nil {
				t.Fatalf("%x became %x, which cannot be read into a %T: %v", b, again, v, err)
			}
		}
	})
}
