package sim

import (
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store/replica"
)

// network carries Raft's messages between nodes, and loses, delays, repeats and reorders them. Clients reach every node always,
// even one that is cut off from its peers: that is the worst case for a stale owner.
type network struct {
	w       *world
	blocked [machines][machines]bool // from, to
	slow    [machines]bool           // what is sent to it comes late, and comes even if the network is cut meanwhile
	call    bool                     // the next MsgTimeoutNow comes late, and its sender is then cut off
	ask     heldAsk                  // of the class lateRequest; zero if none is under way
	lastAt  [machines][machines]time.Duration
	loss    float64
	repeat  float64
	late    float64 // share of messages that are delayed by up to four election timeouts
}

// packet is a message of Raft or, if that is nil, a ping, on its way between two replicas.
type packet struct {
	*raftpb.Message
	ping replica.Ping
}

// heldAsk is what is held of a request for a promise that comes late, and its answer, between two replicas.
type heldAsk struct {
	from, to uint64
	held     *replica.Ping
	given    bool
}

// hold takes care of the packets that a late request is about: it holds the request, gives it to who has just voted for another, and hurries the answer.
func (n *network) hold(from *node, to int, m packet) bool {
	w, q := n.w, &n.ask
	switch {
	case q.from == 0:
	case m.Message == nil && m.ping.Kind == replica.PingRequest && uint64(m.ping.From) == q.from && uint64(m.ping.To) == q.to && !q.given:
		q.held = &m.ping
		return true
	case m.Message == nil && q.given && m.ping.Kind == replica.PingPromise && uint64(m.ping.From) == q.to && uint64(m.ping.To) == q.from:
		w.after(w.between(100*time.Microsecond, time.Millisecond), func() { n.arrive(from.id, to, m, true) })
		return true
	case m.Message != nil && q.held != nil && !q.given && m.GetFrom() == q.to && m.GetTo() != q.from &&
		(m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgVoteResp && !m.GetReject()):
		q.given = true
		w.count(lateRequest)
		w.trace("late request", q.from, q.to, q.held.Number)
		late := packet{ping: *q.held}
		sender := w.nodeOf(q.from)
		w.after(0, func() { n.arrive(sender, from.id, late, true) })
	}
	return false
}

func (p packet) to() uint64 {
	if p.Message == nil {
		return uint64(p.ping.To)
	}
	return p.GetTo()
}

func (n *network) send(from *node, m packet) {
	w := n.w
	to := w.nodeOf(m.to())
	if m.Message != nil && m.GetType() == raftpb.MsgSnap {
		n.stream(from, m)
		return
	}
	if n.hold(from, to, m) {
		return
	}
	if n.blocked[from.id][to] || w.faulty(drop) && w.chance(n.loss) {
		if !n.blocked[from.id][to] {
			w.count(drop)
		}
		n.undelivered(from, m)
		return
	}
	n.carry(from.id, to, m)
	if w.faulty(duplicate) && w.chance(n.repeat) {
		w.count(duplicate)
		n.carry(from.id, to, m)
	}
}

// undelivered tells the sender what a real connection would often, not always, tell it.
func (n *network) undelivered(from *node, m packet) {
	if m.Message == nil {
		return
	}
	if !n.w.chance(0.3) {
		return
	}
	inc := from.inc
	n.w.after(n.w.between(time.Millisecond, 200*time.Millisecond), func() {
		from.do(inc, func() {
			r := from.byReplica(m.GetFrom())
			if r == nil {
				return
			}
			r.g.ReportUnreachable(replicaID(m.GetTo()))
			from.drain(r)
		})
	})
}

