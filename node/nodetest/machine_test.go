package nodetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/transport/inmem"
)

// A machine that loses its power keeps what was synced, and nothing else.
func TestDisk(t *testing.T) {
	h, err := inmem.New(1).Host("10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(h)
	put := func(name, synced, lost string) {
		f, err := m.disk.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write([]byte(synced))
		err = errors.Join(err, f.Sync())
		_, err2 := f.Write([]byte(lost))
		if err := errors.Join(err, err2, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	put("/kept", "synced", " and not")
	dir, err := m.disk.OpenDir("/")
	if err := errors.Join(err, dir.Sync(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	put("/lost", "its name was not", "")
	m.lose(vfs.CrashCloneCfg{})
	f, err := m.disk.Open("/kept")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, _ := f.Read(b); string(b[:n]) != "synced" {
		t.Errorf("the disk kept %q", b[:n])
	}
	if _, err := m.disk.Open("/lost"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file whose name was not synced: %v", err)
	}
}

// recorder is a test that fails.
type recorder struct {
	testing.TB
	failed bool
	text   strings.Builder
	last   []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.last = append(r.last, f) }
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Logf(format string, args ...any) {
	fmt.Fprintf(&r.text, format+"\n", args...)
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failed = true
	r.Logf(format, args...)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// record runs a test that is to fail, its cleanups included, and returns what it printed.
func record(f func(t testing.TB)) string {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	for _, f := range r.last {
		f()
	}
	return r.text.String()
}

func TestMisuse(t *testing.T) {
	for want, f := range map[string]func(t testing.TB){
		"nodetest: 0 nodes: want 1 to 8":                  func(t testing.TB) { Start(t, 0) },
		"nodetest: 9 nodes: want 1 to 8":                  func(t testing.TB) { Start(t, 9) },
		"nodetest: there is no change 0 of a disk":        func(t testing.TB) { Start(t, 1).KillAt(0, 0) },
		"nodetest: node 1 of 1":                           func(t testing.TB) { Start(t, 1).Kill(1) },
		"nodetest: node 0 runs: Stop or Kill it first":    func(t testing.TB) { Start(t, 1).Restart(0) },
		"nodetest: node 0 does not run: Restart it first": func(t testing.TB) { c := Start(t, 1); c.Kill(0); c.Stop(0) },
		"the end of the log of node 0:\ntime=":            func(t testing.TB) { Start(t, 1); t.Errorf("it failed") },
	} {
		if got := record(f); !strings.Contains(got, want) {
			t.Errorf("%q is not in what was printed:\n%s", want, got)
		}
	}
}

// In real time, too, a cluster leaves nothing behind.
func TestRealTime(t *testing.T) {
	before := runtime.NumGoroutine()
	if inBubble() {
		t.Fatal("this is no bubble")
	}
	t.Run("a cluster", func(t *testing.T) {
		c := Start(t, 1)
		c.Stop(0)
		c.Restart(0)
		c.Kill(0)
		c.Restart(0)
	})
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > before {
		select {
		case <-tick.C:
		case <-deadline:
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
