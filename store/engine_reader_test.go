package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
)

func randKey(rng *rand.Rand) []byte {
	k := make([]byte, rng.IntN(4))
	for i := range k {
		k[i] = [...]byte{0, 1, 'a', 0xfe, 0xff}[rng.IntN(5)]
	}
	return k
}

// TestReaderAgainstModel compares gets and scans of two neighbouring groups with a sorted list.
func TestReaderAgainstModel(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	rng := rand.New(rand.NewPCG(1, 2))
	models := map[ring.GroupID]map[string]string{5: {}, 6: {}, 0xffffffff: {}}
	for g := range models {
		must(t, e.CreateReplica(g, 1, nil))
	}
	b := e.NewBatch()
	defer b.Close()
	for round := range 300 {
		for g, m := range models {
			var ws []Write
			for range 1 + rng.IntN(5) {
				w := Write{Key: randKey(rng), Value: fmt.Append(nil, round), Delete: rng.IntN(3) == 0}
				if w.Delete && rng.IntN(3) == 0 {
					w.End = randKey(rng) // often before the beginning
				}
				ws = append(ws, w)
				if !w.Delete {
					m[string(w.Key)] = string(w.Value)
				}
				maps.DeleteFunc(m, func(k, _ string) bool { return w.Removes([]byte(k)) })
			}
			b.ApplyWrites(g, ws)
		}
		must(t, b.Commit(round%7 == 0))
		if round%50 == 49 {
			must(t, e.db.Flush())
		}
		for g, m := range models {
			checkReader(t, rng, e.StateReader(g), m)
		}
	}
}

func checkReader(t *testing.T, rng *rand.Rand, r Reader, m map[string]string) {
	t.Helper()
	k := randKey(rng)
	v, ok, err := r.Get(k)
	must(t, err)
	if want, wok := m[string(k)]; ok != wok || string(v) != want {
		t.Fatalf("get %x: %q %v, want %q %v", k, v, ok, want, wok)
	}
	start, end := randKey(rng), randKey(rng)
	if rng.IntN(3) == 0 {
		end = nil
	}
	if rng.IntN(3) == 0 {
		start = nil
	}
	reverse := rng.IntN(2) == 0
	limit := rng.IntN(20)
	var want, got []string
	for k, v := range m {
		if k >= string(start) && (end == nil || k < string(end)) {
			want = append(want, k+"="+v)
		}
	}
	byKey := func(a, b string) int { return bytes.Compare([]byte(a), []byte(b)) }
	slices.SortFunc(want, func(a, b string) int {
		ka, kb := a[:bytes.LastIndexByte([]byte(a), '=')], b[:bytes.LastIndexByte([]byte(b), '=')]
		return byKey(ka, kb)
	})
	if reverse {
		slices.Reverse(want)
	}
	want = want[:min(len(want), limit+1)]
	must(t, r.Scan(start, end, reverse, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return len(got) <= limit
	}))
	if !slices.Equal(got, want) {
		t.Fatalf("scan [%x,%x) reverse %v: %q, want %q", start, end, reverse, got, want)
	}
}

func put(t testing.TB, e *Engine, g ring.GroupID, kv ...string) {
	t.Helper()
	b := e.NewBatch()
	defer b.Close()
	for i := 0; i < len(kv); i += 2 {
		b.ApplyWrites(g, []Write{{Key: []byte(kv[i]), Value: []byte(kv[i+1])}})
	}
	must(t, b.Commit(false))
}

func dump(t testing.TB, scan func(func(k, v []byte) bool) error) string {
	t.Helper()
	var s []byte
	must(t, scan(func(k, v []byte) bool { s = fmt.Appendf(s, "%s=%s ", k, v); return true }))
	return string(s)
}

func dumpReader(t testing.TB, r Reader) string {
	return dump(t, func(fn func(k, v []byte) bool) error { return r.Scan(nil, nil, false, fn) })
}

func dumpFrozen(t testing.TB, f *Frozen, after []byte) string {
	return dump(t, func(fn func(k, v []byte) bool) error {
		return f.Export(after, func(k, v []byte) error { fn(k, v); return nil })
	})
}

