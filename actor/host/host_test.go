package host

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

func TestPipeline(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		a := w.send("k", "Add", int64(1))
		b := w.send("k", "Add", int64(2))
		c := w.send("k", "Read", nil)
		d := w.send("k", "Memory", nil)
		a.held()
		d.held()
		if n, asked, _ := w.l.count(); n != 2 || asked != 1 {
			t.Fatalf("%d batches submitted, %d rounds asked for", n, asked)
		}
		w.l.confirm() // the round was c's; d began later
		w.l.confirm()
		c.held() // the reads saw what is not yet applied
		d.held()
		w.l.apply(1)
		a.want(int64(1))
		b.held()
		c.held()
		w.l.apply(1)
		b.want(int64(3))
		c.want(int64(3))
		d.want(int64(3)) // memory only, and yet it had waited for both
		if m := w.h.Metrics(); m.Started != 4 || m.Ended != 4 || m.Held != 0 || m.Bytes != 0 || m.Activations != 1 || m.Batches != 2 {
			t.Errorf("%+v", m)
		}
	})
}

func TestReadWaitsForConfirmation(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		a := w.send("k", "Memory", nil)
		a.held()
		b := w.send("k", "Memory", nil) // begins while the round is under way: needs another
		b.held()
		w.l.confirm()
		a.want(int64(0))
		b.held()
		w.l.confirm()
		b.want(int64(0))
		if a.result.Token != 1 || a.result.Epoch != 5 {
			t.Errorf("%+v", a.result)
		}
	})
}

func TestAllowStaleReplies(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.send("k", "Memory", nil).want(int64(0))
		add := w.send("k", "Add", int64(1))
		mem := w.send("k", "Memory", nil)
		add.held()
		mem.held()
		w.l.apply(1)
		add.want(int64(1))
		mem.want(int64(1))
		w.send("k", "Read", nil).want(int64(1))

		goOn := make(chan struct{})
		w.hooks.do["compute"] = func(context.Context, *probe) (string, error) { <-goOn; return "done", nil }
		w.hooks.do["touch"] = func(ctx context.Context, p *probe) (string, error) {
			<-goOn
			_, _ = p.Read(ctx)
			return "done", nil
		}
		compute, touch := w.send("k", "Do", "compute"), w.send("l", "Do", "touch")
		w.wait()
		w.l.lose()
		close(goOn)
		compute.want("done") // as in the original: nothing stops plain computation
		touch.fails(actor.ErrMoved, actor.MayHaveRun)
	}, actor.AllowStaleReplies())
}

func TestLost(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		goOn := make(chan struct{})
		var first, second error
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			<-goOn
			_, first = p.Read(ctx)
			second = p.st.Put(ctx, "n", 7)
			return "done", nil // as if nothing had happened
		}
		w.hooks.do["compute"] = func(context.Context, *probe) (string, error) { <-goOn; return "done", nil }
		held := w.send("a", "Add", int64(1))
		read := w.send("b", "Memory", nil)
		running := w.send("c", "Do", "wait")
		queued := w.send("c", "Read", nil)
		computing := w.send("d", "Do", "compute")
		held.held()
		w.l.lose()
		held.fails(actor.ErrMoved, actor.MayHaveRun)
		read.fails(actor.ErrMoved, actor.MayHaveRun)
		queued.fails(actor.ErrNotOwner, actor.DidNotRun)
		running.held()
		close(goOn)
		e := running.fails(actor.ErrMoved, actor.MayHaveRun)
		computing.fails(actor.ErrMoved, actor.MayHaveRun)
		for _, err := range []error{first, second} {
			if !errors.Is(err, actor.ErrMoved) || !strings.HasPrefix(err.Error(), "cannot access storage because object has moved to a different machine") {
				t.Errorf("storage after the loss: %v", err)
			}
			for _, part := range []string{"Probe/c", "epoch 5, token 1", "now epoch 6, token 11"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v does not tell %s", err, part)
				}
			}
			if m := (*store.MovedError)(nil); !errors.As(err, &m) || m.CurrentToken != 11 {
				t.Errorf("%v does not wrap what the lease said", err)
			}
		}
		if !e.Retryable || !e.Reset || e.Overloaded || e.Token != 1 {
			t.Errorf("%+v", e)
		}
		w.send("a", "Read", nil).fails(actor.ErrNotOwner, actor.DidNotRun)
		if n, _, _ := w.l.count(); n != 1 {
			t.Errorf("%d batches", n)
		}
		if m := w.h.Metrics(); m.Activations != 0 || m.Bytes != 0 {
			t.Errorf("%+v", m)
		}
		// Under a new token everything begins anew, from what is applied.
		w.open(20, true)
		w.send("a", "Add", int64(5)).want(int64(5))
	})
}

