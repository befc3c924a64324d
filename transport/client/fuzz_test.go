package client

import (
	"encoding/json"
	"math"
	"runtime"
	"testing"

	"github.com/ringfence/ringfence/actor"
)

// FuzzResult: whatever comes as a result, reading it neither panics nor takes more than some multiple of its bytes.
func FuzzResult(f *testing.F) {
	type item struct {
		ID   int64 `json:"id"`
		Name string
		Pad  [30]uint64
	}
	type page struct {
		Items []item `json:"items"`
		More  any
	}
	v := page{Items: []item{{ID: 1, Name: "a"}}, More: map[string]any{"next": 5}}
	m, err := actor.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m, false)
	f.Add(j, true)
	f.Add([]byte("\xdd\x7f\xff\xff\xff"), false)
	f.Add([]byte("\x81\xa5items\xdc\x01\x00"), false)
	f.Fuzz(func(t *testing.T, b []byte, isJSON bool) {
		for _, into := range []func() any{func() any { return new(any) }, func() any { return new(page) }, func() any { return new([]*item) }, func() any { return new(map[string][]int) }, func() any { return page{} }} {
			least := uint64(math.MaxUint64)
			for range 3 { // the runtime counts for the whole process, and the fuzzer's own goroutines allocate too
				var before, after runtime.MemStats
				v := into()
				runtime.ReadMemStats(&before)
				if !isJSON {
					_ = decodeMsgpack(b, v)
				} else if skim(true, b, v) == nil {
					_ = json.Unmarshal(b, v)
				}
				runtime.ReadMemStats(&after)
				least = min(least, after.TotalAlloc-before.TotalAlloc)
			}
			if least > uint64(16<<20+100*len(b)) {
				t.Fatalf("%T: %d bytes allocated for %d", into(), least, len(b))
			}
		}
	})
}
