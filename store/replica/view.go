package replica

import (
	"bytes"
	"slices"
	"sync"
	"unsafe"

	"github.com/ringfence/ringfence/store"
)

// view is what an owner has been told of and storage does not hold yet: writes that are committed and accepted by the fence, the newest of each key. Its owner
// reads it over what is stored. The driver's goroutine adds to it and clears it; all else is safe from any goroutine.
type view struct {
	mu     sync.RWMutex
	writes map[string]store.Write // no ranges; keys alias the writes
}

// storedState is what a view is over: a store.StateReader.
type storedState interface {
	store.Reader
	ScanFrom(start, end []byte, reverse bool, begun func(), fn func(key, value []byte) bool) error
}

// add takes writes that nobody changes any more, before their owner hears of them.
func (v *view) add(ws []store.Write) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writes == nil {
		v.writes = make(map[string]store.Write)
	}
	for _, w := range ws {
		v.writes[unsafe.String(unsafe.SliceData(w.Key), len(w.Key))] = w
	}
}

// clear forgets all, once it is stored: who looked here before finds it there after.
func (v *view) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.writes) > keepWrites {
		v.writes = nil // each scan looks through the room of a map, too
	}
	clear(v.writes)
}

func (v *view) get(stored storedState, key []byte) ([]byte, bool, error) {
	v.mu.RLock()
	w, ok := v.writes[string(key)]
	v.mu.RUnlock()
	switch {
	case !ok:
		return stored.Get(key)
	case w.Delete:
		return nil, false, nil
	}
	return append(make([]byte, 0, len(w.Value)), w.Value...), true, nil
}

// scan reads both as of one moment: nothing becomes part of the view, and nothing leaves it, until that moment's stored state is held. The driver waits
// that long, at most for as long as it takes to open an iterator.
func (v *view) scan(stored storedState, start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	v.mu.RLock()
	unlock := sync.OnceFunc(v.mu.RUnlock)
	defer unlock() // also when fn panics
	over := v.between(start, end, reverse)
	if len(over) == 0 {
		unlock()
		return stored.Scan(start, end, reverse, fn)
	}
	order, more := orderOf(reverse), true
	emit := func() { // the first of over
		w := over[0]
		over = over[1:]
		if !w.Delete {
			more = fn(w.Key, w.Value)
		}
	}
	err := stored.ScanFrom(start, end, reverse, unlock, func(key, value []byte) bool {
		for more && len(over) > 0 && order(over[0].Key, key) < 0 {
			emit()
		}
		switch {
		case !more:
		case len(over) > 0 && bytes.Equal(over[0].Key, key):
			emit()
		default:
			more = fn(key, value)
		}
		return more
	})
	for err == nil && more && len(over) > 0 {
		emit()
	}
	return err
}

// between are the writes of keys in [start, end), in the order of a scan. v.mu is held.
func (v *view) between(start, end []byte, reverse bool) []store.Write {
	var in []store.Write
	for _, w := range v.writes {
		if bytes.Compare(w.Key, start) >= 0 && (end == nil || bytes.Compare(w.Key, end) < 0) {
			in = append(in, w)
		}
	}
	order := orderOf(reverse)
	slices.SortFunc(in, func(a, b store.Write) int { return order(a.Key, b.Key) })
	return in
}

// orderOf compares keys in the order of a scan.
func orderOf(reverse bool) func(a, b []byte) int {
	if reverse {
		return func(a, b []byte) int { return bytes.Compare(b, a) }
	}
	return bytes.Compare
}
