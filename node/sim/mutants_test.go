//go:build mutant

package sim

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

var hitsFlag = flag.Int("sim.hits", 100, "seeds to count a mutant's hits in, by the history alone and by all checks")

// mutantSeeds is how many seeds a mutant may survive that must be caught; survivorSeeds, how many one is run in that must not.
const (
	mutantSeeds   = 2000
	survivorSeeds = 60
)

// mutantCase is one weakened protocol. profile directs faults at it where the general mix finds it rarely.
type mutantCase struct {
	name     string
	set      func(on bool)
	profile  Profile
	survives string // why it must not be caught, "" if it must
}

func noSeqCheck(on bool)    { store.Mutant.NoSeqCheck = on }
func dropIsIgnored(on bool) { replica.Mutant.DropIsIgnored = on }

func staleTarget(on bool)      { replica.Mutant.StaleTarget = on }
func confWithoutEpoch(on bool) { replica.Mutant.ConfWithoutEpoch = on }

func both(a, b func(bool)) func(bool) { return func(on bool) { a(on); b(on) } }

func weak(x weakness) func(bool) {
	return func(on bool) {
		if mutant = 0; on {
			mutant = x
		}
	}
}

func keepsLease(on bool) {
	replica.Mutant.LeaseKept = on
	replica.ForgetMutants()
}

var mutantCases = []mutantCase{
	{name: "no sequence check, drop ignored", set: both(noSeqCheck, dropIsIgnored)},
	{name: "drop ignored", set: dropIsIgnored,
		survives: "the fence's sequence check refuses what follows a dropped batch, and that ends the token"},
	{name: "sequence not reset", set: func(on bool) { store.Mutant.SeqNotReset = on }},
	{name: "no token check", set: func(on bool) { store.Mutant.NoTokenCheck = on }},
	{name: "acquire with stale epoch", set: func(on bool) { store.Mutant.StaleEpoch, replica.Mutant.StaleEpoch = on, on }},
	{name: "serves before its acquire is applied", set: func(on bool) { replica.Mutant.ServeEarly = on }},
	{name: "snapshot without fence", set: func(on bool) { replica.Mutant.SnapshotWithoutFence = on }},
	{name: "Raft's own read lease", set: func(on bool) { replica.Mutant.ReadOnlyLease = on },
		profile: lateAnswers},
	{name: "acknowledges before fsync", set: weak(ackBeforeSync)},
	{name: "wiped disk under the old replica ID", set: weak(wipedRejoins)},
	{name: "fence in another batch than the state", set: weak(fenceApart)},
	{name: "reply at propose", set: func(on bool) { host.Mutant.ReplyAtPropose = on }},
	{name: "memory reads not held", set: func(on bool) { host.Mutant.MemoryReadsNotHeld = on }},
	{name: "no confirming round", set: func(on bool) { host.Mutant.NoConfirm = on }, profile: lateAnswers},
	{name: "older round joined", set: func(on bool) { host.Mutant.JoinEarlierRound = on }, profile: lateAnswers},
	{name: "token not checked again at release", set: func(on bool) { host.Mutant.StaleRelease = on }},
	{name: "promise forgotten after a restart", set: func(on bool) { replica.Mutant.ForgetsPromises = on },
		profile: quickRestarts},
	{name: "promise without term check", set: func(on bool) { replica.Mutant.PromiseWithoutTerm = on },
		profile: lateRequests},
	{name: "waiver lifts later promises", set: func(on bool) { replica.Mutant.WaiverWithoutNumber = on }, profile: lateCalls},
	{name: "Raft's transfer flag waives promises", set: func(on bool) { replica.Mutant.TransferWaives = on }, profile: lateReads},
	{name: "campaigns while promised", set: func(on bool) { replica.Mutant.CampaignWhilePromised = on }, profile: lateCalls},
	{name: "late promises revive a lease", set: func(on bool) { replica.Mutant.LateAcksCount = on }, profile: lateReads},
	{name: "lease not given up on transfer", set: func(on bool) { replica.Mutant.LeaseSurvivesTransfer = on }, profile: lateReads},
	{name: "lease kept on step-down", set: keepsLease, profile: cutOwners},
	{name: "configuration of an older ring, proposed and accepted", set: both(staleTarget, confWithoutEpoch), profile: moving},
	{name: "configuration of an older ring, proposed", set: staleTarget, profile: moving, survives: "the fence refuses it"},
	{name: "configuration of an older ring, accepted", set: confWithoutEpoch, profile: moving,
		survives: "who leads has applied all that came before, and proposes none"},
	{name: "replica IDs handed out again", set: func(on bool) { ring.Mutant.ReusedID = on }, profile: moving},
	{name: "end of a log lost, and not noticed", set: weak(noWatermark), profile: tails},
	{name: "commit index written apart from its entries", set: weak(commitApart), profile: movingAndCrashing},
	{name: "a copy of a directory runs beside it", set: weak(cloneRuns), profile: copying},
	{name: "Raft forwards proposals", set: func(on bool) { replica.Mutant.Forwarding = on }, profile: oneVersion,
		survives: "the fence knows what a superseded owner proposed, whoever brings it"},
	{name: "record of an idempotent call in another batch", set: weak(dedupApart)},
	{name: "snapshot without records of idempotent calls", set: weak(snapshotNoDedup)},
	{name: "alarm removed before its handler's writes", set: weak(alarmFirst)},
	{name: "entries of a form that the version before does not know", set: func(on bool) { store.Mutant.NewFormat = on }, profile: upgrading},
	{name: "what is told is read when it is stored", set: weak(toldUnread)},
	{name: "handle uses the node's current lease", set: weak(currentLease)},
}

