package nodetest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

var (
	linearSeeds = flag.Int("nodetest.seeds", 2, "seeds of TestLinearizable")
	linearFirst = flag.Uint64("nodetest.first", 1, "its first seed")
)

// cell is a register, a counter and a list, in one class: each object is used as one of them.
type cell struct{ st *actor.Storage }

func newCell(_ context.Context, s *actor.State) (*cell, error) { return &cell{s.Storage()}, nil }

func (c *cell) Read(ctx context.Context) (int, error) {
	v, _, err := actor.Get[int](ctx, c.st, "v")
	return v, err
}

// change is what a call writes. Op tells it from all others.
type change struct{ V, Op int }

func (c *cell) Write(ctx context.Context, w change) error {
	return errors.Join(c.st.Put(ctx, "v", w.V), c.note(ctx, w.Op, 0))
}

// Add returns the sum.
func (c *cell) Add(ctx context.Context, w change) (int, error) {
	v, err := c.Read(ctx)
	if err != nil {
		return 0, err
	}
	return v + w.V, errors.Join(c.st.Put(ctx, "v", v+w.V), c.note(ctx, w.Op, v+w.V))
}

// Append returns how many there are; each is an entry of its own.
func (c *cell) Append(ctx context.Context, w change) (int, error) {
	n, err := c.Read(ctx)
	if err != nil {
		return 0, err
	}
	return n + 1, errors.Join(c.st.Put(ctx, fmt.Sprintf("e%08d", n), w.V), c.st.Put(ctx, "v", n+1), c.note(ctx, w.Op, n+1))
}

// note stores what came of a call, beside its effect.
func (c *cell) note(ctx context.Context, op, result int) error {
	key := fmt.Sprintf("o%08d", op)
	if _, twice, err := actor.Get[int](ctx, c.st, key); err != nil || twice {
		return errors.Join(err, actor.Fail("twice", "call %d runs twice: %v", op, twice))
	}
	return c.st.Put(ctx, key, result)
}

// Trace is what came of all calls that took effect.
func (c *cell) Trace(ctx context.Context) (map[int]int, error) {
	out := map[int]int{}
	for e, err := range c.st.All(ctx, actor.ListOptions{Prefix: "o"}) {
		var op, result int
		if err == nil {
			_, err = fmt.Sscanf(e.Key, "o%d", &op)
		}
		if err := errors.Join(err, e.Decode(&result)); err != nil {
			return nil, err
		}
		out[op] = result
	}
	return out, nil
}

// List returns all, in order.
func (c *cell) List(ctx context.Context) ([]int, error) {
	var all []int
	for e, err := range c.st.All(ctx, actor.ListOptions{Prefix: "e"}) {
		var v int
		if err := errors.Join(err, e.Decode(&v)); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// access is one call of a history.
type access struct {
	Client       int
	Method       string
	change             // of one that writes
	Call, Return int64 // places in the order of all calls and returns
	Outcome      actor.Outcome
	Got          string // if it ran
}

const (
	methodRead   = "Read"
	methodWrite  = "Write"
	methodAdd    = "Add"
	methodAppend = "Append"
	methodList   = "List"
)

// cellModel is what an object does, from state to state: of a register or counter the number, of a list what List shows.
var cellModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(string), input.(access), output.(access)
		switch in.Method {
		case methodRead, methodList:
			return out.Got == s, s
		case methodWrite:
			return true, fmt.Sprint(in.V)
		case methodAdd:
			n := 0
			_, _ = fmt.Sscan(s, &n)
			s = fmt.Sprint(n + in.V)
			return out.Got == s, s
		case methodAppend:
			s = strings.TrimSpace(s + " " + fmt.Sprint(in.V))
			return out.Got == fmt.Sprint(1+strings.Count(s, " ")), s
		}
		return false, s
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		in, out := input.(access), output.(access)
		return fmt.Sprintf("%s(%d) = %.60s", in.Method, in.V, out.Got)
	},
}

// searchTime is how long a history may be searched: if that is not enough the test has failed, and not passed.
const searchTime = time.Minute

func (a *access) writes() bool { return a.Method != methodRead && a.Method != methodList }

