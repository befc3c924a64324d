// Package stock holds the classes that every node brings along: they are useful as they are, the demo and the benchmark run on them,
// and they show how a class is written. Each has a typed stub: NewCounterRef(client, "orders").Increment(ctx, 1).
package stock

import "github.com/ringfence/ringfence/actor"

//go:generate go run github.com/ringfence/ringfence/cmd/ringfence gen

// Classes are all of them.
func Classes() []actor.Class { return []actor.Class{Counter(), Map(), Lock(), RateLimiter(), Queue()} }
