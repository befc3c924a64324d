package actortest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/actortest"
)

// account is a class as a user writes one.
type account struct {
	s     *actor.State
	calls int
}

func newAccount(_ context.Context, s *actor.State) (*account, error) { return &account{s: s}, nil }

func accounts(opts ...actor.ClassOption) actor.Class {
	return actor.Define("Account", newAccount, opts...)
}

type transfer struct {
	To     string
	Amount int64
}

func (a *account) Deposit(ctx context.Context, amount int64) (int64, error) {
	a.calls++
	n, _, err := actor.Get[int64](ctx, a.s.Storage(), "balance")
	if err != nil {
		return 0, err
	}
	n += amount
	return n, a.s.Storage().Put(ctx, "balance", n)
}

func (a *account) Transfer(ctx context.Context, t transfer) (int64, error) {
	n, err := a.Deposit(ctx, -t.Amount)
	if err != nil {
		return 0, err
	}
	if err := a.s.Object("Account", t.To).Call(ctx, "Deposit", t.Amount, nil); err != nil {
		return 0, err
	}
	return n, nil
}

func (a *account) Calls(context.Context) (int, error) { return a.calls, nil }

// Remind sets the alarm.
func (a *account) Remind(ctx context.Context, seconds int64) error {
	return a.s.Storage().SetAlarm(ctx, time.Now().Add(time.Duration(seconds)*time.Second))
}

// Alarm fails the first time.
func (a *account) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	if !info.IsRetry {
		return errors.New("not yet")
	}
	_, err := a.Deposit(ctx, 100)
	return err
}

func inBubble(name string, t *testing.T, fn func(t *testing.T, o *actortest.Object[*account])) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn(t, actortest.New[*account](t, accounts(), "alice"))
		})
	})
}

func deposit(t *testing.T, r actor.Ref, amount, want int64) {
	t.Helper()
	n, err := actor.Call[int64](t.Context(), r, "Deposit", amount)
	if err != nil || n != want {
		t.Fatalf("Deposit: %d, %v; want %d", n, err, want)
	}
}