// settle compares the calls with the trace of what took effect: what was answered did, with that result, and what was refused did not. Of the others each
// gets the result that it had, whenever that was, and those without are left out, as are reads without an answer: else the search would try each
// at every place.
func settle(calls []access, trace map[int]int) (out []access, err error) {
	for _, a := range calls {
		result, took := trace[a.Op]
		switch {
		case !a.writes() && a.Outcome != actor.Ran:
			continue
		case !a.writes():
		case a.Outcome == actor.Ran && (!took || a.Got != "" && a.Got != fmt.Sprint(result)):
			return nil, fmt.Errorf("%s %d was answered with %q; it took effect: %v, with %d", a.Method, a.Op, a.Got, took, result)
		case a.Outcome == actor.DidNotRun && took:
			return nil, fmt.Errorf("%s %d was refused, and took effect", a.Method, a.Op)
		case !took:
			continue
		case a.Outcome != actor.Ran:
			a.Return, a.Got = math.MaxInt64, fmt.Sprint(result)
		}
		out = append(out, a)
	}
	return out, nil
}

// linearizable checks the calls of one object. trace, read after them all, has what took effect.
func linearizable(calls []access, trace map[int]int) error {
	calls, err := settle(calls, trace)
	if err != nil {
		return err
	}
	var ops []porcupine.Operation
	for _, c := range calls {
		ops = append(ops, porcupine.Operation{ClientId: c.Client, Input: c, Output: c, Call: c.Call, Return: c.Return})
	}
	switch porcupine.CheckOperationsTimeout(cellModel, ops, searchTime) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%d calls: not decided within %v", len(ops), searchTime)
	}
	return fmt.Errorf("%d calls have no order in which each sees those before it", len(ops))
}

// history is the calls of all clients of one object.
type history struct {
	kind  string
	ref   []actor.Ref // per client
	mu    sync.Mutex
	calls []access
	open  int // calls that may have run
	trace map[int]int
}

// one makes one random call.
func (h *history) one(ctx context.Context, clock *atomic.Int64, client int, rng *rand.Rand, unique int) error {
	a := access{Client: client, Method: methodRead}
	switch write := rng.IntN(2) == 0; {
	case h.kind == "list" && write:
		a.Method, a.change = methodAppend, change{unique, unique}
	case h.kind == "list":
		a.Method = methodList
	case h.kind == "counter" && write:
		a.Method, a.change = methodAdd, change{1 + rng.IntN(5), unique}
	case write:
		a.Method, a.change = methodWrite, change{unique, unique}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return h.make(ctx, clock, a)
}

// make makes a call, and remembers it.
func (h *history) make(ctx context.Context, clock *atomic.Int64, a access) error {
	a.Call = clock.Add(1)
	got, err := h.call(ctx, a)
	a.Return = clock.Add(1)
	var e *actor.Error
	switch {
	case err == nil:
		a.Outcome, a.Got = actor.Ran, got
	case !errors.As(err, &e) || e.Outcome == actor.Ran:
		return fmt.Errorf("%s(%v): %w", a.Method, a.change, err)
	default:
		a.Outcome = e.Outcome
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, a)
	if a.Outcome == actor.MayHaveRun {
		h.open++
	}
	return nil
}

func (h *history) call(ctx context.Context, a access) (string, error) {
	ref := h.ref[a.Client]
	switch a.Method {
	case methodWrite:
		return "", ref.Call(ctx, a.Method, a.change, nil)
	case methodList:
		all, err := actor.Call[[]int](ctx, ref, a.Method, nil)
		return strings.Trim(fmt.Sprint(all), "[]"), err
	case methodRead:
		n, err := actor.Call[int](ctx, ref, a.Method, nil)
		if n == 0 {
			return "", err // as nobody has written
		}
		return fmt.Sprint(n), err
	}
	n, err := actor.Call[int](ctx, ref, a.Method, a.change)
	return fmt.Sprint(n), err
}

// TestLinearizable lets five clients, without keys, use each of some objects while all kinds of faults happen to the cluster, and then looks for an order of
// the calls that explains what they got.
func TestLinearizable(t *testing.T) {
	for i := range *linearSeeds {
		seed := *linearFirst + uint64(i)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var all []*history
			var faults string
			virtual(t, func(t *testing.T) { all, faults = recordHistories(t, seed) })
			// The search takes no part in the cluster's time, which its limit would be in.
			calls, open := 0, 0
			for i, h := range all {
				if err := linearizable(h.calls, h.trace); err != nil {
					t.Errorf("seed %d, %s %d: %v; faults: %s", seed, h.kind, i, err, faults)
				}
				calls, open = calls+len(h.calls), open+h.open
			}
			t.Logf("%d calls, of which %d may have run; %s", calls, open, faults)
			if calls < 800 || open*5 > calls {
				t.Errorf("%d calls, of which %d may have run: that shows nothing", calls, open)
			}
		})
	}
}

