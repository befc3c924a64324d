package host

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// row is a test of one row of the conformance list; every one begins with a new host whose batches and rounds wait for the test.
type row struct {
	name  string
	class []actor.ClassOption
	opts  Options
	test  func(t *testing.T, w *world, l *loop)
}

func conform(t *testing.T, rows []row) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			l := &loop{}
			if r.opts.Objects == nil {
				r.opts.Objects = l.object
			}
			inWorld(t, r.opts, func(t *testing.T, w *world) {
				l.w = w
				w.l.mu.Lock()
				w.l.proves.Store(true) // rounds are not what these rows are about
				w.l.mu.Unlock()
				r.test(t, w, l)
			}, r.class...)
		})
	}
}

// does says what the method Do does for a name.
func (w *world) does(name string, fn func(ctx context.Context, p *probe) (string, error)) {
	w.hooks.do[name] = fn
}

// auto has batches applied as they come.
func (w *world) auto() { w.l.mu.Lock(); w.l.auto = true; w.l.mu.Unlock() }

func outside(p *probe) actor.Ref { return p.s.Object("Probe", "outside") }

var interleaved = []actor.ClassOption{actor.Interleaved()}

func TestConformanceEvents(t *testing.T) {
	conform(t, []row{
		{name: "C-12 replies may be reordered", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.does("slow", func(ctx context.Context, p *probe) (string, error) {
				return actor.Call[string](ctx, outside(p), "Slow", nil)
			})
			slow := w.send("o", "Do", "slow")
			slow.held()
			w.send("o", "Memory", nil).want(int64(0))
			slow.held()
			l.sent()[0].reply("late")
			slow.want("late")
		}},
		{name: "C-14 user exception is harmless", test: func(t *testing.T, w *world, _ *loop) {
			w.auto()
			w.does("fail", func(ctx context.Context, p *probe) (string, error) {
				return "", actor.Fail("no-luck", "try %d", 7)
			})
			w.send("o", "Add", int64(3)).want(int64(3))
			e := w.send("o", "Do", "fail").fails(nil, actor.Ran)
			if e.App != "no-luck" || e.Message != "try 7" || !e.Remote || e.Reset || e.Retryable {
				t.Errorf("%+v", e)
			}
			w.send("o", "Memory", nil).want(int64(3))
		}},
		{name: "C-15 method errors", test: func(t *testing.T, w *world, _ *loop) {
			for _, m := range []string{"nope", "Alarm", "constructor", "toString", "", strings.Repeat("x", 10_000)} {
				if e := w.send("o", m, nil).fails(actor.ErrUnknownMethod, actor.DidNotRun); len(e.Message) > 400 {
					t.Errorf("%d bytes of message for %.20s", len(e.Message), m)
				}
			}
			if n := w.hooks.made.Load(); n != 0 {
				t.Errorf("%d activations", n)
			}
		}},
		{name: "C-37 turn atomicity", class: interleaved, test: func(t *testing.T, w *world, _ *loop) {
			w.auto()
			w.does("inc", func(_ context.Context, p *probe) (string, error) {
				n := p.mem
				for range 10 {
					runtime.Gosched()
				}
				p.mem = n + 1
				return "", nil
			})
			for range 1000 {
				w.send("o", "Do", "inc")
			}
			w.wait()
			w.send("o", "Memory", nil).want(int64(1000))
		}},
		{name: "C-38 read-modify-write", class: interleaved, test: func(t *testing.T, w *world, _ *loop) {
			w.auto()
			for range 1000 {
				w.send("o", "Add", int64(1))
			}
			w.wait()
			w.send("o", "Read", nil).want(int64(1000))
		}},
		{name: "C-39 interleaving outside storage", class: interleaved, test: func(t *testing.T, w *world, _ *loop) {
			w.does("timer", func(ctx context.Context, p *probe) (string, error) {
				before := p.mem
				err := p.s.Await(ctx, func(ctx context.Context) error {
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
					return ctx.Err()
				})
				return fmt.Sprint(before, " ", p.mem), err
			})
			w.does("set", func(_ context.Context, p *probe) (string, error) { p.mem = 5; return "", nil })
			timer := w.send("o", "Do", "timer")
			w.send("o", "Do", "set").want("")
			timer.held()
			time.Sleep(time.Second)
			timer.want("0 5")
		}},
		{name: "C-39 a class that is not interleaved waits", test: func(t *testing.T, w *world, l *loop) {
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				return actor.Call[string](ctx, outside(p), "M", nil)
			})
			first, second := w.send("o", "Do", "call"), w.send("o", "Memory", nil)
			second.held()
			l.sent()[0].reply("x")
			first.want("x")
			second.want(int64(0))
		}},
		{name: "C-40 nothing is delivered while storage is pending", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			unsure := make(chan struct{})
			w.does("read", func(ctx context.Context, p *probe) (string, error) {
				p.mem = 1
				_, _, err := actor.Get[int64](ctx, p.st, "n")
				return "read", err
			})
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				s, err := actor.Call[string](ctx, outside(p), "M", nil)
				return fmt.Sprint(s, p.mem), err
			})
			w.does("slow", func(ctx context.Context, p *probe) (string, error) {
				w.l.mu.Lock()
				w.l.unsure = unsure // from here on storage waits for the lease
				w.l.mu.Unlock()
				return w.hooks.do["read"](ctx, p)
			})
			call := w.send("o", "Do", "call")
			call.held()
			read := w.send("o", "Do", "slow")
			l.sent()[0].reply("answer")
			read.held()
			call.held() // though its answer is there
			w.l.mu.Lock()
			w.l.unsure = nil
			w.l.mu.Unlock()
			close(unsure)
			read.want("read")
			call.want("answer1")
		}},
		{name: "C-41 a critical section excludes", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.does("section", func(ctx context.Context, p *probe) (s string, err error) {
				err = p.s.BlockConcurrency(ctx, func(ctx context.Context) error {
					s, err = actor.Call[string](ctx, outside(p), "M", nil)
					return err
				})
				return s, err
			})
			w.does("back", func(ctx context.Context, p *probe) (s string, err error) {
				return actor.Call[string](ctx, outside(p), "Other", nil)
			})
			back := w.send("o", "Do", "back")
			section := w.send("o", "Do", "section")
			ping := w.send("o", "Memory", nil)
			calls := l.sent()
			calls[0].reply("other")
			section.held()
			ping.held()
			back.held() // it is outside, and its answer is there, but must not go on
			own := w.send("o", "Memory", nil, func(c *Call) { c.Chain = calls[1].chain })
			own.want(int64(0)) // the section's own call that came back
			calls[1].reply("own")
			section.want("own")
			back.want("other")
			ping.want(int64(0))
		}},
		{name: "C-42 a critical section is limited", test: func(t *testing.T, w *world, l *loop) {
			w.does("hang", func(ctx context.Context, p *probe) (string, error) {
				p.mem = 9
				_ = p.st.Put(ctx, "n", int64(9))
				return "", p.s.BlockConcurrency(ctx, func(ctx context.Context) error {
					<-ctx.Done() // the reset ends it
					return ctx.Err()
				})
			})
			hang, waits := w.send("o", "Do", "hang"), w.send("o", "Memory", nil)
			hang.held()
			time.Sleep(30*time.Second - time.Millisecond)
			hang.held()
			time.Sleep(time.Millisecond)
			w.wait()
			w.l.confirm()
			e := hang.fails(actor.ErrOverloaded, actor.Ran)
			if e.Message != textSection || !e.Overloaded || !e.Reset || e.Retryable {
				t.Errorf("%+v", e)
			}
			if e := waits.fails(actor.ErrOverloaded, actor.DidNotRun); e.Message != textSection {
				t.Errorf("%+v", e)
			}
			w.send("o", "Memory", nil).want(int64(0))
			w.send("o", "Read", nil).want(int64(0))
		}},
		{name: "C-43 a failed critical section resets", test: func(t *testing.T, w *world, l *loop) {
			caught := false
			w.does("throw", func(ctx context.Context, p *probe) (string, error) {
				p.mem = 9
				_ = p.st.Put(ctx, "n", int64(9))
				err := p.s.BlockConcurrency(ctx, func(ctx context.Context) error { return actor.Fail("broken", "no") })
				caught = true
				return "caught", err
			})
			throw, waits := w.send("o", "Do", "throw"), w.send("o", "Memory", nil)
			w.wait()
			w.l.confirm()
			if e := throw.fails(nil, actor.Ran); e.App != "broken" || !e.Reset || !e.Remote || e.Retryable || e.Overloaded {
				t.Errorf("%+v", e)
			}
			if e := waits.fails(nil, actor.DidNotRun); e.App != "broken" || !e.Reset {
				t.Errorf("%+v", e)
			}
			if caught {
				t.Error("the method went on")
			}
			w.send("o", "Memory", nil).want(int64(0))
			w.send("o", "Read", nil).want(int64(0))
		}},
		{name: "C-44 critical sections are nested to 64", test: func(t *testing.T, w *world, l *loop) {
			depth := 0
			w.does("nest", func(ctx context.Context, p *probe) (string, error) {
				var in func(ctx context.Context) error
				var inner error
				in = func(ctx context.Context) error {
					depth++
					if err := p.s.BlockConcurrency(ctx, in); err != nil {
						inner = err
					}
					return nil
				}
				if err := p.s.BlockConcurrency(ctx, in); err != nil {
					return "", err
				}
				return inner.(*actor.Error).Message, nil
			})
			w.send("o", "Do", "nest").want(textNested)
			if depth != 64 {
				t.Errorf("%d sections", depth)
			}
			w.send("o", "Memory", nil).want(int64(0))
			if w.hooks.made.Load() != 1 {
				t.Error("reset")
			}
		}},
		{name: "C-45 constructor", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.hooks.construct = func(ctx context.Context, s *actor.State) error {
				if w.hooks.made.Load() == 1 {
					return errors.New("first")
				}
				// Nobody gets in while the constructor waits outside.
				return s.Object("Probe", "outside").Call(ctx, "Hello", nil, nil)
			}
			e := w.send("o", "Memory", nil).fails(actor.ErrConstructor, actor.DidNotRun)
			if !e.Reset || !strings.Contains(e.Message, "first") {
				t.Errorf("%+v", e)
			}
			a, b := w.send("o", "Memory", nil), w.send("o", "Memory", nil)
			a.held()
			b.held()
			back := w.send("o", "Memory", nil, func(c *Call) { c.Chain = l.sent()[0].chain })
			back.fails(actor.ErrCallCycle, actor.DidNotRun) // there is nobody yet who could answer
			l.sent()[0].reply(nil)
			a.want(int64(0))
			b.want(int64(0))
			if n := w.hooks.made.Load(); n != 2 {
				t.Errorf("%d constructors", n)
			}
		}},
		{name: "C-46 output gate", test: func(t *testing.T, w *world, l *loop) {
			w.does("error", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(1))
				return "", errors.New("after the write")
			})
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(2))
				return actor.Call[string](ctx, outside(p), "M", nil)
			})
			w.does("await", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(3))
				n, _, _ := w.l.count()
				err := p.s.Await(ctx, func(context.Context) error {
					w.l.mu.Lock()
					defer w.l.mu.Unlock()
					if w.l.applied <= n {
						return errors.New("ran before the write was durable")
					}
					return nil
				})
				return "", err
			})
			reply, fails := w.send("a", "Add", int64(1)), w.send("b", "Do", "error")
			reply.held()
			fails.held()
			w.l.apply(2)
			reply.want(int64(1))
			fails.fails(nil, actor.Ran)
			call := w.send("c", "Do", "call")
			if n := len(l.sent()); n != 0 {
				t.Fatalf("%d calls left before the write was durable", n)
			}
			w.l.apply(1)
			l.sent()[0].reply("x")
			call.want("x")
			await := w.send("d", "Do", "await")
			await.held()
			w.l.apply(1)
			await.want("")
		}},
		{name: "C-47 the gate is not over-eager", test: func(t *testing.T, w *world, l *loop) {
			w.does("both", func(ctx context.Context, p *probe) (string, error) {
				first := outside(p).Start(ctx, "Before", nil)
				_ = p.st.Put(ctx, "n", int64(1))
				outside(p).Start(ctx, "After", nil)
				return "", first.Wait(ctx, nil)
			})
			w.send("o", "Do", "both")
			if got := l.methods(); !slices.Equal(got, []string{"Before"}) {
				t.Fatalf("left: %v", got)
			}
			w.l.apply(1)
			if got := l.methods(); !slices.Equal(got, []string{"Before", "After"}) {
				t.Fatalf("left: %v", got)
			}
			l.sent()[0].reply(nil)
		}},
		{name: "C-48 failed write", test: func(t *testing.T, w *world, l *loop) {
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(2))
				return "", outside(p).Call(ctx, "M", nil, nil)
			})
			reply, call := w.send("a", "Add", int64(1)), w.send("b", "Do", "call")
			reply.held()
			call.held()
			w.l.lose()
			reply.fails(actor.ErrMoved, actor.MayHaveRun)
			if e := call.fails(actor.ErrMoved, actor.MayHaveRun); !e.Retryable || !e.Reset {
				t.Errorf("%+v", e)
			}
			if n := len(l.sent()); n != 0 {
				t.Errorf("%d calls left", n)
			}
			w.open(20, true)
			w.send("a", "Read", nil).want(int64(0))
			if n := w.hooks.made.Load(); n != 3 {
				t.Errorf("%d constructors, want a new activation", n)
			}
		}},
		{name: "C-48 failed write, before Await", test: func(t *testing.T, w *world, l *loop) {
			left := false
			w.does("await", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(2))
				return "", p.s.Await(ctx, func(context.Context) error { left = true; return nil })
			})
			await := w.send("o", "Do", "await")
			await.held()
			w.l.lose()
			await.fails(actor.ErrMoved, actor.MayHaveRun)
			if left {
				t.Error("what was to wait for the write ran though it was lost")
			}
		}},
		{name: "C-49 storage timeout", test: func(t *testing.T, w *world, l *loop) {
			w.l.mu.Lock()
			w.l.busy = true
			w.l.mu.Unlock()
			p := w.send("o", "Add", int64(1))
			time.Sleep(30*time.Second - time.Millisecond)
			p.held()
			time.Sleep(time.Millisecond)
			if e := p.fails(actor.ErrOverloaded, actor.Ran); e.Message != textTimeout || !e.Reset || !e.Overloaded {
				t.Errorf("%+v", e)
			}
		}},
		{name: "C-51 sync", test: func(t *testing.T, w *world, l *loop) {
			synced := false
			w.does("sync", func(ctx context.Context, p *probe) (string, error) {
				if err := p.st.Sync(ctx); err != nil { // nothing to wait for
					return "", err
				}
				_ = p.st.Put(ctx, "n", int64(2))
				err := p.st.Sync(ctx)
				synced = true
				return "", err
			})
			p := w.send("o", "Do", "sync")
			p.held()
			if synced {
				t.Error("Sync returned before the write was durable")
			}
			w.l.apply(1)
			p.want("")
		}},
		{name: "C-54 abort versus throw", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			boom := errors.New("boom")
			w.does("abort", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(2))
				p.s.Abort(boom)
				return "not reached", nil
			})
			w.does("throw", func(ctx context.Context, p *probe) (string, error) {
				_ = p.st.Put(ctx, "n", int64(3))
				return "", boom
			})
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				s, err := actor.Call[string](ctx, outside(p), "M", nil)
				return s, err
			})
			call := w.send("o", "Do", "call")
			call.held()
			w.send("o", "Do", "abort").fails(actor.ErrAborted, actor.Ran)
			if e := call.fails(actor.ErrAborted, actor.MayHaveRun); e.Message != "boom" || !e.Reset { // C-13: what is in progress fails with it
				t.Errorf("%+v", e)
			}
			l.sent()[0].reply("too late")
			w.send("o", "Read", nil).want(int64(0))
			w.send("o", "Do", "throw").fails(nil, actor.Ran)
			w.send("o", "Read", nil).want(int64(3))
		}},
		{name: "C-54 abort ends the contexts of others", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			ended := make(chan struct{})
			w.does("wait", func(ctx context.Context, p *probe) (string, error) {
				return "", p.s.Await(ctx, func(ctx context.Context) error {
					<-ctx.Done() // it has no deadline
					close(ended)
					return nil
				})
			})
			w.does("abort", func(_ context.Context, p *probe) (string, error) { p.s.Abort(nil); return "", nil })
			wait := w.send("o", "Do", "wait")
			wait.held()
			w.send("o", "Do", "abort").fails(actor.ErrAborted, actor.Ran)
			wait.fails(actor.ErrAborted, actor.MayHaveRun)
			select {
			case <-ended:
			default:
				t.Error("the other event waits on")
			}
		}},
		{name: "C-98 abort cannot be caught", test: func(t *testing.T, w *world, l *loop) {
			caught := false
			w.does("abort", func(ctx context.Context, p *probe) (string, error) {
				defer func() { caught = recover() != nil }()
				p.s.Abort(nil)
				caught = true
				return "", nil
			})
			w.auto()
			if e := w.send("o", "Do", "abort").fails(actor.ErrAborted, actor.Ran); e.Message != textAbort || !e.Reset || e.Retryable {
				t.Errorf("%+v", e)
			}
			if caught {
				t.Error("caught")
			}
		}},
	})
}

