package host

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// alarms decides which alarm of the node's shards is delivered next. It is a machine: not safe for concurrent use, no goroutines, no
// clock, and the same calls give the same answers. All times are in milliseconds since the epoch.
//
// Of each shard it knows a window: the nearest alarms of the shard's index, all that stand before the window's horizon. What is set or deleted comes
// from batches, once they are applied; what is beyond the horizon from scans of the index, when the window runs low. An entry too much does no
// harm, since a delivery looks at the object's record first; so only what is missing matters.
//
// At most crowd alarms are delivered at once. One that is not done after a second counts no longer, lest a few slow handlers hold up all
// alarms; in all there are at most flights. Shards with something due take turns.
type alarms struct {
	limits  alarmLimits
	byShard map[ring.ShardID]*window
	windows list[window] // the same; who is next is first
	fresh   list[alarmEntry]
	crowd   int // length of fresh
	flying  int
}

type alarmLimits struct {
	window  int   // entries per shard that wait, and of the late ones again as many
	low     int   // below it the index is scanned
	crowd   int   // deliveries at once
	flights int   // deliveries not done
	slow    int64 // after which a delivery counts no longer
	unknown int64 // after which alarms of classes that this node does not know are looked at again
	rescan  int64 // after which a failed scan is tried again
}

var defaultAlarmLimits = alarmLimits{window: 1024, low: 256, crowd: 64, flights: 4096, slow: 1000, unknown: 60_000, rescan: 1000}

// window is what is known of a shard's alarms under one token.
type window struct {
	shard ring.ShardID
	token store.Token

	waiting []*alarmEntry            // in the order of the index
	late    []*alarmEntry            // those whose delivery came to nothing, by due
	entries map[actor.ID]*alarmEntry // all, and those that are delivered
	horizon []byte                   // key of the index before which nothing is missing; nil: nothing is missing at all
	paused  bool

	scanning bool
	missed   []byte // while scanning: the first key that was left out for lack of room
	scanAt   int64  // not before
	again    int64  // when to begin from the start, for what was left out; 0: never
	node[window]
}

// alarmEntry is the alarm of one object.
type alarmEntry struct {
	indexed
	due   int64 // at, or later if a delivery came to nothing
	tries int   // deliveries in a row that came to nothing

	flying bool
	next   int64 // while flying: what was set meanwhile; 0: nothing
	since  int64 // of the delivery
	node[alarmEntry]
}

// alarmMaxTries bounds the delay after deliveries that came to nothing: 64 s.
const alarmMaxTries = 5

// verdict is what became of a delivery.
type verdict uint8

const (
	alarmSettled verdict = iota + 1 // what comes next is in a batch that was applied; or there is no alarm
	alarmFailed                     // it came to nothing: again, a little later each time
	alarmRefused                    // the event was not taken: again soon
	alarmUnknown                    // nobody here knows the class
)

type alarmAct uint8

const (
	alarmWait    alarmAct = iota + 1 // until Until, or the next call if that is 0
	alarmDeliver                     // ID's, which the index has at At; answered with done
	alarmScan                        // the index from From on; answered with scanned or notScanned
)

// alarmStep is what to do now.
type alarmStep struct {
	Act   alarmAct
	Shard ring.ShardID
	Token store.Token
	ID    actor.ID
	At    int64
	From  []byte
	Limit int
	Until int64
}

// indexed is one entry of the index.
type indexed struct {
	at int64
	id actor.ID
}

func (i indexed) key() []byte { return store.AlarmKey(i.at, i.id.Class, i.id.Key) }

// compare is the order of the keys.
func (i indexed) compare(j indexed) int {
	return cmp.Or(cmp.Compare(i.at, j.at), cmp.Compare(i.id.Class, j.id.Class), cmp.Compare(i.id.Key, j.id.Key))
}

func newAlarms(l alarmLimits) *alarms { return &alarms{limits: l, byShard: map[ring.ShardID]*window{}} }

func (a *alarms) find(s ring.ShardID, t store.Token) *window {
	if w := a.byShard[s]; w != nil && w.token == t {
		return w
	}
	return nil
}

// open begins with a shard under a new token; nothing is known of it.
func (a *alarms) open(s ring.ShardID, t store.Token, paused bool) {
	if w := a.byShard[s]; w != nil {
		a.close(s, w.token)
	}
	start, _ := store.AlarmRange()
	w := &window{shard: s, token: t, paused: paused, entries: map[actor.ID]*alarmEntry{}, horizon: start}
	w.node.value = w
	a.byShard[s] = w
	a.windows.pushBack(&w.node)
}

