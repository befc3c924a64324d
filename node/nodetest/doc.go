// Package nodetest runs whole clusters in one process, for tests of classes and of programs that use them: nodes over loopback with data
// directories of the test's, which can be killed, cut off, stopped, started again and added.
//
//	c := nodetest.Start(t, 3, actor.Define("Counter", NewCounter))
//	ref := c.Client().Object("Counter", "visits")
//	…
//	c.Kill(c.Owner("Counter", "visits")) // the next call waits for the new owner
//
// Time is real: nodes talk over sockets, which testing/synctest does not know. A cluster of three serves after two to three seconds, and a killed
// owner is replaced in about one. For one object in virtual time see package actor/actortest.
package nodetest
