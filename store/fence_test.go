package store

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/ring"
)

// entryAt is a command at its place in a log.
type entryAt struct {
	index, term uint64
	c           Command
}

// filterLog is the fence written a second time, from the definition and not from the state: it goes over the whole log and keeps what
// takes effect. An acquire does iff it names the last acquire that did (0 before any), its entry's term, and an epoch not below that
// one's. A batch does iff its token is that of the last acquire that did, nothing released it since, and the numbers of the batches kept
// since then are exactly 1 … Seq-1.
func filterLog(log []entryAt) []bool {
	keep := make([]bool, len(log))
	for i, e := range log {
		last := -1
		for j := range log[:i] {
			if keep[j] && log[j].c.Kind == KindAcquire {
				last = j
			}
		}
		token, epoch := Token(0), ring.Epoch(0)
		if last >= 0 {
			token, epoch = Token(log[last].index), log[last].c.Acquire.Epoch
		}
		if e.c.Kind == KindAcquire {
			keep[i] = e.c.Acquire.Prev == token && e.c.Acquire.Term == e.term && e.c.Acquire.Epoch >= epoch
			continue
		}
		count, released := uint64(0), false
		for j := last + 1; j < i; j++ {
			if keep[j] && log[j].c.Kind == KindBatch {
				count += uint64(log[j].c.Count)
			}
			released = released || keep[j] && log[j].c.Kind == KindRelease
		}
		keep[i] = e.c.Token == token && !released && e.c.Seq == count+1
	}
	return keep
}

func TestFenceEqualsTheFilteredLog(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	kept := map[CommandKind]int{}
	verdicts := map[Verdict]int{}
	for range 3000 {
		var log []entryAt
		var f Fence
		var got []bool
		term := uint64(1)
		for i := range 40 {
			term += uint64(rng.IntN(8) / 7)
			e := entryAt{index: uint64(i + 2), term: term}
			near := func(v uint64) uint64 { // mostly right, sometimes off by one
				switch rng.IntN(8) {
				case 0:
					return v + 1
				case 1:
					return v - min(v, 1)
				}
				return v
			}
			switch rng.IntN(8) {
			case 0:
				e.c = Command{Kind: KindAcquire, Acquire: Acquire{Prev: Token(near(uint64(f.Token))), Term: near(term), Epoch: ring.Epoch(near(uint64(f.Epoch)))}}
			case 1:
				e.c = Command{Kind: KindRelease, Token: Token(near(uint64(f.Token))), Seq: near(f.Seq + 1)}
			default:
				e.c = Command{Kind: KindBatch, Token: Token(near(uint64(f.Token))), Seq: near(f.Seq + 1), Count: 1 + rng.Uint32N(3)}
			}
			log = append(log, e)
			next, v := f.Step(e.index, e.term, &e.c)
			if v != Accepted && next != f {
				t.Fatalf("a refused %+v changed the fence", e)
			}
			f = next
			verdicts[v]++
			got = append(got, v == Accepted)
			if v == Accepted {
				kept[e.c.Kind]++
			}
		}
		if want := filterLog(log); !reflect.DeepEqual(got, want) {
			t.Fatalf("log %+v\ngot  %v\nwant %v", log, got, want)
		}
	}
	for _, k := range []CommandKind{KindAcquire, KindBatch, KindRelease} {
		if kept[k] == 0 {
			t.Errorf("no command of kind %d was ever accepted", k)
		}
	}
	for v := Accepted; v <= EpochBehind; v++ {
		if verdicts[v] == 0 {
			t.Errorf("%v never occurred", v)
		}
	}
}

func TestFenceCodec(t *testing.T) {
	f := Fence{Token: 1 << 50, Seq: 3, Epoch: 4, Term: 5, Holder: Holder{Replica: 6, Node: 1 << 63, Boot: 8}, Released: true}
	b := AppendFence(nil, f)
	if got, err := DecodeFence(b); err != nil || got != f {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := DecodeFence(b[:i]); err == nil {
			t.Fatalf("cut at %d and not noticed", i)
		}
	}
	b[0] = 9
	if _, err := DecodeFence(b); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Fatal(err)
	}
}

func sampleCommands() map[string][]byte {
	batch := AppendBatchHead(nil, 300, 7, 2)
	batch = AppendWrite(batch, &Write{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 300)})
	batch = AppendWrite(batch, &Write{Key: []byte("gone"), Delete: true})
	batch = AppendWrite(batch, &Write{Key: []byte("from"), End: []byte("to"), Delete: true})
	return map[string][]byte{
		"acquire": AppendAcquire(nil, Acquire{Prev: 5, Term: 6, Epoch: 7, Holder: Holder{1, 2, 3}}),
		"release": AppendRelease(nil, 300, 9),
		"batch":   batch,
	}
}

