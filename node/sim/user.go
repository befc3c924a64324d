package sim

import (
	"encoding/binary"
	"time"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/store"
)

// running is users' code: one event of one object, a few steps in virtual time. Between them the world goes on.
type running struct {
	s      *serving
	q      request
	ev     *host.Event
	a      *host.Activation
	writes []store.Write
	pos    uint64  // the last batch that the object had submitted when the event ended
	result Version // what it answers
	failed bool    // it panicked: what it wrote is gone
	denied bool    // storage was out of reach
	touch  bool    // it touched storage
	proved bool    // the lease was valid when it began, by the clock
	synced bool    // what it wrote is submitted already
	stored int64   // an alarm that was not due: when it is
	over   bool    // it was reset while it waited: its steps are void
}

// memory is what an activation remembers of its object without asking storage.
type memory struct{ v Version }

// later goes on with the event after d and a moment.
func (u *running) later(d time.Duration, fn func()) {
	n := u.s.r.n
	inc := n.inc
	n.w.after(d+n.w.between(5*time.Microsecond, 50*time.Microsecond), func() {
		n.do(inc, func() {
			if !u.over {
				fn()
				n.drain(u.s.r)
			}
		})
	})
}

// begin starts the event if the lease is valid, else it waits for the verdict.
func (u *running) begin() {
	switch ok, over := u.s.r.valid(u.s.token); {
	case u.s.t.IsLost() || over:
		u.moved()
	case ok:
		u.proved = u.s.r.n.w.clock
		u.run()
	default:
		u.later(timing.Tick/5, u.begin)
	}
}

// run constructs the object if need be, and runs the method.
func (u *running) run() {
	switch {
	case u.q.kind == opEcho:
		u.later(u.q.wait, u.end)
	case u.s.mem[u.a] == nil:
		u.access(func() {
			u.s.mem[u.a] = &memory{u.get()}
			u.later(0, u.method)
		})
	default:
		u.method()
	}
}

func (u *running) memory() *memory { return u.s.mem[u.a] }

func (u *running) method() {
	early := u.s.r.n.w.chance(0.5) // look first and wait then, or the other way round
	switch u.q.kind {
	case opRing:
		u.access(u.ring)
	case opIncrement, opOnce, opAlarm:
		u.access(func() {
			if u.q.kind == opOnce && u.recall() {
				return
			}
			read := u.get()
			u.later(u.q.wait, func() { u.access(func() { u.put(read) }) })
		})
	case opBlind:
		u.later(u.q.wait, func() { u.access(func() { u.put(u.memory().v) }) })
	case opRead:
		if early {
			u.access(func() {
				u.result = u.get()
				u.later(u.q.wait, u.end)
			})
			return
		}
		u.later(u.q.wait, func() {
			u.access(func() {
				u.result = u.get()
				u.end()
			})
		})
	case opStale:
		if early {
			u.access(func() { u.put(u.memory().v) })
			return
		}
		fallthrough
	case opMemoryRead:
		if early {
			u.result = u.memory().v
		}
		u.later(u.q.wait, func() {
			if !early {
				u.result = u.memory().v
			}
			u.end()
		})
	}
}

// access is what every touch of storage goes through: it checks the lease that the activation was made under, waits while the
// verdict is not known, and fails once the lease is over.
func (u *running) access(fn func()) {
	s, w := u.s, u.s.r.n.w
	u.touch = true
	token := s.token
	if cur := s.r.own.serve; mutant.has(currentLease) && cur != nil {
		token = cur.token
	} else if s.t.IsLost() {
		u.moved()
		return
	}
	ok, over := s.r.valid(token)
	switch {
	case ok:
		w.checkAccess(s)
		fn()
	case over:
		u.moved()
	default:
		w.stats.Waited++
		u.later(timing.Tick/5, func() { u.access(fn) })
	}
}

// moved is what users' code sees of a lost lease: an exception. It does not catch it.
func (u *running) moved() {
	u.s.r.n.w.stats.Moved++
	u.denied, u.writes = true, nil
	u.end()
}

// get reads the object from memory of its storage, unapplied writes included, else from what is applied.
func (u *running) get() Version {
	key := []byte(objectKey(u.q.object))
	if cur := u.s.r.own.serve; mutant.has(currentLease) && cur != nil && cur != u.s {
		return versionIn(u.s.r.kv(), u.q.object)
	}
	pos := u.s.t.Pos(u.a)
	if value, present, found := u.s.t.Lookup(u.a, key); found {
		if !present {
			return Version{}
		}
		_, v, _ := decodeVersion(key, value)
		return v
	}
	value, present := u.s.r.kv()[string(key)]
	u.s.t.Fill(u.a, key, []byte(value), present, pos)
	return versionIn(u.s.r.kv(), u.q.object)
}

