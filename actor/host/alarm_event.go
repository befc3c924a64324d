package host

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

const (
	textNoHandler = "Attempted to run a scheduled alarm without a handler, did you remember to define an Alarm method?"
	textAlarmTime = "the alarm's handler ran for too long"
)

// ringing is what a run knows that delivers an alarm. From the moment that it stands in shard.ringing, what is not written before that is under
// the shard's lock.
type ringing struct {
	at       int64       // where the index had it
	rec      alarmRecord // what the delivery found
	stored   int64       // that it is not due before, if so
	orphan   bool        // the class has no handler
	noRetry  bool        // the handler does not want one
	begun    bool        // the handler runs, or has run
	replaced bool        // meanwhile the alarm was set, or deleted, by a batch that is submitted
	again    bool        // it failed and is repeated
	givenUp  bool        // it failed and is not
	settled  bool        // nothing is left to be done: a batch that is submitted says what comes next
}

func alarmRecordKey(id actor.ID) []byte { return store.MetaKey(id.Class, id.Key, store.MetaAlarm) }

// alarm reads the object's alarm as r sees it. A record that nobody can read is as good as none.
func (b *instance) alarm(r *run) (rec alarmRecord, ok bool, _ error) {
	raw, ok, err := b.read(r, alarmRecordKey(b.id()))
	if err != nil || !ok {
		return rec, false, err
	}
	if rec, ok = decodeAlarm(raw); !ok {
		b.s.h.log.Error("an object's alarm cannot be read, and counts as not set", "object", b.id().String(), "record", raw)
	}
	return rec, ok, nil
}

// alarmDue looks whether the alarm is still to be run, and whether it can be. If not, the event ends as it says.
func (r *run) alarmDue() (over ending, due bool) {
	al, b := r.alarm, r.b
	if b == nil { // without memory yet
		b = &instance{s: r.s, a: r.a}
	}
	rec, ok, err := b.alarm(r)
	switch {
	case err != nil:
		return r.fail(skipped, actor.Returned(err)), false
	case !ok || rec.due > nowMilli():
		if al.settled = true; ok {
			al.stored = rec.due
		}
		r.res = Result{}
		return skipped, false
	}
	al.rec = rec
	if !r.class.HasAlarm() {
		al.orphan = true
		r.s.h.log.Warn(textNoHandler, "object", r.Object.String())
	}
	r.s.mu.Lock()
	r.s.ringing[r.Object] = r
	r.s.mu.Unlock()
	return returned, !al.orphan
}

// ring runs the handler, unless the constructor has set the alarm anew.
func (r *run) ring() ending {
	if _, due := r.alarmDue(); !due {
		return returned // also the constructor's writes count
	}
	h, al := r.s.h, r.alarm
	r.s.mu.Lock()
	al.begun = true
	r.s.mu.Unlock()
	h.counts.alarmsFired.Add(1)
	b := r.b
	timer := time.AfterFunc(h.opts.AlarmTimeout, func() {
		e := &actor.Error{Code: actor.CodeDeadline, Outcome: actor.Ran, Remote: true, Reset: true, Object: b.id(), Message: textAlarmTime + ": more than " + h.opts.AlarmTimeout.String()}
		b.timeUp(e, false)
	})
	defer timer.Stop()
	err := r.class.Ring(r, b.object, actor.AlarmInfo{IsRetry: al.rec.retry(), RetryCount: int(al.rec.counted), Scheduled: time.UnixMilli(al.rec.scheduled)})
	if err != nil {
		al.noRetry = actor.RefusesAlarmRetry(err)
		return r.fail(returned, actor.Returned(err))
	}
	return returned
}

// withAlarm adds to the writes of a delivery that has ended what becomes of the alarm, so that all of it is one batch. Called with the lock held.
func (s *shard) withAlarm(r *run, writes []store.Write) []store.Write {
	al := r.alarm
	al.again, al.givenUp = false, false
	if s.ringing[r.Object] != r || !al.begun && !al.orphan || al.replaced {
		return writes
	}
	key := alarmRecordKey(r.Object)
	if slices.ContainsFunc(writes, func(w store.Write) bool { return bytes.Equal(w.Key, key) }) {
		return writes // it was set, or deleted, by this event: that counts
	}
	writes = slices.Clip(writes)
	if r.res.Err == nil || al.orphan {
		return append(writes, al.removal(r.Object)...)
	}
	return append(writes, s.alarmRetry(r, r.res.Err)...)
}

// alarmEnded: the batch of a delivery, if it has one, is submitted. Called with the lock held.
func (s *shard) alarmEnded(r *run) {
	if s.ringing[r.Object] != r {
		return
	}
	delete(s.ringing, r.Object)
	r.alarm.settled = r.alarm.settled || r.alarm.begun || r.alarm.orphan
	if r.alarm.orphan {
		s.h.counts.alarmsDropped.Add(1)
	} else if r.alarm.begun && r.res.Err != nil {
		s.alarmFailed(r, r.res.Err)
	}
}

