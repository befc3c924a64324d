package replica

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"syscall"

	"github.com/ringfence/ringfence/store"
)

// watermarkWriter records about once a second how far the logs have certainly come on disk, so that a log that silently went
// backwards is noticed at the next open. It fsyncs a file of its own, so it does so on a goroutine of its own, one at a time.
type watermarkWriter struct {
	engine *store.Engine
	log    *slog.Logger
	mu     sync.Mutex // held while a watermark is written
	last   []store.Mark
}

// begin writes in the background, unless the last write is not done yet.
func (w *watermarkWriter) begin(marks []store.Mark) {
	if !w.mu.TryLock() {
		return
	}
	go func() {
		defer w.mu.Unlock()
		w.write(marks)
	}()
}

// finish writes after what is under way, and waits for it.
func (w *watermarkWriter) finish(marks []store.Mark) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(marks)
}

func (w *watermarkWriter) write(marks []store.Mark) {
	if slices.Equal(marks, w.last) {
		return // nothing has come
	}
	err := w.engine.WriteWatermark(marks)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) { // the disk is well, and the limit on files is no reason to end
		w.log.Warn("the watermark could not be written; it is tried again: raise the limit on open files", "cause", err)
		return
	}
	if err != nil {
		w.engine.Fatal(err)
	}
	w.last = marks
}

func (d *Driver) watermarks() []store.Mark {
	marks := make([]store.Mark, 0, len(d.order))
	for _, m := range d.order {
		marks = append(marks, m.log.Mark())
	}
	return marks
}
