//go:build !mutant

package host

// The mutants weaken the gate on purpose, to prove that the simulation notices. They exist only under the build tag "mutant"
// (mutant_on.go); here they are constants that the compiler removes.

func mutReplyAtPropose() bool     { return false }
func mutMemoryReadsNotHeld() bool { return false }
func mutNoConfirm() bool          { return false }
func mutJoinEarlierRound() bool   { return false }
func mutStaleRelease() bool       { return false }
