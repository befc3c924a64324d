//go:build !mutant

package store

import "github.com/cockroachdb/pebble/v2"

// The mutants weaken fence and engine on purpose, to prove that the simulation, or a test, notices. They exist only under the build tag
// "mutant" (mutant_on.go); here they are constants that the compiler removes.

func mutNoSeqCheck() bool   { return false }
func mutSeqNotReset() bool  { return false }
func mutNoTokenCheck() bool { return false }
func mutStaleEpoch() bool   { return false }
func mutFatalReturns() bool { return false }
func mutNoTombstone() bool  { return false }

func batchKind() CommandKind                    { return KindBatch }
func knownKind(k CommandKind) CommandKind       { return k }
func databaseFormat() pebble.FormatMajorVersion { return pebbleFormat }
