package host

import (
	"bytes"
	"slices"

	"github.com/ringfence/ringfence/store"
)

// pending is what an event has written and not submitted: one write per key, in the order of the first. If cleared is set, the first of
// them removes a range, and all others come after it.
type pending struct {
	writes  []store.Write
	index   map[string]int // of the writes, once they are many
	bytes   int
	records int // of the writes, those of the host's own records
	cleared bool
	gates   bool    // not all of them are unconfirmed
	marks   []*mark // savepoints, outermost first
}

// mark is where writes can be taken back to. While one is open nothing is taken or cleared.
type mark struct {
	n, bytes int                 // of pending, when it was made
	gates    bool                // likewise
	saved    map[int]store.Write // of the first n writes, those overwritten since and in no later mark
}

const indexFrom = 8

func (p *pending) find(key []byte) int {
	if p.index != nil {
		if i, ok := p.index[string(key)]; ok {
			return i
		}
		return -1
	}
	for i := range p.writes {
		if bytes.Equal(p.writes[i].Key, key) {
			return i
		}
	}
	return -1
}

// lookup is what the event would read under key; found is false if it has not written there.
func (p *pending) lookup(key []byte) (value []byte, present, found bool) {
	if i := p.find(key); i >= 0 {
		return p.writes[i].Value, !p.writes[i].Delete, true
	}
	return nil, false, p.clears(key)
}

// clears: key was there before at most.
func (p *pending) clears(key []byte) bool { return p.cleared && p.writes[0].Removes(key) }

// clear takes the removal of a range before all else, and drops what was written there.
func (p *pending) clear(w store.Write) {
	old := p.writes
	if p.cleared {
		old = old[1:]
	}
	*p = pending{cleared: true}
	p.add(w)
	for i := range old {
		if !w.Removes(old[i].Key) {
			p.add(old[i])
		}
	}
}

func weight(w *store.Write) int { return len(w.Key) + len(w.Value) + len(w.End) }

func isRecord(w *store.Write) bool { return !store.IsObjectKey(w.Key) }

// after is how many keys and bytes there would be after ws were added; the host's own records are no keys. No key comes twice in ws.
func (p *pending) after(ws []store.Write) (keys, size int) {
	keys, size = len(p.writes)-p.records, p.bytes
	for i := range ws {
		if j := p.find(ws[i].Key); j >= 0 {
			size -= weight(&p.writes[j])
		} else if !isRecord(&ws[i]) {
			keys++
		}
		size += weight(&ws[i])
	}
	return keys, size
}

func (p *pending) add(w store.Write) {
	p.bytes += weight(&w)
	if i := p.find(w.Key); i >= 0 {
		p.bytes -= weight(&p.writes[i])
		if len(p.marks) > 0 {
			p.marks[len(p.marks)-1].save(i, p.writes[i])
		}
		p.writes[i] = w
		return
	}
	p.writes = append(p.writes, w)
	if isRecord(&w) {
		p.records++
	}
	switch {
	case p.index != nil:
		p.index[string(w.Key)] = len(p.writes) - 1
	case len(p.writes) > indexFrom:
		p.index = make(map[string]int, 4*indexFrom)
		for i := range p.writes {
			p.index[string(p.writes[i].Key)] = i
		}
	}
}

// mark makes a savepoint.
func (p *pending) mark() *mark {
	m := &mark{n: len(p.writes), bytes: p.bytes, gates: p.gates}
	p.marks = append(p.marks, m)
	return m
}

// save remembers what write i was when m was made.
func (m *mark) save(i int, w store.Write) {
	if _, ok := m.saved[i]; ok || i >= m.n {
		return
	}
	if m.saved == nil {
		m.saved = make(map[int]store.Write)
	}
	m.saved[i] = w
}

// keep closes the innermost savepoint; what was written since belongs to the one around it.
func (p *pending) keep() {
	last := len(p.marks) - 1
	m := p.marks[last]
	if p.marks = p.marks[:last]; last > 0 {
		for i, w := range m.saved {
			p.marks[last-1].save(i, w)
		}
	}
}

// undo closes the savepoint of index i, and those within it, and takes back what was written since.
func (p *pending) undo(i int) {
	for j := len(p.marks) - 1; j >= i; j-- {
		for k, w := range p.marks[j].saved {
			p.writes[k] = w
		}
	}
	m := p.marks[i]
	p.marks, p.bytes, p.gates = p.marks[:i], m.bytes, m.gates
	for k := m.n; k < len(p.writes); k++ {
		if isRecord(&p.writes[k]) {
			p.records--
		}
		delete(p.index, string(p.writes[k].Key))
	}
	clear(p.writes[m.n:])
	p.writes = p.writes[:m.n]
}

// take gives out the writes, without those of transactions that have not ended.
func (p *pending) take() []store.Write {
	if len(p.marks) > 0 {
		p.undo(0)
	}
	ws := p.writes
	*p = pending{}
	return ws
}

// over lays the writes of p, of the keys in [start, end), over base, which is sorted, and returns the sorted whole.
func (p *pending) over(base []store.Write, start, end []byte) []store.Write {
	var own []store.Write
	if p.cleared {
		base = slices.DeleteFunc(base, func(w store.Write) bool { return p.clears(w.Key) })
	}
	for _, w := range p.writes {
		if !w.IsRange() && bytes.Compare(w.Key, start) >= 0 && (end == nil || bytes.Compare(w.Key, end) < 0) {
			own = append(own, w)
		}
	}
	if len(own) == 0 {
		return base
	}
	slices.SortFunc(own, byKey)
	out := make([]store.Write, 0, len(base)+len(own))
	for _, w := range own {
		for len(base) > 0 && byKey(base[0], w) < 0 {
			out, base = append(out, base[0]), base[1:]
		}
		if len(base) > 0 && byKey(base[0], w) == 0 {
			base = base[1:]
		}
		out = append(out, w)
	}
	return append(out, base...)
}

func byKey(a, b store.Write) int { return bytes.Compare(a.Key, b.Key) }
