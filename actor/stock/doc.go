// Package stock holds the classes that every node brings along: they are useful as they are, the demo and the benchmark run on them,
// and they show how a class is written.
package stock

import "github.com/ringfence/ringfence/actor"

// Classes are all of them.
func Classes() []actor.Class { return []actor.Class{Counter(), Map(), Lock(), RateLimiter(), Queue()} }
