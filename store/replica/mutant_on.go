//go:build mutant

package replica

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/ringfence/ringfence/store"
)

// Mutant switches one weakening on. Only the simulation sets it, before a run, from one goroutine.
var Mutant struct {
	ServeEarly           bool // opens before the replica's own acquire is applied
	SnapshotWithoutFence bool // installing a snapshot leaves the old fence
	DropIsIgnored        bool // goes on under the token after Raft dropped a batch
	StaleEpoch           bool // acquires with the epoch it knows, though the fence has a higher one
	ConfWithoutEpoch     bool // a change of an older ring's configuration takes effect
	StaleTarget          bool // a leader proposes a change of an older ring than the fence has seen
	ReadOnlyLease        bool // Raft's own lease instead of confirming rounds
	Forwarding           bool // Raft passes proposals of a replica that leads no more on to who does

	ForgetsPromises       bool // no quiet time after a start
	PromiseWithoutTerm    bool // promises to whoever asks
	PromiseAsCandidate    bool // promises in the right term, though it does not follow who asks
	WaiverWithoutNumber   bool // a waiver lifts later promises too
	TransferWaives        bool // Raft's own transfer flag lifts promises
	CampaignWhilePromised bool // a promise does not keep a replica from campaigning itself
	LateAcksCount         bool // promises that were on their way when the lease was given up count again
	LeaseSurvivesTransfer bool // the lease is not given up when leadership is handed on
	LeaseKept             bool // the lease is used to its end though leadership is lost
	LeaseNotLowered       bool // a change of the configuration never shortens the lease
}

func mutServeEarly() bool           { return Mutant.ServeEarly }
func mutSnapshotWithoutFence() bool { return Mutant.SnapshotWithoutFence }
func mutDropIsIgnored() bool        { return Mutant.DropIsIgnored }
func mutStaleEpoch() bool           { return Mutant.StaleEpoch }
func mutStaleTarget() bool          { return Mutant.StaleTarget }
func mutConfWithoutEpoch() bool     { return Mutant.ConfWithoutEpoch }

func mutForwarding() bool { return Mutant.Forwarding }

func readOnlyOption() raft.ReadOnlyOption {
	if Mutant.ReadOnlyLease {
		return raft.ReadOnlyLeaseBased
	}
	return raft.ReadOnlySafe
}

func mutForgetsPromises() bool       { return Mutant.ForgetsPromises }
func mutPromiseWithoutTerm() bool    { return Mutant.PromiseWithoutTerm }
func mutPromiseAsCandidate() bool    { return Mutant.PromiseAsCandidate }
func mutWaiverWithoutNumber() bool   { return Mutant.WaiverWithoutNumber }
func mutTransferWaives() bool        { return Mutant.TransferWaives }
func mutCampaignWhilePromised() bool { return Mutant.CampaignWhilePromised }
func mutLateAcksCount() bool         { return Mutant.LateAcksCount }
func mutLeaseSurvivesTransfer() bool { return Mutant.LeaseSurvivesTransfer }

// kept is a lease that goes on after its leadership.
type kept struct {
	token store.Token
	until time.Duration
}

var (
	keptLeases = map[*Group]kept{}
	highest    = map[*Group]kept{}
)

// ForgetMutants drops what mutants remember of earlier runs.
func ForgetMutants() {
	clear(keptLeases)
	clear(highest)
}

func mutKeepLease(g *Group) bool {
	token, until := g.LeaseUntil()
	if !Mutant.LeaseKept || token == 0 || until <= g.now {
		return false
	}
	keptLeases[g] = kept{token, until}
	return true
}

func mutKeptLease(g *Group) (store.Token, time.Duration) {
	k := keptLeases[g]
	return k.token, k.until
}

func mutHighest(g *Group, until time.Duration) time.Duration {
	if !Mutant.LeaseNotLowered {
		return until
	}
	if h := highest[g]; h.token == g.lead.token {
		until = max(until, h.until)
	}
	highest[g] = kept{g.lead.token, until}
	return until
}
