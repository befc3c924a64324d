package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
)

// logEntry is one entry of a made-up log.
type logEntry struct {
	index, term uint64
	c           Command
	raw         []byte
	conf        bool
	epoch       ring.Epoch
}

// makeLog makes a log as owners that come and go leave it: batches in order, some lost or late, releases, configurations.
func makeLog(rng *rand.Rand, n int) []logEntry {
	var log []logEntry
	var f Fence
	term := uint64(1)
	for i := uint64(2); len(log) < n; i++ {
		e := logEntry{index: i, term: term}
		switch k := rng.IntN(100); {
		case f.Token == 0 || f.Released || k < 2:
			term += uint64(rng.IntN(3))
			e.term = term
			a := Acquire{Prev: f.Token, Term: term, Epoch: f.Epoch + ring.Epoch(rng.IntN(2)), Holder: Holder{Replica: ring.ReplicaID(1 + rng.IntN(3)), Node: 7, Boot: 9}}
			if rng.IntN(5) == 0 {
				a.Prev++ // of who does not know
			}
			e.raw = AppendAcquire(nil, a)
		case k < 3:
			e.raw = AppendRelease(nil, f.Token, f.Seq+1)
		case k < 4:
			e.conf, e.epoch, e.raw = true, f.Epoch+1, []byte{byte(i)}
		case k < 8: // a stale one
			e.raw = AppendWrite(AppendBatchHead(nil, f.Token-1, f.Seq+1, 1), &Write{Key: []byte("k"), Value: []byte("stale")})
		case k < 10:
			e.raw = AppendWrite(AppendBatchHead(nil, f.Token, f.Seq+2, 1), &Write{Key: []byte("k"), Value: []byte("early")})
		case k < 12: // the leader's first, empty
			log = append(log, e)
			continue
		default:
			e.raw = AppendWrite(AppendBatchHead(nil, f.Token, f.Seq+1, 1+uint32(rng.IntN(3))), &Write{Key: []byte("k"), Value: []byte(fmt.Sprint(i))})
		}
		if !e.conf {
			if err := DecodeCommand(e.raw, &e.c); err != nil {
				panic(err)
			}
			f, _ = f.Step(i, e.term, &e.c)
		} else {
			f.Epoch = e.epoch
		}
		log = append(log, e)
	}
	return log
}

// follow records log entries with indices in (after, to], a few at a time, and stores what is to be stored with put.
func follow(h *History, f Fence, log []logEntry, after, to uint64, put func(*HistoryChange)) Fence {
	for i := range log {
		e := &log[i]
		if e.index <= after || e.index > to {
			continue
		}
		switch {
		case e.conf:
			h.Conf(e.index, e.term, e.raw, e.epoch, 1000+int64(e.index))
			f.Epoch = e.epoch
		case len(e.raw) > 0:
			next, v := f.Step(e.index, e.term, &e.c)
			h.Command(e.index, e.term, &e.c, e.raw, v, 1000+int64(e.index))
			f = next
		}
		if c := h.Take(e.index, f); c != nil && put != nil {
			put(c)
		}
	}
	return f
}