func (n *network) carry(from, to int, m packet) {
	w := n.w
	if ghost, ok := w.ghosts[to]; ok && w.chance(0.5) {
		to = ghost
	}
	m = w.translate(w.nodes[from], w.nodes[to], m)
	d := w.between(100*time.Microsecond, 1500*time.Microsecond)
	if w.faulty(delay) && w.chance(n.late) {
		w.count(delay)
		d = w.between(0, 4*timing.Election())
	}
	survives := w.chance(0.5) // a cut that happens meanwhile: it was in the receiver's buffers already
	if n.slow[to] {
		d, survives = w.between(0, 4*timing.Election()), true
	}
	call := n.call && m.Message != nil && m.GetType() == raftpb.MsgTimeoutNow
	if call {
		d, survives = w.between(0, 3*timing.Election()), true
		w.after(d, func() { w.called(from) })
	}
	at := w.now + d
	if call {
		// it delays no other
	} else if !w.faulty(reorder) && !n.slow[to] {
		at = max(at, n.lastAt[from][to])
		n.lastAt[from][to] = at
	} else if at < n.lastAt[from][to] {
		w.count(reorder)
	} else {
		n.lastAt[from][to] = at
	}
	w.after(at-w.now, func() { n.arrive(from, to, m, survives) })
}

func (n *network) arrive(from, to int, m packet, survives bool) {
	w := n.w
	dst := w.nodes[to]
	if n.blocked[from][to] && !survives || !dst.up {
		n.undelivered(w.nodes[from], m)
		return
	}
	dst.do(dst.inc, func() {
		r := dst.byReplica(m.to())
		if r == nil {
			return // a new identity on the same machine: the message was for its predecessor
		}
		if m.Message == nil {
			w.ping(dst, r, m.ping)
			return
		}
		w.trace("step", m.to(), uint64(m.GetType()), m.GetIndex())
		r.step(m.Message)
		dst.drain(r)
	})
}

// ping hands a request for a promise, or a promise, to its receiver.
func (w *world) ping(n *node, r *rep, p replica.Ping) {
	if w.stats.Asked++; p.Kind == replica.PingPromise {
		w.stats.Promised++
	}
	w.trace("ping", uint64(p.From), uint64(p.To), p.Number)
	r.g.Ping(n.clock(), p)
	n.drain(r)
}

// heal lets everything through again.
func (n *network) heal() {
	n.blocked = [machines][machines]bool{}
	n.slow = [machines]bool{}
	n.call, n.ask = false, heldAsk{}
}

// slowTo makes everything that a node is sent late for a while, and then cuts it off: it goes on hearing from the others, who do
// not hear from it.
func (n *network) slowTo(to int, d, cut time.Duration) {
	w := n.w
	n.heal()
	n.slow[to] = true
	w.cuts++
	mine := w.cuts
	w.trace("slow", uint64(to), uint64(d), 0)
	w.after(d, func() {
		if w.cuts != mine {
			return
		}
		n.slow[to] = false
		for i := range w.nodes {
			if i != to {
				n.block(to, i)
			}
		}
		w.after(cut, func() {
			if w.cuts == mine {
				n.heal()
			}
		})
	})
}

// shuffled puts machines in some order.
func (w *world) shuffled(at []int) []int {
	w.rng.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	return at
}

func (n *network) block(a, b int) { n.blocked[a][b], n.blocked[b][a] = true, true }

// cut draws one broken network of a class.
func (n *network) cut(class Class) {
	w := n.w
	at := w.living()
	k := len(at)
	one := at[w.pick(k)]
	switch class {
	case cutOne:
		one = w.aLeader(one)
		for i := range w.nodes {
			n.block(one, i)
		}
	case cutHalves:
		half := w.shuffled(at)
		for _, a := range half[:k/2] {
			for _, b := range half[k/2:] {
				n.block(a, b)
			}
		}
	case cutOneWay:
		one = w.aLeader(one)
		in := w.chance(0.5)
		for i := range w.nodes {
			if in {
				n.blocked[i][one] = true
			} else {
				n.blocked[one][i] = true
			}
		}
	case cutBridge:
		p := w.shuffled(at) // p[0] sees all others; they see half of each other
		for _, a := range p[1 : 1+(k-1)/2] {
			for _, b := range p[1+(k-1)/2:] {
				n.block(a, b)
			}
		}
	case cutRing:
		p := w.shuffled(at)
		for i := range k {
			for j := range i {
				if d := i - j; d != 1 && d != k-1 {
					n.block(p[i], p[j])
				}
			}
		}
		if k == 3 { // three in a ring all see each other: make it a chain
			n.block(p[0], p[2])
		}
	case cutLink:
		p := w.shuffled(at)
		n.block(p[0], p[1])
	}
	for i := range w.nodes {
		n.blocked[i][i] = false
	}
}

var _ raft.Storage = (*image)(nil)
