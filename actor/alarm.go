package actor

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// AlarmInfo is what an alarm's handler is told. A class has a handler if its type has the method
//
//	Alarm(ctx context.Context, info AlarmInfo) error
//
// It runs as an event of its own, once the time that SetAlarm gave has come, at least once, and never twice at the same time. While it runs no
// alarm is set, unless SetAlarm is called anew. That the alarm is done is part of the handler's last batch: a handler whose writes are durable
// does not run again. If it fails (returns an error, panics, is reset, takes longer than 15 min), it keeps the writes that a method would
// keep, and runs again after 2, 4, 8, 16, 32 and 64 s, each up to a quarter longer; then the alarm is given up. An alarm that is set or deleted
// meanwhile counts, and the failed run is not repeated. What fails because of the system, not of the class, is repeated for ever.
type AlarmInfo struct {
	IsRetry    bool      // an earlier run for the same time has failed
	RetryCount int       // how many did, those aside that failed because of the system: at most 6
	Scheduled  time.Time // what SetAlarm was given, rounded up to a millisecond
}

// AlarmBackend is the part of Backend that keeps the object's alarm. Times are in milliseconds since the epoch, and positive.
type AlarmBackend interface {
	// SetAlarm adds to the event's batch that the alarm is due at a time. ErrBadArgument if the class has no handler.
	SetAlarm(ctx context.Context, at int64) error
	// Alarm returns the time that the alarm is set to; ok is false if there is none, or if it has just begun to run.
	Alarm(ctx context.Context) (at int64, ok bool, err error)
	// DeleteAlarm adds to the event's batch that there is no alarm.
	DeleteAlarm(ctx context.Context) error
}

// maxAlarm is the first time that is too late for an alarm.
var maxAlarm = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// SetAlarm sets the object's one alarm, in place of the one before. It is part of the event's batch, as Put is. A time in the past is as good as now.
// Fails with ErrBadArgument if the class has no handler (see AlarmInfo), or the time is not after 1970 or not before the year 10000.
func (s *Storage) SetAlarm(ctx context.Context, at time.Time) error {
	ms, err := alarmTime(at)
	if err != nil {
		return err
	}
	return s.b.SetAlarm(ctx, ms)
}

func alarmTime(at time.Time) (int64, error) {
	if at.IsZero() || !at.After(time.UnixMilli(0)) {
		return 0, inEvent(CodeBadArgument, "SetAlarm cannot be called with an alarm time <= 0, that is %v: want a time after 1970, or DeleteAlarm", at)
	}
	if !at.Before(maxAlarm) {
		return 0, inEvent(CodeBadArgument, "SetAlarm cannot be called with the alarm time %v: want one before the year 10000", at)
	}
	ms := at.UnixMilli()
	if time.UnixMilli(ms).Before(at) { // never early
		ms++
	}
	return ms, nil
}

// Alarm returns what the object's alarm is set to, also if its handler has failed and is to run again. ok is false if there is none, and in the
// handler, until it sets one.
func (s *Storage) Alarm(ctx context.Context) (at time.Time, ok bool, err error) {
	ms, ok, err := s.b.Alarm(ctx)
	if err != nil || !ok {
		return time.Time{}, false, err
	}
	return time.UnixMilli(ms), true, nil
}

// DeleteAlarm removes the object's alarm, and with it the runs that are still to come of one that failed. Without an alarm it does nothing.
// A handler that runs is not stopped.
func (s *Storage) DeleteAlarm(ctx context.Context) error { return s.b.DeleteAlarm(ctx) }

// NoAlarmRetry wraps a reason for State.Abort, or an error for the handler of an alarm to return, so that the alarm that runs is given up and
// not repeated. nil stays nil.
func NoAlarmRetry(reason error) error {
	if reason == nil {
		return nil
	}
	return &noRetry{reason}
}

type noRetry struct{ error }

func (e *noRetry) Unwrap() error { return e.error }

// RefusesAlarmRetry is for hosts: NoAlarmRetry is somewhere in err.
func RefusesAlarmRetry(err error) bool {
	var e *noRetry
	return errors.As(err, &e)
}

var alarmInfoType = reflect.TypeFor[AlarmInfo]()

// newAlarm looks at the exported method Alarm.
func newAlarm(class string, typ reflect.Type, rm reflect.Method) (*Method, error) {
	f, first := rm.Type, 1
	if typ.Kind() == reflect.Interface {
		first = 0
	}
	if f.IsVariadic() || f.NumIn() != first+2 || f.In(first) != contextType || f.In(first+1) != alarmInfoType || f.NumOut() != 1 || f.Out(0) != errorType {
		return nil, fmt.Errorf("class %s: the name Alarm is for the handler of alarms: want Alarm(ctx context.Context, info actor.AlarmInfo) error, or another name", class)
	}
	return &Method{Name: rm.Name, Arg: alarmInfoType, class: class, index: rm.Index, fn: rm.Func}, nil
}

// HasAlarm reports whether the class handles alarms.
func (c Class) HasAlarm() bool { return c.d.alarm != nil }

// Ring runs the handler of alarms, which the class must have. For hosts.
func (c Class) Ring(ctx context.Context, in Instance, info AlarmInfo) error {
	_, _, err := c.d.alarm.Call(ctx, in, Arg{v: reflect.ValueOf(info)}, EncodingNone)
	return err
}
