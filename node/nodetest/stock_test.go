package nodetest_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/node/nodetest"
)

// whileOwnersDie runs workers, and takes the power from an object's owner some times meanwhile. The workers end when their context does.
func whileOwnersDie(t *testing.T, c *nodetest.Cluster, class, key string, workers ...func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make([]error, len(workers))
	var wg sync.WaitGroup
	for i, work := range workers {
		wg.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				errs[i] = work(context.WithoutCancel(ctx))
				time.Sleep(20 * time.Millisecond) // of the cluster's time: each worker's own pace
			}
		})
	}
	for range 4 {
		time.Sleep(2 * time.Second)
		owner := c.Owner(class, key)
		c.Kill(owner)
		if now := c.Owner(class, key); now == owner {
			t.Errorf("node %d has no power, and owns %s/%s", owner, class, key)
		}
		c.Restart(owner)
	}
	time.Sleep(2 * time.Second)
	cancel()
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("worker %d: %v", i, err)
		}
	}
}

// once makes keys: a call that may have run is repeated, and runs once.
func once(what string, n int) actor.CallOption { return actor.Idempotent(fmt.Sprint(what, " ", n)) }

// Two holders never have the lock at one time, and each grant's token is higher than that of the one before.
func TestLockWhileOwnersDie(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, stock.Classes()...)
		lock := stock.NewLockRef(c.Client(), "l")
		var mu sync.Mutex
		inside, token, grants := "", uint64(0), 0
		contend := func(name string) func(ctx context.Context) error {
			n := 0
			return func(ctx context.Context) error {
				n++
				g, err := lock.Acquire(ctx, stock.LockRequest{Holder: name, Millis: 60_000}, once("acquire "+name, n))
				if err != nil || !g.Granted {
					return err
				}
				mu.Lock()
				if inside != "" || g.Token <= token {
					mu.Unlock()
					return fmt.Errorf("%s got token %d after %d, while %q is inside", name, g.Token, token, inside)
				}
				inside, token, grants = name, g.Token, grants+1
				mu.Unlock()
				time.Sleep(30 * time.Millisecond) // the work that the lock protects
				mu.Lock()
				inside = ""
				mu.Unlock()
				if ok, err := lock.Release(ctx, stock.LockRequest{Holder: name, Token: g.Token}, once("release "+name, n)); err != nil || !ok {
					return fmt.Errorf("release of token %d: %v, %w", g.Token, ok, err)
				}
				return nil
			}
		}
		whileOwnersDie(t, c, "Lock", "l", contend("a"), contend("b"), contend("c"))
		if grants < 20 {
			t.Errorf("%d grants in all", grants)
		}
		t.Logf("%d grants", grants)
	})
}

// Every message that was pushed is delivered, and none that was acknowledged comes again.
func TestQueueWhileOwnersDie(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, stock.Classes()...)
		queue := stock.NewQueueRef(c.Client(), "q")
		var mu sync.Mutex
		var pushed, done []uint64
		n := 0
		produce := func(ctx context.Context) error {
			n++
			number, err := queue.Push(ctx, n, once("push", n))
			if err == nil && number != uint64(n) {
				err = fmt.Errorf("message %d has number %d", n, number)
			}
			pushed = append(pushed, number)
			return err
		}
		consume := func(name string) func(ctx context.Context) error {
			n := 0
			return func(ctx context.Context) error {
				n++
				got, err := queue.Pop(ctx, stock.PopRequest{Max: 3, Millis: 60_000}, once("pop "+name, n))
				if err != nil {
					return err
				}
				for _, m := range got {
					mu.Lock()
					again := slices.Contains(done, m.Number)
					mu.Unlock()
					if again {
						return fmt.Errorf("message %d comes again", m.Number)
					}
					if ok, err := queue.Ack(ctx, m.QueueReceipt, once("ack "+name, int(m.Delivery))); err != nil || !ok {
						return fmt.Errorf("acknowledging message %d: %v, %w", m.Number, ok, err)
					}
					mu.Lock()
					done = append(done, m.Number)
					mu.Unlock()
				}
				return nil
			}
		}
		eat := consume("a")
		whileOwnersDie(t, c, "Queue", "q", produce, eat, consume("b"))
		for len(done) < len(pushed) {
			had := len(done)
			if err := eat(t.Context()); err != nil || len(done) == had {
				t.Fatalf("%d of %d messages were delivered: %v", len(done), len(pushed), err)
			}
		}
		slices.Sort(done)
		if !slices.Equal(done, pushed) || len(pushed) < 20 {
			t.Errorf("pushed %d, delivered %d", pushed, done)
		}
		t.Logf("%d messages", len(pushed))
	})
}

// A map has all entries of a Put, or none.
func TestMapWhileOwnersDie(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, stock.Classes()...)
		m := stock.NewMapRef(c.Client(), "m")
		n, last := 0, int64(0)
		put := func(ctx context.Context) error {
			n++
			_, err := m.Put(ctx, map[string]any{"a": n, "b": n, "c": n}, once("put", n))
			return err
		}
		whileOwnersDie(t, c, "Map", "m", put, func(ctx context.Context) error {
			got, err := m.Get(ctx, []string{"a", "b", "c"}, actor.Idempotent(fmt.Sprint("get ", time.Now().UnixNano())))
			if err != nil || len(got) == 0 {
				return err
			}
			a, ok := got["a"].(int64)
			if !ok || got["b"] != a || got["c"] != a || a < last {
				return fmt.Errorf("%v after %d", got, last)
			}
			last = a
			return nil
		})
		if n < 20 || last == 0 {
			t.Errorf("%d puts, the last read is %d", n, last)
		}
	})
}