func TestConformanceOverload(t *testing.T) {
	block := func(w *world) (release func()) {
		ch := make(chan struct{})
		w.does("block", func(ctx context.Context, p *probe) (string, error) { <-ch; return "", nil })
		w.send("o", "Do", "block")
		return func() { close(ch) }
	}
	full := func(t *testing.T, p *pendingCall, text string) {
		t.Helper()
		if e := p.fails(actor.ErrOverloaded, actor.DidNotRun); e.Message != text || !e.Overloaded || e.Retryable {
			t.Errorf("%+v", e)
		}
	}
	conform(t, []row{
		{name: "C-31 count, C-32 refused is not started", opts: Options{MailboxLimit: 3}, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			release := block(w)
			w.send("o", "Add", int64(1))
			w.send("o", "Add", int64(1))
			full(t, w.send("o", "Add", int64(1)), "Durable Object is overloaded. Too many requests queued.")
			release()
			w.wait()
			w.send("o", "Read", nil).want(int64(2))
		}},
		{name: "C-31 bytes", opts: Options{MailboxBytes: 4000}, test: func(t *testing.T, w *world, l *loop) {
			release := block(w)
			w.send("o", "Do", strings.Repeat("x", 2000)).held()
			full(t, w.send("o", "Do", strings.Repeat("x", 2000)), "Durable Object is overloaded. Too much data queued.")
			release()
		}},
		{name: "C-31 age", opts: Options{MailboxAge: 5 * time.Second}, test: func(t *testing.T, w *world, l *loop) {
			release := block(w)
			w.send("o", "Memory", nil).held()
			time.Sleep(5 * time.Second)
			w.send("o", "Memory", nil).held()
			time.Sleep(2 * time.Second)
			full(t, w.send("o", "Memory", nil), "Durable Object is overloaded. Requests queued for too long.")
			release()
			w.wait()
			w.send("o", "Memory", nil).want(int64(0))
		}},
		{name: "C-31 rate", opts: Options{MailboxRate: 5}, test: func(t *testing.T, w *world, l *loop) {
			release := block(w)
			for range 4 {
				w.send("o", "Memory", nil).held()
			}
			full(t, w.send("o", "Memory", nil), "Durable Object is overloaded. Too many requests for the same object within a 10 second window.")
			time.Sleep(11 * time.Second)
			w.send("o", "Memory", nil).held()
			release()
		}},
		{name: "C-33 isolation", opts: Options{MailboxLimit: 100}, test: func(t *testing.T, w *world, l *loop) {
			release := block(w)
			for range 200 {
				w.send("o", "Memory", nil)
			}
			w.send("other", "Memory", nil).want(int64(0))
			release()
		}},
	})
}

