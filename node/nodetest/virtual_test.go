package nodetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
	"github.com/ringfence/ringfence/ring"
)

// virtual runs a test in virtual time, and says how long it took by both clocks.
func virtual(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	began := time.Now()
	var lived time.Duration
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		defer func() { lived = time.Since(start) }()
		test(t)
	})
	t.Logf("%v of the cluster's time in %v", lived.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

func tallies(opts ...actor.ClassOption) actor.Class {
	return actor.Define("Tally", func(_ context.Context, s *actor.State) (*tally, error) { return &tally{s: s}, nil }, opts...)
}

// adders add 1 to each of some objects, each in turn, until stop is called.
type adders struct {
	c    *nodetest.Cluster
	sums []int64 // acknowledged
	errs []error
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func newAdders(t *testing.T, c *nodetest.Cluster, n int) *adders {
	ctx, cancel := context.WithCancel(t.Context())
	a := &adders{c: c, sums: make([]int64, n), errs: make([]error, n), stop: cancel}
	t.Cleanup(func() { cancel(); a.wg.Wait() })
	for i := range n {
		a.wg.Go(func() { a.add(ctx, i) })
	}
	return a
}

func (a *adders) ref(i int) actor.Ref { return a.c.Client().Object("Tally", fmt.Sprint("t", i)) }

func (a *adders) add(ctx context.Context, i int) {
	for ctx.Err() == nil && a.errs[i] == nil {
		want := a.sums[i] + 1
		got, err := actor.Call[int64](context.WithoutCancel(ctx), a.ref(i), "Add", int64(1), actor.Idempotent(fmt.Sprint("add ", want)))
		switch {
		case err != nil:
			a.errs[i] = err
		case got != want:
			a.errs[i] = fmt.Errorf("the sum is %d after %d", got, want-1)
		}
		a.sums[i] = want
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// check ends the adders. Each answer was one more than the one before, so nothing was lost and nothing done twice.
func (a *adders) check(t *testing.T, least int64) {
	t.Helper()
	a.stop()
	a.wg.Wait()
	for i, err := range a.errs {
		if err != nil {
			t.Errorf("object t%d: %v", i, err)
		}
		if a.sums[i] < least {
			t.Errorf("object t%d: %d calls answered, want %d at least", i, a.sums[i], least)
		}
	}
}

// A cluster of three: owners lose their power in turn under callers.
func TestOwnersLosePower(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 4)
		for i := range 4 {
			owner := c.Owner("Tally", fmt.Sprint("t", i))
			began := time.Now()
			c.Kill(owner)
			if _, err := actor.Call[int64](t.Context(), a.ref(i), "Peek", nil, actor.Idempotent(fmt.Sprint("peek ", i))); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the next success after %v", took)
			}
			if now := c.Owner("Tally", fmt.Sprint("t", i)); now == owner {
				t.Errorf("node %d has no power, and owns it", owner)
			}
			c.Restart(owner)
		}
		a.check(t, 8)
	})
}

// All lose their power at once: what was acknowledged was synced by a majority.
func TestAllLosePower(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		for key, n := range map[string]int64{"a": 30, "b": 20, "c": 10} {
			for i := range n {
				add(t, c, key, i+1)
			}
		}
		for i := range c.Len() {
			c.Kill(i)
		}
		c.Restart(0, 1, 2)
		for key, n := range map[string]int64{"a": 30, "b": 20, "c": 10} {
			add(t, c, key, n+1)
		}
	})
}

// A member that is dead for five minutes is replaced.
func TestReplaceAfter(t *testing.T) {
	for name, sequencer := range map[string]bool{"the sequencer's node": true, "another": false} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) { testReplaceAfter(t, sequencer) })
		})
	}
}

func testReplaceAfter(t *testing.T, sequencer bool) {
	c := nodetest.Start(t, 4, tallies())
	add(t, c, "a", 1)
	c.Settle()
	system, _ := c.Node(0).Ring().Group(ring.SystemGroup)
	dead := 0
	for (c.Node(dead).ID() == system.Replicas[0].Node) != sequencer {
		dead++
	}
	id, other := c.Node(dead).ID(), c.Node((dead+1)%4)
	began := time.Now()
	c.Kill(dead)
	add(t, c, "a", 2)
	member := func() bool {
		_, yes := other.Ring().Member(id)
		return yes
	}
	time.Sleep(4*time.Minute + 50*time.Second)
	if !member() {
		t.Fatalf("it is no member any more after %v", time.Since(began))
	}
	for member() {
		if time.Since(began) > 6*time.Minute {
			t.Fatalf("it is a member still after %v", time.Since(began))
		}
		time.Sleep(time.Second)
	}
	t.Logf("replaced %v after its death", time.Since(began).Round(time.Second))
	for i := range 16 { // it is forgotten when it has no replicas any more
		if n := len(other.Ring().Shard(ring.ShardID(i)).Replicas); n != 3 {
			t.Errorf("shard %d has %d replicas", i, n)
		}
	}
	add(t, c, "a", 3)
}

