package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// alarms is the AlarmBackend of an object without events.
type alarms struct{ at int64 }

func (a *alarms) SetAlarm(_ context.Context, at int64) error { a.at = at; return nil }
func (a *alarms) Alarm(context.Context) (int64, bool, error) { return a.at, a.at != 0, nil }
func (a *alarms) DeleteAlarm(context.Context) error          { a.at = 0; return nil }

func TestSetAlarmRoundsUpAndRefuses(t *testing.T) {
	m := &memory{}
	s := NewState(StateConfig{ID: ID{"C", "k"}, Backend: m, Logger: slog.New(slog.DiscardHandler)}).Storage()
	ctx := t.Context()
	for _, c := range []struct {
		at   time.Time
		want int64
	}{
		{time.UnixMilli(5000), 5000},
		{time.UnixMilli(5000).Add(1), 5001}, // never early
		{time.UnixMilli(5001).Add(-1), 5001},
		{time.Unix(0, 1), 1},
		{time.UnixMilli(7).In(time.FixedZone("x", 3600)), 7},
		{maxAlarm.Add(-1), maxAlarm.UnixMilli()},
	} {
		if err := s.SetAlarm(ctx, c.at); err != nil || m.at != c.want {
			t.Errorf("SetAlarm(%v) = %v, stored %d, want %d", c.at, err, m.at, c.want)
		}
		if at, ok, err := s.Alarm(ctx); !ok || err != nil || !at.Equal(time.UnixMilli(c.want)) {
			t.Errorf("Alarm() = %v, %v, %v", at, ok, err)
		}
	}
	m.at = 99
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.UnixMilli(-1), time.UnixMilli(0).Add(-1), maxAlarm, time.Unix(1<<60, 0)} {
		var e *Error
		if err := s.SetAlarm(ctx, at); !errors.As(err, &e) || e.Code != CodeBadArgument || e.Outcome != Ran || !strings.Contains(e.Message, "SetAlarm cannot be called with") {
			t.Errorf("SetAlarm(%v) = %v", at, err)
		}
	}
	if m.at != 99 {
		t.Error("a refused time was stored")
	}
	if err := s.DeleteAlarm(ctx); err != nil {
		t.Error(err)
	}
	if at, ok, err := s.Alarm(ctx); ok || err != nil || !at.IsZero() {
		t.Errorf("Alarm() without one = %v, %v, %v", at, ok, err)
	}
}

type ringing struct{ got AlarmInfo }

func (r *ringing) Alarm(_ context.Context, info AlarmInfo) error {
	r.got = info
	return errors.New("rang")
}
func (r *ringing) Other(context.Context) error { return nil }

type rings interface {
	Alarm(context.Context, AlarmInfo) error
}

func TestAlarmHandler(t *testing.T) {
	r := &ringing{}
	c := Define("Ringing", func(context.Context, *State) (*ringing, error) { return r, nil })
	i := Define("Rings", func(context.Context, *State) (rings, error) { return r, nil })
	for n, c := range []Class{c, i} {
		if c.Err() != nil || !c.HasAlarm() {
			t.Fatal(c.Err(), c.HasAlarm())
		}
		if _, ok := c.Method("Alarm"); ok || strings.Contains(fmt.Sprint(c.Methods()), "Alarm") {
			t.Error("the handler is callable")
		}
		in, err := c.New(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		info := AlarmInfo{IsRetry: true, RetryCount: n, Scheduled: time.UnixMilli(5)}
		if err := c.Ring(t.Context(), in, info); err == nil || err.Error() != "rang" || r.got != info {
			t.Errorf("%v, %+v", err, r.got)
		}
	}
	if err := c.NoMethod("Alarm"); !errors.Is(err, ErrUnknownMethod) || !strings.Contains(err.Error(), "Other") || !strings.Contains(err.Error(), "handler of alarms") {
		t.Error(err)
	}
	if Define("Good", newGood).HasAlarm() {
		t.Error("a handler was found that is not there")
	}
}

type (
	noContext  struct{}
	noInfo     struct{}
	noErr      struct{}
	pointsInfo struct{}
	more       struct{}
)

func (noContext) Alarm(AlarmInfo) error                    { return nil }
func (noInfo) Alarm(context.Context) error                 { return nil }
func (noErr) Alarm(context.Context, AlarmInfo)             {}
func (pointsInfo) Alarm(context.Context, *AlarmInfo) error { return nil }
func (more) Alarm(context.Context, AlarmInfo, ...int) error {
	return nil
}

func TestAlarmOfAnotherShapeIsRefused(t *testing.T) {
	for _, c := range []Class{
		Define("A", func(context.Context, *State) (noContext, error) { return noContext{}, nil }),
		Define("A", func(context.Context, *State) (noInfo, error) { return noInfo{}, nil }),
		Define("A", func(context.Context, *State) (noErr, error) { return noErr{}, nil }),
		Define("A", func(context.Context, *State) (pointsInfo, error) { return pointsInfo{}, nil }),
		Define("A", func(context.Context, *State) (more, error) { return more{}, nil }),
	} {
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), "Alarm(ctx context.Context, info actor.AlarmInfo) error") {
			t.Errorf("%v", err)
		}
	}
}

func TestNoAlarmRetry(t *testing.T) {
	cause := Fail("broken", "it is broken")
	err := NoAlarmRetry(cause)
	if !errors.Is(err, cause) || err.Error() != cause.Error() || !RefusesAlarmRetry(fmt.Errorf("wrapped: %w", err)) || RefusesAlarmRetry(cause) || RefusesAlarmRetry(nil) {
		t.Error(err)
	}
	if NoAlarmRetry(nil) != nil {
		t.Error("an error was made of nil")
	}
	if e := Returned(err); e.App != "broken" || e.Message != "broken: it is broken" {
		t.Errorf("as a reply: %+v", e)
	}
}
