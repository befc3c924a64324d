package host

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// turned is an event as the test below sees it.
type turned struct {
	Event
	on      *Activation
	class   string // strict, reentrant, interleaved
	where   string // queued, inside, outside, back, over
	pins    int
	task    bool
	answers int
}

// TestTurnsAtRandom drives a Tenure with events that go outside and come back, sections, tasks, resets, breaks, drains and losses, and knows by a
// second, plain account who may run: at most one per activation; nobody begins or goes on during somebody else's section; nobody begins in a
// strict class while an event is in progress, but calls that come back. Every event is answered once, and in the end nothing is left.
func TestTurnsAtRandom(t *testing.T) {
	for seed := range uint64(3000) {
		x := &turnTest{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 7)), ten: NewTenure(1)}
		x.play()
		if t.Failed() {
			return
		}
	}
}

type turnTest struct {
	t       *testing.T
	seed    uint64
	rnd     *rand.Rand
	ten     *Tenure
	events  []*turned
	history []string
	applied uint64
	lost    bool
	drained bool
}

func (x *turnTest) failf(format string, args ...any) {
	x.t.Helper()
	x.t.Fatalf("seed %d: %s\n  %s", x.seed, fmt.Sprintf(format, args...), strings.Join(x.history[max(0, len(x.history)-40):], "\n  "))
}

func (x *turnTest) note(format string, args ...any) {
	x.history = append(x.history, fmt.Sprintf(format, args...))
}

func (x *turnTest) policy(class string) *Policy {
	return &Policy{Mailbox: 100, MailboxBytes: 1 << 20, HeldBytes: 1 << 20, Interleaved: class == "interleaved", Reentrant: class == "reentrant"}
}

func (x *turnTest) play() {
	classes := []string{"strict", "reentrant", "interleaved"}
	policies := map[string]*Policy{}
	for _, c := range classes {
		policies[c] = x.policy(c)
	}
	for range 60 + x.rnd.IntN(60) {
		switch n := x.rnd.IntN(40); {
		case n < 10:
			class := classes[x.rnd.IntN(3)]
			ev := &turned{class: class, where: "queued"}
			ev.Event = Event{Object: actor.ID{Class: "C", Key: class}, Bytes: 1, Data: ev}
			ev.Inner = class != "strict" && x.rnd.IntN(3) == 0
			x.events = append(x.events, ev)
			x.note("deliver %d to %s, inner %v", len(x.events)-1, class, ev.Inner)
			x.do(x.ten.Deliver(nil, &ev.Event, policies[class]))
		case n < 36:
			x.step()
		case n < 38 && x.ten.Submitted() > x.applied:
			x.applied++
			x.note("applied %d", x.applied)
			x.do(x.ten.Applied(nil, x.applied))
		case n == 38 && x.rnd.IntN(4) == 0:
			x.drained = true
			x.note("drain")
			x.do(x.ten.Drain(nil))
		case n == 39 && x.rnd.IntN(8) == 0:
			x.lose()
		}
	}
	x.finish()
}

func (x *turnTest) lose() {
	x.note("lost")
	x.lost = true
	x.do(x.ten.Lost(nil))
}

// step has one event do something that it may do.
func (x *turnTest) step() {
	var can []*turned
	for _, ev := range x.events {
		if ev.where == "inside" || ev.where == "outside" {
			can = append(can, ev)
		}
	}
	if len(can) == 0 {
		return
	}
	ev := can[x.rnd.IntN(len(can))]
	if ev.where == "outside" {
		x.note("%d is back", x.index(ev))
		ev.where = "back"
		x.do(x.ten.Regain(nil, &ev.Event, ev))
		return
	}
	switch n := x.rnd.IntN(20); {
	case n < 8:
		x.note("%d goes outside", x.index(ev))
		ev.where = "outside"
		x.do(x.ten.Yield(nil, &ev.Event))
	case n < 10:
		x.note("%d pins", x.index(ev))
		ev.pins++
		x.ten.Pin(&ev.Event)
	case n < 13 && ev.pins > 0:
		x.note("%d unpins", x.index(ev))
		ev.pins--
		x.do(x.ten.Unpin(nil, &ev.Event))
	case n == 13:
		task := &turned{class: ev.class, where: "queued", task: true}
		task.Event = Event{Object: ev.Object, Data: task}
		x.events = append(x.events, task)
		x.note("%d gives task %d", x.index(ev), len(x.events)-1)
		out, ok := x.ten.Task(nil, ev.on, &task.Event)
		if !ok {
			task.where = "over"
			if !x.lost && !ev.on.gone {
				x.failf("the task is refused")
			}
		}
		x.do(out)
	case n == 14:
		x.note("break under %d", x.index(ev))
		var queued any
		if x.rnd.IntN(2) == 0 {
			queued = "queued"
		}
		x.do(x.ten.Break(nil, ev.on, "running", queued))
	case n == 15:
		x.end(ev, "reset")
	default:
		x.end(ev, "end")
	}
}

