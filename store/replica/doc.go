// Package replica makes a shard's storage survive: one Raft group per shard, the fence in its log, one driver per node.
//
//   - [Group] is the protocol core of one replica: Raft's own machine, the fence, and, while the replica leads, the token,
//     the sequence of its batches and the lease, by promises or by having heard a majority. It has no goroutine, lock or clock; package node/sim drives it.
//   - [Driver] is the loop beside it: one goroutine steps all groups of a node, one appends to disk, with one batch and one
//     fsync for all groups, and one connection per peer carries their messages.
//   - [LogStore] and [StateStore] keep a group's log and state in the node's one Pebble.
//
// Consensus is go.etcd.io/raft, with its own leases and proposal forwarding off: both would break what the fence promises.
package replica
