package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// This file plays the loop around the machine of alarms, and the handler of an alarm: it writes the object's next version, and takes the alarm away
// in the same batch, or sets the next one.

// alarmNote is a change of the index by a batch that is submitted.
type alarmNote struct {
	pos uint64
	host.AlarmIndexed
}

// wall is the node's time of day, in milliseconds.
func (n *node) wall() int64 { return wallStart + n.clock().Milliseconds() }

const wallStart = 1_000_000

func alarmKey(object int) []byte {
	id := objectID(object)
	return store.MetaKey(id.Class, id.Key, store.MetaAlarm)
}

// kick has the loop look again.
func (n *node) kick() {
	if n.kicked || !n.up {
		return
	}
	n.kicked = true
	inc := n.inc
	n.w.after(0, func() { n.do(inc, n.runAlarms) })
}

func (n *node) runAlarms() {
	n.kicked = false
	for n.up {
		switch step := n.alarms.Next(n.wall()); step.Act {
		case host.AlarmDeliver:
			n.deliverAlarm(&step)
		case host.AlarmScan:
			n.scanAlarms(&step)
		default:
			n.alarmLook++
			if look, inc := n.alarmLook, n.inc; step.Until != 0 {
				d := time.Duration(float64(step.Until-n.wall()) * float64(time.Millisecond) / n.rate)
				n.w.after(d+time.Millisecond, func() {
					if n.inc == inc && n.alarmLook == look {
						n.kick()
					}
				})
			}
			return
		}
	}
}

// deliverAlarm puts an alarm into the mailbox of its object.
func (n *node) deliverAlarm(step *host.AlarmStep) {
	w, group := n.w, int(step.Shard)+1
	done := func(taken bool, stored int64) {
		n.alarms.Done(step.Shard, step.Token, step.ID, taken, stored, n.wall()+1)
		n.kick()
	}
	r := n.reps[group]
	if r == nil || r.own.serve == nil || r.own.serve.token != step.Token {
		done(false, 0)
		return
	}
	object := int(step.ID.Key[0] - 'a')
	q := request{op: uint64(len(w.ops)) + 1, kind: opRing, group: group, object: object}
	w.ops = append(w.ops, Op{ID: q.op, Object: objectOf(group, object), Write: true, Call: w.now})
	w.kinds = append(w.kinds, opRing)
	if w.chance(0.1) {
		q.wait = time.Duration(w.rng.ExpFloat64() * float64(timing.Election()))
	}
	inc := n.inc
	q.answer = func(a answer) {
		if n.up && n.inc == inc {
			done(a.outcome == Ran && !a.failed, a.stored)
		}
	}
	w.trace("alarm", r.rid, q.op, uint64(step.At))
	s := r.own.serve
	s.do(s.t.Deliver(nil, &host.Event{Object: step.ID, Data: &running{s: s, q: q}, Free: true}, &w.policy))
	n.drain(r)
}

