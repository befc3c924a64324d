package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// ErrClosed is what every use of a closed engine gets.
var ErrClosed = errors.New("store: the engine is closed")

// wipeRemedy is the only repair of a damaged data directory: the other replicas hold the data.
func wipeRemedy(dir string) string {
	return fmt.Sprintf("empty the directory %s and start the node again: it comes back as a new node and is filled from the other replicas", dir)
}

// openError says in the operator's words why a data directory cannot be used, and what helps.
func openError(dir string, err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS):
		return fmt.Errorf("data directory %s cannot be read and written by this user: give it to the user that runs the node (chown, mode 0700): %w", dir, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("data directory %s is on a full disk: free some space and start again: %w", dir, err)
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("data directory %s needs more open files than this process may have: raise the limit (ulimit -n) and start again: %w", dir, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("data directory %s: a file stands where a directory should be: move it away or use another --data: %w", dir, err)
	case strings.Contains(text, "unknown format major version"):
		return fmt.Errorf("data directory %s was written by a newer version: run that version, which cannot be undone: %w", dir, err)
	}
	return fmt.Errorf("data directory %s is damaged: %s: %w", dir, wipeRemedy(dir), err)
}

// Damaged wraps err, found in what this engine stores, with the directory's name and the remedy.
func (e *Engine) Damaged(err error) error {
	return fmt.Errorf("data directory %s is damaged: %s: %w", e.dir, wipeRemedy(e.dir), err)
}
