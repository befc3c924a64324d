package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/actor"
)

var killChoices = flag.Int("kill-choices", 6, "how many choices of TestIdempotentKills are tried in all combinations")

// choices walks through all sequences of choices, depth first: after the given ones the first option is taken.
type choices struct {
	taken []int
	of    []int // how many options there were
	next  int
	depth int
}

func (c *choices) choose(n int) int {
	if c.next >= c.depth {
		return 0
	}
	if c.next == len(c.taken) {
		c.taken, c.of = append(c.taken, 0), append(c.of, n)
	}
	c.next++
	return c.taken[c.next-1]
}

// more goes on to the next sequence; false if there is none.
func (c *choices) more() bool {
	c.next = 0
	for i := len(c.taken) - 1; i >= 0; i-- {
		if c.taken[i]++; c.taken[i] < c.of[i] {
			return true
		}
		c.taken, c.of = c.taken[:i], c.of[:i]
	}
	return false
}

// TestIdempotentKills lets a caller repeat a call with a key until it has an answer, while at every step the token may be lost, with
// any prefix of what is submitted taking effect, or the activation be reset by the panic of another event. In all sequences of such choices each part of the
// method's effects takes place at most once, all of them if it is answered, and what is answered stays the answer.
func TestIdempotentKills(t *testing.T) {
	for _, method := range []string{"plain", "fails", "sync", "await", "reads"} {
		for _, class := range []struct {
			name string
			opts []actor.ClassOption
		}{{"", nil}, {" interleaved", []actor.ClassOption{actor.Interleaved()}}} {
			t.Run(method+class.name, func(t *testing.T) {
				c := &choices{depth: *killChoices}
				worlds, answered, interrupted := 0, 0, 0
				for {
					inWorld(t, Options{}, func(t *testing.T, w *world) {
						k := &killed{t: t, w: w, c: c, method: method}
						k.run()
						if worlds++; k.interrupted {
							interrupted++
						} else {
							answered++
						}
					}, class.opts...)
					if t.Failed() {
						t.Fatalf("choices %v of %v", c.taken, c.of)
					}
					if !c.more() {
						break
					}
				}
				cuts := method == "sync" || method == "await"
				if answered == 0 || (interrupted > 0) != cuts {
					t.Fatalf("%d of %d were answered, %d interrupted", answered, worlds, interrupted)
				}
				t.Logf("%d sequences, %d answered, %d interrupted", worlds, answered, interrupted)
			})
		}
	}
}

type killed struct {
	t           *testing.T
	w           *world
	c           *choices
	method      string
	kills       int
	panics      int
	interrupted bool
}

// twoParts adds one to each of two numbers, and returns both.
func (k *killed) twoParts(ctx context.Context, p *probe) (string, error) {
	if k.method == "reads" {
		return p.add(ctx, "a", 0)
	}
	a, err := p.add(ctx, "a", 1)
	switch {
	case err != nil:
	case k.method == "sync":
		err = p.st.Sync(ctx)
	case k.method == "await":
		err = p.s.Await(ctx, func(context.Context) error { return nil })
	}
	if err != nil {
		return "", err
	}
	b, err := p.add(ctx, "b", 1)
	if err != nil {
		return "", err
	}
	if k.method == "fails" {
		return "", actor.Fail("sorry", "%s and %s", a, b)
	}
	return a + b, nil
}

func (p *probe) add(ctx context.Context, key string, by int) (string, error) {
	n, _, err := actor.Get[int](ctx, p.st, key)
	if err != nil || by == 0 {
		return fmt.Sprint(n), err
	}
	return fmt.Sprint(n + by), p.st.Put(ctx, key, n+by)
}

func (k *killed) run() {
	w := k.w
	w.hooks.do["two"] = k.twoParts
	w.hooks.do["panic"] = func(context.Context, *probe) (string, error) { panic("another event") }
	w.hooks.do["state"] = func(ctx context.Context, p *probe) (string, error) {
		a, _ := p.add(ctx, "a", 0)
		b, err := p.add(ctx, "b", 0)
		return a + b, err
	}
	first := k.until()
	w.takeOver(true)
	effects, again := w.send("k", "Do", "state"), w.send("k", "Do", "two", withKey("1"))
	effects.answered()
	again.answered()
	want := `"11"`
	switch {
	case k.interrupted:
		want = `"10"`
		if k.method == "await" || k.method == "sync" {
			break
		}
		k.t.Errorf("interrupted without a commit")
	case k.method == "reads":
		want = `"00"`
	}
	var state string
	if err := actor.Unmarshal(effects.result.Value, &state); err != nil || fmt.Sprintf("%q", state) != want {
		k.t.Errorf("effects %q (%v), want %s, after %v", state, err, want, said(first))
	}
	if said(again.result) != said(first) {
		k.t.Errorf("answered %s, and later %s", said(first), said(again.result))
	}
	if !k.interrupted && k.method == "fails" != (first.Err != nil) {
		k.t.Errorf("answered %s", said(first))
	}
}

func said(r *Result) string {
	if r.Err != nil {
		return fmt.Sprintf("%v %s %s", r.Err.Code, r.Err.App, r.Err.Message)
	}
	return fmt.Sprintf("%x", r.Value)
}

// until repeats the call until its answer is final.
func (k *killed) until() *Result {
	for range 20 {
		p := k.w.send("k", "Do", "two", withKey("1"))
		for !p.answered() {
			k.step()
		}
		r := p.result
		switch {
		case r.Err == nil:
			return r
		case errors.Is(r.Err, actor.ErrInterrupted):
			k.interrupted = true
			return r
		case r.Err.Code == actor.CodeApp:
			return r
		}
	}
	k.t.Fatal("no end")
	return nil
}

// step lets one thing happen: progress, if there is some to be made, or a fault.
func (k *killed) step() {
	l := k.w.l
	l.mu.Lock()
	waiting, unasked := len(l.batches)-l.applied, l.asked > l.confirmed
	l.mu.Unlock()
	options := []func(){func() {
		switch {
		case waiting > 0:
			l.apply(1)
		case unasked:
			l.confirm()
		default:
			k.t.Fatal("nothing moves")
		}
	}}
	if k.kills < 3 {
		for n := range waiting + 1 { // of which so many take effect
			options = append(options, func() { k.kills++; l.land(n); k.w.takeOver(false) })
		}
	}
	if k.panics < 2 {
		options = append(options, func() { k.panics++; k.w.send("k", "Do", "panic"); k.w.wait() })
	}
	if waiting > 0 && unasked {
		options = append(options, l.confirm)
	}
	options[k.c.choose(len(options))]()
}
