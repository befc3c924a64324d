package host

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// oracle watches a Tenure and knows its rules from their definitions alone: it keeps the whole history and computes everything anew.
type oracle struct {
	rnd    *rand.Rand
	ten    *Tenure
	policy Policy
	log    []string

	clock       int // one tick per call and per action
	objects     []*watched
	batches     []watchedBatch // position p is at p-1
	unconfirmed bool           // the batch that is being submitted
	applied     int
	rounds      []int // when each was begun
	confirmed   int
	lost        bool
	draining    bool
	state       map[string]string // what is applied
	waiting     map[any]*waiting
	events      int
}

type watched struct {
	id    actor.ID
	queue []*watchedEvent
	run   *watchedEvent
	act   *Activation
	held  []*watchedEvent
	reset *Activation // must not be used again
}

type watchedEvent struct {
	Event
	o            *watched
	began, ended int
	pos          int // newest batch of the object when it ended
	bytes        int // of its reply
	answered     bool
	skipped      bool
	denied       bool
	wrote        bool
}

type watchedBatch struct {
	o      *watched
	writes []store.Write
	at     int
	gates  bool // what leaves waits for it
}

type waiting struct {
	pos  int
	done bool
}

func TestTenureAgainstOracle(t *testing.T) {
	runs := 600
	if testing.Short() {
		runs = 60
	}
	for seed := range runs {
		if wrong := history(uint64(seed)); wrong != "" {
			t.Fatalf("seed %d: %s", seed, wrong)
		}
	}
}

// history plays one random history and returns what was wrong with it.
func history(seed uint64) (wrong string) {
	defer func() {
		if r := recover(); r != nil {
			w, ok := r.(violation)
			if !ok {
				panic(r)
			}
			wrong = string(w)
		}
	}()
	o := newOracle(seed)
	for range 250 {
		o.step()
	}
	o.finish()
	return ""
}

type violation string

func newOracle(seed uint64) *oracle {
	rnd := rand.New(rand.NewPCG(seed, 1))
	o := &oracle{rnd: rnd, ten: NewTenure(1), state: map[string]string{}, waiting: map[any]*waiting{}}
	o.policy = Policy{Mailbox: 1 + rnd.IntN(6), MailboxBytes: 100 + rnd.IntN(400), HeldBytes: rnd.IntN(150), CacheBytes: rnd.IntN(1000),
		IdleTicks: uint64(rnd.IntN(3)), AllowStaleReplies: rnd.IntN(5) == 0}
	for i := range 1 + rnd.IntN(4) {
		o.objects = append(o.objects, &watched{id: actor.ID{Class: "C", Key: fmt.Sprint(i)}})
	}
	return o
}

func (o *oracle) fail(format string, args ...any) {
	panic(violation(fmt.Sprintf(format, args...) + "\nafter:\n" + strings.Join(o.log[max(0, len(o.log)-40):], "\n")))
}

func (o *oracle) note(format string, args ...any) {
	o.clock++
	o.log = append(o.log, fmt.Sprintf(format, args...))
}

func (o *oracle) step() {
	w := o.objects[o.rnd.IntN(len(o.objects))]
	switch n := o.rnd.IntN(1000); {
	case n < 350:
		o.deliver(w)
	case n < 700:
		if w.run != nil {
			o.endSomehow(w)
		}
	case n < 800:
		if o.applied < len(o.batches) && !o.lost { // nothing comes after Lost
			o.apply(o.applied + 1 + o.rnd.IntN(len(o.batches)-o.applied))
		}
	case n < 880:
		if o.confirmed < len(o.rounds) && !o.lost {
			o.confirm()
		}
	case n < 900:
		if w.run != nil && !o.lost {
			o.submitOrAwait(w)
		}
	case n < 950:
		o.look(w)
	case n < 990:
		o.housekeeping(w)
	case n < 992:
		o.note("drain")
		o.draining = true
		o.do(o.ten.Drain(nil))
	case n < 993:
		o.lose()
	}
	if o.ten.Running() != o.running() {
		o.fail("Running() = %d, want %d", o.ten.Running(), o.running())
	}
}

