package host

import (
	"math/rand/v2"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// alarmLook is how long the loop sleeps at most while alarms wait: the wall clock may be set meanwhile.
const alarmLook = time.Minute

// alarmLoop is the loop around the machine alarms: it delivers, scans indexes, and sleeps. It ends with the host.
func (h *Host) alarmLoop() {
	defer close(h.alarmsDone)
	timer := time.NewTimer(alarmLook)
	timer.Stop()
	warned := map[string]bool{} // of classes that are not known
	for {
		h.alarmMu.Lock()
		step := h.alarms.next(nowMilli())
		h.alarmMu.Unlock()
		switch step.Act {
		case alarmDeliver:
			h.deliverAlarm(&step, warned)
		case alarmScan:
			h.scanAlarms(&step)
		}
		if !h.alarmSleep(&step, timer) {
			return
		}
	}
}

// alarmSleep waits until there may be something to do after step. It returns false once the host has stopped.
func (h *Host) alarmSleep(step *alarmStep, timer *time.Timer) bool {
	if step.Act != alarmWait {
		select {
		case <-h.stop:
			return false
		default:
			return true
		}
	}
	var due <-chan time.Time
	if step.Until != 0 {
		timer.Reset(min(time.Until(time.UnixMilli(step.Until)), alarmLook))
		due = timer.C
	}
	select {
	case <-h.stop:
		return false
	case <-h.alarmKick:
		timer.Stop()
	case <-due:
	}
	return true
}

// withAlarms calls fn with the machine, and has the loop look at it again.
func (h *Host) withAlarms(fn func(a *alarms)) {
	h.alarmMu.Lock()
	fn(h.alarms)
	h.alarmMu.Unlock()
	select {
	case h.alarmKick <- struct{}{}:
	default:
	}
}

// deliverAlarm puts an alarm into the mailbox of its object.
func (h *Host) deliverAlarm(step *alarmStep, warned map[string]bool) {
	sh := h.shard(step.Shard, step.Token)
	if sh == nil {
		h.alarmDone(step.Shard, step.Token, step.ID, alarmRefused, 0)
		return
	}
	cl := h.classes[step.ID.Class]
	if cl == nil {
		if !warned[step.ID.Class] && len(warned) < maxWarned {
			warned[step.ID.Class] = true
			h.log.Warn("an alarm is due of a class that this node does not know; such alarms are kept, and tried again", "class", step.ID.Class, "object", step.ID.String())
		}
		h.alarmDone(step.Shard, step.Token, step.ID, alarmUnknown, 0)
		return
	}
	r := &run{class: cl, s: sh, alarm: &ringing{at: step.At}, call: &Call{Object: step.ID, Method: "Alarm"}}
	r.Event = Event{Object: step.ID, Free: true, Data: r}
	if a, next := sh.deliver(r); next != nil {
		h.spawn(a, next)
	}
}

const maxWarned = 1000

func (h *Host) alarmDone(s ring.ShardID, t store.Token, id actor.ID, v verdict, stored int64) {
	h.withAlarms(func(a *alarms) { a.done(s, t, id, v, stored, afterMilli(), rand.Float64()) })
}

// scanAlarms reads the next part of a shard's index.
func (h *Host) scanAlarms(step *alarmStep) {
	var found []indexed
	var next []byte
	sh := h.shard(step.Shard, step.Token)
	if sh == nil {
		h.withAlarms(func(a *alarms) { a.notScanned(step.Shard, step.Token, nowMilli()) })
		return
	}
	_, end := store.AlarmRange()
	err := sh.lease.Scan(step.From, end, false, func(key, _ []byte) bool {
		if len(found) == step.Limit {
			next = append([]byte(nil), key...)
			return false
		}
		if at, class, k, ok := store.ParseAlarmKey(key); ok {
			found = append(found, indexed{at, actor.ID{Class: class, Key: k}})
		} else {
			h.log.Error("the index of alarms has a key that is not one", "shard", step.Shard, "key", key)
		}
		return true
	})
	if err != nil {
		h.log.Error("the index of alarms cannot be read; it is tried again", "shard", step.Shard, "cause", err)
		h.withAlarms(func(a *alarms) { a.notScanned(step.Shard, step.Token, nowMilli()) })
		return
	}
	h.withAlarms(func(a *alarms) { a.scanned(step.Shard, step.Token, found, next) })
}

// noteAlarms remembers what batch pos, just submitted, does to the index; the machine is told when it is applied. Called with the lock held.
func (s *shard) noteAlarms(writes []store.Write, pos uint64) {
	for i := range writes {
		if !store.IsAlarmKey(writes[i].Key) {
			continue
		}
		at, class, key, ok := store.ParseAlarmKey(writes[i].Key)
		if !ok {
			continue
		}
		id := actor.ID{Class: class, Key: key}
		s.index.push(alarmChange{pos: pos, gone: writes[i].Delete, indexed: indexed{at, id}})
		if r := s.ringing[id]; r != nil && r.alarm.begun {
			r.alarm.replaced = true
		}
	}
}

// indexApplied tells the machine what batches up to pos did to the index. Called with the lock held, before answers to those batches leave.
func (s *shard) indexApplied(pos uint64) {
	var changes []alarmChange
	for s.index.len() > 0 && s.index.front().pos <= pos {
		changes = append(changes, s.index.pop())
	}
	if changes != nil {
		s.h.withAlarms(func(a *alarms) { a.change(s.lease.Shard(), s.lease.Token(), changes) })
	}
}

// openAlarms begins with the alarms of a shard that was opened. Its token may have been lost since.
func (h *Host) openAlarms(sh *shard) {
	sh.mu.Lock()
	paused := sh.draining
	h.withAlarms(func(a *alarms) { a.open(sh.lease.Shard(), sh.lease.Token(), paused) })
	over := sh.over.Load()
	sh.mu.Unlock()
	if over {
		sh.closeAlarms()
	}
}

func (s *shard) pauseAlarms(paused bool) {
	s.h.withAlarms(func(a *alarms) { a.pause(s.lease.Shard(), s.lease.Token(), paused) })
}

func (s *shard) closeAlarms() {
	s.h.withAlarms(func(a *alarms) { a.close(s.lease.Shard(), s.lease.Token()) })
}
