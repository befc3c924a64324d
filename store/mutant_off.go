//go:build !mutant

package store

// The mutants weaken the fence on purpose, to prove that the simulation notices. They exist only under the build tag
// "mutant" (mutant_on.go); here they are constants that the compiler removes.

func mutNoSeqCheck() bool   { return false }
func mutSeqNotReset() bool  { return false }
func mutNoTokenCheck() bool { return false }
func mutStaleEpoch() bool   { return false }