func (o *oracle) running() (n int) {
	for _, w := range o.objects {
		if w.run != nil {
			n++
		}
	}
	return n
}

func (o *oracle) deliver(w *watched) {
	e := &watchedEvent{o: w}
	o.events++
	e.Event = Event{Object: w.id, Bytes: 1 + o.rnd.IntN(100), Data: e}
	o.note("deliver to %v", w.id)
	unanswered, bytes := len(w.queue)+len(w.held), 0
	for _, x := range w.queue {
		bytes += x.Bytes
	}
	for _, x := range w.held {
		bytes += x.Bytes + x.bytes
	}
	if w.run != nil {
		unanswered++
		bytes += w.run.Bytes
	}
	var why Why
	switch {
	case o.lost:
		why = WhyMoved
	case o.draining:
		why = WhyDraining
	case unanswered > 0 && unanswered >= o.policy.Mailbox:
		why = WhyCount
	case unanswered > 0 && bytes+e.Bytes > o.policy.MailboxBytes:
		why = WhyBytes
	}
	out := o.ten.Deliver(nil, &e.Event, &o.policy)
	if why != 0 {
		if len(out) != 1 || out[0].Kind != ActRefuse || out[0].Why != why || out[0].Outcome != actor.DidNotRun {
			o.fail("%+v, want a refusal: %v", out, why)
		}
		return
	}
	w.queue = append(w.queue, e)
	o.do(out)
}

func (o *oracle) randomWrites(w *watched) (ws []store.Write) {
	if o.rnd.IntN(6) == 0 {
		ws = append(ws, store.Write{Key: []byte(w.id.Key + "."), End: []byte(w.id.Key + "/"), Delete: true})
	}
	for k := range 3 {
		if o.rnd.IntN(3) == 0 {
			ws = append(ws, store.Write{Key: fmt.Appendf(nil, "%s.%d", w.id.Key, k), Value: fmt.Append(nil, o.clock), Delete: o.rnd.IntN(3) == 0})
		}
	}
	return ws
}

func (o *oracle) endSomehow(w *watched) {
	e := w.run
	w.run = nil
	end := End{Reply: e, Bytes: o.rnd.IntN(100), Touched: true}
	e.bytes = end.Bytes
	switch n := o.rnd.IntN(20); {
	case n < 15:
		if o.rnd.IntN(2) == 0 {
			end.Writes = o.randomWrites(w)
		}
		if o.lost {
			end.Denied = o.rnd.IntN(2) == 0
		}
		end.Touched = len(end.Writes) > 0 || end.Denied || o.rnd.IntN(2) == 0
		end.Unconfirmed = o.rnd.IntN(4) == 0
		o.unconfirmed = end.Unconfirmed
		e.denied, e.wrote = end.Denied, len(end.Writes) > 0
		o.note("end on %v, %d writes", w.id, len(end.Writes))
		e.ended = o.clock
		w.held = append(w.held, e)
		o.do(o.ten.Ended(nil, &e.Event, end))
	case n < 17:
		o.note("reset on %v", w.id)
		e.ended, e.denied = o.clock, o.lost
		w.held = append(w.held, e)
		w.reset = w.act
		end.Writes = o.randomWrites(w)
		o.do(o.ten.Reset(nil, &e.Event, end, nil, nil))
	case n < 18:
		o.note("constructor failed on %v", w.id)
		w.reset = w.act
		for _, x := range append([]*watchedEvent{e}, w.queue...) {
			x.began, x.ended, x.denied, x.bytes = e.began, o.clock, o.lost, end.Bytes
			w.held = append(w.held, x)
			o.clock++
		}
		w.queue = nil
		o.do(o.ten.Failed(nil, &e.Event, end))
	default:
		o.note("skip on %v", w.id)
		e.skipped = true
		o.do(o.ten.Skip(nil, &e.Event, e))
	}
}

func (o *oracle) apply(to int) {
	o.note("applied %d", to)
	for o.applied < to {
		for _, w := range o.batches[o.applied].writes {
			if !w.Delete {
				o.state[string(w.Key)] = string(w.Value)
			}
			maps.DeleteFunc(o.state, func(k, _ string) bool { return w.Removes([]byte(k)) })
		}
		o.applied++
	}
	o.do(o.ten.Applied(nil, uint64(to)))
}

