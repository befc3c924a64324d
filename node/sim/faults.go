package sim

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// Class is a kind of fault. Each seed switches every class on or off.
type Class uint8

const (
	drop Class = iota
	duplicate
	delay
	reorder
	cutOne
	cutHalves
	cutOneWay
	cutBridge
	cutRing
	cutLink
	cutEcho
	pause
	crash
	powerLoss
	powerAfterReply
	wipe
	slowDisk
	syncError
	slowApply
	rawTransfer
	handOver
	lateProposal
	strayProposal
	wrongHint
	clockRate
	quickRestart
	lateCall
	joinNode
	leaveNode
	lostTail
	cloneDisk
	drainNode
	mixedVersions
	lateRequest // this and what follows is never drawn: profiles name it. One more that is drawn would give every seed another meaning
	crashInChange
	classes
)

var classNames = [classes]string{"message lost", "message doubled", "message late", "messages reordered", "cut: one node", "cut: halves",
	"cut: one way", "cut: bridge", "cut: ring", "cut: one link", "cut: answers come late", "pause", "crash and restart", "power loss of all", "power loss after a reply",
	"disk wiped", "slow disk", "fsync error", "slow apply", "raw transfer", "hand-over", "late proposal", "stray proposal", "wrong ring", "clocks at other rates", "quick restart", "late call to campaign",
	"a node joins", "a node leaves", "end of a log lost", "directory copied", "node drained", "mixed versions",
	"late request for a promise", "crash in a change"}

func (c Class) String() string { return classNames[c] }

// Classes is a set of them.
type Classes uint64

// allClasses are those that a seed draws from.
const allClasses = Classes(1)<<lateRequest - 1

func set(cs ...Class) (s Classes) {
	for _, c := range cs {
		s |= 1 << c
	}
	return s
}

// Has reports whether c is in s.
func (s Classes) Has(c Class) bool { return s>>c&1 == 1 }