// close forgets a shard. Deliveries that are under way need not be done.
func (a *alarms) close(s ring.ShardID, t store.Token) {
	w := a.find(s, t)
	if w == nil {
		return
	}
	delete(a.byShard, s)
	a.windows.remove(&w.node)
	for _, e := range w.entries {
		if e.flying {
			a.land(e)
		}
	}
}

// pause stops and continues deliveries of a shard.
func (a *alarms) pause(s ring.ShardID, t store.Token, paused bool) {
	if w := a.find(s, t); w != nil {
		w.paused = paused
	}
}

// set: the index has id at the time at.
func (w *window) set(at int64, id actor.ID) {
	e := w.entries[id]
	switch {
	case e != nil && e.flying:
		e.next = at
		return
	case e != nil && e.at == at:
		return
	case e != nil:
		w.remove(e)
	}
	if w.horizon == nil || w.scanning || bytes.Compare(indexed{at, id}.key(), w.horizon) < 0 {
		w.insert(&alarmEntry{indexed: indexed{at, id}, due: at})
	}
}

// unset: the index has id at the time at no longer.
func (w *window) unset(at int64, id actor.ID) {
	e := w.entries[id]
	switch {
	case e == nil:
	case e.flying && e.next == at:
		e.next = 0
	case !e.flying && e.at == at:
		w.remove(e)
	}
}

// queue is where e waits, and how that is sorted.
func (w *window) queue(e *alarmEntry) (*[]*alarmEntry, func(e, f *alarmEntry) int) {
	if e.due == e.at {
		return &w.waiting, func(e, f *alarmEntry) int { return e.indexed.compare(f.indexed) }
	}
	return &w.late, func(e, f *alarmEntry) int { return cmp.Or(cmp.Compare(e.due, f.due), e.indexed.compare(f.indexed)) }
}

func (w *window) insert(e *alarmEntry) {
	e.flying, e.next, e.node.value = false, 0, e
	q, order := w.queue(e)
	i, _ := slices.BinarySearchFunc(*q, e, order)
	*q = slices.Insert(*q, i, e)
	w.entries[e.id] = e
}

// remove takes e out of its queue.
func (w *window) remove(e *alarmEntry) {
	q, order := w.queue(e)
	if i, ok := slices.BinarySearchFunc(*q, e, order); ok {
		*q = slices.Delete(*q, i, i+1)
	}
	delete(w.entries, e.id)
}

// trim leaves out the last of those that are too many; a later scan finds them.
func (w *window) trim(limit int) {
	for len(w.waiting) > limit {
		e := w.waiting[len(w.waiting)-1]
		w.remove(e)
		w.horizon = before(w.horizon, e.key())
		if w.scanning {
			w.missed = before(w.missed, e.key())
		}
	}
}

// first is the next that is due; nil if none waits.
func (w *window) first() (e *alarmEntry) {
	if len(w.waiting) > 0 {
		e = w.waiting[0]
	}
	if len(w.late) > 0 && (e == nil || w.late[0].due < e.due) {
		e = w.late[0]
	}
	return e
}

// leaveOut forgets an alarm that cannot be delivered now; the index is read again from its start after a while.
func (w *window) leaveOut(at int64) {
	if w.again == 0 {
		w.again = at
	}
}

// postpone has e wait until due, if there is room for it.
func (w *window) postpone(e *alarmEntry, due int64, now int64, l alarmLimits) {
	if len(w.late) >= l.window {
		w.leaveOut(now + l.unknown)
		return
	}
	e.due = max(e.at, due)
	w.insert(e)
}

// horizonTime is the time in a key of the index, or what begins one.
func horizonTime(key []byte) int64 {
	if len(key) < 9 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key[1:]))
}

// before is the lesser of two keys, of which nil is the greatest.
func before(a, b []byte) []byte {
	if a == nil || b != nil && bytes.Compare(b, a) < 0 {
		return b
	}
	return a
}

// change tells what applied batches did to the index.
func (a *alarms) change(s ring.ShardID, t store.Token, changes []alarmChange) {
	w := a.find(s, t)
	if w == nil {
		return
	}
	for i := range changes {
		if c := &changes[i]; c.gone {
			w.unset(c.at, c.id)
		} else {
			w.set(c.at, c.id)
		}
		w.trim(a.limits.window)
	}
}

// alarmChange is one change of the index.
type alarmChange struct {
	pos  uint64 // of its batch
	gone bool
	indexed
}

