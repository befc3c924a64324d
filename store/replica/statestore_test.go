package replica

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// crashFS is fs without the reuse of old files: MemFS's locks twice there, and hangs if a crash clone comes between.
type crashFS struct{ vfs.FS }

func (c crashFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := c.Remove(oldname); err != nil {
		return nil, err
	}
	return c.Create(newname, category)
}

// The state after index i is a function of i alone, as it is for all replicas of a group: entry i writes i under key i mod 10
// and deletes key i+3 mod 10, and now and then those beside it; each seventh one changes the configuration. So what a crash left can be checked without
// knowing what was lost.
func crashWrites(from, to uint64) (ws []store.Write) {
	for i := from; i <= to; i++ {
		ws = append(ws, store.Write{Key: fmt.Append(nil, "k", i%10), Value: fmt.Append(nil, i)},
			store.Write{Key: fmt.Append(nil, "k", (i+3)%10), Delete: true})
		if i%5 == 0 {
			ws = append(ws, store.Write{Key: fmt.Append(nil, "k", (i+6)%10), End: fmt.Append(nil, "k", (i+9)%10), Delete: true})
		}
	}
	return ws
}

func crashConf(i uint64) *raftpb.ConfState {
	conf := &raftpb.ConfState{Voters: []uint64{1}}
	if i >= 7 {
		conf.Learners = []uint64{i - i%7}
	}
	return conf
}

func crashState(i uint64) map[string]string {
	m := make(map[string]string)
	for _, w := range crashWrites(2, i) {
		if !w.Delete {
			m[string(w.Key)] = string(w.Value)
		}
		maps.DeleteFunc(m, func(k, _ string) bool { return w.Removes([]byte(k)) })
	}
	return m
}

func crashData(i uint64) (s string) {
	m := crashState(i)
	for k := range 10 {
		if v, ok := m[fmt.Sprint("k", k)]; ok {
			s += fmt.Sprintf("k%d=%s ", k, v)
		}
	}
	return s
}

func crashTask(from, to uint64) *ApplyTask {
	t := &ApplyTask{Index: to, Fence: store.Fence{Token: 1, Seq: to}, Writes: crashWrites(from, to)}
	if from/7 != to/7 || from%7 == 0 {
		t.Conf = crashConf(to)
	}
	return t
}

func readerDump(t testing.TB, r store.Reader) (s string) {
	t.Helper()
	noErr(t, r.Scan(nil, nil, false, func(k, v []byte) bool { s += fmt.Sprintf("%s=%s ", k, v); return true }))
	return s
}

// replicaState is all that a replica finds on its disk.
type replicaState struct {
	first, last, lastTerm, term, vote, commit, applied uint64
}

// checkReplica opens the replica of group 2 and holds what it finds against the function.
func checkReplica(t *testing.T, fs vfs.FS) replicaState {
	t.Helper()
	e := openEngine(t, fs)
	defer e.Close()
	l := reopenLog(t, e, 2)
	s := NewStateStore(e, 2)
	applied, fence, err := s.Load()
	noErr(t, err)
	hs, conf, err := l.InitialState()
	noErr(t, err)
	noErr(t, l.Regression())
	if applied > 1 && fence.Seq != applied {
		t.Fatalf("applied %d with the fence of %d", applied, fence.Seq)
	}
	if got, want := readerDump(t, s.Reader()), crashData(applied); got != want {
		t.Fatalf("applied %d: data %s, want %s", applied, got, want)
	}
	if fmt.Sprint(conf) != fmt.Sprint(crashConf(applied)) {
		t.Fatalf("applied %d: configuration %v, want %v", applied, conf, crashConf(applied))
	}
	if hs.GetCommit() < applied || hs.GetCommit() > l.idx.last() {
		t.Fatalf("applied %d, commit %d, last %d", applied, hs.GetCommit(), l.idx.last())
	}
	es, err := l.Entries(l.idx.first(), l.idx.last()+1, 1<<40)
	noErr(t, err)
	for _, en := range es {
		if want := fmt.Sprintf("%d.%d", en.GetIndex(), en.GetTerm()); string(en.GetData()) != want {
			t.Fatalf("entry %s, want %s", en.GetData(), want)
		}
	}
	return replicaState{l.idx.first(), l.idx.last(), l.idx.lastTerm(), hs.GetTerm(), hs.GetVote(), hs.GetCommit(), applied}
}

// replicaRun plays the driver: appends with sync, hard states without, applies, compactions, installations.
type replicaRun struct {
	t       *testing.T
	rng     *rand.Rand
	e       *store.Engine
	l       *LogStore
	s       *StateStore
	now     replicaState
	history []replicaState
	commits uint64 // what Raft knows to be committed; the log may not know yet
	synced  int    // history up to here is durable
}

