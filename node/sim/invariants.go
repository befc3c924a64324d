package sim

import (
	"fmt"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store"
)

// Violation is the first thing that was wrong in a run.
type Violation struct {
	Invariant string // of the table in node/DESIGN.md
	At        time.Duration
	Detail    string
}

func (v *Violation) Error() string { return fmt.Sprintf("%s at %v: %s", v.Invariant, v.At, v.Detail) }

// fail records a violation; the run stops after the current event.
func (w *world) fail(invariant, format string, args ...any) {
	if w.broken == nil {
		w.broken = &Violation{invariant, w.now, fmt.Sprintf(format, args...)}
		w.note("VIOLATION: %v", w.broken)
	}
}

// view is what a replica's store said last; it never goes back.
type view struct {
	token   store.Token
	epoch   uint64
	term    uint64
	applied uint64
}

func viewOf(m *image) view {
	return view{m.fence.Token, uint64(m.fence.Epoch), m.term, m.applied}
}

func (v view) behind(o view) bool {
	return v.token < o.token || v.epoch < o.epoch || v.term < o.term || v.applied < o.applied
}

// checkImage looks at a replica after it stored something: its entries agree with everybody's (I2, I20), its state and fence are
// what they make (I2, I20), nothing went back (I7).
func (w *world) checkImage(n *node, group int) {
	img, m := n.disk.cur[group], w.models[group]
	seen := &n.seen[group]
	for i := max(seen.applied, img.trunc) + 1; i <= img.applied; i++ {
		e := img.ents[i-img.trunc-1]
		if n.old {
			w.checkReadable(n, group, e)
		}
		if !w.observe(n, group, e) {
			return
		}
	}
	if img.applied > m.last() {
		w.fail("I20 replicas agree", "group %d: node %d holds the state at %d, nobody applied beyond %d", group, n.id, img.applied, m.last())
		return
	}
	if now := viewOf(img); now.behind(*seen) && !w.cfg.HistoryOnly {
		w.fail("I7 never back", "group %d on node %d: %+v after %+v", group, n.id, now, *seen)
	} else {
		*seen = now
	}
	w.checkState(n, group)
}

// observe shows the model an entry that takes effect on a node. It reports false if that is wrong.
func (w *world) observe(n *node, group int, e *raftpb.Entry) bool {
	wrong := w.models[group].observe(e)
	if wrong == "" || w.cfg.HistoryOnly {
		return true
	}
	what := "I20 replicas agree"
	if name, rest, ok := strings.Cut(wrong, ": "); ok && strings.HasPrefix(name, "I") {
		what, wrong = name, rest
	}
	w.fail(what, "group %d entry %d on node %d: %s", group, e.GetIndex(), n.id, wrong)
	return false
}

func (w *world) checkState(n *node, group int) {
	img, m := n.disk.cur[group], w.models[group]
	if img.applied < 2 || img.applied > m.last() || w.cfg.HistoryOnly {
		return
	}
	want := m.at(img.applied)
	if img.fence != want.fence {
		w.fail("I2 one committing instance", "group %d at %d on node %d: fence %+v, by the rules %+v", group, img.applied, n.id, img.fence, want.fence)
	}
	if c := m.confs[want.conf]; !c.same(img.conf) {
		w.fail("I20 replicas agree", "group %d at %d on node %d: configuration %v, by the rules %+v", group, img.applied, n.id, img.conf, c)
	}
	if img.sum != want.sum {
		w.fail("I20 replicas agree", "group %d at %d on node %d: state %x, by the log %x", group, img.applied, n.id, img.sum, want.sum)
	}
}

// checkSynced remembers what an fsync promised.
func (w *world) checkSynced(n *node) {
	for group, img := range n.disk.base {
		if img != nil {
			n.synced[group] = viewOf(img)
		}
	}
}

// checkRestart looks at what a process finds on its disk: at least what was synced, and state and fence of one moment.
func (w *world) checkRestart(n *node, group int) {
	now := viewOf(n.disk.cur[group])
	if now.behind(n.synced[group]) && !w.cfg.HistoryOnly {
		w.fail("I7 never back", "group %d on node %d: %+v after a restart; %+v was synced", group, n.id, now, n.synced[group])
	}
	n.seen[group] = now
	w.checkState(n, group)
}