func TestConformanceTestKit(t *testing.T) {
	inBubble("C-107 call, store, evict", t, func(t *testing.T, o *actortest.Object[*account]) {
		deposit(t, o, 5, 5)
		deposit(t, o, 5, 10)
		if !o.Active() {
			t.Error("not active")
		}
		o.Evict()
		if o.Active() {
			t.Error("still active")
		}
		if n, err := actor.Call[int](t.Context(), o, "Calls", nil); n != 0 || err != nil {
			t.Errorf("memory survived: %d, %v", n, err)
		}
		var stored int64
		if err := o.Stored()["balance"].Decode(&stored); err != nil || stored != 10 {
			t.Errorf("stored %d, %v", stored, err)
		}
	})
	inBubble("C-107 inside", t, func(t *testing.T, o *actortest.Object[*account]) {
		err := o.Inside(t.Context(), func(ctx context.Context, a *account) error {
			a.calls = 41
			return a.s.Storage().Put(ctx, "balance", int64(7))
		})
		if err != nil {
			t.Fatal(err)
		}
		deposit(t, o, 1, 8)
		if n, err := actor.Call[int](t.Context(), o, "Calls", nil); n != 42 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		boom := actor.Fail("boom", "no")
		if err := o.Inside(t.Context(), func(context.Context, *account) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("%v", err)
		}
	})
	inBubble("other objects", t, func(t *testing.T, o *actortest.Object[*account]) {
		deposit(t, o, 10, 10)
		if n, err := actor.Call[int64](t.Context(), o, "Transfer", transfer{"bob", 4}); err != nil || n != 6 {
			t.Fatalf("%d, %v", n, err)
		}
		deposit(t, o.Object("Account", "bob"), 0, 4)
	})
	inBubble("a move between two accesses", t, func(t *testing.T, o *actortest.Object[*account]) {
		deposit(t, o, 10, 10)
		for n, want := range map[int]int64{1: 10, 2: 10} { // before the read, and between read and write
			o.MoveAt(n)
			_, err := actor.Call[int64](t.Context(), o, "Deposit", int64(1))
			if !errors.Is(err, actor.ErrMoved) {
				t.Errorf("moved at access %d: %v", n, err)
			}
			deposit(t, o, 0, want)
		}
		o.MoveAt(3)
		deposit(t, o, 1, 11)
		o.MoveAt(0)
		o.Move()
		if n, err := actor.Call[int](t.Context(), o, "Calls", nil); n != 0 || err != nil {
			t.Errorf("memory moved too: %d, %v", n, err)
		}
		deposit(t, o, 0, 11)
	})
	inBubble("a lost commit", t, func(t *testing.T, o *actortest.Object[*account]) {
		o.FailCommit()
		_, err := actor.Call[int64](t.Context(), o, "Deposit", int64(1))
		if e := (*actor.Error)(nil); !errors.As(err, &e) || e.Code != actor.CodeMoved || e.Outcome != actor.MayHaveRun {
			t.Errorf("%+v", err)
		}
		deposit(t, o, 1, 1)
	})
	inBubble("C-107 run the alarm", t, func(t *testing.T, o *actortest.Object[*account]) {
		if _, ok := o.NextAlarm(); ok {
			t.Error("an alarm is set")
		}
		if err := o.Call(t.Context(), "Remind", int64(3600), nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if at, ok := o.NextAlarm(); !ok || at.Sub(began) != time.Hour {
			t.Errorf("due in %v, %v", at.Sub(began), ok)
		}
		o.Evict()
		o.FireAlarm() // fails
		if at, ok := o.NextAlarm(); !ok || at.Sub(began) < time.Hour+2*time.Second || at.Sub(began) > time.Hour+2500*time.Millisecond {
			t.Errorf("repeated after %v, %v", at.Sub(began), ok)
		}
		o.Move()
		o.FireAlarm()
		if _, ok := o.NextAlarm(); ok {
			t.Error("the alarm is still set")
		}
		deposit(t, o, 0, 100)
	})
	inBubble("held writes", t, func(t *testing.T, o *actortest.Object[*account]) {
		o.Hold()
		p := o.Start(t.Context(), "Deposit", int64(3))
		o.Advance(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Wait(ctx, nil); !errors.Is(err, actor.ErrDeadline) {
			t.Errorf("%v", err)
		}
		if len(o.Stored()) != 0 {
			t.Error("stored")
		}
		o.Release()
		var n int64
		if err := p.Wait(t.Context(), &n); err != nil || n != 3 {
			t.Errorf("%d, %v", n, err)
		}
	})
	inBubble("an idle object is evicted in virtual time", t, func(t *testing.T, o *actortest.Object[*account]) {
		deposit(t, o, 1, 1)
		o.Advance(time.Hour)
		if o.Active() {
			t.Error("still active")
		}
	})
	t.Run("without virtual time", func(t *testing.T) {
		o := actortest.New[*account](t, accounts(), "carol")
		for i := range int64(100) {
			deposit(t, o, 1, i+1)
		}
		o.Move()
		deposit(t, o, 0, 100)
	})
	inBubble("bad input", t, func(t *testing.T, o *actortest.Object[*account]) {
		for _, arg := range []any{"x", nil, make(chan int), []byte{1}} {
			if err := o.Call(t.Context(), "Deposit", arg, nil); !errors.Is(err, actor.ErrBadArgument) {
				t.Errorf("%v: %v", arg, err)
			}
		}
		if err := o.Call(t.Context(), "Nope", nil, nil); !errors.Is(err, actor.ErrUnknownMethod) {
			t.Errorf("%v", err)
		}
		if err := o.Object("Nope", "x").Call(t.Context(), "M", nil, nil); !errors.Is(err, actor.ErrUnknownClass) {
			t.Errorf("%v", err)
		}
		var s string
		if err := o.Call(t.Context(), "Deposit", int64(1), &s); !errors.Is(err, actor.ErrBadArgument) {
			t.Errorf("%v", err)
		}
	})
}