// alarmReset: the activation is about to be thrown away, because of err. If an alarm runs on it, that has failed: a batch says so, since what the
// handler had not submitted is lost. Called with the lock held.
func (s *shard) alarmReset(out []Action, a *Activation, err *actor.Error) []Action {
	r := s.ringing[a.Object()]
	if r == nil || r.a != a || a.gone || s.t.IsLost() {
		return out
	}
	delete(s.ringing, r.Object)
	al := r.alarm
	if al.settled = al.replaced; al.replaced {
		s.alarmFailed(r, err)
		return out
	}
	al.noRetry = al.noRetry || actor.RefusesAlarmRetry(err)
	ws := s.alarmRetry(r, err)
	out, busy := s.commit(out, ws)
	if busy == nil && !s.t.IsLost() {
		out = s.t.Submit(out, a, ws)
		al.settled = true
		s.alarmFailed(r, err)
	}
	return out
}

// alarmRetry is what becomes of an alarm whose handler failed with err.
func (s *shard) alarmRetry(r *run, err *actor.Error) []store.Write {
	al := r.alarm
	next, again := al.rec.failed(afterMilli(), byClass(err, r.Object), rand.Float64())
	al.again = again && !al.noRetry
	if al.givenUp = !al.again; al.givenUp {
		return al.removal(r.Object)
	}
	return setAlarm(r.Object, next, al.rec.due)
}

// byClass: a failure is the class's own, unless the node could not read or write for it.
func byClass(err *actor.Error, id actor.ID) bool {
	return err.Message != textTimeout && !(err.Code == actor.CodeInternal && err.Object == id)
}

// alarmFailed counts, and says what nobody else would hear of.
func (s *shard) alarmFailed(r *run, err *actor.Error) {
	c, next := &s.h.counts, "it was set anew, or deleted, meanwhile"
	c.alarmsFailed.Add(1)
	switch {
	case r.alarm.again:
		c.alarmsRetried.Add(1)
		next = "it is repeated"
	case r.alarm.givenUp:
		c.alarmsDropped.Add(1)
		next = "it is given up"
	}
	s.h.log.Warn("an alarm failed; "+next, "object", r.Object.String(), "retries", r.alarm.rec.counted, "cause", err.Message)
}

// alarmAnswered: the gate lets the end of a delivery through: what it wrote is durable.
func (r *run) alarmAnswered() {
	v := alarmFailed
	if r.alarm.settled {
		v = alarmSettled
	}
	r.s.h.alarmDone(r.s.lease.Shard(), r.s.lease.Token(), r.Object, v, r.alarm.stored)
}

// alarmRefused: the delivery was not begun, or the token is lost.
func (r *run) alarmRefused() {
	r.s.h.alarmDone(r.s.lease.Shard(), r.s.lease.Token(), r.Object, alarmRefused, 0)
}

// setAlarm is what sets an alarm, where the index has the one before at old; 0 if there is none.
func setAlarm(id actor.ID, rec alarmRecord, old int64) []store.Write {
	ws := []store.Write{{Key: alarmRecordKey(id), Value: rec.encode()}, {Key: store.AlarmKey(rec.due, id.Class, id.Key), Value: []byte{}}}
	if old != 0 && old != rec.due {
		ws = append(ws, store.Write{Key: store.AlarmKey(old, id.Class, id.Key), Delete: true})
	}
	return ws
}

func (al *ringing) removal(id actor.ID) []store.Write { return removeAlarm(id, al.rec.due) }

// removeAlarm is what deletes an alarm that the index has at due.
func removeAlarm(id actor.ID, due int64) []store.Write {
	return []store.Write{{Key: alarmRecordKey(id), Delete: true}, {Key: store.AlarmKey(due, id.Class, id.Key), Delete: true}}
}

// SetAlarm is of actor.AlarmBackend.
func (b *instance) SetAlarm(ctx context.Context, at int64) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	if !r.class.HasAlarm() {
		return &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.Ran, Remote: true, Object: b.id(),
			Message: fmt.Sprintf("class %s must have the method Alarm(ctx context.Context, info actor.AlarmInfo) error in order to call SetAlarm", b.id().Class)}
	}
	old, ok, err := b.alarm(r)
	if err != nil {
		return err
	}
	rec := newAlarm(at)
	if ok && old == rec && !b.alarmRuns(r) {
		return nil
	}
	return b.add(r, setAlarm(b.id(), rec, old.due), true)
}

// Alarm is of actor.AlarmBackend.
func (b *instance) Alarm(ctx context.Context) (int64, bool, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return 0, false, err
	}
	rec, ok, err := b.alarm(r)
	if err != nil || !ok || b.alarmRuns(r) {
		return 0, false, err
	}
	return rec.scheduled, true, nil
}

// DeleteAlarm is of actor.AlarmBackend.
func (b *instance) DeleteAlarm(ctx context.Context) error {
	r, err := b.enter(ctx)
	if err != nil {
		return err
	}
	ws, err := b.clearAlarm(r)
	if err != nil {
		return err
	}
	return b.add(r, ws, true)
}

// clearAlarm is what takes the object's alarm away: none of its keys is in the range that DeleteAll removes.
func (b *instance) clearAlarm(r *run) ([]store.Write, error) {
	rec, ok, err := b.alarm(r)
	if err != nil || !ok {
		return nil, err
	}
	return removeAlarm(b.id(), rec.due), nil
}

// alarmRuns: the handler of the alarm that r sees runs, so that it is not set any more, though it is still stored.
func (b *instance) alarmRuns(r *run) bool {
	r.mu.Lock()
	_, _, own := r.pending.lookup(alarmRecordKey(b.id()))
	r.mu.Unlock()
	if own {
		return false
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	running := b.s.ringing[b.id()]
	return running != nil && running.alarm.begun && !running.alarm.replaced
}
