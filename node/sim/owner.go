package sim

import (
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// ownership is what a replica's node does with the shard: nothing, or serve under one token.
type ownership struct {
	r     *rep
	ended bool     // the process is gone
	serve *serving // nil without an open token
	given uint64   // replica to hand the shard to once what runs has ended; 0: none
}

func (o *ownership) init(r *rep) { o.r = r }

// events takes what a Group says, in order.
func (o *ownership) events(es []replica.Event) {
	for _, e := range es {
		w := o.r.n.w
		w.trace("event", o.r.rid, uint64(e.Kind)<<32|e.Pos, uint64(e.Token))
		switch e.Kind {
		case replica.EventOpened:
			w.checkOpened(o.r, e.Token)
			o.serve = newServing(o.r, e.Token, e.Epoch)
		case replica.EventLost:
			if s := o.serve; s != nil && s.token == e.Token {
				o.serve = nil
				o.given = 0
				s.lost(e.Reason)
			}
		case replica.EventApplied:
			if s := o.serve; s != nil && s.token == e.Token {
				s.applied(e.Pos)
			}
		case replica.EventConfirmed:
			if s := o.serve; s != nil && s.token == e.Token {
				s.confirmed(e.Pos)
			}
		}
	}
}

func (o *ownership) tick() {
	if o.serve != nil {
		o.serve.tick()
	}
}

// valid reports whether a token may be used now: true, or false and whether it is lost for good.
func (r *rep) valid(token store.Token) (ok, lost bool) {
	t, until := r.g.LeaseUntil()
	if t != token {
		return false, true
	}
	return r.n.w.now < until, false
}

// receive takes a request from a client.
func (n *node) receive(q request) {
	w := n.w
	r := n.reps[q.shard]
	if r == nil {
		q.answer(answer{outcome: DidNotRun, hint: nodeOf(w.models[q.shard].voters[w.pick(copies)])})
		return
	}
	s := r.own.serve
	if s == nil || s.draining {
		hint := -1
		if l := uint64(r.g.Leader()); l != 0 {
			hint = nodeOf(l)
		}
		q.answer(answer{outcome: DidNotRun, hint: hint})
		return
	}
	if ok, _ := r.valid(s.token); !ok {
		q.answer(answer{outcome: DidNotRun, hint: -1})
		return
	}
	w.trace("deliver", r.rid, q.op, uint64(s.token))
	s.deliver(q)
	n.drain(r)
}

// serving is what a node does under one token.

type serving struct {
	r        *rep
	token    store.Token
	epoch    ring.Epoch
	over     bool
	draining bool
	acts     [objects]*act
	next     uint64
	appliedN uint64
	round    uint64
	conf     uint64
	held     []held
	late     time.Duration
}

type act struct {
	s     *serving
	obj   int
	queue []request
	busy  bool
	known bool
	mem   Version
	last  uint64
}

type held struct {
	q     request
	v     Version
	pos   uint64
	round uint64
}

func newServing(r *rep, t store.Token, e ring.Epoch) *serving {
	s := &serving{r: r, token: t, epoch: e}
	for i := range s.acts {
		s.acts[i] = &act{s: s, obj: i}
	}
	return s
}

func (s *serving) deliver(q request) {
	a := s.acts[q.object]
	a.queue = append(a.queue, q)
	a.run()
}

func (a *act) run() {
	if a.busy || len(a.queue) == 0 || a.s.over {
		return
	}
	a.busy = true
	q := a.queue[0]
	a.queue = a.queue[1:]
	a.access(q, func() {
		if !a.known {
			a.known = true
			a.mem = versionIn(a.s.r.image().kv, a.obj)
		}
		a.later(q.wait, func() {
			if !q.kind.writes() {
				a.end(q, a.mem, false)
				return
			}
			a.access(q, func() {
				a.mem = Version{a.mem.Number + 1, q.op, a.mem.Op}
				a.end(q, a.mem, true)
			})
		})
	})
}

func (a *act) later(d time.Duration, fn func()) {
	n := a.s.r.n
	inc := n.inc
	n.w.after(d, func() {
		n.do(inc, func() { fn(); n.drain(a.s.r) })
	})
}

func (a *act) access(q request, fn func()) {
	if a.s.over {
		q.answer(answer{outcome: Open})
		a.s.r.n.w.stats.Moved++
		return
	}
	ok, lost := a.s.r.valid(a.s.token)
	if ok {
		fn()
		return
	}
	if lost {
		return
	}
	a.s.r.n.w.stats.Waited++
	a.later(timing.Tick, func() { a.access(q, fn) })
}

func (a *act) end(q request, v Version, wrote bool) {
	s := a.s
	if s.over {
		q.answer(answer{outcome: Open})
		s.r.n.w.stats.Stale++
		return
	}
	if wrote {
		s.next++
		a.last = s.next
		writes := []store.Write{{Key: []byte(objectKey(a.obj)), Value: encodeVersion(v)}}
		w := s.r.n.w
		if w.faulty(strayProposal) && w.chance(0.05) {
			b := store.AppendBatchHead(nil, s.token, s.next, 1)
			w.stray(s.r, store.AppendWrite(b, &writes[0]))
		}
		commit := func() {
			_ = s.r.g.Commit(s.token, writes)
		}
		if w.faulty(lateProposal) && w.chance(0.02) {
			w.count(lateProposal)
			s.late = max(s.late, w.now+w.between(0, 8*timing.Election()))
		}
		if s.late > w.now {
			a.later(s.late-w.now, commit)
		} else {
			commit()
		}
	}
	s.round++
	s.held = append(s.held, held{q, v, a.last, s.round})
	s.r.g.Confirm(s.token, s.round)
	a.busy = false
	a.run()
}

func (s *serving) release() {
	kept := s.held[:0]
	for _, h := range s.held {
		if h.pos <= s.appliedN && h.round <= s.conf {
			s.r.n.w.checkGate(s.r, s.token, h.pos, h.q.op)
			h.q.answer(answer{outcome: Ran, version: h.v})
		} else {
			kept = append(kept, h)
		}
	}
	s.held = kept
}

func (s *serving) applied(n uint64)   { s.appliedN = n; s.release() }
func (s *serving) confirmed(n uint64) { s.conf = n; s.release() }
func (s *serving) tick()              {}
func (s *serving) lost(string) {
	s.over = true
	for _, h := range s.held {
		h.q.answer(answer{outcome: Open})
	}
	for _, a := range s.acts {
		for _, q := range a.queue {
			q.answer(answer{outcome: DidNotRun, hint: -1})
		}
	}
}

func (o *ownership) beginHandOver(to uint64) {
	if o.serve != nil {
		o.r.n.w.stats.Released++
		o.r.g.HandOver(replicaID(to))
	}
}