func (r *replicaRun) commit(b *store.Batch, sync bool) {
	r.t.Helper()
	noErr(r.t, b.Commit(sync))
	r.history = append(r.history, r.now)
	if sync {
		r.synced = len(r.history) - 1
	}
}

func (r *replicaRun) hs() *raftpb.HardState {
	return newHardState(r.now.term, r.now.vote, r.now.commit)
}

func (r *replicaRun) step(b *store.Batch) {
	n := &r.now
	switch k := r.rng.IntN(10); {
	case k < 4: // append, perhaps over a suffix that another leader replaces
		first := n.last + 1
		if n.last > r.commits && r.rng.IntN(2) == 0 {
			first = r.commits + 1
			n.term++
			n.vote = uint64(r.rng.IntN(3))
		}
		count := 1 + r.rng.IntN(6)
		es := logEntries(first, count, n.term)
		n.last, n.lastTerm = first+uint64(count)-1, n.term
		noErr(r.t, r.l.Stage(b, r.hs(), es))
		r.commit(b, true)
	case k < 6: // the commit index grows; nobody waits for that
		r.commits += uint64(r.rng.IntN(int(n.last-r.commits) + 1))
		if r.rng.IntN(2) == 0 {
			n.commit = r.commits
			noErr(r.t, r.l.Stage(b, r.hs(), nil))
			r.commit(b, false)
		}
	case k < 8:
		if r.commits > n.applied {
			to := n.applied + 1 + uint64(r.rng.IntN(int(r.commits-n.applied)))
			noErr(r.t, only(r.s.StageApply(b, crashTask(n.applied+1, to))))
			n.applied = to
			r.commit(b, false)
		}
	case k < 9:
		if top := min(n.applied, n.commit); top >= n.first {
			upTo := n.first + uint64(r.rng.IntN(int(top-n.first)+1))
			noErr(r.t, r.l.Compact(b, upTo))
			n.first = upTo + 1
			r.commit(b, false)
		}
	default:
		r.install(b, n.last+1+uint64(r.rng.IntN(9)))
	}
}

func (r *replicaRun) install(b *store.Batch, index uint64) {
	in, err := r.s.Install()
	noErr(r.t, err)
	noErr(r.t, in.Add([]byte("junk"), []byte("of a snapshot that was given up")))
	noErr(r.t, in.Abort())
	in, err = r.s.Install()
	noErr(r.t, err)
	addCrashData(r.t, in, index)
	n := &r.now
	n.term++
	r.commits = index
	n.first, n.last, n.lastTerm, n.commit, n.applied, n.vote = index+1, index, n.term, index, index, 0
	noErr(r.t, r.s.StageInstall(b, r.l, in, StateMeta{Index: index, Fence: store.Fence{Token: 1, Seq: index}, Conf: crashConf(index)}, n.term))
	r.commit(b, true)
}

func addCrashData(t *testing.T, in *store.Install, index uint64) {
	t.Helper()
	for k, v := range crashState(index) {
		noErr(t, in.Add([]byte(k), []byte(v)))
	}
}

// TestReplicaCrashes crashes after every step of a replica's life: what comes back is what it was after one of the batches
// since the last fsync, log, hard state and data together, except that the commit index is at least the applied one.
func TestReplicaCrashes(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%d%%-seed%d", percent, seed), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(percent)))
				fs := vfs.NewCrashableMem()
				journal := 0
				if seed > 0 {
					journal = 100 << seed // far less than a log
				}
				r := &replicaRun{t: t, rng: rng, e: openSmallJournal(t, crashFS{fs}, journal), now: replicaState{2, 1, 1, 1, 0, 1, 1}, commits: 1}
				var err error
				r.l, err = CreateLog(r.e, 2, 1, []ring.ReplicaID{1})
				noErr(t, err)
				r.s = NewStateStore(r.e, 2)
				r.history = []replicaState{r.now}
				b := r.e.NewBatch()
				for step := range 60 {
					r.step(b)
					if step%20 == 19 {
						noErr(t, r.e.WriteWatermark([]store.Mark{r.l.Mark()}))
						r.synced = len(r.history) - 1
					}
					got := checkReplica(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
					if !r.explains(got) {
						t.Fatalf("step %d: recovered %+v, which is none of %+v", step, got, r.history[r.synced:])
					}
				}
			})
		}
	}
}

func (r *replicaRun) explains(got replicaState) bool {
	for _, h := range r.history[r.synced:] {
		h.commit = max(h.commit, h.applied)
		if h == got {
			return true
		}
	}
	return false
}

