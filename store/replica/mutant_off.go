//go:build !mutant

package replica

import "go.etcd.io/raft/v3"

// The mutants weaken the protocol on purpose, to prove that the simulation notices; they exist under the build tag "mutant".

func mutServeEarly() bool                 { return false }
func mutSnapshotWithoutFence() bool       { return false }
func mutDropIsIgnored() bool              { return false }
func mutStaleEpoch() bool                 { return false }
func mutConfWithoutEpoch() bool           { return false }
func readOnlyOption() raft.ReadOnlyOption { return raft.ReadOnlySafe }
