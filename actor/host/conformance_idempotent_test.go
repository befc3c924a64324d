package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

func withKey(key string) func(*Call) { return func(c *Call) { c.Idempotent = key } }

func inJSON(arg string) func(*Call) {
	return func(c *Call) { c.Encoding, c.Arg = uint8(actor.EncodingJSON), []byte(arg) }
}

// takeOver ends the token and opens the shard under the next, with what was applied.
func (w *world) takeOver(auto bool) {
	w.l.lose()
	w.wait()
	w.open(w.l.token+1, auto)
}

// stored is the keys that the state holds replies for.
func (w *world) stored(object string) (keys []string, size int) {
	w.wait()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	prefix := string(store.MetaKey("Probe", object, store.MetaReply))
	for k, v := range w.l.data {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k[len(prefix):])
			size += len(k) - len(prefix) + len(v)
		}
	}
	return keys, size
}

func TestConformanceIdempotent(t *testing.T) {
	t.Run("a repeated call is not run again", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			a, b := w.send("k", "Add", int64(5), withKey("1")), w.send("k", "Add", int64(5), withKey("1"))
			a.held()
			b.held() // its answer is that of a batch which is not applied
			w.l.apply(1)
			a.want(int64(5))
			w.l.confirm()
			b.want(int64(5))
			w.l.auto = true
			w.send("k", "Add", int64(5), withKey("2")).want(int64(10))
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
			w.send("other", "Add", int64(5), withKey("1")).want(int64(5))
			w.takeOver(true)
			w.send("k", "Add", int64(5), withKey("2")).want(int64(10))
			w.send("k", "Memory", nil).want(int64(0))
			w.send("k", "Read", nil).want(int64(10))
		})
	})
	t.Run("effects and reply are one batch", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			a := w.send("k", "Add", int64(5), withKey("1"))
			a.held()
			if n, _, _ := w.l.count(); n != 1 || len(w.l.batches[0]) != 2 {
				t.Fatalf("%d batches: %v", n, w.l.batches)
			}
			w.takeOver(true)
			a.fails(actor.ErrMoved, actor.MayHaveRun)
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
		})
	})
	t.Run("application errors are stored", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			runs := 0
			w.hooks.do["fail"] = func(ctx context.Context, p *probe) (string, error) {
				runs++
				return "", fmt.Errorf("ordering: %w", actor.Fail("sold-out", "only %d left", 2))
			}
			first := w.send("k", "Do", "fail", withKey("1")).fails(actor.Fail("sold-out", ""), actor.Ran)
			w.takeOver(true)
			again := w.send("k", "Do", "fail", withKey("1")).fails(actor.Fail("sold-out", ""), actor.Ran)
			if runs != 1 || again.Message != first.Message || !again.Remote || again.Reset {
				t.Fatalf("%d runs, %+v and %+v", runs, first, again)
			}
		})
	})
	t.Run("a panic is not stored", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			runs := 0
			w.hooks.do["panic"] = func(ctx context.Context, p *probe) (string, error) {
				if runs++; runs == 1 {
					_ = p.st.Put(ctx, "n", 7)
					panic("once")
				}
				return "ok", nil
			}
			w.send("k", "Do", "panic", withKey("1")).fails(actor.ErrPanic, actor.Ran)
			w.send("k", "Do", "panic", withKey("1")).want("ok")
			w.send("k", "Do", "panic", withKey("1")).want("ok")
			w.send("k", "Read", nil).want(int64(0))
			if runs != 2 {
				t.Fatal(runs)
			}
		})
	})
	t.Run("an error of the system without effects is not stored", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			runs, write := 0, false
			w.hooks.do["late"] = func(ctx context.Context, p *probe) (string, error) {
				if runs++; write {
					_ = p.st.Put(ctx, "n", 7)
				}
				return "", context.DeadlineExceeded
			}
			w.send("k", "Do", "late", withKey("1")).fails(actor.ErrDeadline, actor.Ran)
			write = true
			w.send("k", "Do", "late", withKey("1")).fails(actor.ErrDeadline, actor.Ran)
			w.send("k", "Do", "late", withKey("1")).fails(actor.ErrDeadline, actor.Ran)
			if runs != 2 {
				t.Fatal(runs)
			}
		})
	})
	t.Run("a key belongs to one method and argument", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
			for _, p := range []*pendingCall{w.send("k", "Add", int64(6), withKey("1")), w.send("k", "Read", nil, withKey("1")),
				w.send("k", "Add", nil, withKey("1"), inJSON("5"))} {
				if e := p.fails(actor.ErrBadArgument, actor.DidNotRun); !strings.Contains(e.Message, `"1"`) || !strings.Contains(e.Message, "Add") {
					t.Error(e)
				}
			}
			p := w.send("k", "Add", nil, withKey("2"), inJSON("5"))
			p.answered()
			q := w.send("k", "Add", nil, withKey("2"), inJSON("5"))
			q.answered()
			if string(p.result.Value) != "10" || string(q.result.Value) != "10" || q.result.Encoding != uint8(actor.EncodingJSON) {
				t.Errorf("%+v, %+v", p.result, q.result)
			}
			w.send("k", "Read", nil).want(int64(10))
		})
	})
	t.Run("bad keys", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			for _, key := range []string{strings.Repeat("x", 257), "a\x00b", "\xff"} {
				w.send("k", "Add", int64(1), withKey(key)).fails(actor.ErrBadArgument, actor.DidNotRun)
			}
			w.send("k", "Add", int64(1), withKey(strings.Repeat("x", 256))).want(int64(1))
		})
	})
	t.Run("a call cut off after a commit is not run again", func(t *testing.T) { testInterrupted(t) })
	t.Run("DeleteAll forgets no key", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			w.hooks.do["wipe"] = func(ctx context.Context, p *probe) (string, error) { return "wiped", p.st.DeleteAll(ctx) }
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
			w.send("k", "Do", "wipe", withKey("2")).want("wiped")
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
			w.send("k", "Do", "wipe", withKey("2")).want("wiped")
			w.send("k", "Read", nil).want(int64(0))
		})
	})
	t.Run("a large reply is not stored", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			runs := 0
			w.hooks.do["large"] = func(ctx context.Context, p *probe) (string, error) {
				runs++
				return strings.Repeat("x", actor.IdempotentReplyBytes), nil
			}
			w.send("k", "Do", "large", withKey("1")).want(strings.Repeat("x", actor.IdempotentReplyBytes))
			w.send("k", "Do", "large", withKey("1")).fails(actor.ErrNotStored, actor.Ran)
			if runs != 1 {
				t.Fatal(runs)
			}
		})
	})
	t.Run("retention", func(t *testing.T) { testRetention(t) })
	t.Run("interleaved", func(t *testing.T) { testAttemptsMeet(t) })
	t.Run("an event that the deadline caught is not stored", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			w.hooks.construct = func(context.Context, *actor.State) error { time.Sleep(time.Second); return nil }
			soon := func(c *Call) { c.Deadline = time.Now().Add(time.Millisecond) }
			w.send("k", "Add", int64(5), withKey("1"), soon)
			time.Sleep(2 * time.Second) // of the bubble's clock
			w.send("k", "Add", int64(5), withKey("1")).want(int64(5))
		})
	})
	t.Run("room in the batch", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			w.hooks.do["much"] = func(ctx context.Context, p *probe) (string, error) {
				for i := range 3 {
					if err := p.st.Put(ctx, fmt.Sprint(i), make([]byte, actor.MaxStorageValue-100)); err != nil {
						return "", err
					}
				}
				if err := p.st.Put(ctx, "3", make([]byte, 1000)); !errors.Is(err, actor.ErrBatchTooLarge) {
					return "", fmt.Errorf("no limit: %v", err)
				}
				return strings.Repeat("x", actor.IdempotentReplyBytes-10), nil
			}
			for i := range actor.IdempotentKeys {
				w.send("k", "Read", nil, withKey(fmt.Sprintf("%0256d", i)))
			}
			w.send("k", "Do", "much", withKey("much")).want(strings.Repeat("x", actor.IdempotentReplyBytes-10))
			last := w.l.batches[len(w.l.batches)-1]
			size := 0
			for i := range last {
				size += weight(&last[i])
			}
			if size > actor.MaxBatchBytes || len(last) > actor.MaxBatchKeys {
				t.Fatalf("%d keys, %d bytes", len(last), size)
			}
		})
	})
}

