package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// testFIFO starts calls of one Ref, of all kinds, while the object's owner changes.
func testFIFO(t *testing.T, c *stage) {
	next := func(ctx context.Context, p *part, n int64) error {
		st := p.s.Storage()
		last, _, err := actor.Get[int64](ctx, st, "last")
		if err == nil && n <= last {
			err = actor.Fail("reordered", "%d came after %d", n, last)
		}
		runs, _, e := actor.Get[int64](ctx, st, "runs")
		return errors.Join(err, e, st.Put(ctx, "last", n), st.Put(ctx, "runs", runs+1))
	}
	ref := c.cl.Object("Part", "fifo")
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for range 2 {
			c.move(t, "Part", "fifo")
		}
	}()
	var flying []*actor.Pending
	var acked, failed int64
	settle := func(left int) {
		for ; len(flying) > left; flying = flying[1:] {
			err := flying[0].Wait(t.Context(), nil)
			switch {
			case err == nil:
				acked++
			case errors.Is(err, actor.Fail("reordered", "")):
				t.Error(err)
			default:
				failed++
			}
		}
	}
	n := int64(0)
	for over := false; !over; settle(300) {
		n++
		name := fmt.Sprint("next", n)
		i := n
		c.h.does(name, func(ctx context.Context, p *part) (string, error) { return "", next(ctx, p, i) })
		var opts []actor.CallOption
		if n%3 == 0 {
			opts = append(opts, actor.Idempotent(name))
		}
		if n%5 == 0 {
			flying = append(flying, ref.Start(t.Context(), "Nonce", nil))
		}
		flying = append(flying, ref.Start(t.Context(), "Do", name, opts...))
		select {
		case <-moved:
			over = n >= 300
		default:
		}
	}
	settle(0)
	runs := call[int64](t, c.cl, "Part", "fifo", "Get", "runs")
	if failed > 0 || runs != n || acked != n+n/5 {
		t.Errorf("%d calls, %d runs, %d acknowledged, %d failed: a hand-over fails none", n, runs, acked, failed)
	}
}

