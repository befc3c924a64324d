package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

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
		if !strings.Contains(log.String(), "oh no") || !strings.Contains(log.String(), "reset_test.go") {
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
		both := make(chan struct{}) // calls are in the mailbox
		w.hooks.construct = func(ctx context.Context, s *actor.State) error {
			if _, ok := ctx.Deadline(); ok {
				t.Error("the constructor is bound by a call's deadline")
			}
			<-both
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
		close(both)
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