// An owner that is cut off: an event on it that touches storage hears that its object has moved, and one that does not cannot answer.
func TestCutOwner(t *testing.T) {
	virtual(t, func(t *testing.T) {
		hold, started := make(chan struct{}), make(chan struct{})
		c := nodetest.Start(t, 3, actor.Define("Tally", func(_ context.Context, s *actor.State) (*tally, error) {
			return &tally{s: s, hold: hold, started: started}, nil
		}))
		add(t, c, "a", 1)
		owner := c.Owner("Tally", "a")
		held := c.Node(owner).Client().Object("Tally", "a").Start(t.Context(), "Hold", nil)
		<-started
		c.Cut(owner)
		began := time.Now()
		add(t, c, "a", 2)
		t.Logf("the next success %v after the cut", time.Since(began))
		close(hold)
		err := held.Wait(t.Context(), nil)
		if !errors.Is(err, actor.ErrMoved) || !strings.Contains(err.Error(), "cannot access storage because object has moved to a different machine") {
			t.Errorf("an event that touches storage on an owner that is cut off: %v", err)
		}
		if now := c.Owner("Tally", "a"); now == owner {
			t.Errorf("node %d owns it, and is cut off", owner)
		}
		c.Heal(owner)
		add(t, c, "a", 3)
		c.Settle()
	})
}

// The owner hears the others, and they do not hear it: another takes over, and nothing is lost.
func TestCutOneWay(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 4)
		owner := c.Owner("Tally", "t0")
		for i := range 3 {
			if i != owner {
				c.Network().CutOneWay(c.Host(owner), c.Host(i))
			}
		}
		for c.Owner("Tally", "t0") == owner {
			time.Sleep(10 * time.Millisecond)
		}
		add(t, c, "x", 1)
		for i := range 3 {
			c.Network().Heal(c.Host(owner), c.Host(i))
		}
		c.Settle()
		a.check(t, 8)
	})
}

// A network that is slow and loses packets, and connections that break.
func TestBadNetwork(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 4)
		for i := range 3 {
			for j := range i {
				c.Network().Delay(c.Host(i), c.Host(j), time.Millisecond, 20*time.Millisecond)
				c.Network().Lose(c.Host(i), c.Host(j), 0.1)
			}
		}
		resets := 0
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			resets += c.Network().Reset(c.Host(0), c.Host(1)) + c.Network().Reset(c.Host(1), c.Host(2))
		}
		if resets < 20 {
			t.Errorf("%d connections were reset in 20 times", resets)
		}
		a.check(t, 8)
	})
}

// A planned move: the activation is another one, the caller sees no error, and the ring takes the shard back.
func TestMove(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 4)
		c.Settle()
		calls := func() int64 {
			n, err := actor.Call[int64](t.Context(), c.Client().Object("Tally", "m"), "Calls", nil)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		add(t, c, "m", 1)
		home := c.Owner("Tally", "m")
		if n := calls(); n != 1 {
			t.Fatalf("%d calls", n)
		}
		to := c.Move("Tally", "m")
		if to == home || c.Owner("Tally", "m") != to {
			t.Errorf("moved from node %d to %d, and node %d owns it", home, to, c.Owner("Tally", "m"))
		}
		if n := calls(); n != 0 {
			t.Errorf("the activation remembers %d calls of the one before", n)
		}
		c.Settle()
		if now := c.Owner("Tally", "m"); now != home {
			t.Errorf("node %d owns it, and the ring prefers %d", now, home)
		}
		add(t, c, "m", 2)
		a.check(t, 8)
	})
}

// Rolling restarts and a fourth node, under callers without keys: no call fails.
func TestStopAndAdd(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 4)
		for i := range 3 {
			c.Stop(i)
			if c.Node(i) != nil {
				t.Errorf("node %d was stopped", i)
			}
			c.Restart(i)
		}
		added := c.Add()
		c.Settle()
		if n := len(c.Node(added).Owned()); n == 0 {
			t.Error("the added node owns nothing when the cluster has settled")
		}
		a.check(t, 8)
	})
}

// A node whose power failed comes back at another address, while gossip still has it at the old one, where nobody answers: the others find it in a
// few seconds. It counts again: the cluster does without another node at once.
func TestRelocate(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := nodetest.Start(t, 3, tallies())
		a := newAdders(t, c, 8)
		peek := func(round string) time.Duration {
			began := time.Now()
			for i := range a.sums {
				if _, err := actor.Call[int64](t.Context(), a.ref(i), "Peek", nil, actor.Idempotent(round)); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		id := c.Node(2).ID()
		c.Kill(2)
		peek("dead")
		began := time.Now()
		c.Relocate(2)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it serves at its new address after %v", took)
		} else {
			t.Logf("it serves at its new address after %v", took)
		}
		if got := c.Node(2).ID(); got != id {
			t.Errorf("node %s came back as %s", id, got)
		}
		c.Kill(0)
		if took := peek("another"); took > 5*time.Second {
			t.Errorf("without another node, all objects answer after %v", took)
		} else {
			t.Logf("without another node, all objects answer after %v", took)
		}
		a.check(t, 5)
	})
}
