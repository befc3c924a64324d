package nodetest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

// bell counts, in storage, how often its alarm has rung.
type bell struct{ s *actor.Storage }

func newBell(_ context.Context, s *actor.State) (*bell, error) { return &bell{s.Storage()}, nil }

// Set has it ring in so many milliseconds.
func (b *bell) Set(ctx context.Context, ms int) error {
	return b.s.SetAlarm(ctx, time.Now().Add(time.Duration(ms)*time.Millisecond))
}

// Count returns how often it has rung; less than 0 if it rang early.
func (b *bell) Count(ctx context.Context) (int, error) {
	n, _, err := actor.Get[int](ctx, b.s, "n")
	return n, err
}

func (b *bell) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	n, err := b.Count(ctx)
	if err != nil {
		return err
	}
	if n++; time.Now().Before(info.Scheduled) {
		n = -1000
	}
	return b.s.Put(ctx, "n", n)
}

// bells are objects all over the cluster.
type bells struct {
	t *testing.T
	c *nodetest.Cluster
	n int
}

func (b *bells) ref(i int) actor.Ref { return b.c.Client().Object("Bell", fmt.Sprint("b", i)) }

func (b *bells) set(ms int) {
	b.t.Helper()
	for i := range b.n {
		if err := b.ref(i).Call(b.t.Context(), "Set", ms, nil, actor.Idempotent(fmt.Sprint("set ", time.Now().UnixNano()))); err != nil {
			b.t.Fatal(err)
		}
	}
}

// want waits until all have rung so often. What a handler writes is in one batch with the end of its alarm: so never more often.
func (b *bells) want(times int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for i := range b.n {
		for {
			got, err := actor.Call[int](ctx, b.ref(i), "Count", nil, actor.Idempotent(fmt.Sprint("count ", time.Now().UnixNano())))
			if err != nil {
				b.t.Fatalf("bell %d: %v", i, err)
			}
			if got > times || got < 0 {
				b.t.Fatalf("bell %d rang %d times, want %d", i, got, times)
			}
			if got == times {
				break
			}
			select {
			case <-ctx.Done():
				b.t.Fatalf("bell %d rang %d times, want %d", i, got, times)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// TestConformanceAlarms has the rows that need a cluster; the others are in package host.
func TestConformanceAlarms(t *testing.T) {
	row := func(name string, nodes, delay int, fault func(b *bells)) {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				b := &bells{t: t, n: 24, c: nodetest.Start(t, nodes, actor.Define("Bell", newBell, actor.IdleTimeout(500*time.Millisecond)))}
				b.set(delay)
				fault(b)
				b.want(1)
				time.Sleep(20 * time.Second)
				b.want(1) // and not once more
			})
		})
	}
	row("C-75 eviction", 3, 1500, func(*bells) {})
	row("C-75 owner kill", 3, 1000, func(b *bells) {
		owner := b.c.Owner("Bell", "b0")
		b.c.Kill(owner)
		b.want(1) // adopted by the next owner
		b.c.Restart(owner)
	})
	row("C-77 owner kill while alarms run", 3, 300, func(b *bells) {
		owner := b.c.Owner("Bell", "b1")
		time.Sleep(300 * time.Millisecond) // the alarms' own time: they are due now
		b.c.Kill(owner)
		b.c.Restart(owner)
	})
	row("C-75, C-76 hand-over", 3, 1000, func(b *bells) {
		owner := b.c.Owner("Bell", "b2")
		b.c.Stop(owner)
		b.c.Restart(owner)
	})
	row("C-76 join", 3, 1500, func(b *bells) { b.c.Add() })
	row("C-76 leave", 4, 1500, func(b *bells) { b.c.Leave(b.c.Owner("Bell", "b3")) })
	row("C-75 full restart", 1, 500, func(b *bells) {
		b.c.Kill(0)
		b.c.Restart(0) // overdue by now, or not yet due
	})
	row("C-75 restart of all nodes", 3, 1500, func(b *bells) {
		for i := range 3 {
			b.c.Kill(i)
		}
		b.c.Restart(0, 1, 2)
	})
}