// The access itself finds out, before the driver tells the host.
func TestAccessFindsLoss(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		goOn := make(chan struct{})
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			<-goOn
			_, err := p.Read(ctx)
			return "", err
		}
		other := w.send("b", "Add", int64(1))
		p := w.send("k", "Do", "wait")
		queued := w.send("k", "Read", nil)
		w.wait()
		w.l.end()
		other.held()
		close(goOn)
		p.fails(actor.ErrMoved, actor.MayHaveRun)
		queued.fails(actor.ErrNotOwner, actor.DidNotRun)
		other.fails(actor.ErrMoved, actor.MayHaveRun)
		w.send("k", "Read", nil).fails(actor.ErrNotOwner, actor.DidNotRun)
		w.l.lose()
	})
}

// While nobody knows whether the lease is good, neither events nor accesses go on; they do not hang either.
func TestUnsure(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		begin := func() { w.l.mu.Lock(); w.l.unsure = make(chan struct{}); w.l.mu.Unlock() }
		clear := func() { w.l.mu.Lock(); close(w.l.unsure); w.l.unsure = nil; w.l.mu.Unlock() }
		w.l.auto = true
		goOn := make(chan struct{})
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			<-goOn
			_, err := p.Read(ctx)
			return "read", err
		}
		access := w.send("a", "Do", "wait")
		w.wait()
		begin()
		close(goOn)
		start := w.send("b", "Memory", nil)
		expires := w.send("c", "Memory", nil, func(c *Call) { c.Deadline = time.Now().Add(time.Second) })
		access.held()
		start.held()
		time.Sleep(2 * time.Second) // of the bubble
		e := expires.fails(actor.ErrDeadline, actor.DidNotRun)
		if !errors.Is(e, context.DeadlineExceeded) {
			t.Error(e)
		}
		clear()
		access.want("read")
		start.want(int64(0))

		begin()
		start = w.send("b", "Memory", nil)
		start.held()
		w.l.lose()
		start.fails(actor.ErrNotOwner, actor.DidNotRun)
	})
}

func TestMailboxBounds(t *testing.T) {
	inWorld(t, Options{MailboxBytes: 10_000}, func(t *testing.T, w *world) {
		goOn := make(chan struct{})
		w.hooks.do["wait"] = func(context.Context, *probe) (string, error) { <-goOn; return "", nil }
		var calls []*pendingCall
		for range 3 {
			calls = append(calls, w.send("k", "Do", "wait"))
		}
		e := w.send("k", "Memory", nil).fails(actor.ErrOverloaded, actor.DidNotRun)
		if e.Message != "Durable Object is overloaded. Too many requests queued." || !e.Overloaded || e.Retryable {
			t.Errorf("%+v", e)
		}
		big := strings.Repeat("x", 9000)
		w.send("l", "Do", "wait")
		if e := w.send("l", "Do", big).fails(actor.ErrOverloaded, actor.DidNotRun); e.Message != "Durable Object is overloaded. Too much data queued." {
			t.Errorf("%+v", e)
		}
		w.l.auto = true
		close(goOn)
		for _, c := range calls {
			c.want("")
		}
		w.send("k", "Memory", nil).want(int64(0))
	}, actor.MailboxLimit(3))

	inWorld(t, Options{MaxBytes: 2000}, func(t *testing.T, w *world) {
		a, b, c := w.send("a", "Memory", nil), w.send("b", "Memory", nil), w.send("c", "Memory", nil)
		c.held()
		w.send("d", "Memory", nil).fails(actor.ErrOverloaded, actor.DidNotRun)
		w.l.confirm()
		w.l.confirm()
		a.want(int64(0))
		b.want(int64(0))
		c.want(int64(0))
		d := w.send("d", "Memory", nil)
		d.held()
		w.l.confirm()
		d.want(int64(0))
	})
}

func TestDeadline(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		soon := func(c *Call) { c.Deadline = time.Now().Add(time.Second) }
		w.hooks.do["until"] = func(ctx context.Context, _ *probe) (string, error) {
			sub, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-sub.Done()
			return "", ctx.Err()
		}
		a, b := w.send("k", "Do", "until", soon), w.send("k", "Memory", nil, soon)
		a.held()
		time.Sleep(3 * time.Second) // of the bubble
		a.fails(actor.ErrDeadline, actor.Ran)
		b.fails(actor.ErrDeadline, actor.DidNotRun)
		w.send("k", "Memory", nil, func(c *Call) { c.Deadline = time.Now() }).fails(actor.ErrDeadline, actor.DidNotRun)
		if m := w.h.Metrics(); m.Started != 1 {
			t.Errorf("%+v", m)
		}
	})
}

