package sim

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// This file plays what a node does with rings in production: it keeps the newest on its disk, takes newer ones from others, starts and ends
// replicas as they say, reports to the sequencer, and hands shards to the nodes that the ring prefers.

// ringKey is where the system shard keeps the newest ring.
var ringKey = store.SystemKey("ring")

// home is where a replica lives: of which group, in which slot.
type home struct {
	group, slot int
	node        ring.NodeID
}

// nodeOf is the slot of a replica; shardOf its group.
func (w *world) nodeOf(id uint64) int  { return w.homes[id].slot }
func (w *world) groupOf(id uint64) int { return w.homes[id].group }

// settle notes where a ring's replicas live. It returns what is wrong, or "": an ID is handed out once (I12).
func (w *world) settle(r *ring.Ring) string {
	for g := range w.groups {
		a, _ := r.Group(ring.GroupID(g))
		for _, rep := range a.Replicas {
			for uint64(len(w.homes)) <= uint64(rep.ID) {
				w.homes = append(w.homes, home{})
			}
			at := home{g, w.slots[rep.Node], rep.Node}
			if was := w.homes[rep.ID]; was.node != 0 && was != at {
				return fmt.Sprintf("I12 identity: replica %d was of group %d on node %s, and is of group %d on node %s", rep.ID, was.group, was.node, g, rep.Node)
			}
			w.homes[rep.ID] = at
		}
	}
	return ""
}

// ringCommitted takes a ring that the system shard's log holds: the epoch after the last, and only one (I8).
func (w *world) ringCommitted(b []byte) string {
	r, err := ring.Decode(b)
	if err != nil {
		return err.Error()
	}
	if want := ring.Epoch(len(w.rings)) + 1; r.Epoch() != want {
		return fmt.Sprintf("I8 one ring per epoch: a ring of epoch %d is committed after %d", r.Epoch(), want-1)
	}
	w.rings = append(w.rings, b)
	w.newest = r
	w.stats.Epochs++
	return w.settle(r)
}

// checkRing looks at a ring that a node takes over: it is the one of its epoch (I8), whose membership its node knows to be committed.
func (w *world) checkRing(n *node, r *ring.Ring) {
	if w.cfg.HistoryOnly {
		return
	}
	if e := int(r.Epoch()); e > len(w.rings) || !bytes.Equal(w.rings[e-1], r.Encode()) {
		w.fail("I8 one ring per epoch", "node %s takes over a ring of epoch %d that was not committed so", n.name, e)
	}
}

// adopt takes a newer ring over: disk first, then groups.
func (n *node) adopt(r *ring.Ring) {
	n.w.checkRing(n, r)
	if !n.up || n.ring != nil && r.Epoch() <= n.ring.Epoch() {
		return
	}
	if _, member := r.Member(n.name); !member {
		n.leave()
		return
	}
	n.w.trace("ring", uint64(n.name), uint64(r.Epoch()), 0)
	if n.ring != nil && n.ring.Epoch() > 0 {
		for g := 1; g < n.w.groups; g++ {
			if s := ring.ShardID(g - 1); n.ring.Owner(s) != r.Owner(s) {
				n.wanted[g] = true
			}
		}
	}
	n.ring = r
	n.carryOut()
}

// carryOut starts the replicas that the ring puts here, tells all of them what it wants, and removes those that it does not put here.
func (n *node) carryOut() {
	for g := 0; g < n.w.groups && n.up; g++ {
		if !n.effect() {
			return
		}
		n.startGroup(g, n.ring)
	}
	for g := 0; g < n.w.groups && n.up; g++ {
		img := n.disk.cur[g]
		if img == nil {
			continue
		}
		if a, _ := n.ring.Group(ring.GroupID(g)); !onNode(a, n.name) {
			if !n.effect() {
				return
			}
			n.remove(g)
		}
	}
}

func onNode(a ring.Assignment, id ring.NodeID) bool {
	_, ok := a.On(id)
	return ok
}

