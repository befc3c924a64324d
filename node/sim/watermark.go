package sim

import "time"

// A disk loses the end of what was synced when bits flip in the last part of its log: what follows the damage is cut off at the next start,
// and the engine does not know. A watermark, a file of its own written about once a second, carries a number that was put into the log
// before, and synced. If a starting process finds a lower number in the log than in the file, none of its replicas may vote again (I14). What a disk
// loses behind its newest watermark nobody notices; that fault is outside of what the protocol stands.

// saved is what was synced at some watermark.
type saved struct {
	number uint64
	base   []*image
}

const watermarkEvery = time.Second

// mark writes a watermark now and then, as long as the process lives.
func (n *node) mark() {
	inc := n.inc
	n.w.after(watermarkEvery, func() {
		if n.inc != inc || !n.up {
			return
		}
		n.mark()
		n.do(inc, func() { n.disk.mark(n.w.on.Has(lostTail)) })
	})
}

// mark writes a watermark; keep: and remembers what was synced then, to go back to.
func (d *disk) mark(keep bool) {
	d.inLog++
	d.inFile = d.inLog
	if !keep {
		return
	}
	s := saved{number: d.inLog, base: make([]*image, len(d.base))}
	for g, m := range d.base {
		if m != nil {
			s.base[g] = m.clone()
		}
	}
	if d.before = append(d.before, s); len(d.before) > 4 {
		d.before = append(d.before[:0], d.before[1:]...)
	}
}

// tear takes the disk back to what was synced at a watermark before the newest, as a damaged log does that is cut off there. Replicas that were made
// or removed since stay as they are. False if there is no such watermark.
func (d *disk) tear(back int) bool {
	i := len(d.before) - 2 - back
	if i < 0 {
		return false
	}
	for g, m := range d.before[i].base {
		if m != nil && d.cur[g] != nil && m.rid == d.cur[g].rid {
			d.base[g], d.cur[g] = m.clone(), m.clone()
		}
	}
	d.inLog = d.before[i].number
	d.before = nil
	return true
}

// checkWatermark is what a starting process does: if the log is behind the file, every replica here may have forgotten something.
func (n *node) checkWatermark() {
	d := n.disk
	if d.lost = d.lost || d.inLog < d.inFile; !d.lost {
		return
	}
	for g, m := range d.cur {
		if m != nil && !m.regressed {
			m.regressed, d.base[g].regressed = true, true
			n.w.lose(m.rid)
			n.seen[g], n.synced[g] = viewOf(m), viewOf(m)
			n.w.stats.Regressed++
		}
	}
}

// loseTail damages the end of a node's log, so that its next process finds it too short. After a while somebody wipes the disk.
func (w *world) loseTail(n *node) {
	if !n.up || n.name == 0 || n.ring == nil || !w.spares(n) || len(n.disk.before) < 2 {
		return
	}
	n.crash()
	if !n.disk.tear(w.pick(2)) {
		return
	}
	w.count(lostTail)
	w.trace("tail lost", uint64(n.name), n.disk.inLog, n.disk.inFile)
	for g, m := range n.disk.cur {
		if m != nil {
			w.lose(m.rid)
			n.seen[g], n.synced[g] = viewOf(m), viewOf(m)
		}
	}
	name := n.name
	w.after(w.between(2*time.Second, 20*time.Second), func() {
		if n.name == name && w.now < w.calm {
			w.count(wipe)
			if n.up {
				n.crash()
			}
			n.wipe()
		}
	})
}

// lose notes that what a replica had stored is gone, or some of it.
func (w *world) lose(rid uint64) { w.lost[rid], w.lostAt = true, w.now }
