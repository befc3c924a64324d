package host

import (
	"hash/maphash"

	"github.com/ringfence/ringfence/actor"
)

// objects finds objects by their ID. It keeps no second copy of the ID: the map is from a hash of the key, and those that share one are chained. That is
// hardly ever more than one, but for equal keys in different classes.
type objects struct {
	seed   maphash.Seed
	byHash map[uint64]*object
	n      int
}

func newObjects() objects { return objects{seed: maphash.MakeSeed(), byHash: map[uint64]*object{}} }

func (m *objects) find(id actor.ID) *object {
	if m.n == 0 {
		return nil
	}
	o := m.byHash[maphash.String(m.seed, id.Key)]
	for o != nil && o.id != id {
		o = o.same
	}
	return o
}

// add adds an object whose ID find does not find.
func (m *objects) add(o *object) {
	h := maphash.String(m.seed, o.id.Key)
	o.same = m.byHash[h]
	m.byHash[h] = o
	m.n++
}

// remove removes o, if it is there.
func (m *objects) remove(o *object) {
	if m.n == 0 {
		return
	}
	h := maphash.String(m.seed, o.id.Key)
	first := m.byHash[h]
	if first == o {
		if o.same == nil {
			delete(m.byHash, h)
		} else {
			m.byHash[h] = o.same
		}
		o.same = nil
		m.n--
		return
	}
	for p := first; p != nil; p = p.same {
		if p.same == o {
			p.same, o.same = o.same, nil
			m.n--
			return
		}
	}
}

// maxSpare is how many pieces of a kind are kept for the next who needs one.
const maxSpare = 256

// spare keeps pieces that were given back, and makes new ones.
type spare[T any] struct{ free []*T }

func (s *spare[T]) get() *T {
	last := len(s.free) - 1
	if last < 0 {
		return new(T)
	}
	x := s.free[last]
	s.free[last] = nil
	s.free = s.free[:last]
	return x
}

// put takes a piece that is zero again.
func (s *spare[T]) put(x *T) {
	if len(s.free) < maxSpare {
		s.free = append(s.free, x)
	}
}
