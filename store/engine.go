package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
)

// pebbleFormat is the on-disk format of Pebble that we ask for. It is set explicitly because the default is the oldest one,
// which hides damage in the middle of the WAL: at open it drops what follows. It only ever goes up.
const pebbleFormat = pebble.FormatValueSeparation

// dataFormat is our own format of the data directory. A directory of a higher one is refused. One of oldFormat, in which each entry of a log has
// a key of its own and there is no journal, is read as it is, and is of the new one from then on.
const (
	dataFormat = 2
	oldFormat  = 1
)

// Names in a data directory.
const (
	fileLock      = "LOCK"
	filePID       = "PID"
	fileFormat    = "FORMAT"
	fileWatermark = "WATERMARK"
	dirDatabase   = "db"
)

const (
	defaultCacheBytes    = 64 << 20
	defaultMemTableBytes = 32 << 20
	walBytesPerSync      = 512 << 10
)

// Options of an engine. The zero value is the default.
type Options struct {
	FS            vfs.FS       // default: the operating system's
	Logger        *slog.Logger // default: slog.Default()
	CacheBytes    int64        // block cache, default 64 MiB
	MemTableBytes uint64       // default 32 MiB
	// JournalBytes bounds the journal of the logs; what is needed above it is stored under keys of its own, which costs more. Default 512 MiB.
	JournalBytes int
	// Fatal ends the process: after a failed fsync nobody knows what the disk holds, so nothing may go on. It must not return.
	// Default: log the message and exit with status 1.
	Fatal func(msg string)
}

// Engine is a node's one Pebble. It holds the Raft logs (synced) and the shards' state (not synced: a crash replays the log),
// both through one WAL. All methods are safe for concurrent use; after Close they return ErrClosed.
type Engine struct {
	dir   string
	fs    vfs.FS
	log   *slog.Logger
	fatal func(string)
	lock  io.Closer
	db    *pebble.DB
	gate  *gate
	open  atomic.Bool // a WAL that fails ends the process

	journal journal

	admin sync.Mutex // one change of identity or of the set of replicas at a time; taken before mu

	mu       sync.Mutex // guards what follows, for short
	identity Identity
	groups   map[ring.GroupID]*groupState
	frozen   map[*Frozen]struct{}

	wmMu      sync.Mutex // one watermark is written at a time
	wmSeq     uint64     // of the newest watermark
	watermark watermark  // as it was at Open, never changed
}

// Open opens the data directory, creating it (mode 0700) if there is none, and locks it. Errors name the directory and the remedy.
func Open(dir string, opts Options) (*Engine, error) {
	e := newEngine(dir, opts)
	if err := e.prepareDir(); err != nil {
		return nil, err
	}
	if err := e.acquireLock(); err != nil {
		return nil, err
	}
	if err := e.openLocked(opts); err != nil {
		if e.db != nil {
			err = errors.Join(err, e.db.Close())
		}
		return nil, errors.Join(err, e.lock.Close())
	}
	return e, nil
}

func newEngine(dir string, opts Options) *Engine {
	e := &Engine{dir: dir, fs: opts.FS, log: opts.Logger, gate: newGate(), journal: newJournal(opts.JournalBytes),
		groups: make(map[ring.GroupID]*groupState), frozen: make(map[*Frozen]struct{})}
	if e.fs == nil {
		e.fs = vfs.Default
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	hook := opts.Fatal
	e.fatal = func(msg string) {
		if hook != nil {
			hook(msg)
		}
		e.log.Error("the data directory cannot be trusted any more; the process ends", "dir", dir, "cause", msg)
		os.Exit(1)
	}
	return e
}

func (e *Engine) openLocked(opts Options) error {
	known, format, err := e.readFormat()
	if err != nil {
		return err
	}
	// A directory with a FORMAT file held a complete database once: without its MANIFEST Pebble would silently make an empty one.
	path := e.fs.PathJoin(e.dir, dirDatabase)
	e.db, err = pebble.Open(path, e.pebbleOptions(opts, known != 0))
	if err != nil && known == 0 && e.unfinished() {
		e.log.Warn("the first start was interrupted while the database was made; it is made anew", "dir", e.dir, "cause", err)
		if err = e.fs.RemoveAll(path); err == nil {
			e.db, err = pebble.Open(path, e.pebbleOptions(opts, false))
		}
	}
	if err != nil {
		return openError(e.dir, err)
	}
	if err := e.loadIdentity(known); err != nil {
		return err
	}
	if err := e.loadWatermark(); err != nil {
		return err
	}
	if err := e.loadJournal(); err != nil {
		return err
	}
	if known != 0 && format != dataFormat { // whole as far as we know, and before there is a record: an older version would not see it
		if err := e.writeFormat(known); err != nil {
			return err
		}
	}
	if err := e.firstWatermark(); err != nil {
		return err
	}
	e.open.Store(true)
	return e.sweep()
}

func (e *Engine) pebbleOptions(opts Options, mustExist bool) *pebble.Options {
	o := &pebble.Options{
		FS:                          walGuard{e.fs, e.Fatal, &e.open},
		Logger:                      pebbleLogger{e},
		FormatMajorVersion:          databaseFormat(),
		ErrorIfNotExists:            mustExist,
		CacheSize:                   opts.CacheBytes,
		MemTableSize:                opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		BytesPerSync:                walBytesPerSync,
		WALBytesPerSync:             walBytesPerSync,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000, // the log must not stall because compactions are behind
		LBaseMaxBytes:               64 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		EventListener: &pebble.EventListener{DiskSlow: func(i vfs.DiskSlowInfo) {
			e.log.Warn("the disk is slow", "dir", e.dir, "what", i.String())
		}},
	}
	if o.CacheSize <= 0 {
		o.CacheSize = defaultCacheBytes
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = defaultMemTableBytes
	}
	o.Experimental.CompactionScheduler = newCompactions()
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most reads of new objects find nothing
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
		if i == 0 { // read once, to be compacted, and much of it is gone by then
			o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		}
	}
	if opts.FS == nil {
		o.WithFSDefaults() // watches for operations that take seconds
	}
	return o
}

