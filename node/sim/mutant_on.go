//go:build mutant

package sim

// mutant weakens what the simulation itself does in place of a driver. Only TestMutants sets it, before a run.
var mutant weakness