func (s Classes) String() string {
	var names []string
	for c := range classes {
		if s.Has(c) {
			names = append(names, c.String())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// ParseClasses reads what String writes; spaces around commas do not matter.
func ParseClasses(text string) (s Classes, err error) {
	for name := range strings.SplitSeq(text, ",") {
		c := slices.Index(classNames[:], strings.TrimSpace(name))
		if c < 0 {
			return 0, fmt.Errorf("%q is no class of faults; there are: %v", name, allClasses)
		}
		s |= set(Class(c))
	}
	return s, nil
}

// Discrete faults happen at a moment; the rest of the classes colour what goes on anyway.
var discrete = set(cutOne, cutHalves, cutOneWay, cutBridge, cutRing, cutLink, cutEcho, pause, crash, powerLoss, powerAfterReply, wipe, syncError,
	slowDisk, rawTransfer, handOver, quickRestart, lateCall, joinNode, leaveNode, lostTail, cloneDisk, drainNode, lateRequest)

// drawClasses switches each class on with an even chance, at least three of them, one of them discrete.
func (s *scheduler) drawClasses() Classes {
	for {
		if on := Classes(s.rng.Uint64()) & allClasses; bits.OnesCount64(uint64(on)) >= 3 && on&discrete != 0 {
			return on
		}
	}
}

// faulty reports whether a class is on, now.
func (w *world) faulty(c Class) bool { return w.on.Has(c) && w.now < w.calm }

func (w *world) count(c Class) { w.stats.Faults[c]++ }

// nextFault keeps discrete faults coming until the calm.
func (w *world) nextFault() {
	w.after(time.Duration(w.rng.ExpFloat64()*float64(w.cfg.Profile.FaultEvery)), func() {
		if w.now >= w.calm {
			return
		}
		var can [classes]Class
		n := 0
		for c := range classes {
			if (w.on & discrete).Has(c) {
				can[n] = c
				n++
			}
		}
		if n > 0 {
			w.strike(can[w.pick(n)])
			w.nextFault()
		}
	})
}

// strike lets one discrete fault happen.
func (w *world) strike(c Class) {
	election := timing.Election()
	n := w.nodes[w.aLeader(w.aNode())]
	switch c {
	case cutOne, cutHalves, cutOneWay, cutBridge, cutRing, cutLink:
		w.net.heal()
		w.net.cut(c)
		w.count(c)
		w.cuts++
		mine := w.cuts
		w.trace("cut", uint64(c), 0, 0)
		w.after(w.outage(), func() {
			if w.cuts == mine {
				w.trace("healed", 0, 0, 0)
				w.net.heal()
			}
		})
	case cutEcho:
		w.count(c)
		slow := election
		if w.clock {
			slow = 4 * election
		}
		w.net.slowTo(n.id, w.between(election/4, slow), w.outage())
	case pause:
		n.pause(w.between(election/2, 10*election))
	case quickRestart:
		w.restartPromiser()
	case lateCall:
		w.callLate()
	case lateRequest:
		w.requestLate()
	case joinNode:
		w.joinNode()
	case leaveNode:
		w.leaveNode()
	case lostTail:
		w.loseTail(n)
	case cloneDisk:
		w.cloneDisk(n)
	case drainNode:
		w.drainNode(n)
	case crash:
		if n.up {
			n.crashIn = 1 + w.pick(40) // between two effects
			n.crashFor = crash
		}
	case powerLoss:
		w.count(powerLoss)
		w.powerLoss()
	case powerAfterReply:
		w.powerNext = true
	case wipe:
		w.wipe(n)
	case syncError:
		n.failSync = true
	case slowDisk:
		n.slowFor(w.between(election, 6*election))
	case rawTransfer, handOver:
		w.moveShard(c)
	}
}

// outage is how long a process is down or the network cut: mostly a few election timeouts, sometimes long enough that the others
// truncate their logs meanwhile.
func (w *world) outage() time.Duration {
	election := timing.Election()
	if w.chance(0.15) {
		return w.between(8*election, 50*election)
	}
	return w.between(election/8, 8*election)
}

// powerLoss crashes every node at one instant.
func (w *world) powerLoss() {
	for _, n := range w.nodes {
		if n.up {
			n.crash()
		}
	}
	w.checkDurable()
}

// aNode is a machine where a node lives.
func (w *world) aNode() int {
	at := w.living()
	return at[w.pick(len(at))]
}

func (w *world) living() (at []int) {
	for i, n := range w.nodes {
		if n.name != 0 {
			at = append(at, i)
		}
	}
	return at
}

// aGroup draws a group: a shard that is called often in most cases, the system group in some.
func (w *world) aGroup() int {
	if w.chance(0.1) {
		return 0
	}
	return w.aShard()
}

// empty is a machine where nobody lives; nil if there is none.
func (w *world) empty() *node {
	for _, n := range w.nodes {
		if n.name == 0 && !n.up {
			return n
		}
	}
	return nil
}

// joinNode starts a new node that wants to be a member.
func (w *world) joinNode() {
	n := w.empty()
	if n == nil || w.newest == nil || len(w.newest.Members()) >= w.members {
		return
	}
	w.count(joinNode)
	n.settle(false)
	w.trace("joins", uint64(n.name), uint64(n.id), 0)
	n.start()
}

// leaveNode asks for a member to leave, as long as enough stay.
func (w *world) leaveNode() {
	if w.newest == nil {
		return
	}
	ids := w.staying()
	if len(ids) <= copies { // of those that live
		return
	}
	id := ids[w.pick(len(ids))]
	for _, n := range w.nodes {
		if n.up && n.seq != nil {
			w.count(leaveNode)
			w.trace("leaves", uint64(id), 0, 0)
			n.seq.ask(func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) { return w.letGo(r, id) }, nil)
			return
		}
	}
}

// letGo is the ring in which a member leaves, if enough stay. That is looked at when its turn comes, not when somebody asks: another who was asked for
// just before may leave by then, or a disk be lost. With fewer copies than are wanted left, and one of those dead, who leaves would wait for an operator:
// it is not let go, as the cluster would keep too few copies, and the dead one is not given up, as nobody could take its place.
func (w *world) letGo(r *ring.Ring, id ring.NodeID) (*ring.Ring, error) {
	left := 0
	for _, o := range w.staying() {
		if m, ok := r.Member(o); o != id && ok && m.State.Stays() {
			left++
		}
	}
	if left < copies {
		return nil, fmt.Errorf("%d would stay", left)
	}
	w.going[id] = true
	return r.Leave(id)
}

// drainNode stops a process in good order: it takes no leadership any more, hands over all that it owns, and ends.
func (w *world) drainNode(n *node) {
	if !n.up || n.paused || n.ring == nil {
		return
	}
	w.count(drainNode)
	w.trace("drains", uint64(n.name), 0, 0)
	for _, r := range n.reps {
		if r == nil || r.gone {
			continue
		}
		r.g.Decline()
	}
	inc := n.inc
	w.after(w.between(0, 4*timing.Tick), func() { // who has answered by then may take over
		n.do(inc, func() {
			for _, r := range n.reps {
				if r == nil || r.gone || !r.owns() {
					continue
				}
				if able := r.g.Filled(); len(able) > 0 {
					r.handOver(uint64(able[w.pick(len(able))]))
					n.drain(r)
				}
			}
		})
	})
	w.after(w.between(100*time.Millisecond, 2*drainTimeout), func() {
		n.do(inc, func() {
			n.quick = n.quick || w.now >= w.calm
			n.crash()
		})
	})
}

// cloneDisk starts a second process on a copy of a node's directory, on another machine. It looks first whether the original runs where the
// cluster knows it, and ends if so. If the original is down the copy takes its place, and the old machine is given away.
func (w *world) cloneDisk(n *node) {
	o := w.empty()
	if o == nil || n.ring == nil {
		return
	}
	w.count(cloneDisk)
	w.trace("copied", uint64(n.name), uint64(n.id), uint64(o.id))
	if n.up && !mutant.has(cloneRuns) {
		return
	}
	o.settle(false)
	o.name, o.founder, o.ring, o.tombs = n.name, n.founder, n.ring, slices.Clone(n.tombs)
	o.disk = n.disk.copied()
	o.seen, o.synced = slices.Clone(n.seen), slices.Clone(n.synced)
	if n.up {
		w.ghosts[n.id] = o.id
	} else {
		w.slots[o.name] = o.id
		for id := range w.homes {
			if w.homes[id].node == o.name {
				w.homes[id].slot = o.id
			}
		}
		n.inc++ // it does not come back by itself
		n.name, n.ring, n.founder, n.disk = 0, nil, false, newDisk(w.groups)
		n.forget()
	}
	o.start()
}

// wipe takes a node's disk, if no other's is missing: two could cost a group its majority. What starts there next is a new node.
func (w *world) wipe(n *node) {
	if !n.up || n.ring == nil || !w.spares(n) {
		return
	}
	w.count(wipe)
	w.trace("wipe", uint64(n.id), 0, 0)
	n.crash()
	n.wipe()
}

// moveShard asks an owner to give a shard to another replica, properly or by force.
func (w *world) moveShard(c Class) {
	first := w.pick(len(w.nodes))
	for i := range w.nodes {
		n, shard := w.nodes[(first+i)%len(w.nodes)], w.aGroup()
		r := n.reps[shard]
		if !n.up || n.paused || r == nil || !r.leads() || !r.owns() {
			continue
		}
		to := r.anotherVoter(w.rng)
		if to == r.rid {
			continue
		}
		w.count(c)
		w.trace("move", uint64(c), r.rid, to)
		if c == handOver {
			r.handOver(to)
		} else {
			r.g.TransferLeader(replicaID(to))
		}
		n.drain(r)
		return
	}
}

// owner picks a shard that is served, its owner, and the two other voters in some order; nil if the first that is looked at will not do.
func (w *world) owner() (l *rep, others []uint64) {
	shard := w.aGroup()
	for _, n := range w.nodes {
		r := n.reps[shard]
		if !n.up || n.paused || r == nil || !r.leads() || !r.owns() {
			continue
		}
		for _, v := range r.g.Voters() {
			if v != r.rid {
				others = append(others, v)
			}
		}
		w.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		if len(others) >= 2 {
			return r, others
		}
	}
	return nil, nil
}

// unlessCut runs fn after d unless another cut has come meanwhile.
func (w *world) unlessCut(d time.Duration, fn func()) {
	w.cuts++
	mine := w.cuts
	w.after(d, func() {
		if w.cuts == mine && w.now < w.calm {
			fn()
		}
	})
}

// restartPromiser lets an owner live by the promises of one follower alone, restarts that follower, and cuts the owner off.
func (w *world) restartPromiser() {
	l, others := w.owner()
	if l == nil {
		return
	}
	first, second := w.nodeOf(others[0]), w.nodes[w.nodeOf(others[1])]
	w.net.heal()
	w.net.block(l.n.id, first)
	w.unlessCut(w.between(timing.Promise, 2*timing.Promise), func() {
		if !second.up || second.paused {
			return
		}
		w.count(quickRestart)
		w.trace("quick restart", l.rid, others[0], others[1])
		second.quick = true
		second.crash()
		for i := range w.nodes {
			if i != l.n.id {
				w.net.block(l.n.id, i)
			}
		}
		w.unlessCut(w.outage(), w.net.heal)
	})
}

// callLate has an owner hand leadership on by force, while what it is sent comes late; the call to campaign comes late too, and when it
// comes the owner is cut off.
func (w *world) callLate() {
	l, others := w.owner()
	if l == nil {
		return
	}
	w.net.heal()
	cut := w.pick(3)
	if cut == 0 {
		w.net.block(l.n.id, w.nodeOf(others[1]))
	}
	if w.chance(0.5) {
		w.net.slow[l.n.id] = true
	}
	w.unlessCut(w.between(0, timing.Promise), func() {
		if !l.n.up || l.n.paused || l.n.reps[l.group] != l || !l.leads() {
			return
		}
		w.count(lateCall)
		w.trace("late call", l.rid, others[0], others[1])
		w.net.call = true
		w.unlessCut(8*timing.Election(), w.net.heal)
		l.g.TransferLeader(replicaID(others[0]))
		l.n.drain(l)
		if cut == 1 {
			w.net.block(l.n.id, w.nodeOf(others[0])) // it does not renew its promise
		}
	})
}

// called: the call to campaign has come.
func (w *world) called(from int) {
	if w.now >= w.calm {
		return
	}
	w.net.call = false
	for i := range w.nodes {
		if i != from {
			w.net.block(from, i)
		}
	}
	w.unlessCut(w.outage(), w.net.heal)
}

// requestLate cuts an owner off, in such a way that it goes on hearing what was sent to it before, and lets one follower have a last request for a promise
// from it at the worst moment: when that follower has just helped another into leadership, and has not promised anything to that one yet.
func (w *world) requestLate() {
	l, others := w.owner()
	if l == nil {
		return
	}
	w.net.heal()
	w.net.slow[l.n.id] = true
	w.unlessCut(w.between(timing.Promise/2, 2*timing.Promise), func() {
		w.net.ask = heldAsk{from: l.rid, to: others[0]}
		for i := range w.nodes {
			if i != l.n.id {
				w.net.blocked[l.n.id][i] = true
			}
		}
		w.unlessCut(4*timing.Election(), w.net.heal)
	})
}

// crashedInChange: a voter has acknowledged the end of a joint change, and has crashed before it applied the beginning. All who did so are cut off, together, as
// soon as their answers are there: the others go on without them, and they must not go on by themselves.
func (w *world) crashedInChange(n *node, r *rep) {
	w.count(crashInChange)
	w.trace("crash in a change", r.rid, 0, 0)
	if w.inChange != r.group {
		w.inChange, w.apart = r.group, [machines]bool{}
	}
	w.apart[n.id] = true
	n.quick = true
	n.crash()
	w.unlessCut(5*time.Millisecond, func() {
		w.net.heal()
		for a := range w.nodes {
			for b := range w.nodes {
				if w.apart[a] && !w.apart[b] {
					w.net.block(a, b)
				}
			}
		}
		w.unlessCut(6*timing.Election(), w.net.heal)
	})
}

// aLeader prefers, three times in four, a node that leads some shard: faults hurt most there.
func (w *world) aLeader(otherwise int) int {
	if !w.chance(0.75) {
		return otherwise
	}
	shard := w.aGroup()
	for _, n := range w.nodes {
		if r := n.reps[shard]; n.up && r != nil && r.leads() {
			return n.id
		}
	}
	return otherwise
}

// beCalm ends all faults: the network heals, who is down starts, who is paused goes on.
func (w *world) beCalm() {
	w.trace("calm", 0, 0, 0)
	w.cuts++ // what was to follow a cut does not
	w.net.heal()
	w.powerNext = false
	for _, n := range w.nodes {
		n.crashIn, n.failSync, n.slowUntil = 0, false, 0
		if n.paused {
			n.resume()
		}
		if n.disk.lost || n.disk.inLog < n.disk.inFile { // found so, or by its next process: somebody looks after it at last
			if n.up {
				n.crash()
			}
			n.wipe()
		}
		if !n.up && n.name != 0 {
			n.start()
		}
	}
}