func (o *oracle) confirm() {
	o.confirmed++
	o.note("confirmed %d", o.confirmed)
	o.do(o.ten.Confirmed(nil, uint64(o.confirmed)))
}

func (o *oracle) submitOrAwait(w *watched) {
	if ws := o.randomWrites(w); len(ws) > 0 {
		o.note("submit on %v", w.id)
		if o.unconfirmed = o.rnd.IntN(4) == 0; o.unconfirmed {
			o.do(o.ten.SubmitUnconfirmed(nil, w.act, ws))
		} else {
			o.do(o.ten.Submit(nil, w.act, ws))
		}
	}
	name := fmt.Sprint("waiter ", o.clock)
	o.note("%s on %v", name, w.id)
	if o.rnd.IntN(2) == 0 {
		o.waiting[name] = &waiting{pos: o.newest(w, true)}
		o.do(o.ten.AwaitGate(nil, w.act, name))
		return
	}
	o.waiting[name] = &waiting{pos: o.newest(w, false)}
	o.do(o.ten.Await(nil, w.act, name))
}

func (o *oracle) housekeeping(w *watched) {
	if o.rnd.IntN(2) == 0 {
		o.note("tick")
		o.do(o.ten.Tick(nil))
		return
	}
	o.note("evict")
	out, ok := o.ten.Evict(nil)
	if ok != (len(out) == 1 && out[0].Kind == ActDrop) {
		o.fail("evicted %v: %+v", ok, out)
	}
	o.do(out)
}

func (o *oracle) lose() {
	o.note("lost")
	o.lost = true
	o.do(o.ten.Lost(nil))
	for _, w := range o.objects {
		if len(w.held)+len(w.queue) > 0 {
			o.fail("%v has %d held and %d waiting after the token was lost", w.id, len(w.held), len(w.queue))
		}
	}
	for name, x := range o.waiting {
		if !x.done {
			o.fail("%v still waits", name)
		}
	}
}

// newest is the object's newest batch, or the newest that what leaves waits for.
func (o *oracle) newest(w *watched, gate bool) int {
	for p := len(o.batches); p > 0; p-- {
		if b := o.batches[p-1]; b.o == w && (b.gates || !gate) {
			return p
		}
	}
	return 0
}

// ready is the rule of the gate.
func (o *oracle) ready(e *watchedEvent) bool {
	return o.applied >= e.pos && (o.policy.AllowStaleReplies || o.proved(e, o.applied, o.confirmed))
}

// proved: one of the first applied batches or of the first confirmed rounds was begun after e.
func (o *oracle) proved(e *watchedEvent, applied, confirmed int) bool {
	for _, b := range o.batches[:applied] {
		if b.at > e.began {
			return true
		}
	}
	return slices.ContainsFunc(o.rounds[:confirmed], func(at int) bool { return at > e.began })
}

func (o *oracle) do(out []Action) {
	lastEnded := 0
	for i := range out {
		a := &out[i]
		o.note("  %v", a.Kind)
		switch a.Kind {
		case ActStart:
			o.started(a)
		case ActSubmit:
			o.submitted(a)
		case ActConfirm:
			if int(a.Round) != len(o.rounds)+1 || o.confirmed < len(o.rounds) {
				o.fail("round %d begun, %d begun and %d confirmed before", a.Round, len(o.rounds), o.confirmed)
			}
			o.rounds = append(o.rounds, o.clock)
		case ActRespond, ActRefuse:
			lastEnded = o.answered(a, lastEnded)
		case ActWake:
			w := o.waiting[a.Waiter]
			if w.done || (a.Why != 0) != o.lost || !o.lost && w.pos > o.applied {
				o.fail("%v woken: %v; it waits for %d, applied is %d", a.Waiter, a.Why, w.pos, o.applied)
			}
			w.done = true
		case ActDrop:
			for _, w := range o.objects {
				if w.act == a.Activation && w.run != nil {
					o.fail("%v dropped while it runs", w.id)
				}
			}
		}
	}
	o.check()
}