var mutFlag = flag.String("sim.mutant", "", "only mutants whose name contains this")

func TestMutants(t *testing.T) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "mutant\tseeds needed\tcaught by\thits in %d: all checks\thistory alone\tprofile\n", *hitsFlag)
	for _, m := range mutantCases {
		if !strings.Contains(m.name, *mutFlag) {
			continue
		}
		row := huntMutant(t, m)
		fmt.Fprintln(tw, row)
		t.Log(row)
	}
	tw.Flush()
	t.Logf("\n%s", b.String())
}

func huntMutant(t *testing.T, m mutantCase) string {
	m.set(true)
	defer m.set(false)
	name := m.profile.Name
	if name == "" {
		name = "general"
	}
	if m.survives != "" {
		for seed := uint64(1); seed <= survivorSeeds; seed++ {
			if res := run(t, Config{Seed: seed, Profile: m.profile}); res.Violation != nil {
				t.Errorf("mutant %q must be survived (%s), but seed %d: %v", m.name, m.survives, seed, res.Violation)
				break
			}
		}
		return fmt.Sprintf("%s\tsurvived 60\t%s\t–\t–\t%s", m.name, m.survives, name)
	}
	needed, by := 0, ""
	for seed := uint64(1); seed <= mutantSeeds; seed++ {
		if res := run(t, Config{Seed: seed, Profile: m.profile}); res.Violation != nil {
			needed, by = int(seed), res.Violation.Invariant
			break
		}
	}
	if needed == 0 {
		t.Errorf("mutant %q was not caught in %d seeds", m.name, mutantSeeds)
		return fmt.Sprintf("%s\tnot caught in %d\t\t\t\t%s", m.name, mutantSeeds, name)
	}
	var hits [2]int
	for i, historyOnly := range []bool{false, true} {
		for seed := uint64(1); seed <= uint64(*hitsFlag); seed++ {
			if run(t, Config{Seed: seed, Profile: m.profile, HistoryOnly: historyOnly}).Violation != nil {
				hits[i]++
			}
		}
	}
	return fmt.Sprintf("%s\t%d\t%s\t%d\t%d\t%s", m.name, needed, by, hits[0], hits[1], name)
}