func testInterrupted(t *testing.T) {
	for _, how := range []string{"sync", "await"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, Options{}, func(t *testing.T, w *world) {
				runs := 0
				w.hooks.do["two"] = func(ctx context.Context, p *probe) (string, error) {
					runs++
					var err error
					switch how {
					case "sync":
						_ = p.st.Put(ctx, "n", 1)
						err = p.st.Sync(ctx)
					case "await":
						err = p.s.Await(ctx, func(context.Context) error { return nil })
					}
					if err != nil {
						return "", err
					}
					return "ok", p.st.Put(ctx, "m", 1)
				}
				a := w.send("k", "Do", "two", withKey("1"))
				a.held()
				if n, _, _ := w.l.count(); n != 1 {
					t.Fatalf("%d batches", n)
				}
				w.l.land(1)
				w.takeOver(true)
				a.fails(actor.ErrMoved, actor.MayHaveRun)
				e := w.send("k", "Do", "two", withKey("1")).fails(actor.ErrInterrupted, actor.MayHaveRun)
				if runs != 1 || e.Retryable {
					t.Fatalf("%d runs, %+v", runs, e)
				}
				// To its end it answers as any.
				w.send("k", "Do", "two", withKey("2")).want("ok")
				w.send("k", "Do", "two", withKey("2")).want("ok")
				if runs != 2 {
					t.Fatal(runs)
				}
			})
		})
	}
}

