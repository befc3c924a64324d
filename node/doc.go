// Package node puts the parts together: a [Node] is one process of a cluster.
//
// It listens, gossips, forms a cluster with others or finds the one it belongs to, runs a replica of every shard that the ring puts
// on it, and serves the objects of those it owns. Decisions are machines of their own: how a cluster forms (formation), what the
// sequencer commits next (sequencer), what a Group and a Tenure do; here are the loops beside them.
//
// DESIGN.md follows one call through all of it.
package node
