package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

func TestBusy(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		setBusy := func(b bool) { w.l.mu.Lock(); w.l.busy = b; w.l.mu.Unlock() }
		first := w.send("a", "Add", int64(1))
		first.held()
		setBusy(true)
		p, next := w.send("k", "Add", int64(1)), w.send("k", "Memory", nil)
		p.held()
		setBusy(false)
		w.l.apply(1)
		first.want(int64(1))
		p.held()
		if n, _, _ := w.l.count(); n != 2 {
			t.Fatalf("%d batches: the one that was refused was not tried again", n)
		}
		w.l.apply(1)
		p.want(int64(1))
		w.l.confirm()
		next.want(int64(1))

		setBusy(true)
		p = w.send("k", "Add", int64(1))
		p.held()
		time.Sleep(31 * time.Second) // of the bubble
		w.wait()
		w.l.confirm()
		if e := p.fails(actor.ErrOverloaded, actor.Ran); !e.Reset || e.Message != "Durable Object storage operation exceeded timeout which caused object to be reset." {
			t.Errorf("%+v", e)
		}
		setBusy(false)
		w.l.auto = true
		w.send("k", "Read", nil).want(int64(1))
		w.send("k", "Memory", nil).want(int64(0))
		// The token ends while a batch waits for room.
		setBusy(true)
		p = w.send("k", "Add", int64(1))
		p.held()
		w.l.lose()
		p.fails(actor.ErrMoved, actor.MayHaveRun)
	})
}

// The lease says at commit that the token has ended, before the driver tells the host.
func TestTokenEndsAtCommit(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		goOn := make(chan struct{})
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			err := p.st.Put(ctx, "n", 1)
			<-goOn
			return "", err
		}
		p, other := w.send("k", "Do", "wait"), w.send("b", "Memory", nil)
		other.held()
		w.l.end()
		close(goOn)
		p.fails(actor.ErrMoved, actor.MayHaveRun)
		other.fails(actor.ErrMoved, actor.MayHaveRun)
	})
}

func TestEviction(t *testing.T) {
	inWorld(t, Options{MaxActivations: 10}, func(t *testing.T, w *world) {
		w.l.auto = true
		w.send("k", "Add", int64(1)).want(int64(1))
		time.Sleep(59 * time.Second) // of the bubble
		w.send("k", "Memory", nil).want(int64(1))
		time.Sleep(59 * time.Second)
		w.wait()
		if m := w.h.Metrics(); m.Activations != 1 || m.Evicted != 0 {
			t.Fatalf("%+v", m)
		}
		time.Sleep(5 * time.Second)
		w.wait()
		if m := w.h.Metrics(); m.Activations != 0 || m.Evicted != 1 {
			t.Fatalf("%+v", m)
		}
		w.send("k", "Memory", nil).want(int64(0))
		w.send("k", "Read", nil).want(int64(1))
		// More than allowed: the oldest idle ones go.
		for i := range 30 {
			w.send(fmt.Sprint("k", i), "Memory", nil).want(int64(0))
		}
		w.wait()
		if m := w.h.Metrics(); m.Activations != 10 || m.Evicted != 22 {
			t.Fatalf("%+v", m)
		}
		if s := w.h.shards[fakeShard].Load(); s.t.objects.n != 10 || s.t.Activations() != 10 {
			t.Errorf("%d objects are kept in memory", s.t.objects.n)
		}
	})
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		w.send("k", "Memory", nil).want(int64(0))
		time.Sleep(3 * time.Second)
		w.wait()
		if m := w.h.Metrics(); m.Activations != 0 {
			t.Fatalf("%+v", m)
		}
	}, actor.IdleTimeout(time.Second))
}

func TestDrain(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		goOn := make(chan struct{})
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			<-goOn
			return "", p.st.Put(ctx, "n", 1)
		}
		running, queued := w.send("k", "Do", "wait"), w.send("k", "Memory", nil)
		w.wait()
		drained := make(chan error, 1)
		go func() { drained <- w.h.DrainShard(t.Context(), fakeShard) }()
		queued.fails(actor.ErrNotOwner, actor.DidNotRun)
		w.send("b", "Memory", nil).fails(actor.ErrNotOwner, actor.DidNotRun)
		running.held()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.h.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 events still run") {
			t.Error(err)
		}
		close(goOn)
		running.held()
		w.wait()
		select {
		case err := <-drained:
			t.Error("drained before what was submitted is applied", err)
		default:
		}
		w.l.apply(1)
		running.want("")
		if err := <-drained; err != nil {
			t.Error(err)
		}
		w.h.Resume(fakeShard)
		w.l.auto = true
		w.send("k", "Read", nil).want(int64(1))
		if err := w.h.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		w.send("k", "Read", nil).fails(actor.ErrNotOwner, actor.DidNotRun)
	})
}

func TestClose(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		var ended error
		w.hooks.do["forever"] = func(ctx context.Context, p *probe) (string, error) {
			<-ctx.Done()
			ended = p.st.Put(ctx, "n", 1)
			return "", nil
		}
		p := w.send("k", "Do", "forever")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.h.Close(ctx); err == nil || !strings.Contains(err.Error(), "1 events still run") {
			t.Error(err)
		}
		p.fails(actor.ErrMoved, actor.MayHaveRun)
		if !errors.Is(ended, actor.ErrMoved) && !errors.Is(ended, actor.ErrNotInEvent) {
			t.Error(ended)
		}
		w.send("k", "Memory", nil).fails(actor.ErrStopping, actor.DidNotRun)
		if n, _, _ := w.l.count(); n != 0 {
			t.Error("an event that was cut off has written")
		}
		w.open(2, true)
		w.send("k", "Memory", nil).fails(actor.ErrStopping, actor.DidNotRun)
	})
}