func testRefOutlivesReset(t *testing.T, c *stage) {
	c.h.does("boom", func(_ context.Context, p *part) (string, error) {
		p.s.Abort(errors.New("boom"))
		return "", nil
	})
	reached := make(chan struct{})
	c.h.does("outside", func(ctx context.Context, p *part) (string, error) {
		return "", p.s.Await(ctx, func(ctx context.Context) error {
			close(reached)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	ref := c.cl.Object("Inter", "reset")
	put(t, c.cl, "Inter", "reset", "x", 3)
	before := call[int64](t, c.cl, "Inter", "reset", "Nonce", nil)
	flying := ref.Start(t.Context(), "Do", "outside")
	receive(t, "the event to be outside", reached)
	boom := ref.Start(t.Context(), "Do", "boom")
	for what, p := range map[string]*actor.Pending{"in progress": flying, "that aborts": boom} {
		err := p.Wait(t.Context(), nil)
		var e *actor.Error
		if !errors.As(err, &e) || e.Code != actor.CodeAborted || e.Message != "boom" || !e.Reset || e.Outcome == actor.DidNotRun {
			t.Errorf("the call %s: %v (%+v)", what, err, e)
		}
	}
	after, err := actor.Call[int64](t.Context(), ref, "Nonce", nil)
	if err != nil || after == before {
		t.Errorf("a later call of the same Ref: activation %d after %d, %v", after, before, err)
	}
	if v, err := actor.Call[int64](t.Context(), ref, "Get", "x"); v != 3 || err != nil {
		t.Errorf("storage has %d, %v", v, err)
	}
}

func testMessageCap(t *testing.T, c *stage) {
	ref := c.cl.Object("Part", "cap")
	before := call[int64](t, c.cl, "Part", "cap", "Nonce", nil)
	e := failure(t, ref.Call(t.Context(), "Size", make([]byte, 33<<20), nil), actor.ErrBadArgument, actor.DidNotRun)
	if !strings.Contains(e.Message, "has 34603013 bytes; at most ") || e.Retryable || e.Overloaded {
		t.Errorf("%+v", e)
	}
	if n := call[int](t, c.cl, "Part", "cap", "Size", make([]byte, 9<<20)); n != 9<<20 {
		t.Errorf("%d bytes arrived", n)
	}
	if call[int64](t, c.cl, "Part", "cap", "Nonce", nil) != before {
		t.Error("another activation answers")
	}
}

// cutClient is a client behind a switch.
func cutClient(t *testing.T, c *stage) (*client.Client, *Switch) {
	var seeds []string
	for _, n := range c.nodes {
		seeds = append(seeds, n.Addr())
	}
	s := new(Switch)
	cl, err := client.Dial(t.Context(), seeds, &client.Options{Net: s.Dial, KeepAlive: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, s
}

// pair has Do(name) write one key, wait, and write another.
func (h *parts) pair(name string) (reached <-chan struct{}, release func()) {
	return h.blocks(name, func(ctx context.Context, p *part) (string, error) {
		runs, _, err := actor.Get[int64](ctx, p.s.Storage(), "runs")
		return "done", errors.Join(err, p.s.Storage().Put(ctx, "runs", runs+1), p.s.Storage().Put(ctx, "b", runs+1))
	})
}

func testLostConnection(t *testing.T, c *stage) {
	cl, s := cutClient(t, c)
	reached, release := c.h.pair("lost")
	p := cl.Object("Part", "lost").Start(t.Context(), "Do", "lost")
	receive(t, "the event", reached)
	s.Cut()
	e := failure(t, p.Wait(t.Context(), nil), actor.ErrUnreachable, actor.MayHaveRun)
	if !e.Retryable || e.Overloaded || e.Remote || e.Reset || !strings.Contains(e.Message, "was lost before the answer") {
		t.Errorf("%+v", e)
	}
	release()
	until(t, "what the handler writes without its caller", func() bool { return call[int64](t, c.cl, "Part", "lost", "Get", "runs") == 1 })
	if b := call[int64](t, c.cl, "Part", "lost", "Get", "b"); b != 1 {
		t.Errorf("half a batch: b is %d", b)
	}
	s.Heal()
	call[int64](t, cl, "Part", "lost", "Nonce", nil) // the same client goes on, behind whatever it might have sent again
	if n := call[int64](t, c.cl, "Part", "lost", "Get", "runs"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func testSentAgain(t *testing.T, c *stage) {
	cl, s := cutClient(t, c)
	reached, release := c.h.pair("again")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := cl.Object("Part", "again").Start(ctx, "Do", "again", actor.Idempotent("once"))
	receive(t, "the event", reached)
	s.Cut()
	release()
	until(t, "its effects", func() bool { return call[int64](t, c.cl, "Part", "again", "Get", "runs") == 1 })
	s.Heal()
	var got string
	if err := p.Wait(ctx, &got); err != nil || got != "done" {
		t.Errorf("%q, %v", got, err)
	}
	if n := call[int64](t, c.cl, "Part", "again", "Get", "runs"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func testFlags(t *testing.T, c *stage) {
	c.h.does("panic", func(context.Context, *part) (string, error) { panic("on purpose") })
	c.h.does("fail", func(context.Context, *part) (string, error) { return "", actor.Fail("sold-out", "none left") })
	c.h.does("foreign", func(_ context.Context, p *part) (string, error) {
		return "", p.s.Storage().Put(context.Background(), "x", 1)
	})
	reached, release := c.h.blocks("block", func(context.Context, *part) (string, error) { return "", nil })
	defer release()
	const retryable, overloaded, remote, reset = 1, 2, 4, 8
	do := func(class, key, name string) func() error {
		return func() error { return c.cl.Object(class, key).Call(t.Context(), "Do", name, nil) }
	}
	for _, r := range []struct {
		what    string
		call    func() error
		want    error
		outcome actor.Outcome
		flags   int
	}{
		{"application", do("Part", "f", "fail"), actor.Fail("sold-out", ""), actor.Ran, remote},
		{"panic", do("Part", "f", "panic"), actor.ErrPanic, actor.Ran, remote | reset},
		{"abort", do("Part", "f", "boom"), actor.ErrAborted, actor.Ran, remote | reset},
		{"constructor", do("Part", "unborn", "fail"), actor.ErrConstructor, actor.DidNotRun, remote | reset},
		{"foreign context", do("Part", "f", "foreign"), actor.ErrNotInEvent, actor.Ran, remote},
		{"class", do("Nobody", "f", "fail"), actor.ErrUnknownClass, actor.DidNotRun, 0},
		{"method", func() error { return c.cl.Object("Part", "f").Call(t.Context(), "Nope", nil, nil) }, actor.ErrUnknownMethod, actor.DidNotRun, 0},
		{"argument", func() error { return c.cl.Object("Part", "f").Call(t.Context(), "Do", 5, nil) }, actor.ErrBadArgument, actor.DidNotRun, 0},
		{"overload", func() error {
			p := c.cl.Object("Tight", "f").Start(t.Context(), "Do", "block")
			receive(t, "the event", reached)
			err := c.cl.Object("Tight", "f").Call(t.Context(), "Nonce", nil, nil)
			release()
			return errors.Join(err, p.Wait(t.Context(), nil))
		}, actor.ErrOverloaded, actor.DidNotRun, overloaded},
	} {
		e := failure(t, r.call(), r.want, r.outcome)
		got := 0
		for flag, set := range map[int]bool{retryable: e.Retryable, overloaded: e.Overloaded, remote: e.Remote, reset: e.Reset} {
			if set {
				got |= flag
			}
		}
		if got != r.flags {
			t.Errorf("%s: flags %04b, want %04b: %+v", r.what, got, r.flags, e)
		}
	}
}

// testObjectCalls is about calls of objects on one node to objects on another, and on the same.
func testObjectCalls(t *testing.T, c *stage) {
	to := func(class, key, method string, arg any) func(ctx context.Context, p *part) (string, error) {
		return func(ctx context.Context, p *part) (string, error) {
			return actor.Call[string](ctx, p.s.Object(class, key), method, arg)
		}
	}
	for i, other := range []*running{c.nodes[1], c.nodes[0]} {
		where := []string{"another node", "the same node"}[i]
		pair := func(class, a, b string) (string, string) {
			return c.keyOn(t, c.nodes[0], class, fmt.Sprint(a, i)), c.keyOn(t, other, class, fmt.Sprint(b, i))
		}
		t.Run("an object calls one on "+where, func(t *testing.T) {
			a, b := pair("Part", "caller", "callee")
			c.h.does("out", to("Part", b, "Do", "in"))
			c.h.does("in", func(ctx context.Context, p *part) (string, error) {
				return p.s.ID().Key, p.s.Storage().Put(ctx, "x", 9)
			})
			if got := call[string](t, c.cl, "Part", a, "Do", "out"); got != b {
				t.Errorf("%q answered", got)
			}
			if v := call[int64](t, c.cl, "Part", b, "Get", "x"); v != 9 {
				t.Errorf("it wrote %d", v)
			}
			c.h.does("in", func(context.Context, *part) (string, error) { return "", actor.Fail("sold-out", "none left") })
			e := failure(t, c.cl.Object("Part", a).Call(t.Context(), "Do", "out", nil), actor.Fail("sold-out", ""), actor.Ran)
			if !e.Remote {
				t.Errorf("%+v", e)
			}
		})
		t.Run("a cycle over "+where+" is refused, and prints the chain", func(t *testing.T) {
			a, b := pair("Part", "cycle", "back")
			c.h.does("there", to("Part", b, "Do", "back"))
			c.h.does("back", to("Part", a, "Do", "there"))
			e := failure(t, c.cl.Object("Part", a).Call(t.Context(), "Do", "there", nil), actor.ErrCallCycle, actor.Ran)
			if chain := fmt.Sprintf("Part/%s → Part/%s → Part/%s", a, b, a); !strings.Contains(e.Message, chain) {
				t.Errorf("%q does not print %s", e.Message, chain)
			}
		})
		t.Run("a reentrant class lets it in, over "+where, func(t *testing.T) {
			a, b := pair("Back", "cycle", "back")
			c.h.does("there", to("Back", b, "Do", "back"))
			c.h.does("back", to("Back", a, "Do", "home"))
			c.h.does("home", func(_ context.Context, p *part) (string, error) { return "home at " + p.s.ID().Key, nil })
			if got := call[string](t, c.cl, "Back", a, "Do", "there"); got != "home at "+a {
				t.Errorf("%q", got)
			}
		})
		t.Run("deadlines travel to "+where, func(t *testing.T) {
			a, b := pair("Part", "late", "waits")
			ended := make(chan time.Duration, 1)
			c.h.does("out", to("Part", b, "Do", "wait"))
			c.h.does("wait", func(ctx context.Context, _ *part) (string, error) {
				began := time.Now()
				<-ctx.Done()
				ended <- time.Since(began)
				return "", ctx.Err()
			})
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := c.cl.Object("Part", a).Call(ctx, "Do", "out", nil)
			if e := (*actor.Error)(nil); !errors.As(err, &e) || !errors.Is(err, actor.ErrDeadline) || e.Outcome == actor.DidNotRun {
				t.Errorf("%v", err)
			}
			select {
			case d := <-ended:
				if d > 2*time.Second {
					t.Errorf("the inner call ended after %v", d)
				}
			case <-time.After(10 * time.Second):
				t.Error("the inner call goes on after its deadline")
			}
		})
	}
}

// TestConformanceSameNode: calls of objects to objects of the same node take no socket. All of its sockets would be seen by its switch.
func TestConformanceSameNode(t *testing.T) {
	c := &stage{h: &parts{do: map[string]func(context.Context, *part) (string, error){}}, switches: []*Switch{{}}}
	cfg := quietConfig(t, t.TempDir())
	cfg.Shards, cfg.Switch = 4, c.switches[0]
	n := launch(t, cfg, c.h.classes()...)
	waitServing(t, n)
	c.h.does("in", func(_ context.Context, p *part) (string, error) { return p.s.ID().Key, nil })
	c.h.does("out", func(ctx context.Context, p *part) (string, error) {
		return actor.Call[string](ctx, p.s.Object("Part", "b"), "Do", "in")
	})
	n.cfg.Switch.Cut() // nothing would come through
	if got := call[string](t, n.Client(), "Part", "a", "Do", "out"); got != "b" {
		t.Errorf("%q answered", got)
	}
}

// TestConformanceBadInput sends what is not acceptable, and expects the documented error and an object as it was.
func TestConformanceBadInput(t *testing.T) {
	h := &parts{do: map[string]func(context.Context, *part) (string, error){}}
	cfg := quietConfig(t, t.TempDir())
	cfg.Shards = 4
	n := launch(t, cfg, h.classes()...)
	waitServing(t, n)
	remote := dialTo(t, n)
	huge := strings.Repeat("n", 10<<20)
	self := []any{1}
	self[0] = self
	for where, cl := range map[string]*client.Client{"client": remote, "node": n.Client()} {
		before := call[tally](t, cl, "Part", "good", "Count", nil)
		for _, r := range []struct {
			what, class, key, method string
			arg                      any
			want                     error
			text                     string
		}{
			{"no argument", "Part", "good", "Do", nil, actor.ErrBadArgument, "wants an argument of type string"},
			{"an argument too many", "Part", "good", "Nonce", 1, actor.ErrBadArgument, "takes no argument"},
			{"a wrong type", "Part", "good", "Do", map[string]int{"a": 1}, actor.ErrBadArgument, "cannot read its argument of type string"},
			{"another wrong type", "Part", "good", "Put", "x", actor.ErrBadArgument, "cannot read its argument"},
			{"a channel", "Part", "good", "Do", make(chan int), actor.ErrBadArgument, "cannot be encoded"},
			{"a function", "Part", "good", "Do", func() {}, actor.ErrBadArgument, "cannot be encoded"},
			{"what leads back to itself", "Part", "good", "Do", self, actor.ErrBadArgument, "leads back to itself"},
			{"a number too large", "Part", "good", "Narrow", 300, actor.ErrBadArgument, "300 does not fit a variable of type int8"},
			{"a negative number", "Part", "good", "Unsigned", -1, actor.ErrBadArgument, "-1 does not fit a variable of type uint"},
			{"a huge argument", "Part", "good", "Size", make([]byte, 33<<20), actor.ErrBadArgument, "at most"},
			{"a key with a zero byte", "Part", "a\x00b", "Nonce", nil, actor.ErrBadArgument, "NUL"},
			{"an empty key", "Part", "", "Nonce", nil, actor.ErrBadArgument, "the key is empty"},
			{"a key of 1,025 bytes", "Part", huge[:1025], "Nonce", nil, actor.ErrBadArgument, "1025 bytes: want at most 1024"},
			{"a key of 10 MiB", "Part", huge, "Nonce", nil, actor.ErrBadArgument, "10485760 bytes: want at most 1024"},
			{"a key that is not UTF-8", "Part", "a\xff", "Nonce", nil, actor.ErrBadArgument, "not UTF-8"},
			{"an empty class", "", "good", "Nonce", nil, actor.ErrBadArgument, "want a letter"},
			{"a class of 10 MiB", huge, "good", "Nonce", nil, actor.ErrBadArgument, "want a letter"},
			{"a class with a zero byte", "Pa\x00rt", "good", "Nonce", nil, actor.ErrBadArgument, "want a letter"},
			{"an empty method", "Part", "good", "", nil, actor.ErrBadArgument, "want a name"},
			{"a method of 10 MiB", "Part", "good", huge, nil, actor.ErrBadArgument, "want a name"},
			{"a method that is not UTF-8", "Part", "good", "\xff\xfe", nil, actor.ErrBadArgument, "is not UTF-8"},
			{"a method with a zero byte", "Part", "good", "Non\x00ce", nil, actor.ErrUnknownMethod, "no method"},
		} {
			err := cl.Object(r.class, r.key).Call(t.Context(), r.method, r.arg, nil)
			var e *actor.Error
			if !errors.As(err, &e) || !errors.Is(err, r.want) || e.Outcome != actor.DidNotRun || !strings.Contains(err.Error(), r.text) || e.Retryable || e.Overloaded {
				t.Errorf("%s, %s: %.300v", where, r.what, err)
			}
			if err != nil && len(err.Error()) > 4096 {
				t.Errorf("%s, %s: the error has %d bytes", where, r.what, len(err.Error()))
			}
		}
		for what, opt := range map[string]actor.CallOption{"an empty idempotency key": actor.Idempotent(""), "one of 10 MiB": actor.Idempotent(huge), "one with a zero byte": actor.Idempotent("a\x00"),
			"one that is not UTF-8": actor.Idempotent("\xff")} {
			err := cl.Object("Part", "good").Call(t.Context(), "Count", nil, nil, opt)
			if !errors.Is(err, actor.ErrBadArgument) {
				t.Errorf("%s, %s: %.300v", where, what, err)
			}
		}
		h.does("outward", func(ctx context.Context, p *part) (string, error) {
			return "", p.s.Object("Part", huge).Call(ctx, "Nonce", nil, nil)
		})
		err := cl.Object("Part", "good").Call(t.Context(), "Do", "outward", nil)
		if !errors.Is(err, actor.ErrBadArgument) || len(err.Error()) > 4096 {
			t.Errorf("%s, a key of 10 MiB from within an object: %.300v", where, err)
		}
		h.does("inward", func(ctx context.Context, p *part) (string, error) {
			err := p.s.Object("Part", huge).Call(ctx, "Nonce", nil, nil)
			return fmt.Sprint(len(err.Error()) > 4096), nil
		})
		if big := call[string](t, cl, "Part", "good", "Do", "inward"); big != "false" {
			t.Errorf("%s: the object is told its key of 10 MiB again", where)
		}
		// nil, wherever there may be something.
		var noContext context.Context
		ref := cl.Object("Part", "good")
		if err := ref.Call(noContext, "Nonce", nil, nil); !errors.Is(err, actor.ErrBadArgument) || !strings.Contains(err.Error(), "the context is nil") {
			t.Errorf("%s, no context: %v", where, err)
		}
		if err := ref.Start(noContext, "Nonce", nil).Wait(t.Context(), nil); !errors.Is(err, actor.ErrBadArgument) {
			t.Errorf("%s, no context to start with: %v", where, err)
		}
		if err := ref.Start(t.Context(), "Nonce", nil).Wait(noContext, nil); !errors.Is(err, actor.ErrBadArgument) {
			t.Errorf("%s, no context to wait with: %v", where, err)
		}
		if err := ref.Call(t.Context(), "Nonce", nil, nil, nil); err != nil {
			t.Errorf("%s, no option: %v", where, err)
		}
		h.does("nil", func(ctx context.Context, p *part) (string, error) {
			other := p.s.Object("Part", "other")
			if err := other.Call(noContext, "Nonce", nil, nil); !errors.Is(err, actor.ErrNotInEvent) || !strings.Contains(err.Error(), "called another outside") {
				return "", fmt.Errorf("no context: %v", err)
			}
			for _, err := range []error{p.s.Await(ctx, nil), p.s.BlockConcurrency(ctx, nil), p.s.Storage().Transaction(ctx, nil)} {
				if !errors.Is(err, actor.ErrBadArgument) {
					return "", fmt.Errorf("no function: %v", err)
				}
			}
			return "", errors.Join(other.Call(ctx, "Nonce", nil, nil, nil), p.s.Storage().Put(ctx, "a", 1, nil))
		})
		call[string](t, cl, "Part", "good", "Do", "nil")
		after := call[tally](t, cl, "Part", "good", "Count", nil)
		if after != (tally{before.Nonce, before.N + 1}) {
			t.Errorf("%s: %+v, then %+v: the object was harmed", where, before, after)
		}
	}
}
