package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/ringfence/ringfence/ring"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func testOptions(fs vfs.FS) Options {
	return Options{FS: fs, Logger: quiet, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, Fatal: func(msg string) { panic("fatal: " + msg) }}
}

// openTest opens an engine that the test's end closes, unless the test did.
func openTest(t testing.TB, fs vfs.FS, dir string) *Engine {
	t.Helper()
	e, err := Open(dir, testOptions(fs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentityLastsAndIsFixed(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/a/b/data")
	node := e.Identity().Node
	if node == 0 {
		t.Fatal("no node ID")
	}
	c := ring.ClusterID{1, 2, 3}
	must(t, e.SetCluster(c, 64, 3, "lan"))
	must(t, e.SetCluster(c, 64, 3, "lan"))
	must(t, e.PutRecord("formation", []byte("promised")))
	must(t, e.Close())

	e = openTest(t, fs, "/a/b/data")
	want := Identity{Node: node, Cluster: c, Shards: 64, Replicas: 3, Timing: "lan"}
	if got := e.Identity(); got != want {
		t.Fatalf("identity %+v, want %+v", got, want)
	}
	v, ok, err := e.Record("formation")
	if err != nil || !ok || string(v) != "promised" {
		t.Fatalf("record: %q %v %v", v, ok, err)
	}
	if _, ok, err := e.Record("other"); ok || err != nil {
		t.Fatalf("a record that nobody wrote: %v %v", ok, err)
	}
	wantError(t, e.SetCluster(ring.ClusterID{9}, 64, 3, "lan"), "/a/b/data", c.String(), "not 09")
	wantError(t, e.SetCluster(c, 32, 3, "lan"), "64 shards", "not 32", "--shards")
	wantError(t, e.SetCluster(c, 64, 5, "lan"), "3 replicas", "not 5")
	wantError(t, e.SetCluster(c, 64, 3, "slow"), `"lan"`, `"slow"`)
	wantError(t, e.SetCluster(ring.ClusterID{}, 64, 3, "lan"), "not zero")
	wantError(t, e.PutRecord("", nil), "record")
	if e2 := openTest(t, vfs.NewMem(), "/x"); e2.Identity().Node == node {
		t.Fatal("two directories, one node ID")
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	if os.Getenv("STORE_TEST_LOCK_DIR") != "" {
		_, err := Open(os.Getenv("STORE_TEST_LOCK_DIR"), testOptions(nil))
		fmt.Println("CHILD:", err)
		return
	}
	e := openTest(t, nil, dir)
	_, err := Open(dir, testOptions(nil))
	wantError(t, err, dir, "in use", fmt.Sprintf("pid %d", os.Getpid()), "--data")

	cmd := exec.Command(os.Args[0], "-test.run=^TestDirectoryInUse$")
	cmd.Env = append(os.Environ(), "STORE_TEST_LOCK_DIR="+dir)
	out, err := cmd.CombinedOutput()
	must(t, err)
	if want := fmt.Sprintf("CHILD: data directory %s is in use by another process (pid %d)", dir, os.Getpid()); !bytes.Contains(out, []byte(want)) {
		t.Fatalf("another process said %s, want %s", out, want)
	}
	must(t, e.Close())
	openTest(t, nil, dir) // free again
	info, err := os.Stat(filepath.Join(dir, dirDatabase))
	if err != nil || !info.IsDir() {
		t.Fatal(err)
	}
}

func TestMadeDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	openTest(t, nil, dir)
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Fatalf("mode %v", info.Mode())
	}
}

// TestOpenErrors damages data directories in every way that has an error of its own.
func TestOpenErrors(t *testing.T) {
	const dir = "/data"
	path := func(name string) string { return dir + "/" + name }
	write := func(t *testing.T, fs vfs.FS, name, text string) {
		f, err := fs.Create(path(name), vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write([]byte(text))
		must(t, errors.Join(err, f.Sync(), f.Close()))
	}
	removeDB := func(t *testing.T, fs vfs.FS, match string) {
		names, err := fs.List(path(dirDatabase))
		must(t, err)
		n := 0
		for _, name := range names {
			if strings.Contains(name, match) {
				must(t, fs.Remove(path(dirDatabase+"/"+name)))
				n++
			}
		}
		if n == 0 {
			t.Fatalf("nothing to remove among %v", names)
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, fs vfs.FS)
		want   []string
	}{
		{"newer format", func(t *testing.T, fs vfs.FS) { write(t, fs, fileFormat, "ringfence-data 7 node 0000000000000001\n") },
			[]string{"format 7", "format 1", "version that wrote it"}},
		{"garbage format", func(t *testing.T, fs vfs.FS) { write(t, fs, fileFormat, "hello\n") }, []string{fileFormat, "damaged", "empty the directory"}},
		{"format of another node", func(t *testing.T, fs vfs.FS) { write(t, fs, fileFormat, "ringfence-data 1 node 0000000000000001\n") },
			[]string{"0000000000000001", "database is that of node"}},
		{"database gone", func(t *testing.T, fs vfs.FS) { must(t, fs.RemoveAll(path(dirDatabase))) }, []string{"damaged", "empty the directory"}},
		{"manifest gone", func(t *testing.T, fs vfs.FS) { removeDB(t, fs, "MANIFEST-") }, []string{"damaged", "empty the directory"}},
		{"manifest marker gone", func(t *testing.T, fs vfs.FS) { removeDB(t, fs, "marker.manifest") }, []string{"damaged", "empty the directory"}},
		{"newer pebble", func(t *testing.T, fs vfs.FS) {
			removeDB(t, fs, "marker.format-version")
			write(t, fs, dirDatabase+"/marker.format-version.000099.999", "")
		}, []string{"newer version"}},
		{"watermark damaged", func(t *testing.T, fs vfs.FS) { write(t, fs, fileWatermark, "RFWM nonsense") }, []string{path(fileWatermark), "checksum"}},
		{"watermark gone", func(t *testing.T, fs vfs.FS) { must(t, fs.Remove(path(fileWatermark))) }, []string{path(fileWatermark), "missing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			e := openTest(t, fs, dir)
			must(t, e.WriteWatermark(nil))
			must(t, e.WriteWatermark(nil))
			must(t, e.Close())
			tc.damage(t, fs)
			_, err := Open(dir, testOptions(fs))
			wantError(t, err, append(tc.want, dir)...)
			if _, again := Open(dir, testOptions(fs)); again == nil || again.Error() != err.Error() {
				t.Errorf("the second try says %v; is the lock still held?", again)
			}
		})
	}
}

// TestOpenWithoutFiles: a process that may open no more files when it starts hears of that, and not of damage.
func TestOpenWithoutFiles(t *testing.T) {
	mem := vfs.NewMem()
	_, err := Open("/d", testOptions(errorfs.Wrap(mem, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if o.Kind == errorfs.OpCreate && strings.HasSuffix(o.Path, fileWatermark+".tmp") {
			return syscall.EMFILE
		}
		return nil
	}))))
	wantError(t, err, "/d", "more open files", "ulimit -n")
	must(t, openTest(t, mem, "/d").Close())
}

func TestOpenWhereAFileIs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := Open(dir, testOptions(nil))
		wantError(t, err, dir, "file", "--data")
	}
	_, err := Open("", testOptions(nil))
	wantError(t, err, "--data")
}

