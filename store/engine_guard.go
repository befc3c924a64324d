package store

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// walGuard stands between Pebble and the disk. It settles names before a marker changes, see settleNames, and it hears of a WAL that cannot be made, written, synced or closed before
// Pebble does. Where Pebble changes from one WAL to the next it
// panics on such an error with a mutex unlocked that its callers unlock once more: the process ends with "unlock of unlocked mutex", which
// no recover catches and which says nothing of a disk that is full. So the guard ends the process first, in words.
type walGuard struct {
	vfs.FS
	fatal func(error)
	armed *atomic.Bool // the database is open: until then an error is the caller's
}

func (g walGuard) check(what, name string, err error) {
	if err != nil && g.armed.Load() && !mutFatalReturns() {
		g.fatal(fmt.Errorf("%s %s: %w", what, name, err))
	}
}

func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// isMarker tells the files whose names say which MANIFEST and which format count.
func isMarker(fs vfs.FS, name string) bool { return strings.HasPrefix(fs.PathBase(name), "marker.") }

// settleNames makes the names durable that a directory holds so far. Pebble makes a MANIFEST and then the marker that names it, removes the marker before, and syncs the
// directory once, at the end. What a crash keeps of names that are not synced is any of them: the marker without its MANIFEST, or no marker.
func (g walGuard) settleNames(name string) error {
	d, err := g.OpenDir(g.PathDir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Remove implements vfs.FS.
func (g walGuard) Remove(name string) error {
	if isMarker(g, name) {
		if err := g.settleNames(name); err != nil {
			return err
		}
	}
	return g.FS.Remove(name)
}

// Create implements vfs.FS.
func (g walGuard) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if isMarker(g, name) {
		if err := g.settleNames(name); err != nil {
			return nil, err
		}
	}
	f, err := g.FS.Create(name, category)
	return g.guard("making", name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (g walGuard) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(old, name, category)
	return g.guard("reusing", name, f, err)
}

func (g walGuard) guard(what, name string, f vfs.File, err error) (vfs.File, error) {
	if !isWAL(name) {
		return f, err
	}
	if err != nil {
		g.check(what, name, err)
		return f, err
	}
	return guardedFile{f, g, name}, nil
}

// OpenDir implements vfs.FS. A directory is synced when a WAL was made in it, and when a marker was moved, where Pebble panics on an error, also while
// the database is being opened.
func (g walGuard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return f, err
	}
	g.armed = &always
	return guardedFile{f, g, name}, nil
}

var always atomic.Bool

func init() { always.Store(true) }

// guardedFile is a WAL, or a directory.
type guardedFile struct {
	vfs.File
	g    walGuard
	name string
}

func (f guardedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.g.check("writing", f.name, err)
	return n, err
}

func (f guardedFile) Sync() error {
	err := f.File.Sync()
	f.g.check("fsync of", f.name, err)
	return err
}

func (f guardedFile) SyncData() error {
	err := f.File.SyncData()
	f.g.check("fdatasync of", f.name, err)
	return err
}

func (f guardedFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.g.check("fsync of", f.name, err)
	return full, err
}

func (f guardedFile) Close() error {
	err := f.File.Close()
	f.g.check("closing", f.name, err)
	return err
}
