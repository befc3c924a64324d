// Package inmem is a network in memory: hosts with addresses, listeners, streams and packets that behave as TCP and UDP do, and seeded faults
// between the hosts. Connections are net.Conn, listeners net.Listener.
//
//	net := inmem.New(1)
//	a, err := net.Host("10.0.0.1")
//	b, err := net.Host("10.0.0.2")
//	ln, err := b.Listen("10.0.0.2:80")
//	c, err := a.Dial(ctx, "10.0.0.2:80")
//	net.Cut(a, b) // silence: what is written waits, and arrives after Heal
//
// Whatever waits here waits on a condition, a channel or a timer, never on the system. So a network that is made in a bubble of
// testing/synctest lives in the bubble's time.
//
// Like the kernel's, a connection gives up when bytes have not arrived for 10 s; the other end may not learn of that. The seed decides
// delays within their bounds and which packets are lost; the order in which goroutines come is not seeded.
package inmem
