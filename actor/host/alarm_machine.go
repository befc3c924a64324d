package host

import (
	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// Alarms is the machine by which a Host decides which alarm is delivered next, for who drives it in a Host's place: the simulation of package
// node/sim. Not safe for concurrent use. Times are in milliseconds since the epoch.
type Alarms struct{ m *alarms }

// AlarmStep is what Alarms wants done.
type AlarmStep = alarmStep

// What a step does.
const (
	AlarmWait    = alarmWait
	AlarmDeliver = alarmDeliver
	AlarmScan    = alarmScan
)

// AlarmIndexed is one entry of a shard's index of alarms; Gone: no longer.
type AlarmIndexed struct {
	At   int64
	ID   actor.ID
	Gone bool
}

// NewAlarms knows of no shard.
func NewAlarms() *Alarms { return &Alarms{newAlarms(defaultAlarmLimits)} }

// Next is what to do now; the answer holds until the next call of another method, or until its time.
func (a *Alarms) Next(now int64) AlarmStep { return a.m.next(now) }

// Open begins with a shard under a new token.
func (a *Alarms) Open(s ring.ShardID, t store.Token) { a.m.open(s, t, false) }

// Close forgets a shard; deliveries that are under way need not be answered.
func (a *Alarms) Close(s ring.ShardID, t store.Token) { a.m.close(s, t) }

// Pause stops and continues deliveries of a shard.
func (a *Alarms) Pause(s ring.ShardID, t store.Token, paused bool) { a.m.pause(s, t, paused) }

// Changed tells what applied batches did to a shard's index.
func (a *Alarms) Changed(s ring.ShardID, t store.Token, es []AlarmIndexed) {
	changes := make([]alarmChange, len(es))
	for i, e := range es {
		changes[i] = alarmChange{gone: e.Gone, indexed: indexed{e.At, e.ID}}
	}
	a.m.change(s, t, changes)
}

// Scanned answers AlarmScan: what the index holds from there up to the key next, or up to its end if that is nil.
func (a *Alarms) Scanned(s ring.ShardID, t store.Token, found []AlarmIndexed, next []byte) {
	in := make([]indexed, len(found))
	for i, e := range found {
		in[i] = indexed{e.At, e.ID}
	}
	a.m.scanned(s, t, in, next)
}

// Done answers AlarmDeliver. taken: the event ended, and what comes next is in a batch that was applied; else it was not taken, and is delivered
// again soon. stored, if not 0, is when the object's alarm is due, where the delivery found another one.
func (a *Alarms) Done(s ring.ShardID, t store.Token, id actor.ID, taken bool, stored, now int64) {
	v := alarmRefused
	if taken {
		v = alarmSettled
	}
	a.m.done(s, t, id, v, stored, now, 0)
}

// AlarmDue is when the alarm is due that a record says; ok is false for bytes that are none.
func AlarmDue(record []byte) (due int64, ok bool) {
	r, ok := decodeAlarm(record)
	return r.due, ok
}

// AlarmSet is what sets an object's alarm, where the index has the one before at old; 0 if there is none.
func AlarmSet(id actor.ID, at, old int64) []store.Write { return setAlarm(id, newAlarm(at), old) }

// AlarmRemoved is what takes away an alarm that the index has at due.
func AlarmRemoved(id actor.ID, due int64) []store.Write { return removeAlarm(id, due) }

// AlarmAgain is what becomes of an alarm whose handler failed at now: later again, or removed if it is given up.
func AlarmAgain(id actor.ID, record []byte, now int64, jitter float64) []store.Write {
	r, _ := decodeAlarm(record)
	next, ok := r.failed(now, true, jitter)
	if !ok {
		return removeAlarm(id, r.due)
	}
	return setAlarm(id, next, r.due)
}
