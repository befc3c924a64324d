package host

import (
	"bytes"
	"slices"

	"github.com/ringfence/ringfence/store"
)

// overlay is what an object's storage looks like in memory: writes not yet applied (dirty), which must be seen and kept, and values
// known to be in the shard's state (clean), kept as far as there is room. Keys are those of store.Write.
type overlay struct {
	entries map[string]*entry // once they are many; few are looked for in the lists
	count   int               // of entries
	dirty   list[entry]       // in the order of their batches
	clean   list[entry]       // least recently used first
	size    int               // bytes of the clean ones
	cleared *entry            // the newest removal of a range, while it is not applied; a dirty one itself
	end     string            // of that range
}

var noOverlay = new(overlay)

// remember sees that o has an overlay of its own.
func (o *object) remember() {
	if o.overlay == noOverlay {
		o.overlay = new(overlay)
	}
}

type entry struct {
	key     string
	val     []byte
	present bool
	tag     uint64 // newest batch that wrote it; 0: clean
	node[entry]
}

const entryOverhead = 128

func (e *entry) weight() int { return entryOverhead + 2*len(e.key) + len(e.val) }

func (v *overlay) put(w *store.Write, tag uint64) {
	if w.IsRange() {
		v.clear(w)
	}
	e := v.find(w.Key)
	switch {
	case e == nil:
		e = v.add(string(w.Key))
	case e.tag == 0:
		v.clean.remove(&e.node)
		v.size -= e.weight()
	default:
		v.dirty.remove(&e.node)
	}
	e.val, e.present, e.tag = w.Value, !w.Delete, tag
	v.dirty.pushBack(&e.node)
	if w.IsRange() {
		v.cleared, v.end = e, string(w.End)
	}
}

// clear forgets all in the range of w, which put remembers under its first key: an object has one range, and nothing else under that key.
func (v *overlay) clear(w *store.Write) {
	for _, l := range []*list[entry]{&v.clean, &v.dirty} {
		for n := l.first; n != nil; {
			e := n.value
			n = n.next
			if !w.Removes([]byte(e.key)) {
				continue
			}
			if e.tag == 0 {
				v.size -= e.weight()
			}
			l.remove(&e.node)
			v.drop(e)
		}
	}
}

// clears: the shard's state is not to be asked for key, what it has there is about to be removed.
func (v *overlay) clears(key []byte) bool {
	return v.cleared != nil && v.cleared.key <= string(key) && string(key) < v.end
}

// mapFrom is how many entries make a map worth what it takes.
const mapFrom = 8

func (v *overlay) find(key []byte) *entry {
	if v.entries != nil {
		return v.entries[string(key)]
	}
	for n := v.dirty.last; n != nil; n = n.prev {
		if n.value.key == string(key) {
			return n.value
		}
	}
	for n := v.clean.last; n != nil; n = n.prev {
		if n.value.key == string(key) {
			return n.value
		}
	}
	return nil
}

// add makes an entry, which the caller puts into one of the lists.
func (v *overlay) add(key string) *entry {
	e := &entry{key: key}
	e.node.value = e
	if v.count++; v.entries == nil && v.count > mapFrom {
		v.entries = make(map[string]*entry, 2*mapFrom)
		for _, l := range []*list[entry]{&v.clean, &v.dirty} {
			for n := l.first; n != nil; n = n.next {
				v.entries[n.value.key] = n.value
			}
		}
	}
	if v.entries != nil {
		v.entries[key] = e
	}
	return e
}

// drop forgets an entry, which the caller has taken out of the lists.
func (v *overlay) drop(e *entry) {
	if v.count--; v.count == 0 {
		v.entries = nil
	}
	delete(v.entries, e.key)
}

// settle makes clean what batches up to pos wrote last.
func (v *overlay) settle(pos uint64, room int) {
	for v.dirty.first != nil && v.dirty.first.value.tag <= pos {
		e := v.dirty.first.value
		v.dirty.remove(&e.node)
		e.tag = 0
		if e == v.cleared || store.IsAlarmKey(e.key) { // the state says the same, and nobody reads the index here
			if e == v.cleared {
				v.cleared = nil
			}
			v.drop(e)
			continue
		}
		v.keep(e)
	}
	v.trim(room)
}

func (v *overlay) keep(e *entry) {
	v.clean.pushBack(&e.node)
	v.size += e.weight()
}

func (v *overlay) trim(room int) {
	for v.size > room && v.clean.first != nil {
		e := v.clean.first.value
		v.clean.remove(&e.node)
		v.size -= e.weight()
		v.drop(e)
	}
}

// Lookup finds key in memory. If found is false the shard's state must be asked; if present is false the key does not exist. The
// value must not be changed.
func (t *Tenure) Lookup(a *Activation, key []byte) (value []byte, present, found bool) {
	v := a.o.overlay
	e := v.find(key)
	if e == nil {
		return nil, false, v.clears(key)
	}
	if e.tag == 0 && v.clean.last != &e.node {
		v.clean.remove(&e.node)
		v.clean.pushBack(&e.node)
	}
	return e.val, e.present, true
}

// Fill remembers what the shard's state said about key. pos is what Pos was before the state was asked: if the object has submitted
// something since, the answer may be old and is not remembered. The value is taken over.
func (t *Tenure) Fill(a *Activation, key, value []byte, present bool, pos uint64) {
	if t.lost || a.o.act != a || a.o.pos != pos || a.o.find(key) != nil {
		return
	}
	a.o.remember()
	v := a.o.overlay
	e := v.add(string(key))
	e.val, e.present = value, present
	v.keep(e)
	v.trim(a.o.policy.CacheBytes)
}

// Unapplied is what the object has submitted and is not known to be applied, of the keys in [start, end), one write per key in
// ascending order. A nil end means no end. If all is set it is all that there is: the shard's state is not to be asked. Else it is, but
// after this, or a batch applied between the two would be seen by neither.
func (t *Tenure) Unapplied(a *Activation, start, end []byte) (ws []store.Write, all bool) {
	v := a.o.overlay
	for n := v.dirty.first; n != nil; n = n.next {
		e := n.value
		if e != v.cleared && e.key >= string(start) && (end == nil || e.key < string(end)) {
			ws = append(ws, store.Write{Key: []byte(e.key), Value: e.val, Delete: !e.present})
		}
	}
	slices.SortFunc(ws, func(x, y store.Write) int { return bytes.Compare(x.Key, y.Key) })
	return ws, v.clears(start) && end != nil && string(end) <= v.end
}
