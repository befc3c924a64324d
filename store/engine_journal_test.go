package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ringfence/ringfence/ring"
)

// openJournal opens a directory whose journal has at most so many bytes, 0 for the default.
func openJournal(t testing.TB, fs vfs.FS, dir string, limit int) *Engine {
	t.Helper()
	opts := testOptions(fs)
	opts.JournalBytes = limit
	e, err := Open(dir, opts)
	must(t, err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

// logModel is what the logs of some groups hold.
type logModel struct {
	rng  *rand.Rand
	logs map[ring.GroupID]*modelLog
}

type modelLog struct {
	replica ring.ReplicaID // 0: none now
	next    ring.ReplicaID
	entries map[uint64]string
	hard    string
	base    uint64 // around which indices move
}

const journalGroups = 5

func newLogModel(rng *rand.Rand) *logModel {
	m := &logModel{rng: rng, logs: map[ring.GroupID]*modelLog{}}
	for g := ring.GroupID(1); g <= journalGroups; g++ {
		m.logs[g] = &modelLog{entries: map[uint64]string{}, next: 1, base: 10 * m.rng.Uint64N(1000)}
	}
	return m
}

// batch puts random changes of several groups into one batch.
func (m *logModel) batch(t *testing.T, e *Engine, b *Batch, n int) {
	ops := 1 + m.rng.IntN(8)
	if m.rng.IntN(20) == 0 {
		ops = 200
	}
	for op := range ops {
		g := ring.GroupID(1 + m.rng.IntN(journalGroups))
		if m.rng.IntN(4) > 0 {
			g = 1 // others rest for long
		}
		l := m.logs[g]
		l.base += uint64(m.rng.IntN(3))
		at := l.base + uint64(m.rng.IntN(30))
		switch m.rng.IntN(7) {
		case 0:
			from, to := at, at+uint64(m.rng.IntN(20))
			switch m.rng.IntN(4) {
			case 0:
				from = 0 // truncated
			case 1:
				to = at + 1000 // lost against another leader's
			}
			b.DeleteEntries(g, from, to)
			for i := range l.entries {
				if from <= i && i < to {
					delete(l.entries, i)
				}
			}
		case 1, 2:
			l.hard = fmt.Sprint("hard", n, op)
			b.SetRecord(g, RecordHardState, []byte(l.hard))
		default:
			for i := range uint64(1 + m.rng.IntN(4)) {
				head, data := fmt.Sprint(g, at+i, ".", n, op), make([]byte, m.rng.IntN(60))
				b.SetEntry(g, at+i, []byte(head), data)
				l.entries[at+i] = head + string(data)
			}
		}
	}
}

// replica makes or removes a replica of a group, and with it all that the group had.
func (m *logModel) replica(t *testing.T, e *Engine, n int) {
	g := ring.GroupID(1 + m.rng.IntN(journalGroups))
	l := m.logs[g]
	l.entries, l.hard = map[uint64]string{}, ""
	if l.replica != 0 {
		must(t, e.RemoveReplica(g, l.replica+1))
		l.replica = 0
		return
	}
	l.replica, l.next = l.next, l.next+1
	l.hard = fmt.Sprint("first", n)
	must(t, e.CreateReplica(g, l.replica, func(b *Batch) { b.SetRecord(g, RecordHardState, []byte(l.hard)) }))
}

func (m *logModel) check(t *testing.T, e *Engine, when string) {
	t.Helper()
	for g, l := range m.logs {
		from, to := uint64(0), uint64(endOfLog)
		if m.rng.IntN(2) == 0 {
			from = l.base + uint64(m.rng.IntN(40)) - min(l.base, 10)
			to = from + uint64(m.rng.IntN(30))
		}
		last, got := uint64(0), 0
		must(t, e.ScanEntries(g, from, to, func(i uint64, v []byte) error {
			if got > 0 && i <= last || i < from || i >= to {
				t.Fatalf("%s: %v: entry %d after %d, of %d to %d", when, g, i, last, from, to)
			}
			if want, ok := l.entries[i]; !ok || want != string(v) {
				t.Fatalf("%s: %v: entry %d is %q, want %q (%v)", when, g, i, v, want, ok)
			}
			last = i
			got++
			return nil
		}))
		want := 0
		for i := range l.entries {
			if from <= i && i < to {
				want++
			}
		}
		if got != want {
			t.Fatalf("%s: %v: %d entries from %d to %d, want %d", when, g, got, from, to, want)
		}
		i := l.base + uint64(m.rng.IntN(30))
		v, ok, err := e.Entry(g, i)
		must(t, err)
		if w, is := l.entries[i]; ok != is || string(v) != w {
			t.Fatalf("%s: %v: entry %d alone is %q (%v), want %q", when, g, i, v, ok, w)
		}
		v, ok, err = e.GroupRecord(g, RecordHardState)
		must(t, err)
		if ok != (l.hard != "") || string(v) != l.hard {
			t.Fatalf("%s: %v: hard state %q, want %q", when, g, v, l.hard)
		}
	}
	checkJournal(t, e, when)
}

// checkJournal holds what the journal counts against what it says where things are.
func checkJournal(t *testing.T, e *Engine, when string) {
	t.Helper()
	j := &e.journal
	live, bytes, all := map[uint64]int32{}, 0, 0
	entries := 0
	for _, p := range j.logs {
		for _, n := range p.at {
			if n != 0 {
				live[n]++
				entries++
			}
		}
		if n := len(p.at); n > 0 && (p.at[0] == 0 || p.at[n-1] == 0) {
			t.Fatalf("%s: %d places, and nothing at one end", when, n)
		}
		if p.hard != 0 {
			live[p.hard]++
		}
	}
	for i, r := range j.recs {
		if n := live[j.first+uint64(i)]; n != r.live {
			t.Fatalf("%s: record %d counts %d live, and there are %d", when, j.first+uint64(i), r.live, n)
		}
		delete(live, j.first+uint64(i))
		bytes += int(r.bytes)
		all += int(r.entries)
	}
	if len(live) > 0 || bytes != j.bytes || all != j.all || entries != j.live {
		t.Fatalf("%s: %v in no record; %d bytes, %d counted; %d entries, %d counted; %d live, %d counted", when, live, bytes, j.bytes, all, j.all, entries, j.live)
	}
}

// checkLoaded holds what the engine has read of a log at open against what is scanned, and reports whether it has read any.
func checkLoaded(t *testing.T, e *Engine, g ring.GroupID, when string) bool {
	t.Helper()
	l := e.LoadedLog(g)
	if l == nil {
		return false
	}
	if e.LoadedLog(g) != nil {
		t.Fatalf("%s: %v: given away twice", when, g)
	}
	k, kept := 0, 0
	must(t, e.ScanEntries(g, l.First, endOfLog, func(i uint64, v []byte) error {
		if k >= l.Len() || i != l.First+uint64(k) {
			t.Fatalf("%s: %v: entry %d is not the one after %d of %d from %d on", when, g, i, k, l.Len(), l.First)
		}
		head, size, value := l.Entry(k)
		if size != len(v) || string(head) != string(v[:min(len(v), loadedHead)]) || value != nil && string(value) != string(v) || value == nil && kept > 0 {
			t.Fatalf("%s: %v: entry %d is %.40q, and %.40q of %d bytes was read at open (%v)", when, g, i, v, head, size, value != nil)
		}
		if value != nil {
			kept += len(value)
		}
		k++
		return nil
	}))
	if k != l.Len() || kept != l.size || kept > loadedBytes && len(l.values) > 1 {
		t.Fatalf("%s: %v: %d entries, %d read at open; %d bytes kept", when, g, k, l.Len(), kept)
	}
	return true
}

// TestLoadedLogs: what is read of all logs at open is what they are, until they change.
func TestLoadedLogs(t *testing.T) {
	for _, limit := range []int{0, 1 << 20} {
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(limit)))
			fs := vfs.NewMem()
			e := openJournal(t, fs, "/d", limit)
			var first, next [6]uint64 // of groups 1 to 5, which grow, are cut at both ends, and begin anew
			for g := range next {
				first[g], next[g] = 1, 1
			}
			b := e.NewBatch()
			loaded, cut := 0, 0
			for round := range 300 {
				for range 1 + rng.IntN(20) {
					g := 1 + rng.IntN(5)
					switch k := rng.IntN(30); {
					case k == 0: // begins anew
						b.DeleteEntries(ring.GroupID(g), 0, next[g])
						next[g] += 10
						first[g] = next[g]
					case k < 3 && next[g] > first[g]: // another leader's entries
						from := first[g] + rng.Uint64N(next[g]-first[g])
						b.SetEntry(ring.GroupID(g), from, fmt.Append(nil, "other", round), nil)
						b.DeleteEntries(ring.GroupID(g), from+1, next[g])
						next[g] = from + 1
						cut++
					case k < 6 && next[g] > first[g]: // truncated
						from := first[g] + rng.Uint64N(next[g]-first[g])
						b.DeleteEntries(ring.GroupID(g), first[g], from)
						first[g] = from
					default:
						b.SetEntry(ring.GroupID(g), next[g], fmt.Append(nil, round), make([]byte, rng.IntN(20)*rng.IntN(20)*rng.IntN(500)))
						next[g]++
					}
				}
				must(t, b.Commit(false))
				if round%10 == 9 {
					must(t, e.Close())
					e = openJournal(t, fs, "/d", limit)
					b = e.NewBatch()
					b.SetEntry(5, next[5], []byte("x"), nil)
					next[5]++
					b.SetRecord(4, RecordHardState, []byte("h"))
					must(t, b.Commit(false))
					if checkLoaded(t, e, 5, "changed") {
						t.Fatal("a log has changed since, and what was read of it at open is given away")
					}
					for g := ring.GroupID(1); g < 5; g++ {
						if checkLoaded(t, e, g, fmt.Sprint("round ", round)) {
							loaded++
						} else if limit == 0 && next[g] > first[g] {
							t.Fatalf("round %d: %v: nothing was read", round, g)
						}
					}
				}
			}
			if loaded < 20 || cut < 20 {
				t.Errorf("%d logs were read at open, %d were cut", loaded, cut)
			}
		})
	}
}

