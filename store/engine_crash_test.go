package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ringfence/ringfence/ring"
)

const crashGroups = 3

// crashFS is fs without the reuse of old files: MemFS's locks twice there, and hangs if a crash clone comes between.
type crashFS struct{ vfs.FS }

func (c crashFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := c.Remove(oldname); err != nil {
		return nil, err
	}
	return c.Create(newname, category)
}

// crashModel issues numbered batches and remembers what the database must hold after each.
type crashModel struct {
	rng    *rand.Rand
	states []map[string]string // by batch number; 0 is the beginning
	acked  int                 // batches up to this one are fsynced
}

func crashKey(g ring.GroupID, k string) string { return fmt.Sprintf("%d/%s", g, k) }

// replace puts a new replica in the place of a group's: nothing is left of the old one. It is fsynced.
func (m *crashModel) replace(t *testing.T, e *Engine) {
	g := ring.GroupID(1 + m.rng.IntN(crashGroups))
	have, err := e.Replica(g)
	must(t, err)
	n := len(m.states)
	next := make(map[string]string)
	for k, v := range m.states[n-1] {
		if !strings.HasPrefix(k, crashKey(g, "")) {
			next[k] = v
		}
	}
	next[crashKey(g, "hard")] = fmt.Sprint("first", n)
	must(t, e.replaceReplica(ReplicaRecord{Group: g, Replica: have.Replica + 1, MinNext: have.Replica + 2, generation: have.generation + 1}, func(b *Batch) {
		b.SetRecord(g, RecordHardState, fmt.Append(nil, "first", n))
		b.SetRecord(1, RecordConf, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}))
	m.states, m.acked = append(m.states, next), n
}

// step commits one random batch: writes, deletions, entries, truncations and records of several groups.
func (m *crashModel) step(t *testing.T, e *Engine, b *Batch) {
	n := len(m.states)
	next := make(map[string]string)
	for k, v := range m.states[n-1] {
		next[k] = v
	}
	for range 1 + m.rng.IntN(4) {
		g := ring.GroupID(1 + m.rng.IntN(crashGroups))
		switch m.rng.IntN(6) {
		case 5:
			b.SetRecord(g, RecordHardState, fmt.Append(nil, n))
			next[crashKey(g, "hard")] = fmt.Sprint(n)
		case 0:
			b.SetRecord(g, RecordFence, fmt.Append(nil, n))
			next[crashKey(g, "fence")] = fmt.Sprint(n)
		case 1:
			from := uint64(m.rng.IntN(20))
			to := from + uint64(m.rng.IntN(5))
			b.DeleteEntries(g, from, to)
			for i := from; i < to; i++ {
				delete(next, crashKey(g, fmt.Sprint("e", i)))
			}
		case 2:
			i := uint64(m.rng.IntN(20))
			b.SetEntry(g, i, fmt.Append(nil, n), []byte("data"))
			next[crashKey(g, fmt.Sprint("e", i))] = fmt.Sprint(n, "data")
		default:
			k := fmt.Sprint("k", m.rng.IntN(10))
			w := Write{Key: []byte(k), Value: append(fmt.Append(nil, n), make([]byte, m.rng.IntN(3000))...), Delete: m.rng.IntN(4) == 0}
			if w.Delete && m.rng.IntN(2) == 0 {
				w.End = fmt.Append(nil, "k", m.rng.IntN(10))
			}
			b.ApplyWrites(g, []Write{w, {Key: []byte("last"), Value: fmt.Append(nil, n)}})
			if !w.Delete {
				next[crashKey(g, k)] = string(w.Value)
			}
			for i := range 10 {
				if k := fmt.Sprint("k", i); w.Removes([]byte(k)) {
					delete(next, crashKey(g, k))
				}
			}
			next[crashKey(g, "last")] = fmt.Sprint(n)
		}
	}
	b.SetRecord(1, RecordConf, binary.BigEndian.AppendUint32(nil, uint32(n))) // the batch's number
	sync := m.rng.IntN(3) == 0
	must(t, b.Commit(sync))
	m.states = append(m.states, next)
	if sync {
		m.acked = n
	}
}

func readCrashState(t *testing.T, e *Engine) (n int, state map[string]string) {
	t.Helper()
	state = make(map[string]string)
	for g := ring.GroupID(1); g <= crashGroups; g++ {
		if v, ok, err := e.GroupRecord(g, RecordFence); err != nil {
			t.Fatal(err)
		} else if ok {
			state[crashKey(g, "fence")] = string(v)
		}
		if v, ok, err := e.GroupRecord(g, RecordHardState); err != nil {
			t.Fatal(err)
		} else if ok {
			state[crashKey(g, "hard")] = string(v)
		}
		must(t, e.ScanEntries(g, 0, endOfLog, func(i uint64, v []byte) error {
			state[crashKey(g, fmt.Sprint("e", i))] = string(v)
			return nil
		}))
		must(t, e.StateReader(g).Scan(nil, nil, false, func(k, v []byte) bool {
			state[crashKey(g, string(k))] = string(v)
			return true
		}))
	}
	v, ok, err := e.GroupRecord(1, RecordConf)
	must(t, err)
	if ok {
		n = int(binary.BigEndian.Uint32(v))
	}
	return n, state
}

func equalStates(a, b map[string]string) string {
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return fmt.Sprintf("%s is %.20q, want %.20q", k, v, w)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			return k + " is missing"
		}
	}
	return ""
}

