package host

import "github.com/ringfence/ringfence/actor"

// Event is one thing delivered to an activation. Who drives a Tenure sets the exported fields and leaves them alone until an action
// answers the event.
type Event struct {
	Object actor.ID
	Bytes  int  // what it weighs in a mailbox
	Free   bool // counts in no limit of its mailbox
	Inner  bool // an event of the same object waits for this one: it is on the call's chain
	Data   any  // the driver's

	next  *Event // in a queue of events
	since uint64 // tick of its delivery
	a     *Activation
	round uint64 // the newest confirming round when it was started
	after uint64 // the newest batch when it was started
	held  held   // once it has ended

	pins     int  // critical sections that it is in
	waiter   any  // what to wake when it gets the turn back
	answered bool // its caller was told by a reset what it does not know yet
	task     bool // nobody waits for an answer
	progress node[Event]
}

// eventQueue is a FIFO of events, which stand in one at a time.
type eventQueue struct{ first, last *Event }

func (q *eventQueue) push(ev *Event) {
	if q.last == nil {
		q.first = ev
	} else {
		q.last.next = ev
	}
	q.last, ev.next = ev, nil
}

func (q *eventQueue) pop() *Event {
	ev := q.first
	if q.first = ev.next; q.first == nil {
		q.last = nil
	}
	ev.next = nil
	return ev
}

// take removes the first event that ok accepts; nil if there is none.
func (q *eventQueue) take(ok func(*Event) bool) *Event {
	var before *Event
	for ev := q.first; ev != nil; before, ev = ev, ev.next {
		if !ok(ev) {
			continue
		}
		if before == nil {
			return q.pop()
		}
		if before.next = ev.next; q.last == ev {
			q.last = before
		}
		ev.next = nil
		return ev
	}
	return nil
}
