// Package actortest runs objects of a user's class in a plain go test: no network, no disk, no node. It drives the same runtime as a node does
// (package actor/host), over a shard that lives in memory and does what the test says: writes can be held back or lost, and the object can
// be moved to another machine between any two accesses to storage.
//
//	func TestCounter(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			c := actortest.New[*Counter](t, actor.Define("Counter", NewCounter), "visits")
//			n, err := actor.Call[int64](t.Context(), c, "Increment", 2)
//			…
//			c.Advance(time.Hour) // alarms that are due run
//			c.Evict()            // memory is gone, storage is not
//			c.MoveAt(2)          // the second access to storage from here on finds that the object has moved
//		})
//	}
//
// Time is that of testing/synctest: within synctest.Test it is virtual and costs nothing. Outside everything works but Advance and FireAlarm.
// Other objects, of the same class or of those given by With, live beside the first and can be called by it.
package actortest