func TestConformanceCalls(t *testing.T) {
	self := func(key, method string, arg any) func(ctx context.Context, p *probe) (string, error) {
		return func(ctx context.Context, p *probe) (string, error) {
			return actor.Call[string](ctx, p.s.Object("Probe", key), method, arg)
		}
	}
	conform(t, []row{
		{name: "C-10 FIFO per Ref behind the gate", test: func(t *testing.T, w *world, l *loop) {
			w.does("many", func(ctx context.Context, p *probe) (string, error) {
				ref := outside(p)
				for i := range 30 {
					if i%3 == 0 {
						_ = p.st.Put(ctx, "n", int64(i))
					}
					ref.Start(ctx, fmt.Sprint("M", i), int64(i))
				}
				return "", nil // they leave though it does not wait
			})
			w.send("o", "Do", "many")
			if n := len(l.sent()); n != 0 {
				t.Fatalf("%d left", n)
			}
			for w.l.applied < 10 {
				w.l.apply(1)
				w.wait()
			}
			got := l.methods()
			for i, m := range got {
				if m != fmt.Sprint("M", i) {
					t.Fatalf("order: %v", got)
				}
			}
			if len(got) != 30 {
				t.Fatalf("%d left", len(got))
			}
			for _, c := range l.sent() {
				if c.ctx.Err() != nil {
					t.Errorf("%s ended with its event", c.method)
				}
				c.reply(nil)
			}
		}},
		{name: "C-10 the gate opens for calls in any order, and they leave in theirs", test: func(t *testing.T, w *world, l *loop) {
			ref := &outRef{b: &instance{}, id: actor.ID{Class: "Probe", Key: "outside"}, to: l.object(actor.ID{Class: "Probe", Key: "outside"})}
			var calls []*outCall
			for _, m := range []string{"A", "B", "C"} {
				c := &outCall{ref: ref, method: m, ctx: t.Context(), left: make(chan struct{})}
				calls = append(calls, c)
				ref.held.push(c)
			}
			calls[2].opened(0)
			calls[1].opened(0)
			if got := l.methods(); len(got) != 0 {
				t.Errorf("%v left before the first", got)
			}
			calls[0].opened(0)
			if got := l.methods(); !slices.Equal(got, []string{"A", "B", "C"}) {
				t.Errorf("left: %v", got)
			}
		}},
		{name: "a call cycle is refused, and prints the chain", test: func(t *testing.T, w *world, l *loop) {
			w.does("a", self("b", "Do", "b"))
			w.does("b", self("a", "Do", "a"))
			e := w.send("a", "Do", "a").fails(actor.ErrCallCycle, actor.Ran)
			if !strings.Contains(e.Message, "Probe/a → Probe/b → Probe/a") {
				t.Errorf("%q", e.Message)
			}
		}},
		{name: "a reentrant class lets its own call back in", class: []actor.ClassOption{actor.Reentrant()}, test: func(t *testing.T, w *world, l *loop) {
			w.does("a", self("b", "Do", "b"))
			w.does("b", self("a", "Do", "in"))
			w.does("in", func(context.Context, *probe) (string, error) { return "inside", nil })
			other := make(chan *pendingCall, 1)
			w.does("b", func(ctx context.Context, p *probe) (string, error) {
				other <- w.send("a", "Do", "in") // of nobody's chain: it waits
				return self("a", "Do", "in")(ctx, p)
			})
			w.send("a", "Do", "a").want("inside")
			(<-other).want("inside")
		}},
		{name: "deadlines travel, and expire before the start", test: func(t *testing.T, w *world, l *loop) {
			w.does("call", self("outside", "M", nil))
			deadline := time.Now().Add(time.Second)
			p := w.send("o", "Do", "call", func(c *Call) { c.Deadline = deadline })
			late := w.send("o", "Memory", nil, func(c *Call) { c.Deadline = deadline })
			p.held()
			if d, ok := l.sent()[0].ctx.Deadline(); !ok || !d.Equal(deadline) {
				t.Errorf("deadline %v, %v", d, ok)
			}
			time.Sleep(time.Second)
			if !p.answered() {
				t.Fatal("no answer")
			}
			late.fails(actor.ErrDeadline, actor.DidNotRun)
		}},
		{name: "foreign contexts", test: func(t *testing.T, w *world, l *loop) {
			var st *actor.State
			var old context.Context
			w.does("keep", func(ctx context.Context, p *probe) (string, error) { st, old = p.s, ctx; return "", nil })
			w.send("o", "Do", "keep").want("")
			for _, ctx := range []context.Context{context.Background(), old} {
				if err := st.Object("Probe", "x").Call(ctx, "Memory", nil, nil); !errors.Is(err, actor.ErrNotInEvent) {
					t.Errorf("call: %v", err)
				}
				if err := st.Await(ctx, func(context.Context) error { return nil }); !errors.Is(err, actor.ErrNotInEvent) {
					t.Errorf("Await: %v", err)
				}
			}
			w.does("inside", func(ctx context.Context, p *probe) (string, error) {
				return "", p.s.Await(ctx, func(ctx context.Context) error { return p.st.Put(ctx, "n", 1) })
			})
			w.send("o", "Do", "inside").fails(actor.ErrNotInEvent, actor.Ran)
		}},
		{name: "WaitUntil", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			w.does("later", func(ctx context.Context, p *probe) (string, error) {
				p.s.WaitUntil(func(ctx context.Context) error {
					s, err := actor.Call[string](ctx, outside(p), "M", nil)
					if err != nil {
						return err
					}
					p.mem = 7
					return p.st.Put(ctx, "n", int64(len(s)))
				})
				return "at once", nil
			})
			w.send("o", "Do", "later").want("at once")
			time.Sleep(10 * time.Minute) // a task keeps its activation
			l.sent()[0].reply("12345")
			w.wait()
			w.send("o", "Memory", nil).want(int64(7))
			w.send("o", "Read", nil).want(int64(5))
		}},
		{name: "goroutines of an event share its turn", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.does("fan", func(ctx context.Context, p *probe) (string, error) {
				done := make(chan error, 10)
				for i := range 10 {
					go func() {
						s, err := actor.Call[string](ctx, outside(p), fmt.Sprint(i), nil)
						if err == nil {
							err = p.st.Put(ctx, s, int64(1))
						}
						done <- err
					}()
				}
				var errs []error
				for range 10 {
					errs = append(errs, <-done)
				}
				return "all", errors.Join(errs...)
			})
			p := w.send("o", "Do", "fan")
			w.send("o", "Memory", nil).want(int64(0))
			calls := l.sent()
			calls[0].reply("k0") // the first that comes back brings the turn back
			w.wait()
			memory := w.send("o", "Memory", nil)
			memory.held()
			for _, c := range calls[1:] {
				c.reply("k" + c.method)
			}
			memory.held() // its reply waits for what the event has written
			w.l.apply(1)
			p.want("all")
			memory.want(int64(0))
		}},
	})
}