func TestFrozenStaysAsItWas(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	must(t, e.CreateReplica(1, 1, nil))
	put(t, e, 1, "a", "1", "b", "2")
	f, err := e.Freeze(1)
	must(t, err)
	put(t, e, 1, "a", "9", "c", "9")
	in, err := e.NewInstall(1)
	must(t, err)
	must(t, in.Add([]byte("z"), []byte("0")))
	b := e.NewBatch()
	must(t, in.Stage(b))
	must(t, b.Commit(true))
	if got := dumpFrozen(t, f, nil); got != "a=1 b=2 " {
		t.Fatalf("frozen: %s", got)
	}
	if got := dumpFrozen(t, f, []byte("a")); got != "b=2 " {
		t.Fatalf("frozen after a: %s", got)
	}
	boom := errors.New("boom")
	if err := f.Export(nil, func(k, v []byte) error { return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	must(t, f.Close())
	must(t, f.Close())
	if err := f.Export(nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if got := dumpReader(t, e.StateReader(1)); got != "z=0 " {
		t.Fatalf("now: %s", got)
	}
}

func TestInstall(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	if _, err := e.NewInstall(1); err == nil {
		t.Fatal("installed where no replica is")
	}
	must(t, e.CreateReplica(1, 1, nil))
	put(t, e, 1, "old", "1")
	in, err := e.NewInstall(1)
	must(t, err)
	if _, err := e.NewInstall(1); !errors.Is(err, ErrInstalling) {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), installChunk/2)
	for i := range 5 { // several chunks reach the database
		must(t, in.Add(fmt.Append(nil, "k", i), big))
	}
	if got := dumpReader(t, e.StateReader(1)); got != "old=1 " {
		t.Fatalf("seen before it is current: %.60s", got)
	}
	must(t, in.Abort())
	must(t, in.Abort())

	in, err = e.NewInstall(1)
	must(t, err)
	must(t, in.Add([]byte("new"), []byte("2")))
	b := e.NewBatch()
	must(t, in.Stage(b))
	must(t, b.Commit(true))
	for range 2 {
		if got := dumpReader(t, e.StateReader(1)); got != "new=2 " {
			t.Fatalf("after it: %.60s", got)
		}
		must(t, e.Close())
		e = openTest(t, fs, "/d")
	}

	// A snapshot for a replica that was removed meanwhile is of no use.
	in, err = e.NewInstall(1)
	must(t, err)
	must(t, in.Add([]byte("late"), []byte("3")))
	must(t, e.RemoveReplica(1, 2))
	must(t, e.CreateReplica(1, 2, nil))
	wantError(t, in.Stage(e.NewBatch()), "shard-0", "gone")
	must(t, in.Abort())
	if got := dumpReader(t, e.StateReader(1)); got != "" {
		t.Fatalf("the new replica has %s", got)
	}
}

// TestInstallLeftovers: what an interrupted installation wrote is swept at the next open.
func TestInstallLeftovers(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	for g := ring.GroupID(1); g <= 3; g++ {
		must(t, e.CreateReplica(g, 1, nil))
		put(t, e, g, "old", "1")
	}
	in, err := e.NewInstall(2)
	must(t, err)
	must(t, in.Add([]byte("half"), []byte("2")))
	must(t, in.flush())
	must(t, e.Close())
	e = openTest(t, fs, "/d")
	it, err := newDataIter(e.db, appendDataPrefix(nil, 2, in.rec.generation), nil, nil)
	must(t, err)
	if it.First() {
		t.Errorf("left over: %x", it.Key())
	}
	must(t, it.Close())
	for g := ring.GroupID(1); g <= 3; g++ {
		if got := dumpReader(t, e.StateReader(g)); got != "old=1 " {
			t.Errorf("group %d: %s", g, got)
		}
	}
}

// TestReadersSeeWholeInstalls: while snapshots replace the state again and again, no read sees a mixture or nothing.
func TestReadersSeeWholeInstalls(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	must(t, e.CreateReplica(1, 1, nil))
	put(t, e, 1, "a", "0", "b", "0", "c", "0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	r := e.StateReader(1)
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var vals []string
				if err := r.Scan(nil, nil, false, func(k, v []byte) bool { vals = append(vals, string(v)); return true }); err != nil {
					t.Error(err)
				}
				if len(vals) != 3 || vals[0] != vals[1] || vals[1] != vals[2] {
					t.Errorf("a scan saw %v", vals)
				}
				if _, ok, err := r.Get([]byte("b")); !ok || err != nil {
					t.Errorf("a get saw nothing: %v", err)
				}
			}
		})
	}
	b := e.NewBatch()
	for i := range 200 {
		in, err := e.NewInstall(1)
		must(t, err)
		for _, k := range []string{"a", "b", "c"} {
			must(t, in.Add([]byte(k), fmt.Append(nil, i)))
		}
		must(t, in.Stage(b))
		must(t, b.Commit(i%2 == 0))
	}
	close(stop)
	wg.Wait()
}