// TestConformanceIdempotentCalls: calls of an object's code, within a call with a key and with keys of their own.
func TestConformanceIdempotentCalls(t *testing.T) {
	conform(t, []row{
		{name: "a call leaves when it is durable that the one around it has begun", test: func(t *testing.T, w *world, l *loop) {
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				return actor.Call[string](ctx, outside(p), "Slow", nil, actor.Idempotent("theirs"))
			})
			a := w.send("o", "Do", "call", withKey("1"))
			if n := len(l.sent()); n != 0 {
				t.Fatalf("%d calls have left", n)
			}
			w.l.apply(1)
			if c := l.sent(); len(c) != 1 || c[0].key != "theirs" {
				t.Fatalf("%+v", c)
			}
			w.takeOver(true)
			l.sent()[0].reply("done")
			a.fails(actor.ErrMoved, actor.MayHaveRun)
			w.send("o", "Do", "call", withKey("1")).fails(actor.ErrInterrupted, actor.MayHaveRun)
			b := w.send("o", "Do", "call", withKey("2"))
			b.held()
			l.sent()[1].reply("done")
			b.want("done")
			w.send("o", "Do", "call", withKey("2")).want("done")
			if n := len(l.sent()); n != 2 {
				t.Fatalf("%d calls have left", n)
			}
		}},
		{name: "an object repeats its call to another", test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			w.does("twice", func(ctx context.Context, p *probe) (string, error) {
				other := p.s.Object("Probe", "other")
				a, err := actor.Call[int64](ctx, other, "Add", int64(3), actor.Idempotent("k"))
				if err != nil {
					return "", err
				}
				b, err := actor.Call[int64](ctx, other, "Add", int64(3), actor.Idempotent("k"))
				return fmt.Sprint(a, b), err
			})
			w.send("o", "Do", "twice").want("3 3")
			w.send("other", "Read", nil).want(int64(3))
		}},
		{name: "unconfirmed writes of a call with a key are confirmed by its answer", test: func(t *testing.T, w *world, l *loop) {
			w.does("put", func(ctx context.Context, p *probe) (string, error) {
				return "ok", p.st.Put(ctx, "n", 4, actor.Unconfirmed())
			})
			a := w.send("o", "Do", "put", withKey("1"))
			a.held()
			w.l.apply(1)
			a.want("ok")
		}},
		{name: "a transaction that is open at the end leaves the answer", test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			runs, gate := 0, make(chan struct{})
			w.does("open", func(ctx context.Context, p *probe) (string, error) {
				runs++
				started := make(chan struct{})
				go func() {
					_ = p.st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
						_ = tx.Put(ctx, "n", 9)
						close(started)
						<-gate
						return nil
					})
				}()
				<-started
				return "ok", nil
			})
			w.send("o", "Do", "open", withKey("1")).want("ok")
			close(gate)
			w.send("o", "Do", "open", withKey("1")).want("ok")
			w.send("o", "Read", nil).want(int64(0))
			if runs != 1 {
				t.Errorf("run %d times", runs)
			}
		}},
	})
}

