package client

import (
	"slices"

	"github.com/ringfence/ringfence/ring"
)

// routed is the part of a call that its stream works with.
type routed struct {
	seq   uint64 // order of entry, from 1
	gen   uint64 // of the last try
	state callState
	done  bool // the caller has been told; while flying, the answer is still awaited
	tries int
	asked ring.NodeID // the node of the last try
	last  string      // what the last try came to; empty before the first answer
	again bool        // sending it twice does no harm: what may have run is sent again
	mayBe bool        // an earlier try may have run
}

type callState uint8

const (
	callOut    callState = iota // not with the stream: before enter, or finished
	callQueued                  // waits to be sent
	callFlying                  // sent, not answered
)

// stream keeps the order of one Ref. It is a state machine: one method per event, each leaves its actions in out, valid until
// the next event. It has no lock, clock or goroutine; the caller serializes the events.
//
// Once a call did not run, the generation is over: nothing is sent until every call in flight has been answered, then the
// generation is raised and what did not run is sent again in order. Only then, or when nothing is in flight, may the
// connection change.
//
// A call that does no harm when it runs twice (again) is sent again also if it may have run: it takes effect where it first ran, or runs in
// its place among those sent again, so what holds for a refused one holds for it. If later ones have run it is not: nobody knows which it would be.
type stream struct {
	gen     uint64
	limit   int // calls entered and not finished
	lastSeq uint64
	maxRan  uint64 // highest seq that ran or, by the server's word, may have run
	queue   []*call
	flight  int
	over    bool // the generation is over
	pause   bool // wait before the next generation
	waiting bool // actRetry is out

	node     ring.NodeID // of the connection while flight > 0, else the last one
	chosen   uint64      // token of the hint under which node was chosen
	redirect ring.NodeID // go there next, whatever the table says
	turn     int
	hops     int
	failures int
	missed   int // tries in a row that reached nobody
	random   uint64
	out      []action
}

func newStream(limit int, seed uint64) stream {
	return stream{gen: 1, limit: limit, random: seed}
}

// enter: the caller made a call.
func (s *stream) enter(c *call, v *view) {
	s.out = s.out[:0]
	s.lastSeq++
	c.seq = s.lastSeq
	if len(s.queue)+s.flight >= s.limit {
		s.complete(c, verdictQueueFull, answer{})
		return
	}
	c.state = callQueued
	s.queue = append(s.queue, c)
	s.pump(v)
}

// retry: the delay of actRetry has passed.
func (s *stream) retry(v *view) {
	s.out = s.out[:0]
	s.waiting = false
	s.pump(v)
}

// giveUp: the caller no longer waits, because of its deadline or its context.
func (s *stream) giveUp(c *call) {
	s.out = s.out[:0]
	switch c.state {
	case callQueued:
		i, _ := s.find(c)
		s.queue = slices.Delete(s.queue, i, i+1)
		c.state = callOut
		s.complete(c, verdictNotRun, answer{})
	case callFlying:
		if !c.done {
			s.complete(c, verdictMayHaveRun, answer{})
		}
	}
}

// answered: a call in flight came to something. Every call that was sent is answered exactly once.
func (s *stream) answered(c *call, a answer, v *view) {
	s.out = s.out[:0]
	s.flight--
	c.state = callOut
	if a.kind == answerOK && a.hint.node == 0 && a.hint.token != 0 {
		a.hint.node = s.node
	}
	news := a.hint.token > v.hint.token
	if a.hint.better(v.hint) {
		v.hint = a.hint
		s.out = append(s.out, action{kind: actLearn, hint: a.hint})
	}
	switch a.kind {
	case answerOK, answerRan:
		s.maxRan = max(s.maxRan, c.seq)
		s.turn, s.hops, s.failures, s.missed, s.redirect = 0, 0, 0, 0, 0
		if c.again && a.kind == answerRan { // the server may refuse what follows, see transport.Call
			s.endGeneration(a, news, v)
		}
		s.complete(c, verdictReply, a)
	case answerFailed:
		s.endGeneration(a, news, v)
		s.complete(c, verdictReply, a)
	case answerFull:
		s.complete(c, verdictFull, a)
	case answerMaybe:
		if !c.again {
			s.maxRan = max(s.maxRan, c.seq)
			s.turn, s.hops, s.failures, s.missed, s.redirect = 0, 0, 0, 0, 0
			s.complete(c, verdictReply, a)
			break
		}
		s.endGeneration(a, news, v)
		s.repeat(c, a)
	case answerLost:
		s.endGeneration(a, news, v)
		if !c.again {
			s.complete(c, verdictLost, a)
			break
		}
		s.repeat(c, a)
	case answerRefused, answerUnsent:
		s.endGeneration(a, news, v)
		s.requeue(c, a)
	}
	s.next(v)
}

// next goes on when the last answer of a generation is in.
func (s *stream) next(v *view) {
	if s.flight > 0 || s.waiting || len(s.queue) == 0 {
		return
	}
	if s.over && s.pause {
		s.wait()
		return
	}
	s.pump(v)
}

// repeat takes back a call that may have run.
func (s *stream) repeat(c *call, a answer) {
	c.mayBe = true
	s.requeue(c, a)
}

