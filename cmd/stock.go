package cmd

import (
	"slices"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/bench"
)

// withStock adds the classes that `bench` and the lines printed by `up` call, so that both work with any user's binary.
func withStock(classes []actor.Class) []actor.Class {
	all := slices.Clone(classes)
	for _, brought := range append(bench.Classes(), stock.Counter()) {
		if !slices.ContainsFunc(classes, func(c actor.Class) bool { return c.Name() == brought.Name() }) {
			all = append(all, brought)
		}
	}
	return all
}
