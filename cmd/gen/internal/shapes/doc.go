// Package shapes holds classes of every shape, good and bad, for the tests of gen: what actor.Define says of them, by reflection, and what gen
// says, from this source, must agree.
package shapes