func (o *oracle) started(a *Action) {
	e := a.Event.Data.(*watchedEvent)
	w := e.o
	if len(w.queue) == 0 || w.queue[0] != e || w.run != nil || o.lost || o.draining || a.Activation == w.reset {
		o.fail("%v must not start this event", w.id)
	}
	w.queue, w.run, w.act = w.queue[1:], e, a.Activation
	e.began = o.clock
}

func (o *oracle) submitted(a *Action) {
	if int(a.Pos) != len(o.batches)+1 || o.lost {
		o.fail("batch %d after %d, lost %v", a.Pos, len(o.batches), o.lost)
	}
	for _, w := range o.objects {
		if w.id == a.Activation.Object() {
			o.batches = append(o.batches, watchedBatch{w, a.Writes, o.clock, !o.unconfirmed})
			for _, e := range w.held {
				if !o.unconfirmed && e.pos == 0 && e == w.held[len(w.held)-1] && w.run == nil {
					e.pos = len(o.batches) // submitted by its own end
				}
			}
		}
	}
}

// answered checks one answer, and that answers of one step come in the order of ending; it returns when this one ended.
func (o *oracle) answered(a *Action, last int) int {
	e := a.Event.Data.(*watchedEvent)
	w := e.o
	if e.answered {
		o.fail("an event of %v is answered twice", w.id)
	}
	e.answered = true
	if i := slices.Index(w.queue, e); i >= 0 {
		if a.Kind != ActRefuse || a.Outcome != actor.DidNotRun || !o.lost && !o.draining {
			o.fail("a waiting event of %v is answered: %+v", w.id, a)
		}
		w.queue = slices.Delete(w.queue, i, i+1)
		return last
	}
	if e.skipped {
		if a.Kind != ActRespond || a.Reply != any(e) {
			o.fail("a skipped event is answered by %+v", a)
		}
		return last
	}
	i := slices.Index(w.held, e)
	if i != 0 {
		o.fail("%v: answer %d of the held ones comes first", w.id, i)
	}
	w.held = slices.Delete(w.held, i, i+1)
	e.pos = max(e.pos, o.newestBefore(w, e))
	mayLeave := !o.lost && o.ready(e) || o.lost && o.policy.AllowStaleReplies && !e.denied && !e.wrote && e.pos <= o.applied
	if (a.Kind == ActRespond) != mayLeave || a.Kind == ActRefuse && a.Outcome != actor.MayHaveRun {
		o.fail("%v: %v, %v; the reply may leave: %v", w.id, a.Kind, a.Outcome, mayLeave)
	}
	if e.ended < last {
		o.fail("%v: an event that ended at %d is answered after one that ended at %d", w.id, e.ended, last)
	}
	return e.ended
}

// newestBefore is the object's newest batch that what leaves waits for, and that was submitted before e ended.
func (o *oracle) newestBefore(w *watched, e *watchedEvent) int {
	for p := len(o.batches); p > 0; p-- {
		if b := o.batches[p-1]; b.o == w && b.gates && b.at < e.ended {
			return p
		}
	}
	return 0
}

// check is what must hold after every step: nothing waits that could go on, and whatever waits has reason to hope.
func (o *oracle) check() {
	if o.lost {
		return
	}
	held := 0
	for _, w := range o.objects {
		bytes := 0
		for _, e := range w.held {
			e.pos = max(e.pos, o.newestBefore(w, e))
			bytes += e.bytes
			held++
			if o.ready(e) {
				o.fail("%v: a reply is held without need: batch %d of %d applied", w.id, e.pos, o.applied)
			}
			if !o.policy.AllowStaleReplies && !o.proved(e, len(o.batches), len(o.rounds)) && o.confirmed == len(o.rounds) {
				o.fail("%v: a reply waits for a round that nobody asked for", w.id)
			}
		}
		if len(w.queue) > 0 && w.run == nil && !o.draining && bytes <= o.policy.HeldBytes {
			o.fail("%v: nothing runs, though an event waits", w.id)
		}
	}
	for name, x := range o.waiting {
		if !x.done {
			held++
			if x.pos <= o.applied {
				o.fail("%v waits without need", name)
			}
		}
	}
	if o.ten.Held() != held {
		o.fail("Held() = %d, want %d", o.ten.Held(), held)
	}
	if quiet := o.running() == 0 && held == 0 && o.applied == len(o.batches); o.ten.Quiet() != quiet {
		o.fail("Quiet() = %v", o.ten.Quiet())
	}
}