// TestJournalAgainstModel: whatever is written, in whatever order, is read as written, while the journal is trimmed and things are moved all the time, and after each start.
func TestJournalAgainstModel(t *testing.T) {
	for _, limit := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("limit=%d/seed=%d", limit, seed), func(t *testing.T) {
				t.Parallel()
				m := newLogModel(rand.New(rand.NewPCG(seed, uint64(limit))))
				fs := vfs.NewMem()
				e := openJournal(t, fs, "/d", limit)
				b := e.NewBatch()
				moved, trimmed, opened := 0, false, 0
				for n := range 500 {
					switch k := m.rng.IntN(40); {
					case k == 0:
						must(t, e.Close())
						if opened++; opened%4 == 0 {
							ro, err := OpenReadOnly("/d", Options{FS: fs, Logger: quiet})
							must(t, err)
							m.check(t, ro, fmt.Sprintf("step %d, read only", n))
							must(t, ro.Close())
						}
						e = openJournal(t, fs, "/d", limit)
						b = e.NewBatch()
						for g := range m.logs {
							checkLoaded(t, e, g, fmt.Sprint("step ", n))
						}
					case k == 1:
						m.replica(t, e, n)
					default:
						m.batch(t, e, b, n)
						must(t, b.Commit(m.rng.IntN(3) == 0))
					}
					m.check(t, e, fmt.Sprint("step ", n))
					for _, p := range e.journal.logs {
						moved += int(p.to - p.from)
					}
					trimmed = trimmed || e.journal.first > 100
					if most := limit + 64<<10; e.journal.bytes > most {
						t.Fatalf("step %d: %d bytes in the journal", n, e.journal.bytes)
					}
				}
				if moved == 0 || !trimmed || opened < 3 {
					t.Errorf("nothing was tried: %d moved, trimmed %v, opened %d times", moved, trimmed, opened)
				}
			})
		}
	}
}

