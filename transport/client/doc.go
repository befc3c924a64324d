// Package client is everything an application imports to call objects of a Ringfence cluster.
//
// Dial fetches the ring from any node; Object returns an actor.Ref that does no I/O until it is called. Calls of one Ref
// are pipelined and run in the order in which Call or Start was entered, or fail; they are never reordered. The client
// sends again by itself only what did not run, and what may have run if it has an idempotency key (actor.Idempotent): in its place, or,
// when later calls have run meanwhile, not at all.
//
// A node that stops says so (transport.KindGoAway): what is in flight is answered there, everything else goes to the next owner in
// order, and no call fails. Nodes that stop or cannot be reached are left out for a while (rests.go), so that few calls pay for what
// one has found out.
//
// A node that falls silent without a word, its host dead or the network cut, is noticed after twice Options.KeepAlive, about a second, by
// the calls that wait for it (silence.go): their outcome is unknown, and everything else goes to the next owner.
//
// The decisions (who is asked, what is sent again, when) are a state machine without goroutines, locks or clocks: the table
// of hints in router.go, the stream of one Ref in stream.go, the patience with one connection in silence.go. The rest of the package is the thin loop around it.
package client