func openHistory(t *testing.T) *Engine {
	t.Helper()
	e, err := Open("data", Options{FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// stored gives a put for follow, and a reader of what it has put.
func stored(t *testing.T, e *Engine, g ring.GroupID) func(*HistoryChange) {
	return func(c *HistoryChange) {
		b := e.NewBatch()
		defer b.Close()
		b.SetHistory(g, c)
		if err := b.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
}

func readHistory(t *testing.T, e *Engine, g ring.GroupID, h *History) ReplicaHistory {
	t.Helper()
	r := ReplicaHistory{Node: 1, Replica: ring.ReplicaID(g), Head: h.Head(), Recent: h.Recent()}
	var err error
	if r.Tenures, r.Checkpoints, err = e.HistoryRows(g, &r.Head); err != nil {
		t.Fatal(err)
	}
	return r
}

// Three replicas see one log: one from its beginning, with restarts; one joins later by itself; one is filled by a snapshot of the first.
func TestHistoriesOfOneLogAgree(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 200 + rng.IntN(6000)
		log := makeLog(rng, n)
		last := log[len(log)-1].index
		e := openHistory(t)
		first := NewHistory(1, Fence{}, nil)
		var f Fence
		at := uint64(1)
		for range 5 { // restarts: only what was stored last is known, and the log
			to := min(last, at+rng.Uint64N(uint64(n)))
			f = follow(first, f, log, at, to, stored(t, e, 1))
			if head, ok, err := e.HistoryHead(1); err != nil {
				t.Fatal(err)
			} else if ok {
				again := ResumeHistory(head)
				if got := follow(again, head.Fence, log, head.Index, to, nil); got != f {
					t.Fatalf("seed %d: the fence is %+v, and was %+v", seed, got, f)
				}
				if a, b := again.Head(), first.Head(); !reflect.DeepEqual(a, b) {
					t.Fatalf("seed %d: found again as\n%+v, and was\n%+v", seed, a, b)
				}
				first = again
			}
			at = to
		}
		joins := at
		second := NewHistory(joins, f, nil)
		head := first.Head()
		third := NewHistory(joins, f, &head)
		follow(first, f, log, at, last, stored(t, e, 1))
		follow(second, f, log, joins, last, stored(t, e, 2))
		follow(third, f, log, joins, last-rng.Uint64N(30)*uint64(min(1, rng.IntN(2))), stored(t, e, 3))
		all := []ReplicaHistory{readHistory(t, e, 1, first), readHistory(t, e, 2, second), readHistory(t, e, 3, third)}
		a := Audit(3, all)
		if len(a.Violations) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(a.Violations, "\n"))
		}
		if two := Audit(3, []ReplicaHistory{all[0], all[2]}); two.Equal == 0 && all[2].Head.Entries > 0 {
			t.Errorf("seed %d: nothing was compared: %+v", seed, two)
		}
		if a.From != max(1, all[0].reaches()) || a.Last != last {
			t.Errorf("seed %d: %+v", seed, a)
		}
	}
}

// One byte of one entry, one entry too many or too few, or one verdict: the histories differ and the audit says so.
func TestHistoriesOfTwoLogsDiffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	log := makeLog(rng, 5000)
	last := log[len(log)-1].index
	e := openHistory(t)
	good := NewHistory(1, Fence{}, nil)
	follow(good, Fence{}, log, 1, last, stored(t, e, 1))
	want := readHistory(t, e, 1, good)
	for i := range 60 {
		g := ring.GroupID(10 + i)
		k := rng.IntN(len(log))
		for log[k].conf || log[k].c.Kind != KindBatch || len(log[k].c.Writes) == 0 || string(log[k].c.Writes[0].Value) == "stale" || string(log[k].c.Writes[0].Value) == "early" {
			k = rng.IntN(len(log))
		}
		bad := append([]logEntry(nil), log...)
		switch i % 3 {
		case 0: // another value
			bad[k].raw = bytes.Replace(bad[k].raw, []byte("k"), []byte("K"), 1)
		case 1: // not applied
			bad[k].raw = nil
		case 2: // in another term: somebody else's entry
			bad[k].term++
		}
		h := NewHistory(1, Fence{}, nil)
		follow(h, Fence{}, bad, 1, last, stored(t, e, g))
		got := readHistory(t, e, g, h)
		if a := Audit(1, []ReplicaHistory{want, got}); len(a.Violations) == 0 {
			t.Errorf("entry %d changed (%d): not found", bad[k].index, i%3)
		}
	}
}

