package nodetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

// Till is a class as a user writes one: money in a till, and a limit for what may be taken out in a minute.
type Till struct{ s *actor.State }

func NewTill(_ context.Context, s *actor.State) (*Till, error) { return &Till{s}, nil }

const perMinute = 100

// Pay puts money in, and returns what is in the till then.
func (t *Till) Pay(ctx context.Context, amount int) (int, error) {
	n, _, err := actor.Get[int](ctx, t.s.Storage(), "money")
	if err != nil {
		return 0, err
	}
	return n + amount, t.s.Storage().Put(ctx, "money", n+amount)
}

// Take takes money out.
func (t *Till) Take(ctx context.Context, amount int) (int, error) {
	st := t.s.Storage()
	money, _, err := actor.Get[int](ctx, st, "money")
	taken, _, err2 := actor.Get[int](ctx, st, "taken")
	if err := errors.Join(err, err2); err != nil {
		return 0, err
	}
	switch {
	case amount > money:
		return 0, actor.Fail("empty", "there are %d in the till", money)
	case taken+amount > perMinute:
		return 0, actor.Fail("limit", "%d were taken in this minute", taken)
	case taken == 0:
		if err := st.SetAlarm(ctx, time.Now().Add(time.Minute)); err != nil {
			return 0, err
		}
	}
	return money - amount, st.PutMany(ctx, map[string]any{"money": money - amount, "taken": taken + amount})
}

// Alarm begins a new minute.
func (t *Till) Alarm(ctx context.Context, _ actor.AlarmInfo) error {
	_, err := t.s.Storage().Delete(ctx, "taken")
	return err
}

// TestTill is how a user tests a class under failures: the till keeps its money and its limit while its owners die, and the minute ends, a
// minute later, on whichever node it is then.
func TestTill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, actor.Define("Till", NewTill))
		till := c.Client().Object("Till", "front")
		call := func(method string, amount, want int) {
			t.Helper()
			key := method + time.Now().String() // an own key for each call: it may be repeated, and is done once
			if got, err := actor.Call[int](t.Context(), till, method, amount, actor.Idempotent(key)); err != nil || got != want {
				t.Fatalf("%s %d: %d, %v; want %d", method, amount, got, err, want)
			}
			time.Sleep(time.Millisecond)
		}
		call("Pay", 250, 250)
		began := time.Now()
		call("Take", 60, 190)
		first := c.Owner("Till", "front")
		c.Kill(first)
		call("Take", 40, 150) // by the next owner, which knows of the first 60
		_, err := actor.Call[int](t.Context(), till, "Take", 1)
		var e *actor.Error
		if !errors.As(err, &e) || e.App != "limit" {
			t.Fatalf("more than the limit: %v", err)
		}
		c.Restart(first)
		c.Kill(c.Owner("Till", "front")) // the alarm outlives this owner too
		time.Sleep(time.Until(began.Add(65 * time.Second)))
		call("Take", 100, 50)
	})
}