// durable reports whether the entry is on synced disks of a majority: of the newest configuration, or of the one before, whose majority
// committed what led to the newest. Disks that were lost may have been part of it.
func (w *world) durable(group int, index uint64) bool {
	m := w.models[group]
	term := m.at(index).entry.GetTerm()
	held := func(voters []uint64) bool {
		have := 0
		for _, v := range voters {
			if w.lost[v] {
				have++
			} else if img := w.nodes[w.nodeOf(v)].disk.base[group]; img != nil && img.rid == v && (img.applied >= index || img.holds(index, term)) {
				have++
			}
		}
		return have > len(voters)/2
	}
	for _, c := range m.confs[max(0, len(m.confs)-2):] {
		if held(c.voters) || len(c.outgoing) > 0 && held(c.outgoing) {
			return true
		}
	}
	return false
}

// checkGate looks at a reply that leaves: everything it depends on is fsynced on a majority (I4).
func (w *world) checkGate(r *rep, token store.Token, pos uint64, op uint64) {
	if pos == 0 || w.cfg.HistoryOnly {
		return
	}
	index, ok := w.models[r.group].where[batchID{token, pos}]
	if !ok {
		w.fail("I4 output gate", "op %d: a reply leaves node %d; batch %d of token %d of group %d has not taken effect", op, r.n.id, pos, token, r.group)
		return
	}
	if !w.durable(r.group, index) {
		w.fail("I4 output gate", "op %d: a reply leaves node %d; entry %d of group %d is not synced on a majority", op, r.n.id, index, r.group)
	}
	w.gates[r.group] = max(w.gates[r.group], index)
}

// checkDurable looks at all disks after all power is gone: what a reply depended on is still there (I4, I18).
func (w *world) checkDurable() {
	if w.cfg.HistoryOnly {
		return
	}
	for group, index := range w.gates {
		if index > 0 && !w.durable(group, index) {
			w.fail("I18 power loss", "entry %d of group %d, on which a reply depended, is not left on a majority", index, group)
		}
	}
}

// checkOpened looks at a token that a node begins to serve under: it was granted to this very process, its acquire is stored
// here (I5), and nobody else serves under it (I2).
func (w *world) checkOpened(r *rep, token store.Token) {
	m := w.models[r.group]
	w.stats.Acquires++
	if w.cfg.HistoryOnly {
		return
	}
	if r.image().applied < uint64(token) || uint64(token) > m.last() || token < 2 {
		w.fail("I5 fresh start", "node %d opens token %d of group %d at applied index %d", r.n.id, token, r.group, r.image().applied)
		return
	}
	if f := m.at(uint64(token)).fence; f.Token != token || f.Holder.Node != r.n.name || f.Holder.Boot != r.n.boot {
		w.fail("I5 fresh start", "node %d opens token %d of group %d, which is not its own: %+v", r.n.id, token, r.group, f)
		return
	}
	me := ownerID{r.n.id, uint64(r.n.boot)}
	if other, taken := m.opened[token]; taken {
		w.fail("I2 one committing instance", "token %d of group %d opened by %+v and by %+v", token, r.group, other, me)
	}
	m.opened[token] = me
	w.checkLeases(r, token)
}

// checkLeases holds that only one node serves (I9): with leases by the clock none holds any more but that of the newest token, whatever the process that has
// it knows. A paused one finds it over; one that is late to open a token finds that it has no lease.
func (w *world) checkLeases(r *rep, token store.Token) {
	if !w.clock {
		return
	}
	_, mine := r.g.LeaseUntil()
	for _, n := range w.nodes {
		o := n.reps[r.group]
		if !n.up || o == nil || o == r || o.gone {
			continue
		}
		t, until := o.g.LeaseUntil()
		if t != 0 && n.clock() < until && (t < token || r.n.clock() < mine) {
			w.fail("I9 no two owners", "node %s opens token %d of group %d, with a lease for %v; on node %s that of token %d holds for %v", r.n.name, token, r.group, mine-r.n.clock(), n.name, t, until-n.clock())
		}
	}
}

// checkAccess looks at a storage access that is let through: no other token than its own is the newest applied here (I6).
func (w *world) checkAccess(s *serving) {
	if f := s.r.image().fence; !w.cfg.HistoryOnly && (s.t.IsLost() || f.Token != s.token || f.Released) {
		w.fail("I6 stale access fails", "node %d: access under token %d of group %d; the fence here says %+v", s.r.n.id, s.token, s.r.group, f)
	}
}