// TestCrashAfterEveryStep: whatever the disk kept of what was not fsynced, the database comes back as it was after one of the
// batches, not before the last that was fsynced; so acknowledged ⊆ recovered ⊆ issued, in order. Identity and watermark survive.
func TestCrashAfterEveryStep(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		for seed, journal := range []int{0, 100, 400} { // the smaller ones are trimmed with nearly every batch
			t.Run(fmt.Sprintf("%d%%-journal%d", percent, journal), func(t *testing.T) {
				t.Parallel()
				crashRun(t, percent, uint64(seed), journal)
			})
		}
	}
}

func crashRun(t *testing.T, percent int, seed uint64, journal int) {
	rng := rand.New(rand.NewPCG(seed, uint64(percent)))
	fs := vfs.NewCrashableMem()
	e := openJournal(t, crashFS{fs}, "/up/data", journal)
	for g := ring.GroupID(1); g <= crashGroups; g++ {
		must(t, e.CreateReplica(g, 1, nil))
	}
	id := e.Identity()
	m := &crashModel{rng: rng, states: []map[string]string{{}}}
	b := e.NewBatch()
	defer b.Close()
	marked := uint64(0)
	for step := range 60 {
		switch {
		case step%10 == 3:
			marked++
			must(t, e.WriteWatermark([]Mark{{Group: 1, Replica: 1, Last: marked}}))
			m.acked = len(m.states) - 1 // its fsync covered all before
		case step%10 == 7:
			must(t, e.db.Flush())
		case step%10 == 9:
			m.replace(t, e)
		default:
			m.step(t, e, b)
		}
		e2 := openJournal(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), "/up/data", journal)
		n, state := readCrashState(t, e2)
		if n < m.acked || n >= len(m.states) {
			t.Fatalf("step %d: batch %d recovered; %d were acknowledged, %d issued", step, n, m.acked, len(m.states)-1)
		}
		if diff := equalStates(state, m.states[n]); diff != "" {
			t.Fatalf("step %d: recovered batch %d, but %s", step, n, diff)
		}
		if e2.Identity() != id {
			t.Fatalf("step %d: identity %+v, want %+v", step, e2.Identity(), id)
		}
		must(t, e2.Regressed(Mark{Group: 1, Replica: 1, Last: marked}))
		if w := e2.Watermark(); marked > 0 && (len(w) != 1 || w[0].Last != marked) {
			t.Fatalf("step %d: watermark %+v, want %d", step, w, marked)
		}
		checkJournal(t, e2, fmt.Sprint("step ", step))
		must(t, e2.Close())
	}
	if journal > 0 && e.journal.first < 5 {
		t.Errorf("the journal begins with record %d: it was hardly trimmed", e.journal.first)
	}
}

// TestCrashWhileCommitting takes crash clones while another goroutine commits.
func TestCrashWhileCommitting(t *testing.T) {
	fs := vfs.NewCrashableMem()
	e := openJournal(t, crashFS{fs}, "/d", 600)
	const keep = 20
	var acked, issued atomic.Int64
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		b := e.NewBatch()
		defer b.Close()
		for n := int64(1); ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			for g := range ring.GroupID(4) {
				b.SetRecord(g, RecordFence, binary.BigEndian.AppendUint64(nil, uint64(n)))
				b.SetEntry(g, uint64(n), binary.BigEndian.AppendUint64(nil, uint64(n)), nil)
				b.SetRecord(g, RecordHardState, binary.BigEndian.AppendUint64(nil, uint64(n)))
				if n > keep {
					b.DeleteEntries(g, 0, uint64(n-keep))
				}
			}
			issued.Store(n)
			if err := b.Commit(n%4 == 0); err != nil {
				done <- err
				return
			}
			if n%4 == 0 {
				acked.Store(n)
			}
		}
	}()
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 24 {
		low := acked.Load()
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 70, 100}[i%4], RNG: rng})
		high := issued.Load()
		e2 := openJournal(t, clone, "/d", 600)
		var got [4]int64
		for g := range got {
			v, ok, err := e2.GroupRecord(ring.GroupID(g), RecordFence)
			must(t, err)
			if ok {
				got[g] = int64(binary.BigEndian.Uint64(v))
			}
			if got[g] != got[0] || got[g] < low || got[g] > high {
				t.Fatalf("recovered %v; acknowledged %d, issued %d", got, low, high)
			}
			next := uint64(max(1, got[g]-keep))
			must(t, e2.ScanEntries(ring.GroupID(g), 0, endOfLog, func(i uint64, v []byte) error {
				if i != next || binary.BigEndian.Uint64(v) != i {
					return fmt.Errorf("group %d at %d: entry %d is %x, and %d was expected", g, got[g], i, v, next)
				}
				next++
				return nil
			}))
			hard, _, err := e2.GroupRecord(ring.GroupID(g), RecordHardState)
			must(t, err)
			if got[g] > 0 && (next != uint64(got[g])+1 || binary.BigEndian.Uint64(hard) != uint64(got[g])) {
				t.Fatalf("group %d at %d: entries end before %d, hard state %x", g, got[g], next, hard)
			}
		}
		must(t, e2.Close())
	}
	close(stop)
	must(t, <-done)
}

