//go:build mutant

package replica

import "go.etcd.io/raft/v3"

// Mutant switches one weakening on. Only the simulation sets it, before a run, from one goroutine.
var Mutant struct {
	ServeEarly           bool // opens before the replica's own acquire is applied
	SnapshotWithoutFence bool // installing a snapshot leaves the old fence
	DropIsIgnored        bool // goes on under the token after Raft dropped a batch
	StaleEpoch           bool // acquires with the epoch it knows, though the fence has a higher one
	ConfWithoutEpoch     bool // a change of an older ring's configuration takes effect
	ReadOnlyLease        bool // Raft's own lease instead of confirming rounds
}

func mutServeEarly() bool           { return Mutant.ServeEarly }
func mutSnapshotWithoutFence() bool { return Mutant.SnapshotWithoutFence }
func mutDropIsIgnored() bool        { return Mutant.DropIsIgnored }
func mutStaleEpoch() bool           { return Mutant.StaleEpoch }
func mutConfWithoutEpoch() bool     { return Mutant.ConfWithoutEpoch }

func readOnlyOption() raft.ReadOnlyOption {
	if Mutant.ReadOnlyLease {
		return raft.ReadOnlyLeaseBased
	}
	return raft.ReadOnlySafe
}