// look compares what a running event of w would see in memory.
func (o *oracle) look(w *watched) {
	if w.run == nil || o.lost {
		return
	}
	unapplied, cleared := map[string]store.Write{}, false
	for _, b := range o.batches[o.applied:] {
		if b.o == w {
			for _, x := range b.writes {
				if x.IsRange() {
					cleared = true
					clear(unapplied)
					continue
				}
				unapplied[string(x.Key)] = x
			}
		}
	}
	for k := range 3 {
		key := fmt.Sprintf("%s.%d", w.id.Key, k)
		v, present, found := o.ten.Lookup(w.act, []byte(key))
		want, dirty := unapplied[key]
		stored, exists := o.state[key]
		switch {
		case dirty && (!found || present == want.Delete || present && string(v) != string(want.Value)):
			o.fail("%s: %q, present %v, found %v, want %+v", key, v, present, found, want)
		case !dirty && cleared && (!found || present):
			o.fail("%s: %q, present %v, found %v, but all was removed", key, v, present, found)
		case !dirty && !cleared && found && (present != exists || present && string(v) != stored):
			o.fail("%s: remembered %q, present %v; the state has %q, %v", key, v, present, stored, exists)
		case !found:
			o.ten.Fill(w.act, []byte(key), []byte(stored), exists, o.ten.Pos(w.act))
		}
	}
	start, end := fmt.Sprintf("%s.%d", w.id.Key, o.rnd.IntN(3)), []byte(fmt.Sprintf("%s.%d", w.id.Key, o.rnd.IntN(4)))
	if o.rnd.IntN(3) == 0 {
		end = nil
	}
	var want []string
	for _, k := range slices.Sorted(maps.Keys(unapplied)) {
		if k >= start && (end == nil || k < string(end)) {
			want = append(want, k)
		}
	}
	var got []string
	listed, all := o.ten.Unapplied(w.act, []byte(start), end)
	if all != (cleared && end != nil) {
		o.fail("unapplied in [%s, %s) is all: %v; all was removed: %v", start, end, all, cleared)
	}
	for _, x := range listed {
		if y := unapplied[string(x.Key)]; y.Delete != x.Delete || !x.Delete && string(y.Value) != string(x.Value) {
			o.fail("unapplied %s: %+v, want %+v", x.Key, x, y)
		}
		got = append(got, string(x.Key))
	}
	if !slices.Equal(got, want) {
		o.fail("unapplied in [%s, %s): %v, want %v", start, end, got, want)
	}
}

// finish lets everything end: each event must have been answered, or be, and nothing be left.
func (o *oracle) finish() {
	for more := true; more; {
		more = false
		for _, w := range o.objects {
			if w.run != nil {
				o.endSomehow(w)
				more = true
			}
		}
		if o.lost {
			continue
		}
		if o.applied < len(o.batches) {
			o.apply(len(o.batches))
			more = true
		}
		if o.confirmed < len(o.rounds) {
			o.confirm()
			more = true
		}
	}
	if !o.ten.Quiet() {
		o.fail("not quiet at the end")
	}
	for _, w := range o.objects {
		if len(w.held)+len(w.queue) > 0 {
			o.fail("%v has %d held and %d waiting at the end", w.id, len(w.held), len(w.queue))
		}
	}
	if o.lost || o.draining {
		return
	}
	for range o.policy.IdleTicks + 1 {
		o.note("tick")
		o.do(o.ten.Tick(nil))
	}
	if n := o.ten.Activations(); n != 0 {
		o.fail("%d activations are left when all were idle for long", n)
	}
}
