package nemesis

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

func TestSearchOrder(t *testing.T) {
	write := func(start, end time.Duration, v string) sampled {
		return sampled{Write: true, Value: v, Start: start, End: end}
	}
	read := func(start, end time.Duration, v string) sampled {
		return sampled{Value: v, Found: v != "", Start: start, End: end}
	}
	unsure := func(o sampled) sampled { o.Unsure = true; return o }
	for _, c := range []struct {
		name  string
		model porcupine.Model
		ops   []sampled
		ok    bool
	}{
		{"register", registerModel, []sampled{read(1, 2, ""), write(3, 4, "a"), read(5, 6, "a")}, true},
		{"register, lost", registerModel, []sampled{write(1, 2, "a"), read(3, 4, "")}, false},
		{"register, stale", registerModel, []sampled{write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")}, false},
		{"register, reads go back", registerModel, []sampled{write(1, 9, "a"), read(2, 3, "a"), read(4, 5, ""), read(10, 11, "a")}, false},
		{"register, unknown, ran", registerModel, []sampled{write(1, 2, "a"), unsure(write(3, 4, "b")), read(9, 10, "b")}, true},
		{"register, unknown, did not run", registerModel, []sampled{write(1, 2, "a"), unsure(write(3, 4, "b")), read(9, 10, "a")}, true},
		{"register, unknown, seen before it began", registerModel, []sampled{read(1, 2, "b"), unsure(write(3, 4, "b")), read(9, 10, "b")}, false},
		{"register, unknown, ran twice", registerModel, []sampled{unsure(write(1, 2, "b")), read(3, 4, "b"), write(5, 6, "a"), read(7, 8, "a"), read(9, 10, "b")}, false},
		{"queue", queueModel, []sampled{write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a"), read(7, 8, "b"), read(9, 10, "")}, true},
		{"queue, reversed", queueModel, []sampled{write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "b"), read(7, 8, "a"), read(9, 10, "")}, false},
		{"queue, lost", queueModel, []sampled{write(1, 2, "a"), read(5, 6, "")}, false},
		{"queue, taken by an unknown pop", queueModel, []sampled{write(1, 2, "a"), unsure(read(3, 4, "")), read(5, 6, "")}, true},
		{"queue, taken by an unknown pop that came late", queueModel, []sampled{write(1, 2, "a"), read(3, 4, ""), unsure(read(5, 6, "")), read(7, 8, "")}, false},
		{"queue, two lost, one unknown pop", queueModel, []sampled{write(1, 2, "a"), write(1, 2, "b"), unsure(read(3, 4, "")), read(5, 6, "")}, false},
		{"queue, delivered twice", queueModel, []sampled{write(1, 2, "a"), read(3, 4, "a"), read(5, 6, "a"), read(7, 8, "")}, false},
		{"queue, unknown push, ran", queueModel, []sampled{unsure(write(1, 2, "a")), write(3, 4, "b"), read(5, 6, "a"), read(5, 6, "b"), read(7, 8, "")}, true},
		{"queue, unknown push, ran late", queueModel, []sampled{unsure(write(1, 2, "a")), write(3, 4, "b"), read(5, 6, "b"), read(5, 6, "a"), read(7, 8, "")}, true},
		{"queue, unknown push and pop", queueModel, []sampled{unsure(write(1, 2, "a")), unsure(read(3, 4, "")), read(5, 6, "")}, true},
	} {
		want := porcupine.Illegal
		if c.ok {
			want = porcupine.Ok
		}
		if got := searchOrder(c.model, c.ops, 10*time.Second); got != want {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
}

// TestSearchOrderAgrees compares what is made easy for the search with a search in which every call of unknown outcome is open to the end.
func TestSearchOrderAgrees(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for name, model := range map[string]porcupine.Model{"register": registerModel, "queue": queueModel} {
		verdicts := map[porcupine.CheckResult]int{}
		for range 2000 {
			ops := randomSample(r, model)
			got := searchOrder(model, ops, 10*time.Second)
			want := porcupine.Illegal
			if porcupine.CheckOperations(model, openToTheEnd(ops)) {
				want = porcupine.Ok
			}
			if got != want {
				t.Fatalf("%s, seed %d: %v, want %v: %+v", name, seed, got, want, ops)
			}
			verdicts[got]++
		}
		if verdicts[porcupine.Ok] < 200 || verdicts[porcupine.Illegal] < 200 {
			t.Errorf("one-sided histories of a %s: %v", name, verdicts)
		}
	}
}

func openToTheEnd(ops []sampled) (all []porcupine.Operation) {
	for i, o := range ops {
		p := porcupine.Operation{ClientId: i, Input: o, Output: o, Call: int64(o.Start), Return: int64(o.End)}
		if o.Unsure {
			p.Return = 1 << 40
		}
		all = append(all, p)
	}
	return all
}

// randomSample runs calls at random moments of their time on a register or a queue, empties it, and then, half of the times, changes one answer.
func randomSample(r *rand.Rand, model porcupine.Model) (ops []sampled) {
	n := 2 + r.IntN(6)
	times := r.Perm(6 * n) // distinct, so that no two calls touch
	at := make([]int, n)
	for i := range n {
		start, end := times[2*i], times[2*i+1]
		if start > end {
			start, end = end, start
		}
		o := sampled{Write: r.IntN(2) == 0, Start: time.Duration(start + 1), End: time.Duration(end + 1), Caller: i, Unsure: r.IntN(4) == 0}
		if o.Write {
			o.Value = fmt.Sprint(i)
		} else if o.Unsure && model.Init() == "" {
			o.Unsure = false
		}
		at[i] = start + r.IntN(end-start)
		if o.Unsure && r.IntN(3) == 0 {
			at[i] = -1 // it does not run
		}
		ops = append(ops, o)
	}
	state := model.Init()
	answer := func(o *sampled) { // what a call that runs now is answered
		o.Value, o.Found = "", false
		if ok, next := model.Step(state, *o, *o); ok {
			state = next
			return
		}
		o.Found = true
		for i := range n {
			o.Value = fmt.Sprint(i)
			if ok, next := model.Step(state, *o, *o); ok {
				state = next
				return
			}
		}
	}
	for now := range 6 * n {
		for i := range ops {
			if o := &ops[i]; at[i] == now && (o.Write || o.Unsure) {
				_, state = model.Step(state, *o, *o)
			} else if at[i] == now {
				answer(o)
			}
		}
	}
	for i := range n + 1 { // the rest
		o := sampled{Start: time.Duration(6*n + 2*i + 2), End: time.Duration(6*n + 2*i + 3)}
		answer(&o)
		if ops = append(ops, o); !o.Found {
			break
		}
	}
	if r.IntN(2) == 0 {
		if o := &ops[r.IntN(len(ops))]; !o.Write && !o.Unsure {
			o.Value, o.Found = fmt.Sprint(r.IntN(n)), true
		}
	}
	return ops
}
