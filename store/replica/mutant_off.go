//go:build !mutant

package replica

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/ringfence/ringfence/store"
)

// The mutants weaken the protocol on purpose, to prove that the simulation notices; they exist under the build tag "mutant".

func mutServeEarly() bool                 { return false }
func mutSnapshotWithoutFence() bool       { return false }
func mutDropIsIgnored() bool              { return false }
func mutStaleEpoch() bool                 { return false }
func mutStaleTarget() bool                { return false }
func mutConfWithoutEpoch() bool           { return false }
func mutForwarding() bool                 { return false }
func readOnlyOption() raft.ReadOnlyOption { return raft.ReadOnlySafe }

func mutForgetsPromises() bool       { return false }
func mutPromiseWithoutTerm() bool    { return false }
func mutPromiseAsCandidate() bool    { return false }
func mutWaiverWithoutNumber() bool   { return false }
func mutTransferWaives() bool        { return false }
func mutCampaignWhilePromised() bool { return false }
func mutLateAcksCount() bool         { return false }
func mutLeaseSurvivesTransfer() bool { return false }

func mutKeepLease(*Group) bool                               { return false }
func mutKeptLease(*Group) (store.Token, time.Duration)       { return 0, 0 }
func mutHighest(_ *Group, until time.Duration) time.Duration { return until }