// TestJournalOfRestingGroups: groups that write no more do not keep what one writes that goes on.
func TestJournalOfRestingGroups(t *testing.T) {
	fs := vfs.NewMem()
	const limit = 16 << 20
	e := openJournal(t, fs, "/d", limit)
	b := e.NewBatch()
	for g := ring.GroupID(1); g <= 64; g++ {
		b.SetEntry(g, 5, []byte("once"), nil)
		b.SetRecord(g, RecordHardState, []byte("hard"))
		must(t, b.Commit(false))
	}
	data := make([]byte, 1000)
	const keep = 500
	for i := uint64(1); i < 20_000; i++ {
		b.SetEntry(99, i, data, nil)
		if i > keep && i%50 == 0 {
			b.DeleteEntries(99, 0, i-keep)
		}
		must(t, b.Commit(false))
		if n := e.journal.bytes; n > e.journal.atLeast+3*keep*1000+e.journal.rest {
			t.Fatalf("after %d entries of which %d are needed the journal has %d bytes", i, keep, n)
		}
	}
	for range 2 {
		for g := ring.GroupID(1); g <= 64; g++ {
			v, _, err := e.Entry(g, 5)
			must(t, err)
			h, _, err := e.GroupRecord(g, RecordHardState)
			must(t, err)
			if string(v) != "once" || string(h) != "hard" {
				t.Fatalf("%v: %q, %q", g, v, h)
			}
		}
		checkJournal(t, e, "at the end")
		must(t, e.Close())
		e = openJournal(t, fs, "/d", limit)
	}
}

