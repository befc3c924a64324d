//go:build mutant

package store

// Mutant switches one weakening of the fence on. Only the simulation sets it, before a run, from one goroutine.
var Mutant struct {
	NoSeqCheck, SeqNotReset, NoTokenCheck, StaleEpoch bool
}

func mutNoSeqCheck() bool   { return Mutant.NoSeqCheck }
func mutSeqNotReset() bool  { return Mutant.SeqNotReset }
func mutNoTokenCheck() bool { return Mutant.NoTokenCheck }
func mutStaleEpoch() bool   { return Mutant.StaleEpoch }
