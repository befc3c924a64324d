// Package bench loads a cluster and says what it did: a fixed number of callers, each of which waits for its reply before it
// calls again, over a fixed number of objects of the stock class Counter.
//
// The loop is closed: a slow reply delays the caller's next call, so the latencies are those that so many callers see, not
// those of a fixed arrival rate. A [Result] carries what is needed to repeat or doubt it: version, processors, the disk's fsync time,
// every setting, errors by kind, and for increments whether the counters add up to what was acknowledged.
package bench
