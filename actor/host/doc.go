// Package host runs the activations of a node's objects. What is decided is decided by [Tenure], a machine without goroutines,
// locks and clocks: one per shard and token. Around it stands the [Host], which runs the classes' code, talks to the lease and
// answers callers. The event's path and the rule of the gate are told in ../DESIGN.md.
package host
