package bench

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// The classes of the workloads. A binary that is to be measured has them all: package cmd adds them.
const (
	counterClass = "BenchCounter"
	twinClass    = "BenchTwin"
	witnessClass = "BenchWitness"
	alarmClass   = "BenchAlarm"
	quietClass   = "BenchQuiet"
)

// Classes are those that the workloads call.
func Classes() []actor.Class {
	return []actor.Class{
		actor.Define(counterClass, func(_ context.Context, s *actor.State) (*counter, error) { return &counter{s.Storage()}, nil }),
		actor.Define(twinClass, func(_ context.Context, s *actor.State) (*twin, error) { return &twin{s.Storage()}, nil }),
		actor.Define(witnessClass, newWitness),
		actor.Define(alarmClass, func(_ context.Context, s *actor.State) (*alarm, error) { return &alarm{s.Storage()}, nil }),
		actor.Define(quietClass, func(context.Context, *actor.State) (*quiet, error) { return &quiet{}, nil }, actor.IdleTimeout(time.Hour)),
	}
}

// counter is a durable number, as the stock class Counter is.
type counter struct{ s *actor.Storage }

func (c *counter) Increment(ctx context.Context, by int64) (int64, error) {
	n, err := c.Get(ctx)
	if err != nil {
		return 0, err
	}
	return n + by, c.s.Put(ctx, "n", n+by)
}

func (c *counter) Get(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, c.s, "n")
	return n, err
}

func (*counter) Echo(_ context.Context, data []byte) ([]byte, error) { return data, nil }

// twin is a digital twin: a state of some hundred bytes, which a write replaces and a read returns.
type twin struct{ s *actor.Storage }

// twinState is stored under one key.
type twinState struct {
	Version int64 // writes so far
	Data    []byte
}

// Write replaces the data, and returns how often that was done.
func (t *twin) Write(ctx context.Context, data []byte) (int64, error) {
	old, _, err := actor.Get[twinState](ctx, t.s, "state")
	if err != nil {
		return 0, err
	}
	return old.Version + 1, t.s.Put(ctx, "state", twinState{old.Version + 1, data})
}

func (t *twin) Read(ctx context.Context) (twinState, error) {
	s, _, err := actor.Get[twinState](ctx, t.s, "state")
	return s, err
}

// witness bears witness to its activations: it counts in memory, stores what it counted, and tells which of the object's activations it
// is. Two that ran at the same time would give one number twice, or numbers that mix.
type witness struct {
	s          *actor.Storage
	activation int64 // 0: this one has not written yet
	n          int64
}

// sighting is what a witness says.
type sighting struct {
	Activation int64 // the object's first that wrote is 1
	N          int64 // events of the object that wrote
}

func newWitness(ctx context.Context, s *actor.State) (*witness, error) {
	w := &witness{s: s.Storage()}
	last, _, err := actor.Get[sighting](ctx, w.s, "last")
	w.activation, w.n = last.Activation+1, last.N
	return w, err
}

// Enter counts one event.
func (w *witness) Enter(ctx context.Context) (sighting, error) {
	now := sighting{w.activation, w.n + 1}
	if err := w.s.Put(ctx, "last", now); err != nil {
		return sighting{}, err
	}
	w.n = now.N
	return now, nil
}

// Peek tells what is in memory and touches no storage.
func (w *witness) Peek(context.Context) (sighting, error) { return sighting{w.activation, w.n}, nil }

// alarm notes when its alarm runs.
type alarm struct{ s *actor.Storage }

// alarmLog is what an alarm's object knows.
type alarmLog struct {
	Runs      int64
	Scheduled int64 // microseconds since 1970, as the first run was told
	Ran       int64 // likewise, when it began, by its node's clock
}

// Set sets the alarm to a time in milliseconds since 1970.
func (a *alarm) Set(ctx context.Context, at int64) error {
	return a.s.SetAlarm(ctx, time.UnixMilli(at))
}

func (a *alarm) Log(ctx context.Context) (alarmLog, error) {
	l, _, err := actor.Get[alarmLog](ctx, a.s, "log")
	return l, err
}

func (a *alarm) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	now := time.Now()
	l, err := a.Log(ctx)
	if err != nil {
		return err
	}
	if l.Runs == 0 {
		l.Scheduled, l.Ran = info.Scheduled.UnixMicro(), now.UnixMicro()
	}
	l.Runs++
	return a.s.Put(ctx, "log", l)
}

// quiet is an object that does nothing: what is in memory of it is the system's.
type quiet struct{ _ int64 }

func (*quiet) Touch(context.Context) error { return nil }