// TestCrashDuringFirstOpen: a directory whose making was interrupted anywhere opens again.
func TestCrashDuringFirstOpen(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		rng := rand.New(rand.NewPCG(3, uint64(percent)))
		fs := vfs.NewCrashableMem()
		var mu sync.Mutex // Pebble writes in the background too
		var clones []*vfs.MemFS
		watch := errorfs.Wrap(crashFS{fs}, errorfs.InjectorFunc(func(o errorfs.Op) error {
			if o.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				mu.Lock()
				defer mu.Unlock()
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
			return nil
		}))
		opts := testOptions(watch)
		e, err := Open("/up/data", opts)
		must(t, err)
		mu.Lock()
		points := slices.Clone(clones)
		mu.Unlock()
		n := len(points)
		if n < 20 {
			t.Fatalf("only %d crash points", n)
		}
		for i, c := range points {
			e2, err := Open("/up/data", testOptions(c))
			if err != nil {
				t.Fatalf("%d%%, crash point %d of %d: %v", percent, i, n, err)
			}
			if e2.Identity().Node == 0 {
				t.Fatalf("crash point %d: no identity", i)
			}
			must(t, e2.Close())
		}
		must(t, e.Close())
	}
}

// TestFailedSyncEndsTheProcess: a failed fsync, of the WAL or of a file beside it, reaches the fatal hook, and nobody hears
// of success.
func TestFailedSyncEndsTheProcess(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		do         func(e *Engine) error
	}{
		{"wal", ".log", func(e *Engine) error { return e.PutRecord("r", []byte("v")) }},
		{"batch", ".log", func(e *Engine) error {
			b := e.NewBatch()
			b.SetRecord(1, RecordFence, []byte("f"))
			return b.Commit(true)
		}},
		{"watermark file", fileWatermark + ".tmp", func(e *Engine) error { return e.WriteWatermark(nil) }},
		{"directory", "/d", func(e *Engine) error { return e.WriteWatermark(nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var on atomic.Bool
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
				isSync := o.Kind == errorfs.OpFileSync || o.Kind == errorfs.OpFileSyncData || o.Kind == errorfs.OpFileSyncTo
				if on.Load() && isSync && strings.HasSuffix(o.Path, tc.path) {
					return errors.New("the disk is gone")
				}
				return nil
			}))
			fatal := make(chan string, 16)
			opts := testOptions(fs)
			opts.Fatal = func(msg string) {
				fatal <- msg
				select {} // like os.Exit, it runs nothing that is deferred
			}
			e, err := Open("/d", opts) // never closed: its process is dead
			must(t, err)
			on.Store(true)
			success := make(chan error, 1)
			go func() { success <- tc.do(e) }()
			select {
			case msg := <-fatal:
				if !strings.Contains(msg, "the disk is gone") {
					t.Errorf("the hook heard %q", msg)
				}
			case err := <-success:
				t.Fatalf("the operation came back with %v", err)
			case <-time.After(10 * time.Second):
				t.Fatal("nobody heard of the failed fsync")
			}
		})
	}
}