// requeue takes back a call that is to be sent again.
func (s *stream) requeue(c *call, a answer) {
	if c.done {
		return
	}
	c.asked, c.last = s.node, a.text
	c.state = callQueued
	i, _ := s.find(c)
	s.queue = slices.Insert(s.queue, i, c)
}

func (s *stream) find(c *call) (int, bool) {
	return slices.BinarySearchFunc(s.queue, c.seq, func(q *call, seq uint64) int {
		if q.seq < seq {
			return -1
		} else if q.seq > seq {
			return 1
		}
		return 0
	})
}

// endGeneration: something did not run, or nobody knows. The first such answer decides who is asked next: the later ones of
// the generation only follow from it. news: the answer's hint is better than what was known.
func (s *stream) endGeneration(a answer, news bool, v *view) {
	if s.over {
		return
	}
	s.over, s.pause = true, true
	switch a.kind {
	case answerFailed, answerRan: // the node is the right one; only an overloaded one is given time
		s.pause = a.overloaded
		return
	case answerRefused, answerMaybe:
		if target := s.follow(a, news, v); target != 0 {
			s.redirect, s.turn = target, 0
			s.hops++
			s.pause = s.hops > maxHops
			return
		}
		if a.hint.node == s.node { // it is taking over: stay
			return
		}
	default:
		s.nobodyReached(v)
		return
	}
	s.turn++
	if _, n := v.candidate(0); n == 0 || s.turn%n == 0 {
		s.out = append(s.out, action{kind: actFetch}) // everybody was asked: perhaps the ring is old
	}
}

// nobodyReached: the next is asked at once, until as many tries have failed as there are nodes to ask.
func (s *stream) nobodyReached(v *view) {
	s.missed++
	if !v.resting(s.node) { // who rests is left out, so whoever came after it comes first now
		s.turn++
	}
	s.pause = s.missed >= v.known()
	if _, n := v.candidate(0); s.pause || s.turn > 0 && s.turn%n == 0 {
		s.out = append(s.out, action{kind: actFetch}) // everybody was asked: perhaps the ring is old
	}
}

// follow is the node to ask at once after a refusal, 0 if there is none: the answer's hint unless a better one is known, or
// what others of this client have learned since the node was chosen. A node that rests is not asked because of old news: others
// may go on naming an owner that is dead, or gone, until they notice.
func (s *stream) follow(a answer, news bool, v *view) ring.NodeID {
	h := a.hint
	if h.node != 0 && h.node != s.node && (h.token >= v.hint.token || v.hint.node == s.node) && (news || !v.resting(h.node)) {
		return h.node
	}
	if v.hint.token > s.chosen && v.hint.node != s.node && !v.resting(v.hint.node) {
		return v.hint.node
	}
	return 0
}

// pump sends what is queued, if the order allows it.
func (s *stream) pump(v *view) {
	if s.waiting || len(s.queue) == 0 {
		return
	}
	if s.over {
		if s.flight > 0 {
			return
		}
		s.gen++
		s.over = false
		if s.dropOvertaken(); len(s.queue) == 0 {
			return
		}
	}
	fresh := s.flight == 0
	if fresh && !s.choose(v) {
		s.wait()
		return
	}
	for i, c := range s.queue {
		c.state = callFlying
		c.tries++
		c.gen = s.gen
		s.out = append(s.out, action{kind: actSend, call: c, node: s.node, fresh: fresh && i == 0})
		s.queue[i] = nil
	}
	s.flight += len(s.queue)
	s.queue = s.queue[:0]
}

// dropOvertaken fails what was refused although a later call ran. A server never does that (see transport.Call); the order of a
// Ref must not rest on every server being right.
func (s *stream) dropOvertaken() {
	n := 0
	for n < len(s.queue) && s.queue[n].seq < s.maxRan {
		s.queue[n].state = callOut
		s.complete(s.queue[n], verdictOvertaken, answer{})
		n++
	}
	s.queue = slices.Delete(s.queue, 0, n)
}

// choose picks the node for what is sent next. It fails if nobody with a known address can be asked.
func (s *stream) choose(v *view) bool {
	target := s.redirect
	s.redirect = 0
	if target != 0 && !v.routes.has(target) {
		// The hint is newer than our ring: its node has no address here yet. The hint itself is in the table and comes first
		// as soon as the ring is there.
		s.out = append(s.out, action{kind: actFetch})
		s.turn = 0
		return false
	}
	if target == 0 {
		target, _ = v.candidate(s.turn)
	}
	if target == 0 {
		s.out = append(s.out, action{kind: actFetch})
		return false
	}
	s.node, s.chosen = target, v.hint.token
	return true
}

func (s *stream) wait() {
	s.waiting, s.pause, s.hops, s.missed = true, false, 0, 0
	d := backoff(s.failures, splitmix64(&s.random))
	s.failures++
	s.out = append(s.out, action{kind: actRetry, delay: d})
}

func (s *stream) complete(c *call, how verdict, a answer) {
	if c.done {
		return
	}
	c.done = true
	s.out = append(s.out, action{kind: actComplete, call: c, verdict: how, answer: a})
}
