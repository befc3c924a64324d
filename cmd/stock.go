package cmd

import (
	"slices"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
)

// withStock adds the stock class that `bench` and the lines printed by `up` call, so that both work with any user's binary.
func withStock(classes []actor.Class) []actor.Class {
	counter := stock.Counter()
	if slices.ContainsFunc(classes, func(c actor.Class) bool { return c.Name() == counter.Name() }) {
		return classes
	}
	return append(slices.Clone(classes), counter)
}
