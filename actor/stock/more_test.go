package stock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/actortest"
)

func call[R any](t *testing.T, r actor.Ref, method string, arg any) R {
	t.Helper()
	v, err := actor.Call[R](t.Context(), r, method, arg)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return v
}

// app wants an application error.
func app(t *testing.T, r actor.Ref, method string, arg any, want string) {
	t.Helper()
	err := r.Call(t.Context(), method, arg, nil)
	if e := (*actor.Error)(nil); !errors.As(err, &e) || e.App != want {
		t.Errorf("%s(%v): %v, want %s", method, arg, err, want)
	}
}

func TestLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := actortest.New[*lock](t, Lock(), "l")
		a := call[LockGrant](t, o, "Acquire", LockRequest{Holder: "a", Millis: 1000})
		if !a.Granted || a.Token != 1 || a.Holder != "a" || a.Expires != time.Now().UnixMilli()+1000 {
			t.Fatalf("%+v", a)
		}
		if b := call[LockGrant](t, o, "Acquire", LockRequest{Holder: "b"}); b.Granted || b.Holder != "a" || b.Token != 1 {
			t.Errorf("%+v", b)
		}
		o.Advance(900 * time.Millisecond)
		o.Evict()
		if a := call[LockGrant](t, o, "Acquire", LockRequest{Holder: "a", Millis: 1000}); !a.Granted || a.Token != 1 {
			t.Errorf("renewed: %+v", a)
		}
		o.Advance(900 * time.Millisecond)
		if !call[bool](t, o, "Check", uint64(1)) || call[bool](t, o, "Check", uint64(0)) {
			t.Error("Check")
		}
		o.Advance(100 * time.Millisecond)
		if call[bool](t, o, "Check", uint64(1)) || call[LockGrant](t, o, "Get", nil) != (LockGrant{}) {
			t.Error("not expired")
		}
		if a := call[LockGrant](t, o, "Acquire", LockRequest{Holder: "a"}); !a.Granted || a.Token != 2 {
			t.Errorf("after the expiry: %+v", a)
		}
		if call[bool](t, o, "Release", LockRequest{Holder: "b"}) || call[bool](t, o, "Release", LockRequest{Holder: "a", Token: 1}) {
			t.Error("released by who does not hold it")
		}
		if !call[bool](t, o, "Release", LockRequest{Holder: "a", Token: 2}) || call[bool](t, o, "Release", LockRequest{Holder: "a"}) {
			t.Error("Release")
		}
		if b := call[LockGrant](t, o, "Acquire", LockRequest{Holder: "b"}); !b.Granted || b.Token != 3 {
			t.Errorf("%+v", b)
		}
		app(t, o, "Acquire", LockRequest{}, "bad-holder")
		app(t, o, "Acquire", LockRequest{Holder: strings.Repeat("x", 257)}, "bad-holder")
		app(t, o, "Acquire", LockRequest{Holder: "x", Millis: -1}, "bad-time")
		app(t, o, "Acquire", LockRequest{Holder: "x", Millis: lockMost + 1}, "bad-time")
	})
}

// No two holders at once, and tokens grow, though the owner dies again and again.
func TestLockUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := actortest.New[*lock](t, Lock(), "l")
		rnd := rand.New(rand.NewPCG(1, 2))
		highest, holder := uint64(0), ""
		for range 500 {
			switch rnd.IntN(6) {
			case 0:
				o.FailCommit()
			case 1:
				o.MoveAt(1 + rnd.IntN(3))
			}
			who := fmt.Sprint(rnd.IntN(3))
			if rnd.IntN(3) == 0 {
				var ok bool
				if err := o.Call(t.Context(), "Release", LockRequest{Holder: who}, &ok); err != nil {
					if holder == who {
						holder = "" // unknown: may have been released
					}
				} else if ok {
					holder = ""
				}
				continue
			}
			g, err := actor.Call[LockGrant](t.Context(), o, "Acquire", LockRequest{Holder: who})
			if err != nil || !g.Granted {
				if err == nil && holder != "" && g.Holder != holder {
					t.Fatalf("%q holds it, not %q", g.Holder, holder)
				}
				continue
			}
			if holder != "" && holder != who {
				t.Fatalf("%q has it beside %q", who, holder)
			}
			if g.Token < highest || g.Token == highest && holder != who && holder != "" {
				t.Fatalf("token %d after %d", g.Token, highest)
			}
			highest, holder = g.Token, who
		}
		if highest < 20 {
			t.Errorf("only %d grants", highest)
		}
	})
}

func TestRateLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := actortest.New[*rateLimiter](t, RateLimiter(), "r")
		q := TakeRequest{PerSecond: 10, Burst: 5}
		for i := range int64(5) {
			if r := call[TakeReply](t, o, "Take", q); !r.Allowed || r.Left != 4-i {
				t.Fatalf("%d: %+v", i, r)
			}
		}
		if r := call[TakeReply](t, o, "Take", q); r.Allowed || r.RetryAfter != 100 {
			t.Errorf("%+v", r)
		}
		allowed := 0
		for range 1000 { // ten seconds
			o.Advance(10 * time.Millisecond)
			if call[TakeReply](t, o, "Take", q).Allowed {
				allowed++
			}
		}
		if allowed != 100 {
			t.Errorf("%d allowed in ten seconds at 10 a second", allowed)
		}
		o.Move() // memory is gone: a full bucket
		q.N = 5
		if r := call[TakeReply](t, o, "Take", q); !r.Allowed || r.Left != 0 {
			t.Errorf("%+v", r)
		}
		if len(o.Stored()) != 0 {
			t.Error("it stores something")
		}
		app(t, o, "Take", TakeRequest{N: -1, PerSecond: 1, Burst: 1}, "bad-n")
		app(t, o, "Take", TakeRequest{Burst: 1}, "bad-rate")
		app(t, o, "Take", TakeRequest{N: 2, PerSecond: 1, Burst: 1}, "bad-burst")
	})
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := actortest.New[*queue](t, Queue(), "q")
		for i := range 3 {
			if n := call[uint64](t, o, "Push", fmt.Sprint("m", i)); n != uint64(i+1) {
				t.Fatal(n)
			}
		}
		a := call[[]QueueMessage](t, o, "Pop", PopRequest{Max: 2, Millis: 1000})
		if len(a) != 2 || a[0].Message != "m0" || a[1].Number != 2 || a[0].Attempts != 1 {
			t.Fatalf("%+v", a)
		}
		if l := call[QueueLen](t, o, "Len", nil); l != (QueueLen{1, 2}) {
			t.Errorf("%+v", l)
		}
		if !call[bool](t, o, "Ack", a[0].QueueReceipt) || call[bool](t, o, "Ack", a[0].QueueReceipt) {
			t.Error("Ack")
		}
		o.Advance(time.Second)
		o.Evict()
		if call[bool](t, o, "Ack", a[1].QueueReceipt) || call[bool](t, o, "Nack", a[1].QueueReceipt) {
			t.Error("a receipt whose time is over is good")
		}
		b := call[[]QueueMessage](t, o, "Pop", PopRequest{Max: 100})
		if len(b) != 2 || b[0].Message != "m1" || b[0].Attempts != 2 || b[1].Message != "m2" {
			t.Fatalf("%+v", b)
		}
		if !call[bool](t, o, "Nack", b[0].QueueReceipt) {
			t.Error("Nack")
		}
		c := call[[]QueueMessage](t, o, "Pop", PopRequest{})
		if len(c) != 1 || c[0].Message != "m1" || c[0].Attempts != 3 {
			t.Fatalf("%+v", c)
		}
		if call[bool](t, o, "Ack", b[0].QueueReceipt) || !call[bool](t, o, "Ack", c[0].QueueReceipt) || !call[bool](t, o, "Ack", b[1].QueueReceipt) {
			t.Error("Ack of a former delivery")
		}
		if l := call[QueueLen](t, o, "Len", nil); l != (QueueLen{}) || len(o.Stored()) != 1 {
			t.Errorf("%+v, %d keys", l, len(o.Stored()))
		}
		app(t, o, "Push", strings.Repeat("x", queueMessage), "too-large")
		app(t, o, "Pop", PopRequest{Max: 101}, "bad-max")
		app(t, o, "Pop", PopRequest{Millis: -1}, "bad-time")
	})
}

