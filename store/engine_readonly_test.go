package store

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/ring"
)

// snapshotDir is what a directory holds: names, sizes, contents and times.
func snapshotDir(t *testing.T, dir string) map[string]any {
	t.Helper()
	out := map[string]any{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rec := []any{info.Size(), info.ModTime(), info.Mode()}
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rec = append(rec, sha256.Sum256(b))
		}
		out[path] = rec
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A directory is read without a change to it, whether its node had stopped or died, and neither while a node uses it nor so that one could meanwhile.
func TestOpenReadOnlyChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenReadOnly(dir, Options{}); err == nil || !strings.Contains(err.Error(), "holds no Ringfence data") {
		t.Fatalf("an empty directory: %v", err)
	}
	if _, err := OpenReadOnly(filepath.Join(dir, "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no directory: %v", err)
	}
	w, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CreateReplica(3, 1, func(b *Batch) { b.ApplyWrites(3, []Write{{Key: []byte("a"), Value: []byte("1")}}) }); err != nil {
		t.Fatal(err)
	}
	if err := w.PutRecord("x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	died := filepath.Join(t.TempDir(), "died") // what a kill leaves: the WAL is not flushed
	if err := os.CopyFS(died, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, died} {
		before := snapshotDir(t, d)
		r, err := OpenReadOnly(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r2, err := OpenReadOnly(d, Options{})
		if err != nil {
			t.Fatalf("a second reader: %v", err)
		}
		if v, ok, err := r.Record("x"); err != nil || !ok || string(v) != "y" {
			t.Fatalf("%q %v %v", v, ok, err)
		}
		if recs, err := r.Replicas(); err != nil || len(recs) != 1 || recs[0].Group != ring.GroupID(3) {
			t.Fatalf("%v %v", recs, err)
		}
		if err := r.PutRecord("x", []byte("z")); err == nil {
			t.Fatal("a write was taken")
		}
		if err := errors.Join(r.Close(), r2.Close()); err != nil {
			t.Fatal(err)
		}
		if after := snapshotDir(t, d); !reflect.DeepEqual(before, after) {
			t.Fatalf("%s was changed:\n%v\n%v", d, before, after)
		}
	}
}
