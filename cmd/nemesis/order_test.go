package nemesis

import (
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// sampled is one call of a register or a queue.
type sampled struct {
	Write      bool   // put, push; else get, pop
	Value      string // no two writes have the same
	Found      bool   // get, pop: there was one, Value
	Start, End time.Duration
	Caller     int
	Unsure     bool // it may have run
}

// searchOrder looks for a legal order of the calls of one object, the last of which show what is left in it. What is known of calls that may
// have run is used first, because each of them that is open to the end can double the search.
func searchOrder(model porcupine.Model, ops []sampled, limit time.Duration) porcupine.CheckResult {
	seen := map[string]time.Duration{} // when an answer showed a value first
	for _, o := range ops {
		if at, ok := seen[o.Value]; !o.Write && o.Found && !o.Unsure && (!ok || o.End < at) {
			seen[o.Value] = o.End
		}
	}
	lost := false // a message that was pushed for certain and taken by nobody who knows
	for _, o := range ops {
		if _, ok := seen[o.Value]; o.Write && !o.Unsure && !ok {
			lost = true
		}
	}
	var history []porcupine.Operation
	for _, o := range ops {
		end := int64(o.End)
		if at, ok := seen[o.Value]; o.Unsure && o.Write && ok {
			end = int64(at) // it ran before it was seen
		} else if o.Unsure {
			if takes := model.Init() == queueState(""); !takes || !lost {
				continue // nobody saw what it did: it did nothing, or a push and a pop of the same message, neither of which anybody saw
			}
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: len(history), Input: o, Output: o, Call: int64(o.Start), Return: end})
	}
	return porcupine.CheckOperationsTimeout(model, history, limit)
}

// registerModel is a value that is written and read.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(sampled)
		if o.Write {
			return true, o.Value
		}
		return o.Found == (state != "") && (!o.Found || o.Value == state), state
	},
}

// queueState is the messages, each with a line's end.
type queueState string

var queueModel = porcupine.Model{
	Init: func() any { return queueState("") },
	Step: func(state, input, _ any) (bool, any) {
		o, s := input.(sampled), state.(queueState)
		if o.Write {
			return true, s + queueState(o.Value) + "\n"
		}
		head, rest, some := strings.Cut(string(s), "\n")
		if o.Unsure {
			return true, queueState(rest)
		}
		return o.Found == some && (!o.Found || o.Value == head), queueState(rest)
	},
}
