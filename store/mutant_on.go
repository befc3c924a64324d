//go:build mutant

package store

import "github.com/cockroachdb/pebble/v2"

// Mutant switches one weakening on. Only the simulation and tests set it, before a run, from one goroutine.
var Mutant struct {
	NoSeqCheck, SeqNotReset, NoTokenCheck, StaleEpoch bool

	NewFormat    bool // batches are written in a form that the version before does not know
	OldDatabase  bool // Pebble's own default for its format: the oldest
	FatalReturns bool // the process goes on after an error of the log's
	NoTombstone  bool // a replica that was removed may be made again
}

func mutNoSeqCheck() bool   { return Mutant.NoSeqCheck }
func mutSeqNotReset() bool  { return Mutant.SeqNotReset }
func mutNoTokenCheck() bool { return Mutant.NoTokenCheck }
func mutStaleEpoch() bool   { return Mutant.StaleEpoch }
func mutFatalReturns() bool { return Mutant.FatalReturns }
func mutNoTombstone() bool  { return Mutant.NoTombstone }

const kindBatchNew CommandKind = 9

func batchKind() CommandKind {
	if Mutant.NewFormat {
		return kindBatchNew
	}
	return KindBatch
}

func knownKind(k CommandKind) CommandKind {
	if Mutant.NewFormat && k == kindBatchNew {
		return KindBatch
	}
	return k
}

func databaseFormat() pebble.FormatMajorVersion {
	if Mutant.OldDatabase {
		return pebble.FormatDefault
	}
	return pebbleFormat
}
