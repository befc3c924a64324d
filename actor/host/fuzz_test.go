package host

import (
	"encoding/binary"
	"math"
	"reflect"
	"runtime"
	"testing"

	"github.com/ringfence/ringfence/actor"
)

// FuzzRecords: what the host keeps beside an object's storage, as it comes from disk.
func FuzzRecords(f *testing.F) {
	r := record{State: recordAnswered, Seq: 9, At: 1_700_000_000_000, Method: "Add", Arg: []byte{1, 2}, Encoding: 1, Value: []byte{5}}
	f.Add(r.encode())
	r.setError(&actor.Error{Code: actor.CodeApp, App: "sold-out", Message: "none left", Retryable: true})
	f.Add(r.encode())
	f.Add(binary.AppendUvarint(nil, 1<<40))
	f.Add([]byte{0x9b, 1, 1, 1, 0xdb, 0xff, 0xff, 0xff, 0xff})       // a method of 4 GiB
	f.Add([]byte{0x9b, 1, 1, 1, 0xa0, 0xc6, 0x7f, 0xff, 0xff, 0xff}) // an argument of 2 GiB
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := decodeSize(b); ok {
			if again, ok := decodeSize(binary.AppendUvarint(nil, uint64(n))); n < 0 || !ok || again != n {
				t.Fatalf("%x was read as %d, and then as %d", b, n, again)
			}
		}
		var r record
		var err error
		least := uint64(math.MaxUint64)
		for range 5 { // the runtime counts for the whole process, and the fuzzer's own goroutines allocate too
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r = record{}
			err = r.decode(b)
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		if least > uint64(4*len(b))+16<<10 { // the decoder itself
			t.Fatalf("%d bytes allocated for %d", least, len(b))
		}
		if err != nil {
			return
		}
		var again record
		if err := again.decode(r.encode()); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
		_ = r.error().Error()
	})
}
