package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxFileBytes bounds what is read of the small files beside the database.
const maxFileBytes = 16 << 20

// prepareDir makes the directory, and makes its name durable in each directory above that was made too.
func (e *Engine) prepareDir() error {
	if e.dir == "" {
		return errors.New("no data directory given: name one with --data")
	}
	var made []string
	for d := e.dir; ; {
		info, err := e.fs.Stat(d)
		if err == nil {
			if !info.IsDir() {
				return fmt.Errorf("data directory %s: %s is a file: move it away or use another --data", e.dir, d)
			}
			if len(made) == 0 {
				return e.checkForeign()
			}
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return openError(e.dir, err)
		}
		made = append(made, d)
		up := e.fs.PathDir(d)
		if up == d {
			break
		}
		d = up
	}
	if err := e.fs.MkdirAll(e.dir, 0o700); err != nil {
		return openError(e.dir, err)
	}
	for _, d := range made {
		if err := e.syncDir(e.fs.PathDir(d)); err != nil {
			return openError(e.dir, err)
		}
	}
	return nil
}

// checkForeign refuses a directory that holds something else.
func (e *Engine) checkForeign() error {
	names, err := e.fs.List(e.dir)
	if err != nil {
		return openError(e.dir, err)
	}
	for _, name := range names {
		switch name {
		case fileLock, filePID, fileFormat, fileWatermark, dirDatabase:
			return nil
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("data directory %s is not empty and holds no Ringfence data (%q is in it): give an empty or a new one with --data", e.dir, names[0])
	}
	return nil
}

// acquireLock takes the directory for this process. The process number is kept in a file of its own, because closing any
// other descriptor of the lock file would release the lock.
func (e *Engine) acquireLock() error {
	lock, err := e.fs.Lock(e.fs.PathJoin(e.dir, fileLock))
	if err != nil {
		var pe *os.PathError // the lock file itself cannot be made
		if errors.As(err, &pe) {
			return openError(e.dir, err)
		}
		who := ""
		if b, err := e.readFile(filePID); err == nil {
			who = fmt.Sprintf(" (pid %s)", strings.TrimSpace(string(b)))
		}
		return fmt.Errorf("data directory %s is in use by another process%s: stop it, or use another --data", e.dir, who)
	}
	e.lock = lock
	f, err := e.fs.Create(e.fs.PathJoin(e.dir, filePID), vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write([]byte(strconv.Itoa(os.Getpid()) + "\n"))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return errors.Join(openError(e.dir, err), lock.Close())
	}
	return nil
}

func (e *Engine) readFile(name string) ([]byte, error) {
	f, err := e.fs.Open(e.fs.PathJoin(e.dir, name))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(b) > maxFileBytes {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFileBytes)
	}
	return b, errors.Join(err, f.Close())
}

// writeFile replaces a file of the directory as a whole: after a crash it is the old one or the new one. A failed fsync ends
// the process.
func (e *Engine) writeFile(name string, data []byte) error {
	path := e.fs.PathJoin(e.dir, name)
	f, err := e.fs.Create(path+".tmp", vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", e.dir, err)
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(fmt.Errorf("data directory %s: %w", e.dir, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		e.Fatal(fmt.Errorf("fsync of %s: %w", path, err))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("data directory %s: %w", e.dir, err)
	}
	if err := e.fs.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("data directory %s: %w", e.dir, err)
	}
	if err := e.syncDir(e.dir); err != nil {
		e.Fatal(fmt.Errorf("fsync of directory %s: %w", e.dir, err))
	}
	return nil
}

func (e *Engine) syncDir(dir string) error {
	d, err := e.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