func testRetention(t *testing.T) {
	t.Run("number", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			for i := range actor.IdempotentKeys {
				w.send("k", "Add", int64(1), withKey(fmt.Sprint(i)))
			}
			if keys, _ := w.stored("k"); len(keys) != actor.IdempotentKeys {
				t.Fatalf("%d keys", len(keys))
			}
			w.takeOver(true) // the next activation has to read them
			w.send("k", "Add", int64(1), withKey("0")).want(int64(1))
			w.send("k", "Add", int64(1), withKey("one more")).want(int64(actor.IdempotentKeys + 1))
			if keys, _ := w.stored("k"); len(keys) != actor.IdempotentKeys {
				t.Fatalf("%d keys", len(keys))
			}
			w.send("k", "Add", int64(1), withKey("1")).want(int64(2))
			w.send("k", "Add", int64(1), withKey("0")).want(int64(actor.IdempotentKeys + 2)) // it was the oldest
		})
	})
	t.Run("bytes", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			runs := 0
			w.hooks.do["large"] = func(ctx context.Context, p *probe) (string, error) {
				runs++
				return strings.Repeat("x", 200<<10), nil
			}
			for i := range 12 {
				w.send("k", "Do", "large", withKey(fmt.Sprint(i))).answered()
			}
			if keys, size := w.stored("k"); len(keys) != 5 || size > actor.IdempotentBytes {
				t.Fatalf("%d keys, %d bytes", len(keys), size)
			}
			w.send("k", "Do", "large", withKey("7")).answered()
			if runs != 12 {
				t.Fatal(runs)
			}
			w.send("k", "Do", "large", withKey("6")).answered()
			if runs != 13 {
				t.Fatal(runs)
			}
		})
	})
	t.Run("time", func(t *testing.T) {
		inWorld(t, Options{}, func(t *testing.T, w *world) {
			w.l.auto = true
			w.send("k", "Add", int64(1), withKey("old")).want(int64(1))
			time.Sleep((actor.IdempotentHours + 1) * time.Hour)         // of the bubble's clock
			w.send("k", "Add", int64(1), withKey("old")).want(int64(1)) // as long as it is there it counts
			w.send("k", "Add", int64(1), withKey("new")).want(int64(2))
			if keys, _ := w.stored("k"); len(keys) != 1 || keys[0] != "new" {
				t.Fatalf("%q", keys)
			}
			w.send("k", "Add", int64(1), withKey("old")).want(int64(3))
		})
	})
}

// testAttemptsMeet: in an interleaved class an event finds another with its key under way.
func testAttemptsMeet(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		runs, gate := 0, make(chan struct{})
		w.hooks.do["wait"] = func(ctx context.Context, p *probe) (string, error) {
			runs++
			err := p.s.Await(ctx, func(ctx context.Context) error { <-gate; return nil })
			return fmt.Sprint(runs), err
		}
		a, b := w.send("k", "Do", "wait", withKey("1")), w.send("k", "Do", "wait", withKey("1"))
		soon := w.send("k", "Do", "wait", withKey("1"), func(c *Call) { c.Deadline = time.Now().Add(time.Second) })
		a.held()
		b.held()
		w.send("k", "Memory", nil).want(int64(0)) // others go on
		back := w.send("k", "Do", "wait", withKey("1"), func(c *Call) { c.Chain = []string{"Probe/k"} })
		back.fails(actor.ErrCallCycle, actor.DidNotRun)
		time.Sleep(2 * time.Second) // of the bubble's clock
		soon.fails(actor.ErrDeadline, actor.DidNotRun)
		close(gate)
		a.want("1")
		b.want("1")
		if runs != 1 {
			t.Fatal(runs)
		}
		// A reset ends the wait.
		gate = make(chan struct{})
		w.hooks.do["abort"] = func(ctx context.Context, p *probe) (string, error) { p.s.Abort(nil); return "", nil }
		a, b = w.send("k", "Do", "wait", withKey("2")), w.send("k", "Do", "wait", withKey("2"))
		a.held()
		b.held()
		abort := w.send("k", "Do", "abort")
		abort.answered()
		close(gate)
		abort.fails(actor.ErrAborted, actor.Ran)
		for _, p := range []*pendingCall{a, b} {
			p.fails(actor.ErrAborted, actor.MayHaveRun)
		}
		w.send("k", "Do", "wait", withKey("2")).fails(actor.ErrInterrupted, actor.MayHaveRun)
	}, actor.Interleaved())
}