func TestContextAfterTheEvent(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		var ctx, waited context.Context
		var st *actor.Storage
		stopped := make(chan struct{})
		w.hooks.do["leak"] = func(c context.Context, p *probe) (string, error) {
			st = p.st
			if c.Err() != nil || c.Value("x") != nil {
				t.Error("the context is odd")
			}
			ctx = c
			return "", nil
		}
		w.hooks.do["goroutine"] = func(c context.Context, _ *probe) (string, error) {
			waited = c
			go func() { <-c.Done(); close(stopped) }()
			return "", nil
		}
		w.send("a", "Do", "leak").want("")
		w.send("b", "Do", "goroutine").want("")
		<-stopped
		if ctx.Err() == nil || waited.Err() == nil {
			t.Error("the context of an event that ended goes on")
		}
		<-ctx.Done()
		n := 0
		for name, c := range map[string]context.Context{"of no event": t.Context(), "of an ended event": ctx, "of another object's event": waited} {
			if _, err := st.Get(c, "n", &n); !errors.Is(err, actor.ErrNotInEvent) {
				t.Errorf("Get with the context %s: %v", name, err)
			}
			if err := st.Put(c, "n", 1); !errors.Is(err, actor.ErrNotInEvent) {
				t.Errorf("Put with the context %s: %v", name, err)
			}
			if _, err := st.List(c, actor.ListOptions{}); !errors.Is(err, actor.ErrNotInEvent) {
				t.Errorf("List with the context %s: %v", name, err)
			}
			if err := st.Sync(c); !errors.Is(err, actor.ErrNotInEvent) {
				t.Errorf("Sync with the context %s: %v", name, err)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	inWorld(t, Options{Skim: func(_ actor.Encoding, _ reflect.Type, b []byte) error {
		if b[0] == 0xc1 {
			return errors.New("skimmed")
		}
		return nil
	}}, func(t *testing.T, w *world) {
		raw := func(enc actor.Encoding, b string) func(*Call) {
			return func(c *Call) { c.Encoding, c.Arg = uint8(enc), []byte(b) }
		}
		for _, c := range []struct {
			method string
			with   func(*Call)
			err    error
			text   string
		}{
			{"Foo", nil, actor.ErrUnknownMethod, "class Probe has Add, Do, Memory, Read, Struct"},
			{"Add", nil, actor.ErrBadArgument, "wants an argument of type int64"},
			{"Add", raw(actor.EncodingJSON, `"x"`), actor.ErrBadArgument, "int64"},
			{"Add", raw(actor.EncodingJSON, `1 2`), actor.ErrBadArgument, "after"},
			{"Add", raw(actor.EncodingMsgpack, "\x01\x02"), actor.ErrBadArgument, "after"},
			{"Add", raw(actor.EncodingMsgpack, "\xc1"), actor.ErrBadArgument, "skimmed"},
			{"Add", raw(9, "\x01"), actor.ErrBadArgument, "encoding"},
			{"Memory", raw(actor.EncodingJSON, `1`), actor.ErrBadArgument, "takes no argument"},
			{"Memory", func(c *Call) { c.Chain = []string{"A/b", "Probe/k", "C/d"} }, actor.ErrCallCycle, "A/b → Probe/k → C/d → Probe/k"},
			{"Memory", func(c *Call) { c.Object.Class = "Nope" }, actor.ErrUnknownClass, "no class \"Nope\": this node does not know it, it has Probe"},
		} {
			with := c.with
			if with == nil {
				with = func(*Call) {}
			}
			if e := w.send("k", c.method, nil, with).fails(c.err, actor.DidNotRun); !strings.Contains(e.Message, c.text) {
				t.Errorf("%s: %v, want %q", c.method, e, c.text)
			}
		}
		if w.hooks.made.Load() != 0 {
			t.Error("an object was made for calls that could not run")
		}
		w.l.auto = true
		p := w.send("k", "Struct", nil, raw(actor.EncodingJSON, `{"x":1,"y":2}`))
		if !p.answered() || string(p.result.Value) != `{"x":2,"y":1}` || p.result.Encoding != uint8(actor.EncodingJSON) || !json.Valid(p.result.Value) {
			t.Errorf("%+v", p.result)
		}
		w.send("k", "Memory", nil, raw(actor.EncodingJSON, `null`)).answered()
		if _, err := New([]actor.Class{w.hooks.class(), w.hooks.class(), {}}, Options{}); err == nil || !strings.Contains(err.Error(), "class Probe is given twice") || !strings.Contains(err.Error(), "zero Class") {
			t.Error(err)
		}
	})
}
