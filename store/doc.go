// Package store says what a shard's storage is: the [Fence] that decides whose writes take effect, the [Lease] that an owner
// writes through, the key layout, and the [Engine], one Pebble per node.
//
// The fence is pure. Every replica runs it over the same log and reaches the same verdicts; package store/replica drives it.
package store
