package nemesis

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ringfence/ringfence/actor"
)

func TestCheckCounter(t *testing.T) {
	inc := func(start, end time.Duration, v int64) op { return op{Start: start, End: end, Value: v} }
	get := func(start, end time.Duration, v int64) op { return op{Get: true, Start: start, End: end, Value: v} }
	failed := func(start, end time.Duration, o actor.Outcome) op {
		return op{Start: start, End: end, Fail: "x", Outcome: o}
	}
	for _, c := range []struct {
		name  string
		ops   []op
		final int64
		ok    bool
	}{
		{"in order", []op{inc(1, 2, 1), inc(3, 4, 2)}, 2, true},
		{"overlapping, reversed", []op{inc(1, 6, 2), inc(2, 7, 1)}, 2, true},
		{"unknown, ran", []op{inc(1, 2, 1), failed(3, 4, actor.MayHaveRun), inc(5, 6, 3)}, 3, true},
		{"unknown, did not run", []op{inc(1, 2, 1), failed(3, 4, actor.MayHaveRun), inc(5, 6, 2)}, 2, true},
		{"unknown, ran late", []op{failed(1, 2, actor.MayHaveRun), inc(3, 4, 1), get(5, 6, 1), inc(7, 8, 3)}, 3, true},
		{"unknown, began after its place was seen", []op{get(1, 2, 1), failed(3, 4, actor.MayHaveRun)}, 1, false},
		{"refused, ran", []op{inc(1, 2, 1), failed(3, 4, actor.DidNotRun)}, 2, false},
		{"acknowledged, lost", []op{inc(1, 2, 1), inc(3, 4, 2)}, 1, false},
		{"ran twice", []op{inc(1, 2, 1), inc(3, 4, 3)}, 3, false},
		{"the same value twice", []op{inc(1, 9, 1), inc(1, 9, 1)}, 2, false},
		{"stale increment", []op{inc(1, 2, 2), inc(3, 4, 1)}, 2, false},
		{"stale read", []op{inc(1, 2, 1), inc(3, 4, 2), get(5, 6, 1)}, 2, false},
		{"overlapping read", []op{inc(1, 2, 1), inc(3, 6, 2), get(5, 7, 1)}, 2, true},
		{"reads go back", []op{inc(1, 9, 1), get(2, 3, 1), get(4, 5, 0)}, 1, false},
		{"increment returns what was read", []op{inc(1, 9, 1), get(2, 3, 1), inc(4, 5, 1)}, 2, false},
		{"beyond the end", []op{inc(1, 2, 5), inc(3, 4, 2)}, 2, false},
		{"nothing", nil, 0, true},
		{"out of nothing", nil, 1, false},
	} {
		if err := checkCounter(c.ops, c.final); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestCheckCounterAgrees compares the checker with porcupine, which searches, on small random histories, right and wrong ones.
func TestCheckCounterAgrees(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	verdicts := map[bool]int{}
	for range 4000 {
		ops, final := randomHistory(r)
		err := checkCounter(ops, final)
		want := porcupine.CheckOperations(counterModel, forPorcupine(ops, final))
		if (err == nil) != want {
			t.Fatalf("seed %d: checker: %v, porcupine: %v\n%+v final %d", seed, err, want, ops, final)
		}
		verdicts[want]++
	}
	if verdicts[true] < 400 || verdicts[false] < 400 {
		t.Errorf("one-sided histories: %v", verdicts)
	}
}

// randomHistory runs calls at random moments of their time on a counter, and then, half of the times, changes one answer.
func randomHistory(r *rand.Rand) (ops []op, final int64) {
	n := 2 + r.IntN(6)
	times := r.Perm(8 * n) // distinct, so that no two calls touch
	type effect struct{ at, of int }
	var effects []effect
	for i := range n {
		start, end := times[2*i], times[2*i+1]
		if start > end {
			start, end = end, start
		}
		o := op{Get: r.IntN(3) == 0, Start: time.Duration(start + 1), End: time.Duration(end + 1)}
		at := start
		switch {
		case !o.Get && r.IntN(3) == 0:
			o.Fail, o.Outcome = "x", actor.MayHaveRun
			at = start + r.IntN(8*n)
			if r.IntN(3) == 0 {
				o.Outcome = actor.DidNotRun
			}
		default:
			at += r.IntN(end - start)
		}
		ops = append(ops, o)
		effects = append(effects, effect{at, i})
	}
	for at := range 16 * n {
		for _, e := range effects {
			o := &ops[e.of]
			if e.at != at || o.Outcome == actor.DidNotRun || o.Outcome == actor.MayHaveRun && e.of%2 == 0 {
				continue
			}
			if !o.Get {
				final++
			}
			if o.ok() {
				o.Value = final
			}
		}
	}
	if r.IntN(2) == 0 {
		if o := &ops[r.IntN(n)]; o.ok() {
			o.Value += int64(r.IntN(3)) - 1
		} else {
			final += int64(r.IntN(3)) - 1
		}
	}
	return ops, final
}

type counterInput struct{ get, unsure bool }

var counterModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		n, in := state.(int64), input.(counterInput)
		if in.get {
			return output.(int64) == n, n
		}
		return in.unsure || output.(int64) == n+1, n + 1
	},
}

func forPorcupine(ops []op, final int64) []porcupine.Operation {
	const last = math.MaxInt64 / 2
	all := []porcupine.Operation{{Input: counterInput{get: true}, Call: last, Output: final, Return: last + 1}}
	for _, o := range ops {
		p := porcupine.Operation{Input: counterInput{o.Get, !o.ok()}, Call: int64(o.Start), Output: o.Value, Return: int64(o.End)}
		if !o.ok() {
			if o.Outcome == actor.DidNotRun || o.Get {
				continue
			}
			p.Return = last + 2
		}
		all = append(all, p)
	}
	for i := range all {
		all[i].ClientId = i
	}
	return all
}

func TestOutage(t *testing.T) {
	var ops []op
	for _, end := range []time.Duration{40, 10, 20, 30, 70, 80, 200} {
		ops = append(ops, op{End: end})
	}
	ops = append(ops, op{End: 50, Fail: "x"})
	for _, c := range []struct{ from, to, want time.Duration }{{35, 60, 30}, {15, 25, 10}, {75, 100, 120}, {190, 300, 120}, {250, 300, 100}, {0, 12, 10}} {
		if got := outage(ops, c.from, c.to); got != c.want {
			t.Errorf("outage around %d–%d: %d, want %d", c.from, c.to, got, c.want)
		}
	}
}
