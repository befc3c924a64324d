package store

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// keyBuffers spares the reads an allocation.
var keyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// StateReader reads the group's stored state; an owner may have been told of more, which its lease reads. It stays good when a snapshot is installed: a read is answered wholly from
// the old state or wholly from the new one.
func (e *Engine) StateReader(g ring.GroupID) *StateReader { return &StateReader{e: e, g: g} }

// StateReader is the Reader of one group's stored state.
type StateReader struct {
	e  *Engine
	g  ring.GroupID
	gs atomic.Pointer[groupState] // set by the first read
}

func (r *StateReader) group() (*groupState, error) {
	if gs := r.gs.Load(); gs != nil {
		return gs, nil
	}
	gs, err := r.e.group(r.g)
	if err == nil {
		r.gs.Store(gs)
	}
	return gs, err
}

// Get implements Reader.
func (r *StateReader) Get(key []byte) ([]byte, bool, error) {
	gs, err := r.group()
	if err != nil {
		return nil, false, err
	}
	buf := keyBuffers.Get().(*[]byte)
	defer keyBuffers.Put(buf)
	for {
		gen := gs.generation.Load()
		*buf = append(appendDataPrefix((*buf)[:0], r.g, gen), key...)
		v, ok, err := r.e.get(*buf)
		if ok || err != nil || gs.still(gen) {
			return v, ok, err
		}
	}
}

// still reports whether gen is the current generation. The old one is removed only after the new one is current: what
// was looked up before still said yes was all there.
func (gs *groupState) still(gen uint32) bool {
	return gs.generation.Load() == gen
}

// Scan implements Reader.
func (r *StateReader) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	return r.ScanFrom(start, end, reverse, func() {}, fn)
}

// ScanFrom is Scan, and calls begun when it is settled which moment's state is read: all that was stored before, and nothing that is stored after. It is
// called once at most: not if there is an error before, or nothing between start and end.
func (r *StateReader) ScanFrom(start, end []byte, reverse bool, begun func(), fn func(key, value []byte) bool) error {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil
	}
	if !r.e.gate.enter() {
		return ErrClosed
	}
	defer r.e.gate.leave()
	gs, err := r.group()
	if err != nil {
		return err
	}
	for {
		gen := gs.generation.Load()
		it, err := newDataIter(r.e.db, appendDataPrefix(nil, r.g, gen), start, end)
		if err != nil {
			return err
		}
		if gs.still(gen) {
			begun()
			return scanIter(it, reverse, fn)
		}
		if err := it.Close(); err != nil {
			return err
		}
	}
}

func newDataIter(from pebble.Reader, prefix, start, end []byte) (*pebble.Iterator, error) {
	lower := append(prefix[:len(prefix):len(prefix)], start...)
	upper := PrefixEnd(prefix)
	if end != nil {
		upper = append(prefix[:len(prefix):len(prefix)], end...)
	}
	return from.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// scanIter runs over a data iterator and closes it.
func scanIter(it *pebble.Iterator, reverse bool, fn func(key, value []byte) bool) (err error) {
	defer func() { err = errors.Join(err, it.Close()) }() // also when fn panics
	step, ok := it.Next, false
	if reverse {
		step, ok = it.Prev, it.Last()
	} else {
		ok = it.First()
	}
	for ; ok; ok = step() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if !fn(it.Key()[dataPrefixLen:], v) {
			return nil
		}
	}
	return nil
}

// Frozen is a group's state at one moment: what a snapshot is made of. It pins files on disk: close it soon.
// Engine.Close closes those left open.
type Frozen struct {
	e    *Engine
	g    ring.GroupID
	snap *pebble.Snapshot
	gen  uint32
}

// Freeze takes the group's state as it is now.
func (e *Engine) Freeze(g ring.GroupID) (*Frozen, error) {
	if !e.gate.enter() {
		return nil, ErrClosed
	}
	defer e.gate.leave()
	f := &Frozen{e: e, g: g, snap: e.db.NewSnapshot()}
	r, err := e.readReplica(f.snap, g)
	if err != nil {
		return nil, errors.Join(err, f.snap.Close())
	}
	f.gen = r.generation
	e.mu.Lock()
	e.frozen[f] = struct{}{}
	e.mu.Unlock()
	return f, nil
}

// enter reports whether the state may still be read; leave follows.
func (f *Frozen) enter() error {
	if !f.e.gate.enter() {
		return ErrClosed
	}
	f.e.mu.Lock()
	_, open := f.e.frozen[f]
	f.e.mu.Unlock()
	if !open {
		f.e.gate.leave()
		return ErrClosed
	}
	return nil
}

// Record reads a small value of the group.
func (f *Frozen) Record(r GroupRecord) (value []byte, ok bool, err error) {
	if err := f.enter(); err != nil {
		return nil, false, err
	}
	defer f.e.gate.leave()
	return getCopy(f.snap, appendRecordKey(nil, f.g, r))
}

// Export calls fn for all data after the key after (nil: from the beginning), in ascending order, until it returns an error, which comes
// back. key and value are valid only during the call.
func (f *Frozen) Export(after []byte, fn func(key, value []byte) error) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.e.gate.leave()
	start := after
	if after != nil {
		start = append(after[:len(after):len(after)], 0)
	}
	it, err := newDataIter(f.snap, appendDataPrefix(nil, f.g, f.gen), start, nil)
	if err != nil {
		return err
	}
	var ferr error
	err = scanIter(it, false, func(k, v []byte) bool {
		ferr = fn(k, v)
		return ferr == nil
	})
	return errors.Join(ferr, err)
}

// Close gives the state back. Nobody may be reading it. Closing twice does nothing.
func (f *Frozen) Close() error {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if _, open := f.e.frozen[f]; !open {
		return nil
	}
	delete(f.e.frozen, f)
	return f.snap.Close()
}
