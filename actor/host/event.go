package host

import (
	"time"

	"github.com/ringfence/ringfence/actor"
)

// Encoding tags the bytes of an argument or a result; the numbers are those of transport.Encoding.
type Encoding uint8

const (
	EncodingNone    Encoding = 0 // no argument, no result
	EncodingMsgpack Encoding = 1
	EncodingJSON    Encoding = 2
)

// Event is one thing delivered to an activation: a call. From Deliver until Respond it belongs to the host.
type Event struct {
	Object   actor.ID
	Method   string
	Encoding Encoding  // of Arg; the result has the same, msgpack if there is no argument
	Arg      []byte    // not changed until Respond
	Deadline time.Time // zero: none
	Chain    []string  // objects that wait for this call, outermost first
	// Respond is called exactly once, on any goroutine, and must not block. The result is the receiver's.
	Respond func(*Result)
	// Data is for who drives a Tenure by itself; the Host does not touch it.
	Data any

	// Kept by the Tenure.
	next  *Event
	size  int
	round uint64 // the newest confirming round when it was started
	after uint64 // the newest batch when it was started
}

// Result answers an event: an error, or the encoded return value of the method.
type Result struct {
	Err      *actor.Error // nil on success
	Encoding Encoding     // EncodingNone if the method returns no value
	Body     []byte
	Epoch    uint64 // of the owner's lease; 0 if this node does not own the shard
	Token    uint64
}

// eventOverhead is what an event costs beside its strings and bytes, so that empty events count too.
const eventOverhead = 256

func (ev *Event) weight() int {
	return eventOverhead + len(ev.Object.Class) + len(ev.Object.Key) + len(ev.Method) + len(ev.Arg)
}
