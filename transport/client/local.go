package client

import (
	"context"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// Local is a node in this process, see Options.Local. It keeps the order of streams as over one connection: see transport.Call.
// All methods are safe for concurrent use.
type Local interface {
	// Node is its ID; 0 as long as it has none.
	Node() ring.NodeID
	// Call takes one call without blocking and answers it exactly once by done, from any goroutine, also before Call returns.
	// c.Arg must not be changed; the reply's Result belongs to the client.
	Call(c transport.Call, done func(transport.Reply))
	// Request answers a question, as KindRequest over a connection.
	Request(ctx context.Context, q transport.Request) (transport.Response, error)
}

// localSender is the way to Options.Local.
type localSender struct{ local Local }

// send implements sender. done may come while Call runs, that is under the ref's lock: then it is send that answers.
func (s localSender) send(c *call) (answer, bool) {
	const returned, answered = 1, 2
	var state atomic.Uint32
	var a answer
	s.local.Call(c.wire(), func(r transport.Reply) {
		ans := classify(&reply{r})
		a = ans
		if state.Swap(answered) == returned {
			c.ref.answered(c, ans)
		}
	})
	if state.Swap(returned) == answered {
		return a, false
	}
	return answer{}, true
}

func (s localSender) withdraw(*call) bool { return false }
func (s localSender) usable() bool        { return true }

// notUnderstood is the reply to a frame that the peer could not read: it did not run, and would not the next time.
func notUnderstood(text string) *reply {
	return &reply{transport.Reply{Code: uint16(actor.CodeInternal), Outcome: uint8(actor.DidNotRun),
		Message: "the node did not understand the call: " + text}}
}
