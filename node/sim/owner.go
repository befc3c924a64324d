package sim

import (
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// drainTimeout is how long running events may go on when a shard is handed over; then they are reset.
const drainTimeout = 2 * time.Second

// ownership is what a replica's node does with the shard: nothing, or serve under one token.
type ownership struct {
	r     *rep
	serve *serving // nil without an open token
}

func (o *ownership) init(r *rep) { o.r = r }

// serving is a host.Tenure and the loop around it.
type serving struct {
	r     *rep
	token store.Token
	t     *host.Tenure
	to    uint64 // replica that the shard is being handed to; 0: none

	acts    [objects + 1]*host.Activation
	mem     map[*host.Activation]*memory
	last    [objects + 1]uint64 // last batch submitted of each object
	lateTil time.Duration       // proposals wait until then
	waiting [][]store.Write     // those proposals, in order
	index   []alarmNote         // changes of the index of alarms by batches that are not applied
}

// events takes what a Group says, in order.
func (o *ownership) events(es []replica.Event) {
	for _, e := range es {
		w := o.r.n.w
		w.trace(eventNames[e.Kind], o.r.rid, uint64(e.Token), e.Pos)
		if o.r.group == 0 {
			o.r.n.sequence(o.r, &e)
			continue
		}
		if e.Kind == replica.EventOpened {
			w.checkOpened(o.r, e.Token)
			o.serve = &serving{r: o.r, token: e.Token, t: host.NewTenure(e.Token), mem: map[*host.Activation]*memory{}}
			o.r.n.alarms.Open(ring.ShardID(o.r.group-1), e.Token)
			o.r.n.kick()
			continue
		}
		s := o.serve
		if s == nil || s.token != e.Token {
			continue
		}
		switch e.Kind {
		case replica.EventLost:
			o.serve = nil
			o.r.n.alarms.Close(ring.ShardID(o.r.group-1), s.token)
			s.do(s.t.Lost(nil))
		case replica.EventApplied:
			s.indexApplied(e.Pos)
			s.do(s.t.Applied(nil, e.Pos))
		case replica.EventConfirmed:
			s.do(s.t.Confirmed(nil, e.Pos))
		}
		if !o.r.n.up {
			return
		}
	}
}

var eventNames = [...]string{replica.EventLost: "lost", replica.EventOpened: "opened", replica.EventApplied: "applied",
	replica.EventConfirmed: "confirmed"}

// tick lets idle activations go, by time and sometimes for want of room, so that memory is made anew.
func (o *ownership) tick() {
	s := o.serve
	if s == nil {
		return
	}
	s.do(s.t.Tick(nil))
	if s.t.Activations() > 0 && o.r.n.w.chance(0.01) {
		actions, _ := s.t.Evict(nil)
		s.do(actions)
	}
}

// receive takes a request from a client.
func (n *node) receive(q request) {
	w := n.w
	r := n.reps[q.group]
	if r == nil {
		q.answer(answer{outcome: DidNotRun, hint: w.aVoter(q.group)})
		return
	}
	s := r.own.serve
	if s == nil {
		q.answer(answer{outcome: DidNotRun, hint: r.leaderNode()})
		return
	}
	if ok, _ := r.valid(s.token); !ok { // an event starts under a valid lease or not at all
		q.answer(answer{outcome: DidNotRun, hint: -1})
		return
	}
	w.trace("deliver", r.rid, q.op, uint64(s.token))
	policy := &w.policy
	if q.kind == opStale {
		policy = &w.stalePolicy
	}
	s.do(s.t.Deliver(nil, &host.Event{Object: objectID(q.object), Data: &running{s: s, q: q}, Bytes: 100}, policy))
	n.drain(r)
}

// valid reports whether a token may be used now, and if not, whether it is over for good.
func (r *rep) valid(token store.Token) (ok, over bool) {
	t, until := r.g.LeaseUntil()
	if t != token {
		return false, true
	}
	return r.n.clock() < until, false
}

func (r *rep) leaderNode() int {
	if l := uint64(r.g.Leader()); l != 0 {
		return r.n.w.nodeOf(l)
	}
	return -1
}

func objectID(object int) actor.ID {
	return actor.ID{Class: "Register", Key: string(rune('a' + object))}
}

// do does what a Tenure wants done, in order. Users' code runs later, as events of the scheduler.
func (s *serving) do(actions []host.Action) {
	n := s.r.n
	for i := range actions {
		if !n.effect() {
			return
		}
		a := &actions[i]
		switch a.Kind {
		case host.ActStart:
			u := a.Event.Data.(*running)
			u.ev, u.a = a.Event, a.Activation
			s.acts[u.q.object] = a.Activation
			u.later(0, u.begin)
		case host.ActSubmit:
			s.submit(a.Pos, a.Writes)
		case host.ActConfirm:
			s.r.g.Confirm(s.token, a.Round)
		case host.ActRespond:
			s.respond(a.Event.Data.(*running))
		case host.ActRefuse:
			s.refuse(a.Event.Data.(*running), a)
		case host.ActWake:
			if u := a.Waiter.(*running); a.Why == 0 {
				u.later(0, u.finish)
			} else {
				u.later(0, u.moved)
			}
		case host.ActDrop:
			n.w.stats.Dropped++
			delete(s.mem, a.Activation)
		}
	}
	if s.to != 0 && s.t.Quiet() && s.r.own.serve == s {
		to := s.to
		s.to = 0
		if s.r.g.HandOver(replicaID(to)) {
			n.w.stats.Released++
		}
	}
}

// submit proposes a batch: at once, or after a pause of the owner between computing and proposing, then all later ones wait too.
// Now and then a copy goes astray and is proposed to somebody much later.
func (s *serving) submit(pos uint64, writes []store.Write) {
	w, n := s.r.n.w, s.r.n
	if w.faulty(strayProposal) && w.chance(0.05) {
		b := store.AppendBatchHead(nil, s.token, pos, 1)
		for i := range writes {
			b = store.AppendWrite(b, &writes[i])
		}
		w.stray(s.r, b)
	}
	if w.faulty(lateProposal) && w.chance(0.02) {
		w.count(lateProposal)
		s.lateTil = max(s.lateTil, w.now+w.between(0, 8*timing.Election()))
	}
	s.noteAlarms(pos, writes)
	s.waiting = append(s.waiting, writes)
	if s.lateTil <= w.now && len(s.waiting) == 1 {
		s.propose()
		return
	}
	inc := n.inc
	w.after(s.lateTil-w.now, func() {
		n.do(inc, func() {
			s.propose()
			n.drain(s.r)
		})
	})
}

// propose hands the oldest waiting batch to the group. It is refused if the token is over: Lost comes, or has come.
func (s *serving) propose() {
	writes := s.waiting[0]
	s.waiting = s.waiting[1:]
	_ = s.r.g.Commit(s.token, writes)
}

// respond lets a reply go: what it depends on must be safe by now.
func (s *serving) respond(u *running) {
	w := s.r.n.w
	w.trace("respond", s.r.rid, u.q.op, u.result.Number)
	if u.q.kind != opEcho {
		w.checkGate(s.r, s.token, u.pos, u.q.op)
	}
	if u.failed && u.synced {
		u.q.answer(answer{outcome: Open}) // an error, of an event that had written
		return
	}
	u.q.answer(answer{outcome: Ran, version: u.result, failed: u.failed, stored: u.stored})
}

func (s *serving) refuse(u *running, a *host.Action) {
	w := s.r.n.w
	w.trace("refuse", s.r.rid, u.q.op, uint64(a.Why)<<8|uint64(a.Outcome))
	if a.Outcome == actor.DidNotRun {
		u.q.answer(answer{outcome: DidNotRun, hint: s.r.leaderNode()})
		return
	}
	w.stats.Stale++
	u.q.answer(answer{outcome: Open})
}

// handOver gives the shard to another replica: nothing new is started, what runs may end, then release and transfer.
func (s *serving) handOver(to uint64) {
	if s.to != 0 {
		return
	}
	s.to = to
	w, n := s.r.n.w, s.r.n
	s.do(s.t.Drain(nil))
	n.alarms.Pause(ring.ShardID(s.r.group-1), s.token, true)
	inc := n.inc
	later := func(d time.Duration, fn func()) {
		w.after(d, func() {
			n.do(inc, func() {
				if r := n.reps[s.r.group]; r != nil && r.own.serve == s {
					fn()
					n.drain(s.r)
				}
			})
		})
	}
	later(drainTimeout, func() {
		var late []*running
		s.t.EachRunning(func(ev *host.Event) { late = append(late, ev.Data.(*running)) })
		for _, u := range late {
			u.panics()
		}
	})
	later(2*drainTimeout, func() { // what was submitted is not applied: no majority; the shard stays
		s.to = 0
		s.t.Resume()
		n.alarms.Pause(ring.ShardID(s.r.group-1), s.token, false)
		n.kick()
	})
}
