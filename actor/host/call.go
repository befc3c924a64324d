package host

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// Call is one call of a method, as Deliver takes it. From then until Respond it and all it refers to belong to the host.
type Call struct {
	Object   actor.ID
	Method   string
	Encoding uint8     // of Arg, an actor.Encoding; the result has the same, msgpack if there is no argument
	Arg      []byte    // not changed by anyone
	Deadline time.Time // zero: none
	Chain    []string  // objects that wait for this call, outermost first
	// Idempotent is the idempotency key, see actor.Idempotent; empty for none.
	Idempotent string
	// Visit, if set, is run instead of a method, with what the class's constructor returned: for test kits. It has no result.
	Visit func(ctx context.Context, object any) error
	// Respond is called exactly once, on any goroutine, and must not block. The result is the receiver's.
	Respond func(*Result)
}

// Result answers a call: an error, or the encoded return value of the method.
type Result struct {
	Err      *actor.Error // nil on success
	Encoding uint8        // actor.EncodingNone if the method returns no value
	Value    []byte
	Epoch    uint64 // of the owner's lease; 0 if this node does not own the shard
	Token    uint64
}

// callOverhead is what a call costs beside its strings and bytes, so that empty ones count too.
const callOverhead = 512

func (c *Call) weight() int {
	return callOverhead + len(c.Object.Class) + len(c.Object.Key) + len(c.Method) + len(c.Arg) + len(c.Idempotent)
}

// comesBack: its object waits for it.
func (c *Call) comesBack() bool {
	return len(c.Chain) > 0 && slices.Contains(c.Chain, c.Object.String())
}

func (c *Call) cycle() *actor.Error {
	return &actor.Error{Code: actor.CodeCallCycle, Outcome: actor.DidNotRun, Object: c.Object,
		Message: "the call came back to an object that waits for it: " + strings.Join(append(slices.Clone(c.Chain), c.Object.String()), " → ")}
}