func TestOpenWithoutPermission(t *testing.T) {
	for _, op := range []errorfs.OpKind{errorfs.OpMkdirAll, errorfs.OpLock, errorfs.OpStat} {
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
			if o.Kind == op {
				return &os.PathError{Op: "open", Path: o.Path, Err: os.ErrPermission}
			}
			return nil
		}))
		_, err := Open("/data", testOptions(fs))
		wantError(t, err, "/data", "chown")
	}
}

func TestClosedEngineRefuses(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	must(t, e.CreateReplica(3, 1, nil))
	r := e.StateReader(3)
	b := e.NewBatch()
	b.SetRecord(3, RecordFence, []byte("f"))
	f, err := e.Freeze(3)
	must(t, err)
	in, err := e.NewInstall(3)
	must(t, err)
	must(t, e.Close())
	_, _, getErr := r.Get([]byte("k"))
	_, _, recErr := e.Record("x")
	_, err = e.Replicas()
	_, freezeErr := e.Freeze(3)
	_, _, frozenErr := f.Record(RecordFence)
	for i, err := range []error{getErr, recErr, err, freezeErr, frozenErr, b.Commit(true), e.PutRecord("x", nil), r.Scan(nil, nil, false, nil),
		e.WriteWatermark(nil), e.CreateReplica(4, 1, nil), f.Export(nil, nil), e.Close(), in.Stage(e.NewBatch())} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v, want ErrClosed", i, err)
		}
	}
	must(t, f.Close())
	must(t, in.Abort())
	if e.Stats() != (Stats{}) {
		t.Error("figures of a closed engine")
	}
}

