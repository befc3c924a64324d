package sim

import (
	"slices"
	"time"
)

// A snapshot travels in chunks, each answered before the next. It counts when the last has come; if the network is cut, an end is gone, or the
// sender leads no more, all of it was for nothing. The log is kept meanwhile for who receives it.

// stream sends a snapshot.
func (n *network) stream(from *node, m packet) {
	r := from.byReplica(m.GetFrom())
	if r == nil {
		return
	}
	index := m.GetSnapshot().GetMetadata().GetIndex()
	r.sends = append(r.sends, index)
	n.chunk(from, r, m, 1+n.w.pick(5), from.inc, n.w.nodes[n.w.nodeOf(m.to())].inc)
}

// chunk sends the next of left chunks, between the two processes that began.
func (n *network) chunk(from *node, r *rep, m packet, left, inc, peer int) {
	w := n.w
	d := w.between(200*time.Microsecond, 4*time.Millisecond)
	if w.faulty(delay) && w.chance(0.1) {
		w.count(delay)
		d = w.between(0, timing.Election())
	}
	w.after(d, func() {
		if from.inc != inc || r.gone {
			return
		}
		dst := w.nodes[w.nodeOf(m.to())]
		switch {
		case n.blocked[from.id][dst.id] || n.blocked[dst.id][from.id] || !dst.up || dst.inc != peer || !r.leads() || w.faulty(drop) && w.chance(n.loss):
			w.stats.Unsent++
			from.do(inc, func() { r.sent(m, false) })
		case left > 1:
			w.stats.Chunks++
			n.chunk(from, r, m, left-1, inc, peer)
		default:
			dst.do(peer, func() {
				if from.old != dst.old {
					w.checkSnapshot(m.GetSnapshot().GetData())
				}
				if t := dst.byReplica(m.to()); t != nil {
					w.trace("step", m.to(), uint64(m.GetType()), m.GetIndex())
					t.step(m.Message)
					dst.drain(t)
				}
				w.after(w.between(time.Millisecond, 5*time.Millisecond), func() { from.do(inc, func() { r.sent(m, true) }) })
			})
		}
	})
}

// sent tells the sender how it ended.
func (r *rep) sent(m packet, ok bool) {
	if r.gone {
		return
	}
	if i := slices.Index(r.sends, m.GetSnapshot().GetMetadata().GetIndex()); i >= 0 {
		r.sends = slices.Delete(r.sends, i, i+1)
	}
	r.g.ReportSnapshot(replicaID(m.GetTo()), ok)
	r.n.drain(r)
}