// startGroup runs this node's replica of a group as a ring wants it, if it has one.
func (n *node) startGroup(g int, r *ring.Ring) {
	a, _ := r.Group(ring.GroupID(g))
	rep, here := a.On(n.name)
	if !here {
		return
	}
	rid := uint64(rep.ID)
	if old := n.disk.cur[g]; old != nil && old.rid != rid {
		if old.rid > rid {
			n.w.fail("I12 identity", "node %s holds replica %d of group %d, and ring %d says %d", n.name, old.rid, g, r.Epoch(), rid)
			return
		}
		n.remove(g) // the ring has given this node a new replica since; the old one is out of the group for good
	}
	if n.disk.cur[g] == nil {
		if n.disk.lost && !mutant.has(noWatermark) { // no replica is made in such a directory
			n.crash()
			return
		}
		if rid < n.tombs[g] {
			n.w.fail("I12 identity", "replica %d of group %d was on node %s and is gone, and ring %d puts it there again", rid, g, n.name, r.Epoch())
			return
		}
		n.tombs[g] = rid + 1
		n.disk.place(g, n.newReplica(g, rid))
		n.seen[g], n.synced[g] = view{}, view{}
	}
	if n.reps[g] == nil {
		n.open(g, n.disk.cur[g], !n.disk.old(g))
		n.w.checkRestart(n, g)
	}
	t := replica.Target{Epoch: r.Epoch()}
	for _, rep := range a.Replicas {
		switch rep.Role {
		case ring.Voter:
			t.Voters = append(t.Voters, rep.ID)
		case ring.Learner:
			t.Learners = append(t.Learners, rep.ID)
		}
	}
	x := n.reps[g]
	if x.gone {
		return // halted
	}
	x.g.SetTarget(t)
	x.g.SetEpoch(r.Epoch())
	n.drain(x)
}

// newReplica is what a replica begins with: with its founders' votes if the cluster was founded with it, else empty.
func (n *node) newReplica(g int, rid uint64) *image {
	if n.founder {
		a, _ := n.w.first.Group(ring.GroupID(g))
		if old, ok := a.On(n.name); ok && uint64(old.ID) == rid {
			return newImage(rid, n.w.models[g].founders)
		}
	}
	return emptyImage(rid)
}

// remove ends a replica that its group does without, and deletes it; a tombstone stays.
func (n *node) remove(g int) {
	img := n.disk.cur[g]
	n.w.trace("removed", img.rid, uint64(n.name), 0)
	if r := n.reps[g]; r != nil {
		r.end()
	}
	if !n.up {
		return
	}
	n.reps[g] = nil
	n.disk.place(g, nil)
	n.tombs[g] = max(n.tombs[g], img.rid+1)
	n.seen[g], n.synced[g] = view{}, view{}
	n.w.stats.Removed++
}

// leave ends a node that is no member any more, for good: its disk is of no use.
func (n *node) leave() {
	n.w.trace("left", uint64(n.name), 0, 0)
	n.w.stats.Left++
	n.stop()
	n.disk = newDisk(n.w.groups)
	n.name, n.ring, n.founder = 0, nil, false
}

// beat is what a node does a few times a second beside its groups.
func (n *node) beat() {
	w, inc := n.w, n.inc
	w.after(w.between(150*time.Millisecond, 350*time.Millisecond), func() {
		if !n.up || n.inc != inc {
			return
		}
		n.beat()
		n.do(inc, func() {
			switch {
			case n.ring == nil && !n.founder:
				n.askAdmission()
				return
			case n.ring != nil:
				n.report()
			}
			if !n.up {
				return
			}
			for range 2 {
				n.fetchRing()
			}
			n.giveBack()
		})
	})
}

// linked reports whether two slots hear each other.
func (w *world) linked(a, b int) bool {
	return a == b || !w.net.blocked[a][b] && !w.net.blocked[b][a]
}

// atSequencer calls fn on a node that runs the sequencer and that n can reach, if there is one: there may be two who think that they do.
func (n *node) atSequencer(fn func(s *sequencing)) {
	w := n.w
	var at []*node
	for _, o := range w.nodes {
		if o.up && o.seq != nil && w.linked(n.id, o.id) {
			at = append(at, o)
		}
	}
	if len(at) == 0 || w.faulty(drop) && w.chance(w.net.loss) {
		return
	}
	o := at[w.pick(len(at))]
	inc := o.inc
	w.after(w.callDelay(), func() {
		o.do(inc, func() {
			if o.seq != nil {
				fn(o.seq)
				o.drain(o.seq.r)
			}
		})
	})
}

// report tells the sequencer what this node is and knows.
func (n *node) report() {
	rep := &ring.Report{Member: n.member(), Epoch: n.ring.Epoch()}
	for _, r := range n.reps {
		if r == nil || r.gone {
			continue
		}
		if f, ok := r.g.Facts(); ok {
			rep.Groups = append(rep.Groups, ring.GroupReport{Group: f.Group, Term: f.Term, Facts: ring.GroupFacts{Epoch: n.ring.Epoch(), Leader: n.name,
				Voters: f.Voters, Learners: f.Learners, Joint: f.Joint, Filled: f.Filled, Active: f.Active}})
		}
	}
	inc := n.inc
	n.atSequencer(func(s *sequencing) {
		if !s.hear(rep) {
			n.w.after(n.w.callDelay(), func() { n.do(inc, n.leave) })
		}
	})
}