// What a broken fence lets through is recorded as what it is.
func TestHistoryIsAWitness(t *testing.T) {
	acquire := func(prev Token, term uint64, epoch ring.Epoch) []byte {
		return AppendAcquire(nil, Acquire{Prev: prev, Term: term, Epoch: epoch, Holder: Holder{1, 2, 3}})
	}
	batch := func(tok Token, seq uint64) []byte { return AppendBatchHead(nil, tok, seq, 1) }
	for _, c := range []struct {
		want    FaultKind
		entries [][]byte // at 2, 3, 4 …, all in term 5, all accepted
	}{
		{0, [][]byte{acquire(0, 5, 1), batch(2, 1), AppendRelease(nil, 2, 2), acquire(2, 5, 1), batch(5, 1)}},
		{FaultToken, [][]byte{acquire(0, 5, 1), batch(2, 1), acquire(2, 5, 1), batch(2, 2)}},
		{FaultToken, [][]byte{acquire(0, 5, 1), acquire(2, 5, 1), AppendRelease(nil, 2, 1)}},
		{FaultReleased, [][]byte{acquire(0, 5, 1), AppendRelease(nil, 2, 1), batch(2, 2)}},
		{FaultSequence, [][]byte{acquire(0, 5, 1), batch(2, 1), batch(2, 3)}},
		{FaultSequence, [][]byte{acquire(0, 5, 1), batch(2, 1), batch(2, 1)}},
		{FaultEpoch, [][]byte{acquire(0, 5, 3), acquire(2, 5, 2)}},
		{FaultTerm, [][]byte{acquire(0, 4, 1)}},
		{FaultPrev, [][]byte{acquire(0, 5, 1), acquire(0, 5, 1)}},
	} {
		h := NewHistory(1, Fence{}, nil)
		for i, raw := range c.entries {
			var cmd Command
			if err := DecodeCommand(raw, &cmd); err != nil {
				t.Fatal(err)
			}
			h.Command(uint64(i+2), 5, &cmd, raw, Accepted, 0)
		}
		h.Take(uint64(len(c.entries)+1), Fence{})
		head := h.Head()
		if c.want == 0 {
			if head.Faulty != 0 {
				t.Errorf("%v in a good history", head.Faults)
			}
			continue
		}
		if len(head.Faults) == 0 || head.Faults[0].Kind != c.want {
			t.Errorf("%v: got %v", c.want, head.Faults)
			continue
		}
		if a := Audit(1, []ReplicaHistory{{Node: 1, Replica: 1, Head: head}}); len(a.Violations) == 0 || !strings.Contains(a.Violations[0], c.want.String()) {
			t.Errorf("%v: the audit says %q", c.want, a.Violations)
		}
	}
	h := NewHistory(1, Fence{}, nil) // faults are bounded
	for i := range uint64(100) {
		raw := batch(77, 5)
		var cmd Command
		if err := DecodeCommand(raw, &cmd); err != nil {
			t.Fatal(err)
		}
		h.Command(i+2, 5, &cmd, raw, Accepted, 0)
	}
	if head := h.Head(); len(head.Faults) != historyFaults || head.Faulty != 100 {
		t.Errorf("%d faults kept of %d", len(head.Faults), head.Faulty)
	}
}

// tenureOf is a good tenure of n batches, one in each entry after its acquire.
func tenureOf(number uint64, token, prev Token, n uint64) Tenure {
	t := Tenure{Number: number, Token: token, Prev: prev, Term: 3, Epoch: 4, Holder: Holder{1, 2, 3}, Seq: n, Batches: n, At: Print{Index: uint64(token), Hash: 5}}
	if n > 0 {
		t.First, t.Last = uint64(token)+1, uint64(token)+n
	}
	return t
}

