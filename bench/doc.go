// Package bench loads a system of named objects and says what it did.
//
// A [Target] is what is loaded: Ringfence, see [NewCounters], or any other system. [Drive] asks of it what a [Load] says: either so many
// callers, each of which waits for its reply before it calls again (a closed loop: a slow reply delays the caller's next call, and
// latencies are those that so many callers see), or so many operations a second, each begun when it is due (an open loop: latencies count
// from when an operation was due, so a system that stands still pays for all that it kept waiting). [Measure] drives several times, each
// time on a target of its own, and [WriteTable] prints results of any systems side by side.
//
// A [Result] carries what is needed to repeat or doubt it: the [Machine] with its processors, its disk's fsync time and the program's
// commit, every setting, errors by kind, the whole distribution of latencies, the time line, the processor time of all processes, and
// the [Check] that compares what the system holds with what its callers were told.
package bench
