package client

import "github.com/ringfence/ringfence/transport"

// call is one call on its way.
type call struct {
	routed
}

// reply is what a server said; it owns its bytes.
type reply struct {
	transport.Reply
}
