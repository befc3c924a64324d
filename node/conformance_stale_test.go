package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport"
)

// stale is an event that began before its node was cut off, and goes on after another node has its object.
type stale struct {
	class, key string
	nonce      int64
	err        error // of its access to storage
	p          *actor.Pending
	release    func()
}

// testStaleOwner cuts a node off while events run on it, lets the others take its objects over, and lets the events go on.
func testStaleOwner(t *testing.T, c *stage) {
	victim := c.nodes[0]
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c.h.does("forget", func(_ context.Context, p *part) (string, error) {
		p.s.Abort(nil)
		return "", nil
	})
	begin := func(class, name string, before, after func(ctx context.Context, st *actor.Storage) error) *stale {
		t.Helper()
		e := &stale{class: class, key: c.keyOn(t, victim, class, "stale-"+name)}
		put(t, c.cl, class, e.key, "x", 1)
		failure(t, c.cl.Object(class, e.key).Call(ctx, "Do", "forget", nil), actor.ErrAborted, actor.Ran)
		e.nonce = call[int64](t, c.cl, class, e.key, "Nonce", nil)
		reached, release := make(chan struct{}), make(chan struct{})
		c.h.does(name, func(ctx context.Context, p *part) (string, error) {
			if before != nil {
				if err := before(ctx, p.s.Storage()); err != nil {
					return "", err
				}
			}
			close(reached)
			<-release
			if after != nil {
				e.err = after(ctx, p.s.Storage())
			}
			return "success", nil // whatever storage said
		})
		e.release = func() { close(release) }
		e.p = victim.Client().Object(class, e.key).Start(ctx, "Do", name)
		receive(t, name+" to begin", reached)
		return e
	}
	get := func(ctx context.Context, st *actor.Storage) error {
		_, _, err := actor.Get[int64](ctx, st, "x")
		return err
	}
	write := begin("Part", "write", nil, func(ctx context.Context, st *actor.Storage) error { return st.Put(ctx, "x", 100) })
	cached := begin("Part", "cached", get, get)
	uncached := begin("Part", "uncached", nil, get)
	memory := begin("Part", "memory", nil, nil)
	waived := begin("Stale", "waived", nil, nil)
	all := []*stale{write, cached, uncached, memory, waived}

	c.switches[0].Cut()
	defer c.switches[0].Heal()
	others := dialTo(t, c.nodes[1:]...)

	t.Run("C-27 the majority goes on, C-26 with all that was acknowledged", func(t *testing.T) {
		for _, e := range all {
			if v := call[int64](t, others, e.class, e.key, "Get", "x"); v != 1 {
				t.Errorf("%s: %d", e.key, v)
			}
			if got := call[int64](t, others, e.class, e.key, "Nonce", nil); got == e.nonce {
				t.Errorf("%s: the same activation answers on another node", e.key)
			}
			put(t, others, e.class, e.key, "x", 2)
		}
	})
	t.Run("C-27 the minority cannot write", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		key := c.key(victim, "minority")
		err := victim.Client().Object("Part", key).Call(short, "Put", keyValue{"x", 5}, nil)
		var e *actor.Error
		if !errors.As(err, &e) || !errors.Is(err, actor.ErrDeadline) || !e.Retryable || e.Overloaded || e.Outcome == actor.Ran {
			t.Errorf("%v (%+v)", err, e)
		}
		if v := call[int64](t, others, "Part", key, "Get", "x"); v != 0 {
			t.Errorf("the minority wrote %d", v)
		}
	})
	t.Run("C-20 enforced at event start", func(t *testing.T) {
		ran := c.h.ran.Load()
		got := make(chan transport.Reply, 1)
		newInbox(victim.Node, nil).call(&transport.Call{Class: "Part", Key: memory.key, Method: "Do", Encoding: transport.EncodingMsgpack, Arg: []byte("\xa1x")},
			&delivery{done: func(r transport.Reply) { got <- r }}, nil)
		select {
		case r := <-got:
			if actor.Code(r.Code) != actor.CodeNotOwner || actor.Outcome(r.Outcome) != actor.DidNotRun || r.Flags&transport.FlagRetryable == 0 {
				t.Errorf("a stale owner answered %+v", r)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
		if c.h.ran.Load() != ran {
			t.Error("it ran")
		}
	})
	for _, e := range all {
		e.release()
	}
	moved := func(t *testing.T, err error) {
		t.Helper()
		e := failure(t, err, actor.ErrMoved, actor.MayHaveRun)
		if !strings.HasPrefix(e.Message, actor.MovedText) || !e.Retryable || !e.Reset || e.Overloaded {
			t.Errorf("%+v", e)
		}
	}
	for name, e := range map[string]*stale{
		"C-21 a stale write fails, C-24 moved, C-25 and is no success": write,
		"C-22 a stale read fails, cached":                              cached,
		"C-22 a stale read fails, not cached":                          uncached,
	} {
		t.Run(name, func(t *testing.T) {
			moved(t, e.p.Wait(ctx, nil))
			var inside *actor.Error
			if !errors.As(e.err, &inside) || !errors.Is(e.err, actor.ErrMoved) || !strings.HasPrefix(inside.Message, actor.MovedText) || !inside.Retryable || !inside.Reset || inside.Overloaded {
				t.Errorf("storage said %v (%+v)", e.err, inside)
			}
		})
	}
	t.Run("C-23 an event without storage ends, and its reply is held", func(t *testing.T) { moved(t, memory.p.Wait(ctx, nil)) })
	t.Run("C-23 with AllowStaleReplies it is not", func(t *testing.T) {
		var s string
		if err := waived.p.Wait(ctx, &s); err != nil || s != "success" {
			t.Errorf("%q, %v", s, err)
		}
	})
	c.switches[0].Heal()
	t.Run("C-24 the stale activation is gone", func(t *testing.T) {
		for _, e := range all {
			id := actor.ID{Class: e.class, Key: e.key}
			if victim.host.Active(c.shard(e.class, e.key), id) && !victim.host.Owns(c.shard(e.class, e.key)) {
				t.Errorf("%v is still there", id)
			}
			if got := call[int64](t, victim.Client(), e.class, e.key, "Nonce", nil); got == e.nonce {
				t.Errorf("%v: the stale activation answers", id)
			}
			if v := call[int64](t, victim.Client(), e.class, e.key, "Get", "x"); v != 2 {
				t.Errorf("%v has %d, want 2", id, v)
			}
		}
	})
}

// key is keyOn for a node that has lost its leases: of a shard that the ring prefers there.
func (c *stage) key(n *running, name string) string {
	r := c.nodes[0].Ring()
	for r.Owner(r.ShardOf("Part", name)) != n.ID() {
		name += "x"
	}
	return name
}

func testShutdown(t *testing.T, c *stage) {
	settledRing(t, c.nodes...)
	victim := c.nodes[2]
	ends, hangs := c.keyOn(t, victim, "Part", "ends"), c.keyOn(t, victim, "Part", "hangs")
	ended, release := c.h.blocks("ends", func(ctx context.Context, p *part) (string, error) {
		return "ended", p.s.Storage().Put(ctx, "x", 1)
	})
	var late error
	seen, hung := make(chan struct{}), make(chan struct{}, 1)
	c.h.does("hangs", func(ctx context.Context, p *part) (string, error) {
		hung <- struct{}{}
		defer close(seen)
		<-ctx.Done()
		late = p.s.Storage().Put(context.WithoutCancel(ctx), "x", 1)
		return "success", nil
	})
	one := c.cl.Object("Part", ends).Start(t.Context(), "Do", "ends")
	two := c.cl.Object("Part", hangs).Start(t.Context(), "Do", "hangs")
	receive(t, "the events", ended)
	receive(t, "the events", hung)
	stopped := make(chan struct{})
	go func() { defer close(stopped); victim.stop(t) }()
	until(t, "the hand-over to begin", func() bool { return victim.mover.target(c.shard("Part", ends)) != 0 })
	release()
	var s string
	if err := one.Wait(t.Context(), &s); err != nil || s != "ended" {
		t.Errorf("an event that ended in time answered %q, %v", s, err)
	}
	failure(t, two.Wait(t.Context(), nil), actor.ErrMoved, actor.MayHaveRun)
	receive(t, "the long event's end", seen)
	if !errors.Is(late, actor.ErrMoved) {
		t.Errorf("storage said %v to an event that was cut off", late)
	}
	receive(t, "the node's end", stopped)
	for key, want := range map[string]int64{ends: 1, hangs: 0} {
		if v := call[int64](t, c.cl, "Part", key, "Get", "x"); v != want {
			t.Errorf("%s has %d, want %d", key, v, want)
		}
	}
}
