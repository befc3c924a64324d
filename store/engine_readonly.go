package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenReadOnly opens the data directory of a node that does not run, without changing a byte of it: nothing is created, repaired or swept, and every write
// comes to an error. While it is open no node can use the directory; others may read it too. What a crash has left in the WAL is read as a node would read it.
// Damage that is met is an error of the call that meets it and does not end the process.
func OpenReadOnly(dir string, opts Options) (*Engine, error) {
	under, shared := opts.FS, false
	if under == nil {
		under, shared = vfs.Default, true
	}
	opts.FS = readOnlyFS{under, shared}
	e := newEngine(dir, opts)
	e.fatal = func(msg string) { e.log.Error("data directory cannot be read", "dir", dir, "cause", msg) }
	if info, err := e.fs.Stat(dir); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("data directory %s is a file", dir)
	}
	known, _, err := e.readFormat()
	if err != nil {
		return nil, err
	}
	if known == 0 {
		return nil, fmt.Errorf("data directory %s holds no Ringfence data, or its first start was interrupted: there is no file %s in it", dir, fileFormat)
	}
	if e.lock, err = e.fs.Lock(e.fs.PathJoin(dir, fileLock)); err != nil {
		who := ""
		if b, err := e.readFile(filePID); err == nil {
			who = fmt.Sprintf(" (pid %.20s)", bytes.TrimSpace(b))
		}
		return nil, fmt.Errorf("data directory %s is in use by another process%s: stop that node, or ask it with --server: %w", dir, who, err)
	}
	o := e.pebbleOptions(opts, true)
	o.ReadOnly = true
	o.EventListener.DataCorruption = func(i pebble.DataCorruptionInfo) {
		e.log.Error("damaged", "dir", dir, "path", i.Path, "cause", i.Details)
	}
	if e.db, err = pebble.Open(e.fs.PathJoin(dir, dirDatabase), o); err == nil {
		if err = e.loadIdentity(known); err == nil {
			err = e.loadWatermark()
		}
		if err == nil {
			err = e.loadJournal()
		}
	} else {
		err = openError(dir, err)
	}
	if err != nil {
		if e.db != nil {
			err = errors.Join(err, e.db.Close())
		}
		return nil, errors.Join(err, e.lock.Close())
	}
	return e, nil
}

var errReadOnly = errors.New("store: the data directory is open for reading only")

// readOnlyFS lets nobody change anything.
type readOnlyFS struct {
	vfs.FS
	shared bool // FS is the operating system's: lock files are locked for reading, and not made
}

func (readOnlyFS) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, errReadOnly }
func (readOnlyFS) Link(string, string) error                              { return errReadOnly }
func (readOnlyFS) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, errReadOnly
}
func (readOnlyFS) Remove(string) error                { return errReadOnly }
func (readOnlyFS) RemoveAll(string) error             { return errReadOnly }
func (readOnlyFS) Rename(string, string) error        { return errReadOnly }
func (readOnlyFS) MkdirAll(string, os.FileMode) error { return errReadOnly }
func (readOnlyFS) ReuseForWrite(string, string, vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, errReadOnly
}

func (f readOnlyFS) Lock(name string) (io.Closer, error) {
	if f.shared {
		return lockShared(name)
	}
	return f.FS.Lock(name)
}
