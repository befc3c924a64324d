package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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

func TestPanic(t *testing.T) {
	var log strings.Builder
	inWorld(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, w *world) {
		w.hooks.do["panic"] = func(ctx context.Context, p *probe) (string, error) {
			if err := p.st.Put(ctx, "n", 100); err != nil {
				return "", err
			}
			panic("oh no")
		}
		add := w.send("k", "Add", int64(1))
		bad := w.send("k", "Do", "panic")
		mem := w.send("k", "Memory", nil)
		next := w.send("k", "Add", int64(1))
		bad.held() // its error may tell of what is not applied
		w.l.apply(1)
		add.want(int64(1))
		w.l.apply(1)
		w.l.confirm()
		e := bad.fails(actor.ErrPanic, actor.Ran)
		if !e.Remote || !e.Reset || e.Retryable || !strings.Contains(e.Message, "oh no") {
			t.Errorf("%+v", e)
		}
		mem.want(int64(0))  // memory is gone
		next.want(int64(2)) // the write of the one that panicked never was
		if w.hooks.made.Load() != 2 {
			t.Errorf("%d constructors", w.hooks.made.Load())
		}
		if !strings.Contains(log.String(), "oh no") || !strings.Contains(log.String(), "host_test.go") {
			t.Errorf("no stack in the log: %s", log.String())
		}
	})
}

func TestAbort(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		deferred := false
		var after error
		w.hooks.do["abort"] = func(ctx context.Context, p *probe) (string, error) {
			defer func() {
				deferred = recover() == nil
				after = p.st.Put(ctx, "n", 6)
			}()
			if err := p.st.Put(ctx, "n", 5); err != nil {
				return "", err
			}
			p.s.Abort(errors.New("boom"))
			return "not reached", nil
		}
		w.hooks.do["plain"] = func(_ context.Context, p *probe) (string, error) { p.s.Abort(nil); return "", nil }
		w.send("k", "Add", int64(1)).want(int64(1))
		abort, next := w.send("k", "Do", "abort"), w.send("k", "Memory", nil)
		e := abort.fails(actor.ErrAborted, actor.Ran)
		if e.Message != "boom" || !e.Remote || !e.Reset || e.Retryable || !deferred || !errors.Is(after, actor.ErrAborted) {
			t.Errorf("%+v, %v, %v", e, deferred, after)
		}
		next.want(int64(0))
		w.send("k", "Read", nil).want(int64(1))
		if e := w.send("k", "Do", "plain").fails(actor.ErrAborted, actor.Ran); e.Message != "Application called abort() to reset Durable Object." {
			t.Error(e)
		}
		// From a goroutine of the event, which then returns as if nothing had happened.
		w.hooks.do["beside"] = func(ctx context.Context, p *probe) (string, error) {
			done := make(chan struct{})
			go func() { defer close(done); p.s.Abort(errors.New("beside")) }()
			<-done
			return "ok", p.st.Put(context.WithoutCancel(ctx), "n", 9)
		}
		if e := w.send("k", "Do", "beside").fails(actor.ErrAborted, actor.Ran); e.Message != "beside" {
			t.Error(e)
		}
		// From a goroutine that outlived its event: the idle activation goes.
		var state *actor.State
		w.hooks.do["keep"] = func(_ context.Context, p *probe) (string, error) { state, p.mem = p.s, 8; return "", nil }
		w.send("k", "Do", "keep").want("")
		w.send("k", "Memory", nil).want(int64(8))
		go func() { state.Abort(nil) }()
		w.wait()
		if m := w.h.Metrics(); m.Activations != 0 {
			t.Errorf("%+v", m)
		}
		w.send("k", "Memory", nil).want(int64(0))
		w.send("k", "Read", nil).want(int64(1))
	})
}

func TestConstructor(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		fails, panics := true, false
		w.hooks.construct = func(ctx context.Context, s *actor.State) error {
			if _, ok := ctx.Deadline(); ok {
				t.Error("the constructor is bound by a call's deadline")
			}
			if err := s.Storage().Put(ctx, "born", w.hooks.made.Load()); err != nil {
				return err
			}
			if panics {
				panic("in constructor")
			}
			if fails {
				return errors.New("no luck")
			}
			return nil
		}
		within := func(c *Call) { c.Deadline = time.Now().Add(time.Hour) }
		a, b := w.send("k", "Memory", nil, within), w.send("k", "Memory", nil)
		for _, p := range []*pendingCall{a, b} {
			e := p.fails(actor.ErrConstructor, actor.DidNotRun)
			if !strings.Contains(e.Message, "no luck") || !e.Reset || !e.Remote {
				t.Errorf("%+v", e)
			}
		}
		if w.hooks.made.Load() != 1 {
			t.Errorf("%d constructors for one failure", w.hooks.made.Load())
		}
		panics = true
		w.send("k", "Memory", nil).fails(actor.ErrPanic, actor.DidNotRun)
		panics, fails = false, false
		w.hooks.do["born"] = func(ctx context.Context, p *probe) (string, error) {
			n, ok, err := actor.Get[int](ctx, p.st, "born")
			return fmt.Sprint(n, ok), err
		}
		w.send("k", "Do", "born").want("3 true")
		w.send("k", "Do", "born").want("3 true")
		if n, _, _ := w.l.count(); n != 1 {
			t.Errorf("%d batches: those of constructors that failed must not be submitted", n)
		}
	})
}

func TestErrorsKeepWrites(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.hooks.do["fail"] = func(ctx context.Context, p *probe) (string, error) {
			p.mem = 4
			if err := p.st.Put(ctx, "n", 4); err != nil {
				return "", err
			}
			return "", fmt.Errorf("ordering: %w", actor.Fail("sold-out", "only %d left", 2))
		}
		w.hooks.do["plain"] = func(context.Context, *probe) (string, error) { return "", errors.New("plain") }
		p := w.send("k", "Do", "fail")
		p.held()
		w.l.apply(1)
		e := p.fails(actor.Fail("sold-out", ""), actor.Ran)
		if !e.Remote || e.Reset || !strings.Contains(e.Message, "only 2 left") || !strings.HasPrefix(e.Message, "ordering: ") {
			t.Errorf("%+v", e)
		}
		w.l.auto = true
		if e := w.send("k", "Do", "plain").fails(nil, actor.Ran); e.Code != actor.CodeApp || e.Message != "plain" || e.App != "" {
			t.Errorf("%+v", e)
		}
		w.send("k", "Memory", nil).want(int64(4))
		w.send("k", "Read", nil).want(int64(4))
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
	inWorld(t, Options{Skim: func(b []byte) error {
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
		if s := w.h.shards[fakeShard].Load(); len(s.t.objects) != 10 || s.t.Activations() != 10 {
			t.Errorf("%d objects are kept in memory", len(s.t.objects))
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
		w.send("k", "Memory", nil).fails(nil, actor.DidNotRun)
		if n, _, _ := w.l.count(); n != 0 {
			t.Error("an event that was cut off has written")
		}
		w.open(2, true)
		w.send("k", "Memory", nil).fails(nil, actor.DidNotRun)
	})
}