func (x *turnTest) end(ev *turned, how string) {
	x.note("%s of %d", how, x.index(ev))
	ev.where, ev.pins = "over", 0
	e := End{Reply: "own", Proved: true}
	if how == "reset" {
		x.do(x.ten.Reset(nil, &ev.Event, e, "others", nil))
		return
	}
	if x.rnd.IntN(2) == 0 && x.ten.Broken(&ev.Event) == 0 {
		e.Writes, e.Touched = []store.Write{{Key: []byte(ev.class), Value: []byte("v")}}, true
	}
	x.do(x.ten.Ended(nil, &ev.Event, e))
}

func (x *turnTest) index(ev *turned) int {
	for i, e := range x.events {
		if e == ev {
			return i
		}
	}
	return -1
}

func (x *turnTest) do(out []Action) {
	for i := range out {
		switch a := &out[i]; a.Kind {
		case ActStart:
			ev := a.Event.Data.(*turned)
			x.note("  %d begins", x.index(ev))
			x.mayBegin(ev, a.Activation)
			ev.on, ev.where = a.Activation, "inside"
		case ActWake:
			ev := a.Waiter.(*turned)
			x.note("  %d goes on, %v", x.index(ev), a.Why)
			x.mayGoOn(ev, a.Why)
			ev.where = "inside"
		case ActRespond, ActRefuse:
			ev := a.Event.Data.(*turned)
			x.note("  %d is answered", x.index(ev))
			if ev.answers++; ev.answers > 1 {
				x.failf("%d is answered twice", x.index(ev))
			}
			if ev.where == "queued" {
				ev.where = "over"
			}
		case ActConfirm:
			x.do(x.ten.Confirmed(nil, a.Round))
		}
	}
}

// others calls fn for the events in progress on an activation but ev.
func (x *turnTest) others(a *Activation, ev *turned, fn func(*turned)) {
	for _, e := range x.events {
		if e != ev && e.on == a && e.where != "over" && e.where != "queued" {
			fn(e)
		}
	}
}

func (x *turnTest) mayBegin(ev *turned, a *Activation) {
	if ev.where != "queued" || x.lost || x.drained && !ev.Inner && !ev.task {
		x.failf("%d begins although it is %s, lost %v, drained %v", x.index(ev), ev.where, x.lost, x.drained)
	}
	x.others(a, ev, func(e *turned) {
		switch {
		case e.where == "inside":
			x.failf("%d begins beside %d", x.index(ev), x.index(e))
		case ev.Inner && ev.class != "strict":
		case ev.class != "interleaved":
			x.failf("%d begins although %d is in progress", x.index(ev), x.index(e))
		case e.pins > 0:
			x.failf("%d begins in the section of %d", x.index(ev), x.index(e))
		}
	})
}

func (x *turnTest) mayGoOn(ev *turned, why Why) {
	if ev.where != "back" {
		x.failf("%d goes on although it is %s", x.index(ev), ev.where)
	}
	if want := x.ten.Broken(&ev.Event); why != want {
		x.failf("%d hears %v, want %v", x.index(ev), why, want)
	}
	x.others(ev.on, ev, func(e *turned) {
		if e.where == "inside" || e.pins > 0 && ev.pins == 0 && !ev.Inner && !ev.on.gone {
			x.failf("%d goes on beside %d, which is %s with %d sections", x.index(ev), x.index(e), e.where, e.pins)
		}
	})
}

// finish ends everything in some order, and looks whether anything is left.
func (x *turnTest) finish() {
	for range 10_000 {
		left := false
		for _, ev := range x.events {
			switch ev.where {
			case "inside":
				left = true
				x.end(ev, "end")
			case "outside":
				left = true
				ev.where = "back"
				x.note("%d is back", x.index(ev))
				x.do(x.ten.Regain(nil, &ev.Event, ev))
			}
		}
		for x.ten.Submitted() > x.applied {
			x.applied++
			x.do(x.ten.Applied(nil, x.applied))
		}
		if !left {
			break
		}
	}
	for i, ev := range x.events {
		if ev.where != "over" {
			x.failf("%d is %s for ever", i, ev.where)
		}
		if !ev.task && ev.answers != 1 {
			x.failf("%d was answered %d times", i, ev.answers)
		}
	}
	if !x.ten.Quiet() || x.ten.Running() != 0 {
		x.failf("not quiet: %d run, %d held", x.ten.Running(), x.ten.Held())
	}
}
