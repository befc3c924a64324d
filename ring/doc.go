// Package ring holds the words of placement and the pure rules for it: nodes, shards, epochs, the immutable [Ring], and
// where replicas of a shard belong.
//
// Nothing here does I/O, starts a goroutine, reads a clock or depends on map order: the same members give the same ring on
// every node. A ring says who is *preferred*; who may write is decided by the fence in the shard's own log (package store).
package ring
