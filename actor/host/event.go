package host

import "github.com/ringfence/ringfence/actor"

// Event is one thing delivered to an activation. Who drives a Tenure sets the exported fields and leaves them alone until an action
// answers the event.
type Event struct {
	Object actor.ID
	Bytes  int // what it weighs in a mailbox
	Data   any // the driver's

	next  *Event // in the mailbox
	round uint64 // the newest confirming round when it was started
	after uint64 // the newest batch when it was started
	held  held   // once it has ended
}