// TestCloseWaits runs readers, writers and scans while the engine is closed under them.
func TestCloseWaits(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	must(t, e.CreateReplica(1, 1, nil))
	r := e.StateReader(1)
	var wg sync.WaitGroup
	started := make(chan struct{}, 64)
	run := func(op func() error) {
		wg.Go(func() {
			for n := 0; ; n++ {
				if n == 3 {
					started <- struct{}{}
				}
				if err := op(); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("%v, want ErrClosed", err)
					}
					return
				}
			}
		})
	}
	for i := range 4 {
		run(func() error { _, _, err := r.Get([]byte("k")); return err })
		run(func() error {
			b := e.NewBatch()
			defer b.Close()
			b.ApplyWrites(1, []Write{{Key: []byte{byte(i)}, Value: []byte("v")}})
			return b.Commit(i%2 == 0)
		})
		run(func() error {
			var inner error
			err := r.Scan(nil, nil, i%2 == 0, func(k, v []byte) bool { _, _, inner = r.Get(k); return inner == nil })
			return errors.Join(err, inner)
		})
	}
	for range 12 {
		<-started
	}
	must(t, e.Close())
	wg.Wait()
}

func TestReplicaRecords(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	wantError(t, e.CreateReplica(7, 0, nil), "not zero")
	must(t, e.CreateReplica(7, 4, func(b *Batch) { b.SetRecord(7, RecordFence, []byte("f4")) }))
	wantError(t, e.CreateReplica(7, 9, nil), "shard-6", "replica 4 lives here")
	b := e.NewBatch()
	b.ApplyWrites(7, []Write{{Key: []byte("k"), Value: []byte("v")}})
	b.SetEntry(7, 11, []byte("head"), []byte("data"))
	must(t, b.Commit(true))
	r := e.StateReader(7)
	if v, ok, _ := r.Get([]byte("k")); !ok || string(v) != "v" {
		t.Fatal("write lost")
	}
	if v, ok, _ := e.Entry(7, 11); !ok || string(v) != "headdata" {
		t.Fatalf("entry %q", v)
	}
	must(t, e.RemoveReplica(7, 6))
	must(t, e.RemoveReplica(8, 3)) // never had one: the tombstone alone
	for range 2 {
		rs, err := e.Replicas()
		must(t, err)
		if len(rs) != 2 || rs[0].Group != 7 || rs[0].Replica != 0 || rs[0].MinNext != 6 || rs[1].Group != 8 || rs[1].MinNext != 3 {
			t.Fatalf("records %+v", rs)
		}
		if _, ok, _ := e.GroupRecord(7, RecordFence); ok {
			t.Fatal("fence outlived its replica")
		}
		if _, ok, _ := e.Entry(7, 11); ok {
			t.Fatal("entry outlived its replica")
		}
		if _, ok, _ := e.StateReader(7).Get([]byte("k")); ok {
			t.Fatal("data outlived its replica")
		}
		if _, ok, _ := r.Get([]byte("k")); ok {
			t.Fatal("an old reader still sees it")
		}
		wantError(t, e.CreateReplica(7, 5, nil), "replica 5", "6 or higher")
		wantError(t, e.CreateReplica(8, 2, nil), "3 or higher")
		must(t, e.Close())
		e = openTest(t, fs, "/d")
		r = e.StateReader(7)
	}
	must(t, e.RemoveReplica(7, 2)) // a late, lower one changes nothing
	wantError(t, e.CreateReplica(7, 5, nil), "6 or higher")
	must(t, e.CreateReplica(7, 6, nil))
	if _, ok, _ := e.StateReader(7).Get([]byte("k")); ok {
		t.Fatal("a new replica begins with old data")
	}
}

func TestBatchLimitAndErrors(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/d")
	b := e.NewBatch()
	defer b.Close()
	b.SetRecord(1, RecordFence, []byte("x"))
	boom := errors.New("boom")
	b.Fail(boom)
	b.Fail(errors.New("later"))
	if err := b.Commit(true); err != boom {
		t.Fatal(err)
	}
	if _, ok, _ := e.GroupRecord(1, RecordFence); ok {
		t.Fatal("a failed batch took effect")
	}
	var order []int
	for i := range 3 {
		b.Notify(notifyFunc(func(d bool) { order = append(order, i) }))
	}
	must(t, b.Commit(true)) // empty: syncs what came before, and tells
	if fmt.Sprint(order) != "[0 1 2]" || !b.Empty() {
		t.Fatalf("told %v", order)
	}
	must(t, b.Commit(true))
	if len(order) != 3 {
		t.Fatal("told twice")
	}
}

type notifyFunc func(bool)

func (f notifyFunc) Committed(d bool) { f(d) }