// TestLargeRecords: entries as large as they come, and a record with thousands of one group.
func TestLargeRecords(t *testing.T) {
	for _, limit := range []int{64 << 10, 0} { // all is moved, or nothing
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) { largeRecords(t, limit) })
	}
}

func largeRecords(t *testing.T, limit int) {
	fs := vfs.NewMem()
	e := openJournal(t, fs, "/d", limit)
	b := e.NewBatch()
	big := make([]byte, 3<<20)
	binary.BigEndian.PutUint64(big[len(big)-8:], 77)
	b.SetEntry(1, 1, []byte("h"), big)
	for i := range uint64(20_000) {
		b.SetEntry(2, 100+i, binary.BigEndian.AppendUint64(nil, i), nil)
	}
	must(t, b.Commit(true))
	for range 3 {
		v, ok, err := e.Entry(1, 1)
		must(t, err)
		if !ok || len(v) != 1+len(big) || binary.BigEndian.Uint64(v[len(v)-8:]) != 77 {
			t.Fatal(ok, len(v))
		}
		n := uint64(0)
		must(t, e.ScanEntries(2, 0, endOfLog, func(i uint64, v []byte) error {
			if i != 100+n || binary.BigEndian.Uint64(v) != n {
				t.Fatalf("entry %d: %x", i, v)
			}
			n++
			return nil
		}))
		if n != 20_000 {
			t.Fatal(n, "entries")
		}
		b = e.NewBatch()
		b.SetRecord(3, RecordHardState, []byte("x"))
		must(t, b.Commit(false))
		must(t, e.Close())
		e = openJournal(t, fs, "/d", limit)
	}
}