// TestInstallCrashesWhole crashes at every write to the disk while a snapshot of several chunks is installed.
func TestInstallCrashesWhole(t *testing.T) {
	for _, percent := range []int{0, 40, 100} {
		rng := rand.New(rand.NewPCG(11, uint64(percent)))
		fs := vfs.NewCrashableMem()
		var mu sync.Mutex
		var clones []*vfs.MemFS
		recording, writes := false, 0
		e := openSmallJournal(t, errorfs.Wrap(crashFS{fs}, errorfs.InjectorFunc(func(o errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if recording && o.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if writes++; o.Kind == errorfs.OpFileWrite && writes%8 != 0 {
					return nil
				}
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
			return nil
		})), percent*4)
		l, err := CreateLog(e, 2, 1, []ring.ReplicaID{1})
		noErr(t, err)
		s := NewStateStore(e, 2)
		b := e.NewBatch()
		noErr(t, l.Stage(b, newHardState(1, 0, 9), logEntries(2, 12, 1)))
		noErr(t, only(s.StageApply(b, &ApplyTask{Index: 9, Writes: []store.Write{{Key: []byte("old"), Value: []byte("1")}}, Conf: crashConf(9)})))
		noErr(t, b.Commit(true))
		mu.Lock()
		recording = true
		mu.Unlock()
		in, err := s.Install()
		noErr(t, err)
		big := make([]byte, 700<<10)
		for i := range 3 {
			noErr(t, in.Add(fmt.Append(nil, "new", i), big))
		}
		noErr(t, s.StageInstall(b, l, in, StateMeta{Index: 500, Fence: store.Fence{Token: 77}, Conf: crashConf(500)}, 3))
		noErr(t, b.Commit(true))
		mu.Lock()
		recording = false
		points := append(clones, fs.CrashClone(vfs.CrashCloneCfg{}))
		mu.Unlock()
		var old, renewed int
		for i, c := range points {
			e := openEngine(t, c)
			l := reopenLog(t, e, 2)
			s := NewStateStore(e, 2)
			applied, fence, err := s.Load()
			noErr(t, err)
			var keys []string
			noErr(t, s.Reader().Scan(nil, nil, false, func(k, v []byte) bool { keys = append(keys, string(k)); return true }))
			got := fmt.Sprint(applied, fence.Token, l.idx.first(), l.idx.last(), l.hs.GetTerm(), l.hs.GetCommit(), keys)
			switch got {
			case "9 0 2 13 1 9 [old]":
				old++
			case "500 77 501 500 3 500 [new0 new1 new2]":
				renewed++
			default:
				t.Fatalf("%d%%, crash point %d of %d: %s", percent, i, len(points), got)
			}
			noErr(t, e.Close())
		}
		if old < 2 || renewed < 1 {
			t.Fatalf("%d%%: %d crash points before, %d after", percent, old, renewed)
		}
	}
}

func TestFreezeAndExport(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	_, err := CreateLog(e, 2, 1, []ring.ReplicaID{1})
	noErr(t, err)
	s := NewStateStore(e, 2)
	b := e.NewBatch()
	noErr(t, only(s.StageApply(b, crashTask(2, 20))))
	noErr(t, b.Commit(false))
	f, err := s.Freeze()
	noErr(t, err)
	noErr(t, only(s.StageApply(b, crashTask(21, 40))))
	noErr(t, b.Commit(false))
	if f.Index != 20 || f.Fence.Seq != 20 || fmt.Sprint(f.Conf) != fmt.Sprint(crashConf(20)) {
		t.Fatalf("%+v", f.StateMeta)
	}
	var got string
	noErr(t, f.Export(nil, func(k, v []byte) error { got += fmt.Sprintf("%s=%s ", k, v); return nil }))
	if got != crashData(20) {
		t.Fatalf("exported %s, want %s", got, crashData(20))
	}
	// What one replica exports another installs, and both are alike.
	_, err = CreateLog(e, 9, 1, nil)
	noErr(t, err)
	to := NewStateStore(e, 9)
	in, err := to.Install()
	noErr(t, err)
	noErr(t, f.Export(nil, in.Add))
	l := reopenLog(t, e, 9)
	noErr(t, to.StageInstall(b, l, in, f.StateMeta, 1))
	noErr(t, b.Commit(true))
	noErr(t, f.Close())
	if applied, fence, err := to.Load(); err != nil || applied != 20 || fence.Seq != 20 || readerDump(t, to.Reader()) != crashData(20) {
		t.Fatalf("installed %d %+v %v: %s", applied, fence, err, readerDump(t, to.Reader()))
	}
	if first, _ := l.FirstIndex(); first != 21 {
		t.Fatalf("the log begins at %d", first)
	}
	if hs, conf, err := l.InitialState(); err != nil || hs.GetCommit() != 20 || fmt.Sprint(conf) != fmt.Sprint(crashConf(20)) {
		t.Fatal(hs, conf, err)
	}
	// A removed replica's state is nothing that Load takes for a state.
	noErr(t, e.RemoveReplica(9, 2))
	if _, _, err := to.Load(); err == nil {
		t.Fatal("loaded what was removed")
	}
	noErr(t, e.Close())
	if _, _, err := s.Load(); !errors.Is(err, store.ErrClosed) {
		t.Fatal(err)
	}
}