// scanned: the index holds found from where the scan began up to next, or up to its end if next is nil.
func (a *alarms) scanned(s ring.ShardID, t store.Token, found []indexed, next []byte) {
	w := a.find(s, t)
	if w == nil {
		return
	}
	for _, f := range found {
		if w.entries[f.id] == nil { // else what came from batches is newer
			w.insert(&alarmEntry{indexed: f, due: f.at})
		}
	}
	w.horizon = before(next, w.missed)
	w.scanning, w.missed = false, nil
	w.trim(a.limits.window)
}

// notScanned: the scan failed.
func (a *alarms) notScanned(s ring.ShardID, t store.Token, now int64) {
	if w := a.find(s, t); w != nil {
		w.horizon = before(w.horizon, w.missed)
		w.scanning, w.missed, w.scanAt = false, nil, now+a.limits.rescan
	}
}

// done: a delivery is over. stored, if not 0, is the time at which the object's record has its alarm, where the delivery found another one.
func (a *alarms) done(s ring.ShardID, t store.Token, id actor.ID, v verdict, stored, now int64, jitter float64) {
	w := a.find(s, t)
	if w == nil {
		return
	}
	e := w.entries[id]
	if e == nil || !e.flying {
		return
	}
	a.land(e)
	delete(w.entries, id)
	switch {
	case e.next != 0:
		w.set(e.next, id)
	case v == alarmFailed:
		e.tries++
		w.postpone(e, now+alarmDelay(min(e.tries-1, alarmMaxTries), jitter), now, a.limits)
	case v == alarmRefused:
		w.postpone(e, now+alarmFirstDelay/20, now, a.limits)
	case v == alarmUnknown:
		w.leaveOut(now + a.limits.unknown)
	case stored != 0:
		w.set(stored, id)
	}
	w.trim(a.limits.window)
}

func (a *alarms) land(e *alarmEntry) {
	e.flying = false
	a.flying--
	if e.in == &a.fresh {
		a.fresh.remove(&e.node)
		a.crowd--
	}
}

// next is what to do now. The answer holds until the next call of another method, or until its time.
func (a *alarms) next(now int64) alarmStep {
	until := int64(0)
	sooner := func(t int64) {
		if until == 0 || t < until {
			until = t
		}
	}
	for a.fresh.first != nil && a.fresh.first.value.since+a.limits.slow <= now {
		a.fresh.remove(a.fresh.first)
		a.crowd--
	}
	room := a.crowd < a.limits.crowd && a.flying < a.limits.flights
	for n := a.windows.first; n != nil; n = n.next {
		w := n.value
		if w.paused {
			continue
		}
		if step, at := w.scan(now, a.limits); step.Act != 0 {
			return step
		} else if at != 0 {
			sooner(at)
		}
		switch e := w.first(); {
		case e == nil:
		case e.due > now:
			sooner(e.due)
		case room:
			a.take(w, e, now)
			return alarmStep{Act: alarmDeliver, Shard: w.shard, Token: w.token, ID: e.id, At: e.at}
		case a.fresh.first != nil && a.flying < a.limits.flights:
			sooner(a.fresh.first.value.since + a.limits.slow)
		}
	}
	return alarmStep{Act: alarmWait, Until: until}
}

// scan is the scan that w wants now, if any, and else when it may want one.
func (w *window) scan(now int64, l alarmLimits) (_ alarmStep, at int64) {
	if w.scanning {
		return alarmStep{}, 0
	}
	if w.again != 0 && w.again <= now {
		w.again = 0
		w.horizon, _ = store.AlarmRange()
	}
	switch {
	case w.horizon == nil || len(w.waiting) >= l.low && w.waiting[0].at <= horizonTime(w.horizon):
		return alarmStep{}, w.again
	case w.scanAt > now:
		return alarmStep{}, w.scanAt
	}
	w.scanning = true
	return alarmStep{Act: alarmScan, Shard: w.shard, Token: w.token, From: w.horizon, Limit: l.window}, 0
}

// take delivers e, and lets the other shards go first next time.
func (a *alarms) take(w *window, e *alarmEntry, now int64) {
	w.remove(e)
	w.entries[e.id] = e
	e.flying, e.next, e.since = true, 0, now
	a.fresh.pushBack(&e.node)
	a.crowd++
	a.flying++
	a.windows.remove(&w.node)
	a.windows.pushBack(&w.node)
}

// pending is how many alarms wait in the windows.
func (a *alarms) pending() (n int) {
	for w := a.windows.first; w != nil; w = w.next {
		n += len(w.value.waiting) + len(w.value.late)
	}
	return n
}