func TestCommandCodec(t *testing.T) {
	var c Command
	for name, b := range sampleCommands() {
		if err := DecodeCommand(b, &c); err != nil {
			t.Fatal(name, err)
		}
		for i := range b {
			err := DecodeCommand(b[:i], &c)
			if name != "batch" && err == nil {
				t.Errorf("%s cut at %d and not noticed", name, i)
			}
		}
	}
	if err := DecodeCommand(sampleCommands()["batch"], &c); err != nil || c.Token != 300 || c.Seq != 7 || c.Count != 2 || len(c.Writes) != 3 ||
		string(c.Writes[0].Key) != "k" || len(c.Writes[0].Value) != 300 || !c.Writes[1].Delete || string(c.Writes[1].Key) != "gone" || c.Writes[1].IsRange() ||
		!c.Writes[2].IsRange() || string(c.Writes[2].Key) != "from" || string(c.Writes[2].End) != "to" {
		t.Fatalf("%+v, %v", c, err)
	}
	for what, b := range map[string][]byte{
		"nothing":           {},
		"an unknown kind":   {9},
		"no batches":        AppendBatchHead(nil, 1, 1, 0),
		"number zero":       AppendBatchHead(nil, 1, 0, 1),
		"a write of kind 7": append(AppendBatchHead(nil, 1, 1, 1), 7),
		"half a range":      append(AppendBatchHead(nil, 1, 1, 1), 3, 1, 'k'),
		"trailing bytes":    append(AppendRelease(nil, 1, 1), 0),
	} {
		if err := DecodeCommand(b, &c); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, b := range sampleCommands() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Command
		var err error
		// The least of five: the runtime counts for the whole process, and the fuzzer's own goroutines allocate too.
		n := uint64(math.MaxUint64)
		for range 5 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c = Command{}
			err = DecodeCommand(b, &c)
			runtime.ReadMemStats(&after)
			n = min(n, after.TotalAlloc-before.TotalAlloc)
		}
		if n > uint64(220*len(b)+64<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
		if err != nil || c.Kind != KindBatch {
			return
		}
		again := AppendBatchHead(nil, c.Token, c.Seq, c.Count)
		for i := range c.Writes {
			again = AppendWrite(again, &c.Writes[i])
		}
		var c2 Command
		if err := DecodeCommand(again, &c2); err != nil || len(c2.Writes) != len(c.Writes) || c2.Seq != c.Seq {
			t.Fatalf("%+v became %+v: %v", c, c2, err)
		}
	})
}

func FuzzDecodeFence(f *testing.F) {
	f.Add(AppendFence(nil, Fence{Token: 9, Released: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeFence(b)
		if err != nil {
			return
		}
		if got, err := DecodeFence(AppendFence(nil, v)); err != nil || got != v {
			t.Fatalf("%+v became %+v: %v", v, got, err)
		}
	})
}

func TestWhatAWriteRemoves(t *testing.T) {
	k := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		w    Write
		want string
	}{
		{Write{Key: k("b"), Value: k("v")}, ""},
		{Write{Key: k("b"), Value: k("v"), End: k("d")}, ""},
		{Write{Key: k("b"), Delete: true}, "b"},
		{Write{Key: k("b"), End: k("d"), Delete: true}, "b bz c"},
		{Write{Key: k("b"), End: k("b\x00"), Delete: true}, "b"},
		{Write{Key: k("b"), End: k("b"), Delete: true}, ""},
		{Write{Key: k("d"), End: k("b"), Delete: true}, ""},
		{Write{Key: nil, End: k("bz"), Delete: true}, "a b"},
		{Write{Key: k("b"), End: []byte{}, Delete: true}, ""},
	} {
		var got []string
		for _, key := range []string{"a", "b", "bz", "c", "d"} {
			if c.w.Removes(k(key)) {
				got = append(got, key)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v removes %q, want %q", c.w, s, c.want)
		}
	}
	if w := (Write{Key: k("ab"), End: k("cd"), Delete: true}); WriteSize(&w) != 12 {
		t.Error("the end of a range has no size")
	}
}

func TestKeys(t *testing.T) {
	if a, b := ObjectPrefix("C", "k"), MetaKey("C", "k", MetaSize); string(a) != "\x01C\x00k\x00" || string(b) != "\x03C\x00k\x00\x04" {
		t.Errorf("%q, %q", a, b)
	}

	a, b := ObjectPrefix("Counter", "a"), ObjectPrefix("Counter", "a\x01")
	if bytes.HasPrefix(b, a) || bytes.HasPrefix(a, b) {
		t.Error("one object's keys begin like another's")
	}
	if !bytes.Equal(PrefixEnd([]byte{1, 0xff, 0xff}), []byte{2}) || PrefixEnd([]byte{0xff, 0xff}) != nil {
		t.Error("PrefixEnd")
	}
}