// scanAlarms reads the next part of a shard's index.
func (n *node) scanAlarms(step *host.AlarmStep) {
	var keys []string
	if r := n.reps[int(step.Shard)+1]; r != nil {
		for k := range r.kv() {
			if store.IsAlarmKey(k) && k >= string(step.From) {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	var found []host.AlarmIndexed
	for _, k := range keys {
		if at, class, key, ok := store.ParseAlarmKey([]byte(k)); ok {
			id := objectID(0)
			id.Class, id.Key = class, key
			found = append(found, host.AlarmIndexed{At: at, ID: id})
		}
	}
	n.alarms.Scanned(step.Shard, step.Token, found, nil)
}

// noteAlarms remembers what a batch, just submitted, does to the index.
func (s *serving) noteAlarms(pos uint64, writes []store.Write) {
	for i := range writes {
		if at, class, key, ok := store.ParseAlarmKey(writes[i].Key); ok {
			id := objectID(0)
			id.Class, id.Key = class, key
			s.index = append(s.index, alarmNote{pos, host.AlarmIndexed{At: at, ID: id, Gone: writes[i].Delete}})
		}
	}
}

// indexApplied tells the machine what batches up to pos did to the index.
func (s *serving) indexApplied(pos uint64) {
	var es []host.AlarmIndexed
	for len(s.index) > 0 && s.index[0].pos <= pos {
		es = append(es, s.index[0].AlarmIndexed)
		s.index = s.index[1:]
	}
	if es != nil {
		n := s.r.n
		n.alarms.Changed(ring.ShardID(s.r.group-1), s.token, es)
		n.kick()
	}
}

// ring is the handler, after it has been found that the alarm is due.
func (u *running) ring() {
	n := u.s.r.n
	w := n.w
	record, _ := u.read(alarmKey(u.q.object))
	due, ok := host.AlarmDue(record)
	if !ok || due > n.wall() {
		w.stats.NotDue++
		u.stored = due
		u.end()
		return
	}
	w.rang[u.q.op] = due
	w.stats.Rang++
	prev := u.get()
	u.later(u.q.wait, func() {
		u.access(func() {
			id := objectID(u.q.object)
			switch p := w.rng.Float64(); {
			case p < 0.08 && w.now < w.calm:
				w.stats.Again++
				u.writes = append(u.writes, host.AlarmAgain(id, record, n.wall()+1, w.rng.Float64())...)
				u.end()
				return
			case p < 0.25 && w.now < w.calm:
				u.writes = append(u.writes, host.AlarmSet(id, n.wall()+w.alarmDelay(), due)...)
			default:
				u.writes = append(u.writes, host.AlarmRemoved(id, due)...)
			}
			if mutant.has(alarmFirst) {
				u.submitNow()
			}
			u.put(prev)
		})
	})
}

func (w *world) alarmDelay() int64 { return 1 + int64(w.rng.ExpFloat64()*2000) }

// setAlarm adds an alarm to what an event writes.
func (u *running) setAlarm() {
	n := u.s.r.n
	record, _ := u.read(alarmKey(u.q.object))
	old, _ := host.AlarmDue(record)
	n.w.stats.AlarmsSet++
	u.writes = append(u.writes, host.AlarmSet(objectID(u.q.object), n.wall()+n.w.alarmDelay(), old)...)
}

// checkAlarms looks at an accepted entry: an alarm goes away only together with what its handler wrote, and not before its time (I11). Called before the
// entry's writes are in the model's state.
func (w *world) checkAlarms(m *model, c *store.Command) string {
	for object := range objects {
		key := alarmKey(object)
		old, had := m.state[string(key)]
		due, _ := host.AlarmDue([]byte(old))
		for i := range c.Writes {
			if wr := &c.Writes[i]; !had || !wr.Delete || string(wr.Key) != string(key) {
				continue
			}
			handled := false
			for j := range c.Writes {
				o, v, ok := decodeVersion(c.Writes[j].Key, c.Writes[j].Value)
				rang, did := w.rang[v.Op]
				handled = handled || ok && o == object && did && rang == due
			}
			if !handled {
				return fmt.Sprintf("the alarm of object %d, due at %d, is taken away without what its handler wrote", object, due)
			}
			if latest := wallStart + int64(float64(w.now.Milliseconds())*(1+timing.Drift)) + 1; due > latest {
				return fmt.Sprintf("the alarm of object %d, due at %d, was run at %d", object, due, latest)
			}
		}
	}
	return ""
}

// checkRung holds that no alarm is left that was due for long (I11).
func (w *world) checkRung() {
	slowest := wallStart + int64(float64((w.now-rungWithin).Milliseconds())*(1-timing.Drift))
	for _, m := range w.models[1:] {
		for key, value := range m.state {
			if !strings.HasPrefix(key, string(alarmKey(0)[:1])) {
				continue
			}
			if due, ok := host.AlarmDue([]byte(value)); ok && due < slowest {
				w.fail("I11 alarms", "group %d: an alarm due at %d is not run at %d", m.group, due, wallStart+w.now.Milliseconds())
				return
			}
		}
	}
}

// rungWithin is how long before the end of a run an alarm must have been due that must have been run: it is after the calm, and after every shard serves.
const rungWithin = calmFor - serveWithin - time.Second