func (n *node) member() ring.Member {
	return ring.Member{ID: n.name, Addr: fmt.Sprintf("machine-%d:1", n.id), Boot: n.boot}
}

// askAdmission asks the sequencer to be made a member.
func (n *node) askAdmission() {
	m, inc := n.member(), n.inc
	n.atSequencer(func(s *sequencing) {
		s.ask(func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) { return r.Admit(m) }, func(r *ring.Ring) {
			n.w.after(n.w.callDelay(), func() {
				n.do(inc, func() {
					if _, ok := r.Member(m.ID); ok && n.ring == nil {
						n.adopt(r)
					}
				})
			})
		})
	})
}

// fetchRing takes a newer ring over from some node that has one: late, or not for long, if hints go astray.
func (n *node) fetchRing() {
	w := n.w
	if w.faulty(wrongHint) && w.chance(0.6) {
		w.count(wrongHint)
		return
	}
	o := w.nodes[w.pick(len(w.nodes))]
	if o == n || !o.up || o.paused || o.ring == nil || !w.linked(n.id, o.id) || n.ring != nil && o.ring.Epoch() <= n.ring.Epoch() {
		return
	}
	r, inc := o.ring, n.inc
	w.after(2*w.callDelay(), func() { n.do(inc, func() { n.adopt(r) }) })
}

// fitBeats is after how many beats, some three seconds, a group goes to a preferred node that could have taken it all the time.
const fitBeats = 12

// giveBack hands groups that this node owns to whom the ring prefers: at once if a ring has just said so, else now and then. Who is to leave its
// group hands it to anybody.
func (n *node) giveBack() {
	for g, r := range n.reps {
		if r == nil || r.gone || n.ring == nil || !n.up {
			continue
		}
		a, _ := n.ring.Group(ring.GroupID(g))
		to := a.Replicas[0]
		me, here := a.On(n.name)
		_, open := r.g.Facts()
		if !open || to.Node == n.name || !here && g == 0 {
			continue
		}
		able := r.g.Filled()
		if m, _ := n.ring.Member(n.name); g == 0 && m.State.Stays() && me.Role != ring.Outgoing {
			continue // the system shard stays where it is
		}
		if !slices.Contains(able, to.ID) {
			if me.Role != ring.Outgoing || len(able) == 0 {
				continue
			}
			to.ID = able[n.w.pick(len(able))]
		} else if n.fit[g]++; !n.wanted[g] && !n.w.chance(0.1) && n.fit[g] <= fitBeats {
			continue
		}
		n.wanted[g], n.fit[g] = false, 0
		n.w.trace("give back", r.rid, uint64(to.ID), 0)
		r.handOver(uint64(to.ID))
		n.drain(r)
	}
}

// checkSettled holds that changes of the cluster come to their end when faults do (I16): members hold their shares, nobody is on its way, and
// every node runs the replicas that the ring puts there.
func (w *world) checkSettled() {
	r := w.newest
	if w.cfg.HistoryOnly || r == nil {
		return
	}
	for _, m := range r.Members() {
		if m.State != ring.Up {
			var holds []string
			for g := range w.groups {
				a, _ := r.Group(ring.GroupID(g))
				if _, here := a.On(m.ID); here {
					holds = append(holds, fmt.Sprintf("%s: %v; %s", ring.GroupID(g), a.Replicas, w.describe(g)))
				}
			}
			w.fail("I16 liveness", "member %s ends as %s in ring %d and holds %v", m.ID, m.State, r.Epoch(), holds)
			return
		}
	}
	for g := range w.groups {
		a, _ := r.Group(ring.GroupID(g))
		for _, rep := range a.Replicas {
			n := w.nodes[w.nodeOf(uint64(rep.ID))]
			img := n.disk.cur[g]
			if rep.Role != ring.Voter || img == nil || img.rid != uint64(rep.ID) || n.reps[g] == nil || n.reps[g].gone && !img.regressed {
				w.fail("I16 liveness", "group %d ends with replica %d on node %s as %s in ring %d; %s", g, rep.ID, rep.Node, rep.Role, r.Epoch(), w.describe(g))
				return
			}
		}
	}
}