// TestReadersOfTheJournal read while entries are appended, replaced and removed, and while things are moved and records go.
func TestReadersOfTheJournal(t *testing.T) {
	e := openJournal(t, vfs.NewMem(), "/d", 8<<10)
	const groups, keep = 3, 60
	var last [groups]atomic.Uint64 // entries up to it are not replaced any more
	var gone [groups]atomic.Uint64 // entries up to it may be gone
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := e.NewBatch()
		defer b.Close()
		var next [groups]uint64
		for round := range 3000 {
			g := round % groups
			if round > 1000 && g == 2 {
				g = 1 // group 3 rests
			}
			i := next[g] + 1
			for k := range uint64(3) { // the last two are replaced in the next round
				b.SetEntry(ring.GroupID(g+1), i+k, binary.BigEndian.AppendUint64(nil, i+k), []byte("some data"))
			}
			b.DeleteEntries(ring.GroupID(g+1), i+3, i+4)
			b.SetRecord(ring.GroupID(g+1), RecordHardState, binary.BigEndian.AppendUint64(nil, i))
			if i > keep && i%10 == 0 {
				gone[g].Store(i - keep)
				b.DeleteEntries(ring.GroupID(g+1), 0, i-keep+1)
			}
			if err := b.Commit(false); err != nil {
				t.Error(err)
				return
			}
			next[g] = i
			last[g].Store(i)
		}
	}()
	var wg sync.WaitGroup
	var reads atomic.Int64
	for r := range 3 {
		wg.Go(func() {
			g := ring.GroupID(r + 1)
			for running := true; running; reads.Add(1) {
				select {
				case <-done:
					running = false
				default:
				}
				to := last[r].Load()
				want := gone[r].Load() + 1
				err := e.ScanEntries(g, 0, to+1, func(i uint64, v []byte) error {
					if binary.BigEndian.Uint64(v) != i {
						return fmt.Errorf("entry %d is %x", i, v)
					}
					if i > want && i > gone[r].Load()+1 {
						return fmt.Errorf("entry %d where %d is expected", i, want)
					}
					want = i + 1
					return nil
				})
				if err == nil && want != to+1 && to > gone[r].Load() {
					err = fmt.Errorf("entries end at %d of %d", want-1, to)
				}
				v, ok, herr := e.GroupRecord(g, RecordHardState)
				if err == nil {
					err = herr
				}
				if err == nil && to > 0 && (!ok || binary.BigEndian.Uint64(v) < to) {
					err = fmt.Errorf("hard state %x (%v) after %d", v, ok, to)
				}
				if err != nil {
					t.Errorf("%v: %v", g, err)
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(time.Minute):
		t.Fatal("readers and writer do not come to an end")
	}
	if reads.Load() < 10 || e.journal.first < 100 {
		t.Errorf("%d reads, first record %d: nothing was tried", reads.Load(), e.journal.first)
	}
}

// TestWritersSideBySide: batches of several writers are in the journal in the order in which they took effect, whatever was moved meanwhile.
func TestWritersSideBySide(t *testing.T) {
	fs := vfs.NewMem()
	e := openJournal(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(o errorfs.Op) error {
		for range 50 { // an fsync takes its time
			runtime.Gosched()
		}
		return nil
	})), "/d", 8<<10)
	const rounds = 200
	var wg sync.WaitGroup
	start := make(chan struct{})
	for w := range ring.GroupID(4) {
		wg.Go(func() {
			b := e.NewBatch()
			defer b.Close()
			<-start
			for i := range uint64(rounds) {
				b.SetEntry(w+1, i, nil, fmt.Append(nil, i))
				b.SetRecord(w+1, RecordHardState, fmt.Append(nil, i))
				b.DeleteEntries(w+1, 0, i-min(i, 30))
				b.SetEntry(9, 1, fmt.Append(nil, uint64(w), " ", i), nil) // of all
				if err := b.Commit(true); err != nil {                    // waits, and others come between
					t.Error(err)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	last, _, err := e.Entry(9, 1)
	must(t, err)
	for range 2 {
		checkJournal(t, e, "at the end")
		for g := ring.GroupID(1); g <= 4; g++ {
			next := uint64(rounds - 31)
			must(t, e.ScanEntries(g, 0, endOfLog, func(i uint64, v []byte) error {
				if i != next || string(v) != fmt.Sprint(i) {
					return fmt.Errorf("%v: entry %d is %q; entry %d is expected", g, i, v, next)
				}
				next++
				return nil
			}))
			if v, _, err := e.GroupRecord(g, RecordHardState); err != nil || next != rounds || string(v) != fmt.Sprint(rounds-1) {
				t.Fatalf("%v: the log ends before %d, hard state %q, %v", g, next, v, err)
			}
		}
		if v, ok, err := e.Entry(9, 1); err != nil || !ok || string(v) != string(last) {
			t.Fatalf("what all set is %q, and was %q: %v", v, last, err)
		}
		must(t, e.Close())
		e = openJournal(t, fs, "/d", 0)
	}
}

// TestCloseWhileScanning: a scan that has begun ends well, though the engine is closed meanwhile; one that has not gets ErrClosed.
func TestCloseWhileScanning(t *testing.T) {
	e := openJournal(t, vfs.NewMem(), "/d", 1<<10)
	b := e.NewBatch()
	for i := range uint64(100) {
		b.SetEntry(1, i, nil, make([]byte, 50))
		must(t, b.Commit(false))
	}
	must(t, b.Close())
	closing := make(chan error, 1)
	n := 0
	must(t, e.ScanEntries(1, 0, endOfLog, func(uint64, []byte) error {
		if n++; n == 1 {
			go func() { closing <- e.Close() }()
			for e.gate.state.Load() < gateClosed {
				runtime.Gosched()
			}
		}
		return nil
	}))
	must(t, <-closing)
	if n != 100 {
		t.Fatalf("%d entries", n)
	}
	if err := e.ScanEntries(1, 0, 9, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, _, err := e.GroupRecord(1, RecordHardState); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}