// TestFullDiskEndsTheProcess: a new WAL that cannot be made reaches the fatal hook in words, though Pebble would panic.
func TestFullDiskEndsTheProcess(t *testing.T) {
	for name, full := range map[string]func(o errorfs.Op) bool{
		"no new file":            func(o errorfs.Op) bool { return o.Kind == errorfs.OpCreate || o.Kind == errorfs.OpReuseForWrite },
		"no new directory entry": func(o errorfs.Op) bool { return o.Kind == errorfs.OpFileSync && strings.HasSuffix(o.Path, dirDatabase) },
		"no room":                func(o errorfs.Op) bool { return o.Kind == errorfs.OpFileWrite },
	} {
		t.Run(name, func(t *testing.T) {
			var on atomic.Bool
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
				if on.Load() && full(o) {
					return syscall.ENOSPC
				}
				return nil
			}))
			fatal := make(chan string, 16)
			opts := testOptions(fs)
			opts.MemTableBytes = 256 << 10
			opts.Fatal = func(msg string) {
				fatal <- msg
				select {}
			}
			e, err := Open("/d", opts) // never closed: its process is dead
			must(t, err)
			must(t, e.PutRecord("r", make([]byte, 100)))
			on.Store(true)
			success := make(chan error, 1)
			go func() {
				for i := range 100 {
					if err := e.PutRecord(fmt.Sprint(i), make([]byte, 32<<10)); err != nil {
						success <- err
						return
					}
				}
				success <- nil
			}()
			select {
			case msg := <-fatal:
				if !strings.Contains(msg, syscall.ENOSPC.Error()) || !strings.Contains(msg, " /d") {
					t.Errorf("the hook heard %q", msg)
				}
			case err := <-success:
				t.Fatalf("the writes came back with %v", err)
			case <-time.After(10 * time.Second):
				t.Fatal("nobody heard of the full disk")
			}
		})
	}
}

func TestGate(t *testing.T) {
	g := newGate()
	for range 2 {
		if !g.enter() {
			t.Fatal("an open gate is shut")
		}
	}
	closed := make(chan bool)
	go func() { closed <- g.close() }()
	for g.enter() { // until the other goroutine has shut it
		g.leave()
		runtime.Gosched()
	}
	g.leave()
	select {
	case <-closed:
		t.Fatal("closed while one is inside")
	default:
	}
	g.leave()
	if !<-closed {
		t.Fatal("the first close says it was closed before")
	}
	if g.close() || g.enter() {
		t.Fatal("a closed gate lets in or closes again")
	}
}

// TestCrashWhileTheManifestChanges: whichever names of files a crash keeps while Pebble goes from one MANIFEST to the next, as it does at each start, the directory opens again.
func TestCrashWhileTheManifestChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	fs := vfs.NewCrashableMem()
	must(t, openTest(t, crashFS{fs}, "/d").Close())
	var mu sync.Mutex
	var clones []*vfs.MemFS
	var did []string // what happened to the marker, and when names were synced
	watch := errorfs.Wrap(crashFS{fs}, errorfs.InjectorFunc(func(o errorfs.Op) error {
		marker := strings.Contains(o.Path, "marker.manifest") && (o.Kind == errorfs.OpCreate || o.Kind == errorfs.OpRemove)
		dir := strings.HasSuffix(o.Path, "/"+dirDatabase) && o.Kind == errorfs.OpFileSync
		if marker || dir {
			mu.Lock()
			defer mu.Unlock()
			did = append(did, map[errorfs.OpKind]string{errorfs.OpCreate: "make", errorfs.OpRemove: "remove", errorfs.OpFileSync: "sync"}[o.Kind])
			for range 40 { // each keeps other names
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
			}
		}
		return nil
	}))
	must(t, openTest(t, watch, "/d").Close())
	// MemFS keeps a removed name until its directory is synced; other file systems may forget it at once, while the new marker's is not on disk.
	if order := strings.Join(did, " "); len(clones) < 100 || !strings.Contains(order, "sync make sync remove sync") || strings.Count(order, "make") != 1 {
		t.Fatalf("%d crash points: %s", len(clones), order)
	}
	for i, c := range clones {
		e, err := Open("/d", testOptions(c))
		if err != nil {
			t.Fatalf("crash point %d of %d: %v", i, len(clones), err)
		}
		must(t, e.Close())
	}
}

// TestCrashesBeforeTheFirstWatermark: power that fails again and again while the first watermark is written is not taken for a watermark that was lost.
func TestCrashesBeforeTheFirstWatermark(t *testing.T) {
	fs := vfs.NewCrashableMem()
	for range 4 {
		e := openTest(t, crashFS{fs}, "/d")
		seq := e.wmSeq + 1
		must(t, e.put([]byte{spaceNode, nodeTripwire}, binary.BigEndian.AppendUint64(nil, seq))) // as far as WriteWatermark comes
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
		must(t, e.Close())
	}
	e := openTest(t, crashFS{fs}, "/d")
	must(t, e.Regressed(Mark{Group: 1, Replica: 1}))
	must(t, e.WriteWatermark([]Mark{{Group: 1, Replica: 1, Last: 7}}))
	must(t, e.Close())
	if w := openTest(t, crashFS{fs}, "/d").Watermark(); len(w) != 1 || w[0].Last != 7 {
		t.Fatalf("%+v", w)
	}
}
