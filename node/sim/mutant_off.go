//go:build !mutant

package sim

// mutant weakens what the simulation itself does in place of a driver; it can be set under the build tag "mutant" only.
const mutant = weakness(0)