// read is a record of the host's, as this event sees it.
func (u *running) read(key []byte) (value []byte, ok bool) {
	if value, present, found := u.s.t.Lookup(u.a, key); found {
		return value, present
	}
	v, ok := u.s.r.kv()[string(key)]
	return []byte(v), ok
}

// replyKey is where an idempotent call's reply is remembered.
func (u *running) replyKey() []byte {
	id := objectID(u.q.object)
	return binary.BigEndian.AppendUint64(store.MetaKey(id.Class, id.Key, store.MetaReply), u.q.op)
}

// recall answers an idempotent call with what an earlier try came to; false if there was none.
func (u *running) recall() bool {
	b, ok := u.read(u.replyKey())
	if !ok {
		return false
	}
	u.s.r.n.w.stats.Recalled++
	u.result = parseVersion(b)
	u.end()
	return true
}

// submitNow submits what was written so far, and goes on at once.
func (u *running) submitNow() {
	writes := u.writes
	u.writes = nil
	u.took(u.s.t.Submit(nil, u.a, writes))
}

// put writes the version after prev. Now and then the event then waits for it to be durable, or panics.
func (u *running) put(prev Version) {
	w := u.s.r.n.w
	u.result = Version{prev.Number + 1, u.q.op, prev.Op}
	u.memory().v = u.result
	u.writes = append(u.writes, store.Write{Key: []byte(objectKey(u.q.object)), Value: encodeVersion(u.result)})
	switch {
	case u.q.kind == opOnce:
		if mutant.has(dedupApart) {
			u.submitNow()
		}
		u.writes = append(u.writes, store.Write{Key: u.replyKey(), Value: encodeVersion(u.result)})
	case u.q.kind == opAlarm && w.now < w.calm:
		u.setAlarm()
	}
	switch p := w.rng.Float64(); {
	case p < 0.04:
		u.sync()
	case p < 0.06 && u.q.kind != opRing:
		u.panics()
	default:
		u.end()
	}
}

// sync submits what was written so far and goes on when it is applied.
func (u *running) sync() {
	u.s.r.n.w.stats.Syncs++
	if u.s.t.IsLost() {
		u.moved()
		return
	}
	writes := u.writes
	u.writes, u.synced = nil, true
	u.took(u.s.t.Submit(nil, u.a, writes))
	u.s.do(u.s.t.Await(nil, u.a, u))
}

// finish follows a sync.
func (u *running) finish() {
	u.s.r.n.w.checkGate(u.s.r, u.s.token, u.s.last[u.q.object], u.q.op)
	u.end()
}

// panics resets the activation: what the event wrote since its last sync is gone.
func (u *running) panics() {
	u.s.r.n.w.stats.Panics++
	u.failed, u.over, u.writes = true, true, nil
	u.pos = u.s.last[u.q.object]
	u.s.do(u.s.t.Reset(nil, u.ev, host.End{Bytes: replyBytes, Touched: u.touch, Denied: u.denied, Proved: u.proved}, nil, nil))
}

const replyBytes = 40

func (u *running) end() {
	if mutant.has(currentLease) && u.s.t.IsLost() {
		u.endElsewhere()
	}
	u.over = true
	u.took(u.s.t.Ended(nil, u.ev, host.End{Writes: u.writes, Bytes: replyBytes, Touched: u.touch, Denied: u.denied, Proved: u.proved}))
}

// took notes which batch the reply depends on before it does what is to be done.
func (u *running) took(actions []host.Action) {
	for i := range actions {
		if a := &actions[i]; a.Kind == host.ActSubmit && a.Activation == u.a {
			u.s.last[u.q.object] = a.Pos
		}
	}
	u.pos = u.s.last[u.q.object]
	u.s.do(actions)
}

// endElsewhere is a mutant: the handle writes under whatever lease the node has now.
func (u *running) endElsewhere() {
	cur := u.s.r.own.serve
	if cur == nil || len(u.writes) == 0 || cur.acts[u.q.object] == nil {
		return
	}
	cur.do(cur.t.Submit(nil, cur.acts[u.q.object], u.writes))
}