func TestAuditFindsBadHistories(t *testing.T) {
	good := func(node ring.NodeID) ReplicaHistory {
		last := tenureOf(4, 40, 30, 3)
		return ReplicaHistory{Node: node, Replica: ring.ReplicaID(node), Tenures: []Tenure{tenureOf(1, 10, 0, 5), tenureOf(2, 20, 10, 0), tenureOf(3, 30, 20, 4)},
			Head: HistoryHead{Index: 50, Since: 1, Origin: 1, Entries: 20, Now: Print{Index: 43, Hash: 9}, Tenure: last, Ended: 3}}
	}
	for _, c := range []struct {
		name string
		want string // empty: nothing is wrong
		edit func(x, y *ReplicaHistory)
	}{
		{"good", "", func(x, y *ReplicaHistory) {}},
		{"one is behind", "", func(x, y *ReplicaHistory) {
			y.Tenures, y.Head.Tenure, y.Head.Ended, y.Head.Index, y.Head.Now = y.Tenures[:2], y.Tenures[2], 2, 36, Print{Index: 34, Hash: 8}
		}},
		{"one began later", "", func(x, y *ReplicaHistory) {
			y.Tenures, y.Head.Ended, y.Head.Since, y.Head.Origin = nil, 0, 42, 42
			y.Head.Tenure = Tenure{Number: 1, Token: 40, Term: 3, Epoch: 4, Holder: Holder{1, 2, 3}, SeqFrom: 2, Seq: 3, Batches: 1, First: 43, Last: 43}
		}},
		{"interleaved on one", "interleave", func(x, y *ReplicaHistory) { x.Tenures[0].Last = 33; y.Tenures[0].Last = 33 }},
		{"interleaved between two", "interleave", func(x, y *ReplicaHistory) {
			y.Tenures, y.Head.Tenure, y.Head.Ended, y.Head.Index = y.Tenures[:2], y.Tenures[2], 2, 45
			y.Head.Tenure.Seq, y.Head.Tenure.Batches, y.Head.Tenure.Last = 9, 9, 44 // goes on under 30 when x is at 40
		}},
		{"two holders", "two holders", func(x, y *ReplicaHistory) { y.Tenures[1].Holder.Node = 8 }},
		{"two holders, by boot", "two holders", func(x, y *ReplicaHistory) { y.Tenures[1].Holder.Boot++ }},
		{"epochs going back", "epochs never go back", func(x, y *ReplicaHistory) { x.Tenures[1].Epoch, y.Tenures[1].Epoch = 9, 9 }},
		{"terms going back", "terms never go back", func(x, y *ReplicaHistory) { x.Tenures[1].Term, y.Tenures[1].Term = 9, 9 }},
		{"tokens going back", "tokens never go back", func(x, y *ReplicaHistory) { x.Tenures[0].Token = 25 }},
		{"acquired over another", "for the current one", func(x, y *ReplicaHistory) { x.Tenures[2].Prev, y.Tenures[2].Prev = 10, 10 }},
		{"gap in the sequence", "gap", func(x, y *ReplicaHistory) { x.Tenures[0].Seq, y.Tenures[0].Seq = 6, 6 }},
		{"a batch twice", "gap", func(x, y *ReplicaHistory) { x.Tenures[0].Batches, y.Tenures[0].Batches = 6, 6 }},
		{"a batch after the release", "after its release", func(x, y *ReplicaHistory) { x.Tenures[0].Released, x.Tenures[0].Seq = 12, 6 }},
		{"a batch before the acquire", "before its acquire", func(x, y *ReplicaHistory) { x.Tenures[0].First = 9 }},
		{"diverged in a tenure", "differ in what took effect before token 30", func(x, y *ReplicaHistory) { y.Tenures[2].At.Hash++ }},
		{"diverged at the end", "differ in what took effect last", func(x, y *ReplicaHistory) { y.Head.Now.Hash++ }},
		{"one saw an entry more", "differ in what took effect last", func(x, y *ReplicaHistory) { y.Head.Now.Index++ }},
		{"diverged lately", "differ in what took effect lately", func(x, y *ReplicaHistory) {
			y.Head.Index, y.Head.Now = 60, Print{Index: 55, Hash: 3}
			x.Recent, y.Recent = []Print{{Index: 42, Hash: 1}, {Index: 43, Hash: 2}}, []Print{{Index: 43, Hash: 4}, {Index: 55, Hash: 3}}
		}},
		{"diverged in a window", "differ in what took effect from 1024 to 2047", func(x, y *ReplicaHistory) {
			x.Checkpoints = []Checkpoint{{Number: 1, Print: Print{Index: 2000, Window: 1, Hash: 1}}}
			y.Checkpoints = []Checkpoint{{Number: 1, Print: Print{Index: 2000, Window: 1, Hash: 2}}}
		}},
		{"one did not see a token", "did not", func(x, y *ReplicaHistory) {
			y.Tenures = []Tenure{y.Tenures[0], y.Tenures[2]}
			y.Tenures[1].Number = 2
			y.Head.Tenure.Number, y.Head.Ended = 3, 2
		}},
		{"one saw more under a token", "under token 30", func(x, y *ReplicaHistory) { y.Tenures[2].Seq, y.Tenures[2].Batches, y.Tenures[2].Last = 5, 5, 35 }},
		{"one refused what the other took", "under token 20", func(x, y *ReplicaHistory) { y.Tenures[1].Refused = 1 }},
		{"a row is missing", "rows are missing", func(x, y *ReplicaHistory) { x.Tenures[2].Number = 7 }},
		{"rows beyond the end", "the history ends at", func(x, y *ReplicaHistory) { x.Head.Index, y.Head.Index = 41, 41 }},
	} {
		x, y := good(1), good(2)
		c.edit(&x, &y)
		a := Audit(7, []ReplicaHistory{x, y})
		switch {
		case c.want == "" && len(a.Violations) > 0:
			t.Errorf("%s: %q", c.name, a.Violations)
		case c.want != "" && !strings.Contains(strings.Join(a.Violations, "\n"), c.want):
			t.Errorf("%s: want %q, got %q", c.name, c.want, a.Violations)
		case c.want != "" && !strings.HasPrefix(a.Violations[0], "shard-6: "):
			t.Errorf("%s: the shard is not named: %q", c.name, a.Violations[0])
		}
	}
}

