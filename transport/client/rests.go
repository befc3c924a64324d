package client

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// How long a node is not asked while another can be.
const (
	// leaveRest: a node that said go-away stops, and comes back at the earliest about then.
	leaveRest = time.Second
	// The rest after a failed dial doubles from the first to the second. It is short: the node may be back at any time, and it may
	// be only this client's way to it that was cut.
	minFailRest = 50 * time.Millisecond
	maxFailRest = 400 * time.Millisecond
)

// hangTime is how long calls wait for a dial while others could be asked. Connecting takes one round trip, so this is a node far away
// or none at all.
const hangTime = 250 * time.Millisecond

// rest says until when a node is not asked if another one can be. Entries stay until the node is reached or leaves the ring.
type rest struct {
	node     ring.NodeID
	until    time.Time
	failures int  // dials in a row that failed
	hung     bool // the last dial had no answer for hangTime, or the last connection was given up as silent
}

// rests is one client's table of them. Readers take no lock; it is empty while all is well. Safe for concurrent use.
type rests struct {
	list atomic.Pointer[[]rest]
	mu   sync.Mutex // for writers
}

// load is the table now; it does not change any more.
func (r *rests) load() []rest {
	if l := r.list.Load(); l != nil {
		return *l
	}
	return nil
}

// update changes a node's entry, which is made if there is none.
func (r *rests) update(n ring.NodeID, change func(e *rest)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.load())
	i := slices.IndexFunc(list, func(e rest) bool { return e.node == n })
	if i < 0 {
		i = len(list)
		list = append(list, rest{node: n})
	}
	change(&list[i])
	r.list.Store(&list)
}

// keep drops the entries that ok refuses.
func (r *rests) keep(ok func(n ring.NodeID) bool) {
	if len(r.load()) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(r.load()), func(e rest) bool { return !ok(e.node) })
	if len(list) == 0 {
		r.list.Store(nil)
		return
	}
	r.list.Store(&list)
}

// left: the node said go-away.
func (r *rests) left(n ring.NodeID, now time.Time) {
	r.update(n, func(e *rest) { e.until = later(e.until, now.Add(leaveRest)) })
}

// hangs: a dial of the node has had no answer for hangTime, and goes on for at most so long.
func (r *rests) hangs(n ring.NodeID, now time.Time, most time.Duration) {
	r.update(n, func(e *rest) { e.hung, e.until = true, later(e.until, now.Add(most)) })
}

// silent: an open connection to the node was given up. Until a dial has succeeded nobody waits for one.
func (r *rests) silent(n ring.NodeID, now time.Time) {
	r.update(n, func(e *rest) { e.hung, e.until = true, later(e.until, now.Add(maxFailRest)) })
}

// failed: a dial of the node has failed.
func (r *rests) failed(n ring.NodeID, now time.Time) {
	r.update(n, func(e *rest) {
		e.until = later(e.until, now.Add(min(minFailRest<<min(e.failures, 8), maxFailRest)))
		e.failures++
	})
}

// reached: a dial of the node has succeeded.
func (r *rests) reached(n ring.NodeID) { r.keep(func(m ring.NodeID) bool { return m != n }) }

// hung reports whether nobody should wait for a dial of the node.
func (r *rests) hung(n ring.NodeID) bool {
	return slices.ContainsFunc(r.load(), func(e rest) bool { return e.node == n && e.hung })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