// Close waits for operations that are running and closes the database. Frozen states that are still open are closed too.
func (e *Engine) Close() error {
	if !e.gate.close() {
		return ErrClosed
	}
	e.mu.Lock()
	for f := range e.frozen {
		_ = f.snap.Close()
	}
	clear(e.frozen)
	e.mu.Unlock()
	err := e.db.Close()
	_ = e.fs.Remove(e.fs.PathJoin(e.dir, filePID))
	return errors.Join(err, e.lock.Close())
}

// Dir is the data directory.
func (e *Engine) Dir() string { return e.dir }

// Fatal ends the process because of err; it does not return. For errors after which what the disk holds is unknown.
func (e *Engine) Fatal(err error) {
	e.fatal(err.Error())
}

// Stats are figures of the database, for status and metrics.
type Stats struct {
	DiskBytes      uint64 // all files
	WALBytes       uint64 // live part of the WAL
	CompactionDebt uint64 // estimated bytes to rewrite
	L0Sublevels    int
	CacheHits      int64
	CacheMisses    int64
}

// Stats reads the figures; the zero value after Close.
func (e *Engine) Stats() Stats {
	if !e.gate.enter() {
		return Stats{}
	}
	defer e.gate.leave()
	m := e.db.Metrics()
	return Stats{
		DiskBytes:      m.DiskSpaceUsage(),
		WALBytes:       m.WAL.Size,
		CompactionDebt: m.Compact.EstimatedDebt,
		L0Sublevels:    int(m.Levels[0].Sublevels),
		CacheHits:      m.BlockCache.Hits,
		CacheMisses:    m.BlockCache.Misses,
	}
}

// pebbleLogger passes Pebble's words on. Pebble calls Fatalf when a commit, the MANIFEST or a block is bad; it must not return.
type pebbleLogger struct{ e *Engine }

func (l pebbleLogger) Infof(format string, args ...any) {
	l.e.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.e.log.Error("pebble: "+fmt.Sprintf(format, args...), "dir", l.e.dir)
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	if mutFatalReturns() {
		return
	}
	l.e.fatal(fmt.Sprintf("data directory %s: pebble: "+format, append([]any{l.e.dir}, args...)...)) // its words name a file seldom
}

// readFormat returns the node that the FORMAT file names, and the format; 0 if there is no such file yet.
func (e *Engine) readFormat() (ring.NodeID, uint64, error) {
	b, err := e.readFile(fileFormat)
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, openError(e.dir, err)
	}
	return parseFormat(e.dir, b)
}

// parseFormat reads the FORMAT file of a directory.
func parseFormat(dir string, b []byte) (n ring.NodeID, format uint64, err error) {
	f := strings.Fields(string(b))
	if len(f) != 4 || f[0] != "ringfence-data" || f[2] != "node" {
		return 0, 0, openError(dir, fmt.Errorf("%s does not say what it should", fileFormat))
	}
	if format, err = strconv.ParseUint(f[1], 10, 32); err != nil {
		return 0, 0, openError(dir, fmt.Errorf("%s: %w", fileFormat, err))
	}
	if format < oldFormat || format > dataFormat {
		return 0, 0, fmt.Errorf("data directory %s has format %d, and this version reads format %d or %d: run the version that wrote it", dir, format, oldFormat, dataFormat)
	}
	if n, err = ring.ParseNodeID(f[3]); err != nil {
		return 0, 0, openError(dir, fmt.Errorf("%s: %w", fileFormat, err))
	}
	return n, format, nil
}

// unfinished reports whether the directory, which has no FORMAT file, certainly never was in use: Open had not returned once.
func (e *Engine) unfinished() bool {
	names, err := e.fs.List(e.dir)
	return err == nil && !slices.Contains(names, fileWatermark) && !slices.Contains(names, fileFormat)
}

func (e *Engine) writeFormat(n ring.NodeID) error {
	return e.writeFile(fileFormat, fmt.Appendf(nil, "ringfence-data %d node %v\n", dataFormat, n))
}
