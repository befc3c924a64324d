//go:build mutant

package store

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestMutants: what the engine does against the disk's tricks, each switched off, is noticed by the test beside it.
func TestMutants(t *testing.T) {
	t.Run("Pebble's oldest format", func(t *testing.T) {
		if openFlipped(t) == nil {
			t.Fatal("a flipped bit is not noticed without the mutant")
		}
		Mutant.OldDatabase = true
		defer func() { Mutant.OldDatabase = false }()
		if err := openFlipped(t); err != nil {
			t.Fatalf("a flipped bit is noticed all the same: %v", err)
		}
	})
	t.Run("Fatalf returns", func(t *testing.T) {
		if goesOn(t) {
			t.Fatal("a failed fsync does not end the process without the mutant")
		}
		Mutant.FatalReturns = true
		defer func() { Mutant.FatalReturns = false }()
		if !goesOn(t) {
			t.Fatal("a failed fsync ends the process all the same")
		}
	})
	t.Run("no tombstone", func(t *testing.T) {
		again := func() error {
			e := openTest(t, vfs.NewMem(), "/d")
			must(t, e.CreateReplica(1, 5, nil))
			must(t, e.RemoveReplica(1, 6))
			return e.CreateReplica(1, 5, nil)
		}
		if again() == nil {
			t.Fatal("a removed replica is made again without the mutant")
		}
		Mutant.NoTombstone = true
		defer func() { Mutant.NoTombstone = false }()
		if err := again(); err != nil {
			t.Fatalf("a removed replica is refused all the same: %v", err)
		}
	})
}

// goesOn reports whether a write comes back, though its fsync failed.
func goesOn(t *testing.T) bool {
	var on atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
		isSync := o.Kind == errorfs.OpFileSync || o.Kind == errorfs.OpFileSyncData || o.Kind == errorfs.OpFileSyncTo
		if on.Load() && isSync && strings.HasSuffix(o.Path, ".log") {
			return errors.New("the disk is gone")
		}
		return nil
	}))
	ended := make(chan bool, 16)
	opts := testOptions(fs)
	opts.Fatal = func(string) {
		ended <- true
		select {} // like os.Exit, it runs nothing that is deferred
	}
	e, err := Open("/d", opts) // never closed: its process is dead
	must(t, err)
	on.Store(true)
	back := make(chan bool, 1)
	go func() {
		defer func() {
			if recover() != nil {
				back <- true // Pebble stumbles over an error that it took for the end
			}
		}()
		_ = e.PutRecord("r", []byte("v"))
		back <- true
	}()
	select {
	case <-ended:
		return false
	case <-back:
		return true
	case <-time.After(10 * time.Second):
		t.Fatal("the write neither came back nor ended the process")
		return false
	}
}