func recordHistories(t *testing.T, seed uint64) ([]*history, string) {
	const (
		clients   = 5   // of an object: the search takes exponentially longer with more
		mostCalls = 250 // of each
	)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := nodetest.Start(t, 3, actor.Define("Cell", newCell))
	var all []*history
	for i, kind := range []string{"register", "counter", "list", "register", "counter", "list"} {
		h := &history{kind: kind}
		for range clients {
			h.ref = append(h.ref, c.Client().Object("Cell", fmt.Sprint(kind, i)))
		}
		all = append(all, h)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clock, unique atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, len(all)*clients)
	for i, h := range all {
		for client := range clients {
			own := rand.New(rand.NewPCG(seed, uint64(1+i*clients+client)))
			wg.Go(func() {
				for n := 0; n < mostCalls && ctx.Err() == nil; n++ {
					if err := h.one(context.WithoutCancel(ctx), &clock, client, own, int(unique.Add(1))); err != nil {
						errs <- err
						return
					}
					time.Sleep(time.Duration(50+own.IntN(300)) * time.Millisecond)
				}
			})
		}
	}
	var faults []string
	for range 8 {
		faults = append(faults, oneFault(t, c, rng))
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
	}
	cancel()
	wg.Wait()
	c.Settle()
	for _, h := range all {
		var err error
		if h.trace, err = actor.Call[map[int]int](t.Context(), h.ref[0], "Trace", nil); err != nil {
			t.Fatal(err)
		}
	}
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	return all, strings.Join(faults, ", ")
}

// oneFault does something to a node, mostly to one that owns something in use, and puts it right again.
func oneFault(t *testing.T, c *nodetest.Cluster, rng *rand.Rand) string {
	t.Helper()
	key := fmt.Sprint([]string{"register0", "counter1", "list2", "register3", "counter4", "list5"}[rng.IntN(6)])
	i := c.Owner("Cell", key)
	pause := func() { time.Sleep(time.Duration(100+rng.IntN(2500)) * time.Millisecond) }
	others := slices.DeleteFunc([]int{0, 1, 2}, func(j int) bool { return j == i })
	switch rng.IntN(8) {
	case 0:
		c.Kill(i)
		pause()
		c.Restart(i)
		return "owner killed"
	case 1:
		c.KillAt(i, 1+rng.IntN(20))
		dead(t, c, i)
		pause()
		c.Restart(i)
		return "owner killed at a write"
	case 2:
		c.Cut(i)
		pause()
		c.Heal(i)
		return "owner cut off"
	case 3:
		for _, j := range others {
			c.Network().CutOneWay(c.Host(i), c.Host(j))
		}
		pause()
		for _, j := range others {
			c.Network().Heal(c.Host(i), c.Host(j))
		}
		return "owner not heard"
	case 4:
		c.Network().Cut(c.Host(i), c.Host(others[0]))
		pause()
		c.Network().Heal(c.Host(i), c.Host(others[0]))
		return "one link cut"
	case 5:
		c.Stop(i)
		c.Restart(i)
		return "owner restarted"
	case 6:
		for _, j := range []int{0, 1, 2} {
			c.Kill(j)
		}
		c.Restart(0, 1, 2)
		return "all lost power"
	}
	c.Settle()
	c.Move("Cell", key)
	return "moved"
}

