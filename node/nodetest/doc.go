// Package nodetest runs whole clusters in one process, for tests of classes and of programs that use them. Nodes are whole: gossip, Raft, Pebble
// and the wire run as in production, on a network and on disks in memory. Nodes can be killed, cut off, stopped, started again
// and added, and objects moved.
//
//	synctest.Test(t, func(t *testing.T) {
//		c := nodetest.Start(t, 3, actor.Define("Counter", NewCounter))
//		ref := c.Client().Object("Counter", "visits")
//		…
//		c.Kill(c.Owner("Counter", "visits")) // the next call waits for the new owner
//	})
//
// In a bubble of testing/synctest time is virtual: a cluster of three forms in a tenth of a second, and five minutes of an idle one take one
// or two. Virtual time is not determinism: goroutines still run in any order. Without a bubble time is real; a cluster of three serves
// after about a second.
//
// Kill is a loss of power: the disk keeps what was synced, and nothing that the machine had on its way arrives; KillAt is one in the midst of what the node
// writes. It takes no files, so it does not
// test a disk that lies, and no sockets, so it does not test the kernel's; package cmd has tests with processes.
//
// A message takes 0.1 to 0.3 ms. That is also what moves virtual time under callers that never pause: where nothing waits, time stands still. So a
// loop that calls a cluster of one from within ([node.Node.Client]) must pause.
//
// In a bubble a test must not wait for anything outside it, and must not hold a lock while it waits for time: synctest does not count waiting for
// a lock as waiting. Everything that a test starts must end within 30 s of the cluster's time after the test.
package nodetest
