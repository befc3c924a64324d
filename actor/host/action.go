package host

import (
	"strconv"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// ActionKind is what a Tenure wants done.
type ActionKind uint8

const (
	// ActStart: run Event on Activation; the constructor first if it has not run yet. Answered by exactly one of Ended,
	// Reset, Failed and Skip.
	ActStart ActionKind = iota + 1
	// ActSubmit: commit Writes as batch Pos. Must be done before the next call of the Tenure, so that batches keep their order.
	ActSubmit
	// ActConfirm: begin confirming round Round. Like ActSubmit in order.
	ActConfirm
	// ActRespond: Reply leaves to the caller of Event.
	ActRespond
	// ActRefuse: the caller of Event gets an error: Why and Outcome.
	ActRefuse
	// ActWake: what waits for Await or Regain goes on with Waiter; if Why is not zero, without effect.
	ActWake
	// ActDrop: forget the memory of Activation. No event of it runs.
	ActDrop
)

// Why is the reason of a refusal.
type Why uint8

const (
	WhyCount    Why = iota + 1 // too many events of the object are not yet answered
	WhyBytes                   // they hold too many bytes
	WhyMoved                   // the token is over
	WhyDraining                // the shard is being handed over: nothing is started any more
	WhyAge                     // the first of the mailbox has waited too long
	WhyRate                    // too many events of the object came in a short time
	WhyReset                   // the activation was thrown away
)

// Action is one thing to be done, in the order in which they were returned.
type Action struct {
	Kind       ActionKind
	Why        Why
	Outcome    actor.Outcome
	Activation *Activation
	Event      *Event
	Reply      any
	Waiter     any
	Writes     []store.Write
	Pos, Round uint64
}

func (k ActionKind) String() string {
	names := [...]string{ActStart: "start", ActSubmit: "submit", ActConfirm: "confirm", ActRespond: "respond", ActRefuse: "refuse",
		ActWake: "wake", ActDrop: "drop"}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return "action " + strconv.Itoa(int(k))
}

func (w Why) String() string {
	names := [...]string{"", WhyCount: "too many events", WhyBytes: "too many bytes", WhyMoved: "moved", WhyDraining: "draining", WhyAge: "waiting too long", WhyRate: "too many at once",
		WhyReset: "reset"}
	if int(w) < len(names) {
		return names[w]
	}
	return "reason " + strconv.Itoa(int(w))
}