// A checker that lets bad histories pass shows nothing.
func TestLinearizableNoticesBadHistories(t *testing.T) {
	// The clocks of a call, its method, what it writes, and what it is answered: ? if nothing, ! if it was refused.
	at := func(call, ret int64, method string, op, v int, got string) access {
		a := access{Method: method, change: change{v, op}, Call: call, Return: ret, Outcome: actor.Ran, Got: got}
		if got == "?" || got == "!" {
			a.Outcome, a.Got = map[string]actor.Outcome{"?": actor.MayHaveRun, "!": actor.DidNotRun}[got], ""
		}
		return a
	}
	read := func(call int64, got string) access { return at(call, call+1, methodRead, 0, 0, got) }
	list := func(call int64, got string) access { return at(call, call+1, methodList, 0, 0, got) }
	type h struct {
		calls []access
		trace map[int]int
	}
	w, add, push := methodWrite, methodAdd, methodAppend
	for name, b := range map[string]h{
		"register: stale read":                {[]access{at(1, 2, w, 1, 1, ""), at(3, 4, w, 2, 2, ""), read(5, "1")}, map[int]int{1: 0, 2: 0}},
		"register: lost write":                {[]access{at(1, 2, w, 1, 1, ""), read(3, "")}, map[int]int{1: 0}},
		"register: an answer, and no effect":  {[]access{at(1, 2, w, 1, 1, "")}, nil},
		"register: refused, and an effect":    {[]access{at(1, 2, w, 1, 1, "!")}, map[int]int{1: 0}},
		"register: a value that nobody wrote": {[]access{at(1, 2, w, 1, 1, ""), read(3, "7")}, map[int]int{1: 0}},
		"register: back again":                {[]access{at(1, 2, w, 1, 1, ""), at(3, 10, w, 2, 2, ""), read(4, "2"), read(6, "1")}, map[int]int{1: 0, 2: 0}},
		"register: open, seen and unseen":     {[]access{at(1, 2, w, 1, 1, ""), at(3, 4, w, 2, 2, "?"), read(5, "2"), read(7, "1")}, map[int]int{1: 0, 2: 0}},
		"register: seen before its call":      {[]access{read(1, "2"), at(3, 4, w, 2, 2, "?")}, map[int]int{2: 0}},
		"counter: the same sum twice":         {[]access{at(1, 2, add, 1, 1, "1"), at(3, 4, add, 2, 1, "1")}, map[int]int{1: 1, 2: 1}},
		"counter: the same sum at once":       {[]access{at(1, 4, add, 1, 1, "1"), at(2, 3, add, 2, 1, "1")}, map[int]int{1: 1, 2: 1}},
		"counter: another than it made":       {[]access{at(1, 2, add, 1, 1, "1")}, map[int]int{1: 2}},
		"counter: counted twice":              {[]access{at(1, 2, add, 1, 2, "2"), read(3, "4")}, map[int]int{1: 2}},
		"counter: an open one counted twice":  {[]access{at(1, 2, add, 1, 2, "?"), read(3, "2"), read(5, "4")}, map[int]int{1: 2}},
		"counter: lost":                       {[]access{at(1, 2, add, 1, 2, "2"), at(3, 4, add, 2, 1, "1")}, map[int]int{1: 2, 2: 1}},
		"list: an element lost":               {[]access{at(1, 2, push, 1, 1, "1"), at(3, 4, push, 2, 2, "2"), list(5, "2")}, map[int]int{1: 1, 2: 2}},
		"list: another order":                 {[]access{at(1, 2, push, 1, 1, "1"), at(3, 4, push, 2, 2, "2"), list(5, "2 1")}, map[int]int{1: 1, 2: 2}},
		"list: an element twice":              {[]access{at(1, 2, push, 1, 1, "1"), list(3, "1 1")}, map[int]int{1: 1}},
		"list: shorter than it was":           {[]access{at(1, 2, push, 1, 1, "?"), list(3, "1"), list(5, "")}, map[int]int{1: 1}},
		"list: two in one place":              {[]access{at(1, 4, push, 1, 1, "1"), at(2, 3, push, 2, 2, "1")}, map[int]int{1: 1, 2: 1}},
	} {
		if linearizable(b.calls, b.trace) == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	for name, g := range map[string]h{
		"register: reads beside a write":    {[]access{at(1, 2, w, 1, 1, ""), at(3, 8, w, 2, 2, ""), read(4, "1"), read(6, "2")}, map[int]int{1: 0, 2: 0}},
		"register: an open write unseen":    {[]access{at(1, 2, w, 1, 1, ""), at(3, 4, w, 2, 2, "?"), read(5, "1"), read(7, "?")}, map[int]int{1: 0}},
		"register: an open write seen late": {[]access{at(1, 2, w, 1, 1, ""), at(3, 4, w, 2, 2, "?"), read(5, "1"), read(7, "2")}, map[int]int{1: 0, 2: 0}},
		"register: refused":                 {[]access{at(1, 2, w, 1, 1, "!"), read(3, "")}, nil},
		"counter: at once":                  {[]access{at(1, 4, add, 1, 1, "3"), at(2, 3, add, 2, 2, "2"), read(5, "3")}, map[int]int{1: 3, 2: 2}},
		"list":                              {[]access{at(1, 4, push, 1, 1, "2"), at(2, 3, push, 2, 2, "1"), list(5, "2 1"), at(7, 8, push, 9, 9, "?")}, map[int]int{1: 2, 2: 1}},
	} {
		if err := linearizable(g.calls, g.trace); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
