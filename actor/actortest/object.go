package actortest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/store"
)

// Object is one object of a class whose constructor returns a T, and the world in which it lives. It is an actor.Ref: calls reach the
// object as they would in a cluster, encoded, through its mailbox and its gate. Its other methods belong to the test's goroutine.
type Object[T any] struct {
	*ref
	w *world
}

var _ actor.Ref = (*Object[int])(nil)

// world is what one New makes.
type world struct {
	t testing.TB
	h *host.Host
	s *shard
}

// Option changes what New makes.
type Option func(*config)

type config struct {
	classes []actor.Class
	host    host.Options
}

// With adds classes whose objects the first one calls.
func With(classes ...actor.Class) Option {
	return func(c *config) { c.classes = append(c.classes, classes...) }
}

// Logger has the object's log go to l; without it, it goes to the test's log.
func Logger(l *slog.Logger) Option { return func(c *config) { c.host.Logger = l } }

// New makes an object of class c that has stored nothing yet. It is not activated before its first event. The test ends it. T must be what the
// class's constructor returns: Inside says so if it is not.
func New[T any](t testing.TB, c actor.Class, key string, opts ...Option) *Object[T] {
	t.Helper()
	o := config{classes: []actor.Class{c}}
	o.host.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, opt := range opts {
		opt(&o)
	}
	w := &world{t: t, s: newShard()}
	o.host.Objects = func(id actor.ID) actor.Ref { return &ref{w, id} }
	h, err := host.New(o.classes, o.host)
	if err != nil {
		close(w.s.work)
		t.Fatalf("actortest: %v", err)
	}
	w.h, w.s.h = h, h
	w.s.open()
	t.Cleanup(w.close)
	id := actor.ID{Class: c.Name(), Key: key}
	if err := id.Validate(); err != nil {
		t.Fatalf("actortest: %v", err)
	}
	return &Object[T]{&ref{w, id}, w}
}

// closeTime is how long the test's end waits for events that still run.
const closeTime = 5 * time.Second

func (w *world) close() {
	w.s.release()
	w.s.mu.Lock()
	w.s.over = true // what is refused from here on is not delivered again
	w.s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := w.h.Close(ctx); err != nil {
		w.t.Errorf("actortest: at the end of the test: %v", err)
	}
	w.s.close()
}

// Object is another object of the same world.
func (o *Object[T]) Object(class, key string) actor.Ref {
	return &ref{o.w, actor.ID{Class: class, Key: key}}
}

// Inside runs fn as an event of the object, with what its constructor returned: to look at memory, or to change it. Storage works with
// fn's context. The error is fn's, or what kept it from running.
func (o *Object[T]) Inside(ctx context.Context, fn func(ctx context.Context, object T) error) error {
	o.w.t.Helper()
	c := o.start(ctx, "Inside", nil)
	c.Visit = func(ctx context.Context, object any) error {
		v, ok := object.(T)
		if !ok {
			return fmt.Errorf("actortest: the constructor of class %s returns a %T: that is what New must be given, not %T", o.id.Class, object, v)
		}
		return fn(ctx, v)
	}
	return c.send(o.w).Wait(ctx, nil)
}

// Active reports whether the object is in memory.
func (o *Object[T]) Active() bool { return o.w.h.Active(0, o.id) }

// Evict drops the object from memory, as when nobody has used it for long. It fails the test if it cannot: an event is in progress, or a write is held back.
func (o *Object[T]) Evict() {
	o.w.t.Helper()
	o.settle()
	if o.Active() && !o.w.h.Evict(0, o.id) {
		o.w.t.Fatalf("actortest: %v cannot be evicted: an event of it is in progress, or what it wrote is held back", o.id)
	}
}

// Move moves all objects of the world to another machine at once: events in progress fail when they touch storage next, or answer; later ones find
// new activations and what was durable.
func (o *Object[T]) Move() {
	o.w.s.move()
	o.settle()
}

// MoveAt does so just before the n-th access to storage, by whichever object, counted from 1; 0 takes it back.
func (o *Object[T]) MoveAt(n int) {
	o.w.s.mu.Lock()
	defer o.w.s.mu.Unlock()
	o.w.s.faults.moveAt = n
}

// FailCommit loses the next batch, as when the machine dies before it is replicated: its callers hear that it may have run, and the object is moved.
func (o *Object[T]) FailCommit() {
	o.w.s.mu.Lock()
	defer o.w.s.mu.Unlock()
	o.w.s.faults.failCommit = true
}

// Hold keeps all writes from becoming durable until Release: replies and calls that come after a write wait.
func (o *Object[T]) Hold() {
	o.w.s.mu.Lock()
	defer o.w.s.mu.Unlock()
	o.w.s.held = true
}

// Release ends Hold.
func (o *Object[T]) Release() { o.w.s.release() }

// Stored is what the object has stored durably, by key.
func (o *Object[T]) Stored() map[string]actor.Value {
	prefix := string(store.ObjectPrefix(o.id.Class, o.id.Key))
	o.w.s.mu.Lock()
	defer o.w.s.mu.Unlock()
	out := make(map[string]actor.Value)
	for k, v := range o.w.s.data {
		if key, ok := strings.CutPrefix(k, prefix); ok {
			out[key] = actor.NewValue(v)
		}
	}
	return out
}

// Advance lets d pass, and what follows from it happen: alarms that become due run. It needs virtual time.
func (o *Object[T]) Advance(d time.Duration) {
	o.w.t.Helper()
	if !bubble() {
		o.w.t.Fatal("actortest: Advance needs virtual time: run the test in synctest.Test")
	}
	time.Sleep(d)
	synctest.Wait()
}

// NextAlarm is when the object's alarm runs next, the next try of one that failed included; ok is false if none is set.
func (o *Object[T]) NextAlarm() (at time.Time, ok bool) {
	o.settle()
	o.w.s.mu.Lock()
	defer o.w.s.mu.Unlock()
	for k := range o.w.s.data {
		if ms, class, key, found := store.ParseAlarmKey([]byte(k)); found && class == o.id.Class && key == o.id.Key {
			return time.UnixMilli(ms), true
		}
	}
	return time.Time{}, false
}

// FireAlarm lets time pass until the object's alarm runs, and waits for it, as far as it gets without more time. It fails the test if no
// alarm is set, and needs virtual time.
func (o *Object[T]) FireAlarm() {
	o.w.t.Helper()
	at, ok := o.NextAlarm()
	if !ok {
		o.w.t.Fatalf("actortest: %v has no alarm set", o.id)
	}
	o.Advance(max(time.Until(at), 0))
}

// settle waits, in virtual time, until nothing goes on by itself.
func (o *Object[T]) settle() { bubble() }

// bubble reports whether time is virtual, and if so waits until all goroutines wait.
func bubble() (virtual bool) {
	defer func() {
		if recover() != nil {
			virtual = false
		}
	}()
	synctest.Wait()
	return true
}