// Rows are bounded: of many, the newest are kept.
func TestHistoryIsBounded(t *testing.T) {
	e := openHistory(t)
	h := NewHistory(1, Fence{}, nil)
	put := stored(t, e, 1)
	var f Fence
	index := uint64(1)
	for range HistoryTenures*2 + 10 {
		index++
		c := Command{Kind: KindAcquire, Acquire: Acquire{Prev: f.Token, Term: 1, Holder: Holder{1, 2, 3}}}
		raw := AppendAcquire(nil, c.Acquire)
		f, _ = f.Step(index, 1, &c)
		h.Command(index, 1, &c, raw, Accepted, 0)
		put(h.Take(index, f))
	}
	r := readHistory(t, e, 1, h)
	if n := len(r.Tenures); n != HistoryTenures {
		t.Fatalf("%d tenures are kept", n)
	}
	if from := r.reaches(); from != uint64(r.Tenures[0].Token)-1 || from <= 1 {
		t.Errorf("it reaches back to %d", from)
	}
	if a := Audit(1, []ReplicaHistory{r, r}); len(a.Violations) > 0 || a.From != r.reaches() {
		t.Errorf("%+v", a)
	}
	// A row that is damaged is not taken for history.
	b := e.NewBatch()
	defer b.Close()
	b.set(appendHistoryRow(nil, 1, rowTenure, 5), []byte("not a row"))
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.HistoryRows(1, &r.Head); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a damaged row: %v", err)
	}
}

func TestHistoryCosts(t *testing.T) {
	h := NewHistory(1, Fence{}, nil)
	c := Command{Kind: KindBatch, Token: 2, Seq: 1, Count: 1}
	raw := AppendBatchHead(nil, 2, 1, 1)
	index := uint64(1)
	f := Fence{Token: 2}
	h.head.Tenure.Token = 2
	if n := testing.AllocsPerRun(500, func() {
		index++
		c.Seq = h.head.Tenure.Seq + 1
		h.Command(index, 1, &c, raw, Accepted, 0)
		h.Take(index, f)
	}); n != 0 {
		t.Errorf("%v allocations for each entry", n)
	}
}

func BenchmarkHistory(b *testing.B) {
	for _, size := range []int{100, 1000, 100000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			h := NewHistory(1, Fence{}, nil)
			raw := AppendWrite(AppendBatchHead(nil, 2, 1, 1), &Write{Key: []byte("key"), Value: make([]byte, size)})
			c := Command{Kind: KindBatch, Token: 2, Count: 1}
			h.head.Tenure.Token = 2
			f := Fence{Token: 2}
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for i := uint64(2); b.Loop(); i++ {
				c.Seq = i - 1
				h.Command(i, 1, &c, raw, Accepted, 0)
				h.Take(i, f)
			}
		})
	}
}