// A page of large messages fits in a reply; the next page has the others.
func TestQueueOfLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := actortest.New[*queue](t, Queue(), "q")
		for range 40 {
			call[uint64](t, o, "Push", make([]byte, queueMessage-10))
		}
		var sizes []int
		for {
			ms := call[[]QueueMessage](t, o, "Pop", PopRequest{Max: 100})
			if len(ms) == 0 {
				break
			}
			sizes = append(sizes, len(ms))
		}
		if fmt.Sprint(sizes) != "[16 16 8]" {
			t.Errorf("pages of %v", sizes)
		}
	})
}

// Every message that was acknowledged as pushed comes out, in order of its number at first, and none comes after it was acknowledged as done, though
// the owner dies again and again.
func TestQueueUnderLoss(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			o := actortest.New[*queue](t, Queue(), "q")
			rnd := rand.New(rand.NewPCG(seed, 3))
			pushed, unsure, done := map[uint64]string{}, map[string]bool{}, map[string]bool{}
			count := 0
			for step := range 300 {
				switch rnd.IntN(8) {
				case 0:
					o.FailCommit()
				case 1:
					o.MoveAt(1 + rnd.IntN(4))
				case 2:
					o.Advance(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				}
				if rnd.IntN(2) == 0 {
					text := fmt.Sprint(step)
					n, err := actor.Call[uint64](t.Context(), o, "Push", text)
					if err != nil {
						unsure[text] = true
						continue
					}
					pushed[n] = text
					continue
				}
				ms, err := actor.Call[[]QueueMessage](t.Context(), o, "Pop", PopRequest{Max: rnd.IntN(3) + 1, Millis: 2000})
				if err != nil {
					continue
				}
				for _, m := range ms {
					text := m.Message.(string)
					if done[text] {
						t.Fatalf("seed %d: %q comes after it was done with", seed, text)
					}
					if want := pushed[m.Number]; want != text && !unsure[text] {
						t.Fatalf("seed %d: number %d is %q, want %q", seed, m.Number, text, want)
					}
					var ok bool
					if err := o.Call(t.Context(), "Ack", m.QueueReceipt, &ok); err != nil {
						unsure[text] = true
						delete(pushed, m.Number)
					} else if ok {
						done[text] = true
						delete(pushed, m.Number)
						count++
					}
				}
			}
			o.MoveAt(0)
			o.Move()
			for len(pushed) > 0 {
				o.Advance(3 * time.Second)
				ms, err := actor.Call[[]QueueMessage](t.Context(), o, "Pop", PopRequest{Max: 100})
				if errors.Is(err, actor.ErrMoved) {
					continue // a loss that was ordered above
				}
				if err != nil || len(ms) == 0 {
					t.Fatalf("seed %d: %d messages are lost: %v", seed, len(pushed), err)
				}
				for _, m := range ms {
					if call[bool](t, o, "Ack", m.QueueReceipt) {
						delete(pushed, m.Number)
					}
				}
			}
			if count < 20 {
				t.Errorf("seed %d: only %d messages went through", seed, count)
			}
		})
	}
}

func BenchmarkQueue(b *testing.B) {
	o := actortest.New[*queue](b, Queue(), "q")
	ctx := context.Background()
	for b.Loop() {
		if err := o.Call(ctx, "Push", "m", nil); err != nil {
			b.Fatal(err)
		}
		ms, err := actor.Call[[]QueueMessage](ctx, o, "Pop", PopRequest{})
		if err != nil {
			b.Fatal(err)
		}
		if err := o.Call(ctx, "Ack", ms[0].QueueReceipt, nil); err != nil {
			b.Fatal(err)
		}
	}
}
