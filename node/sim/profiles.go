package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/store/replica"
)

// Profile directs the faults and the load of a run. The zero value means the general mix.
type Profile struct {
	Name       string
	Only       Classes       // if not 0, these classes and no others are on
	Never      Classes       // off, even if drawn
	FaultEvery time.Duration // mean time between discrete faults. Default 1.2 s
	Think      time.Duration // mean time a client waits between calls. Default 40 ms
	Clients    int           // default 4
	Nodes      int           // 0: drawn
	Timeout    time.Duration // after which a client gives a call up. Default 3 s
	Lease      string        // "clock" or "quorum"; "": drawn
	Reads      float64       // share of calls that only read memory, beside those that are drawn so. Default 0
	Wander     float64       // share of calls that go to any node, under the class "wrong ring". Default 0.05
	LongEvents float64       // share of events that wait in the middle, up to several election timeouts. Default 0.08
}

func (p *Profile) fill() {
	if p.FaultEvery == 0 {
		p.FaultEvery = 1200 * time.Millisecond
	}
	if p.Think == 0 {
		p.Think = 40 * time.Millisecond
	}
	if p.Clients == 0 {
		p.Clients = 4
	}
	if p.Timeout == 0 {
		p.Timeout = 3 * time.Second
	}
	if p.Wander == 0 {
		p.Wander = 0.05
	}
	if p.LongEvents == 0 {
		p.LongEvents = 0.08
	}
}

// Profiles direct the faults of a run, by name. Mutants and seeds of the corpus name the one that they need; the general mix has none.
var Profiles = byName(lateAnswers, lateCalls, lateReads, quickRestarts, lateRequests, lateMessages, cutOwners, moving, movingAndCrashing, copying, tails, upgrading, oneVersion)

func byName(ps ...Profile) map[string]Profile {
	all := make(map[string]Profile, len(ps))
	for _, p := range ps {
		all[p.Name] = p
	}
	return all
}

var (
	// lateAnswers are faults that let an owner believe that it heard from a majority a moment ago, though that was long ago.
	lateAnswers = Profile{Name: "late-answers", Lease: "quorum", Nodes: 3, Only: set(cutEcho, wrongHint), FaultEvery: 3 * time.Second,
		Think: 20 * time.Millisecond, Clients: 10, Timeout: 800 * time.Millisecond}

	lateCalls     = clockLease("late-calls", lateCall)
	lateReads     = manyReads(lateCalls)
	quickRestarts = manyReads(clockLease("quick-restarts", quickRestart))
	lateRequests  = clockLease("late-requests", lateRequest)
	lateMessages  = anySize(clockLease("late-messages", cutOne, cutOneWay, cutLink, cutEcho, delay, reorder, rawTransfer, clockRate))
	cutOwners     = clockLease("cuts-and-transfers", rawTransfer, handOver, cutOne, cutOneWay, cutEcho, delay)

	// moving moves replicas while leaders change and rings come late.
	moving = Profile{Name: "moving", Only: set(joinNode, leaveNode, wipe, rawTransfer, wrongHint, cutOne, cutOneWay, crash, delay, reorder),
		FaultEvery: 500 * time.Millisecond}

	// movingAndCrashing has voters crash while their group changes.
	movingAndCrashing = Profile{Name: "moving-and-crashing", Only: set(joinNode, leaveNode, wipe, crashInChange), FaultEvery: 2 * time.Second}

	// copying runs copies of directories, in small clusters.
	copying = Profile{Name: "copies", Nodes: 3, Only: set(cloneDisk, cutOne, cutOneWay, rawTransfer, delay), FaultEvery: 400 * time.Millisecond}

	// tails loses the ends of logs, and makes leaders change.
	tails = Profile{Name: "tails", Nodes: 3, Only: set(lostTail, rawTransfer, cutOne, crash, powerLoss), FaultEvery: 500 * time.Millisecond, Think: 10 * time.Millisecond}

	// upgrading restarts processes of two versions, over and over.
	upgrading = Profile{Name: "upgrading", Only: set(mixedVersions, drainNode, crash, wipe), FaultEvery: 700 * time.Millisecond}

	// oneVersion is the general mix without translation: what the wire of the version before would refuse gets through.
	oneVersion = Profile{Name: "one-version", Never: set(mixedVersions)}
)

// clockLease directs faults at leases that rest on promises: owners cut off right after something that ends the lease, calls that find
// them, and clients that find the new owner soon.
func clockLease(name string, cs ...Class) Profile {
	return Profile{Name: name, Lease: "clock", Nodes: 3, Only: set(append(cs, wrongHint)...), FaultEvery: 2 * time.Second,
		Think: 8 * time.Millisecond, Clients: 10, Timeout: 800 * time.Millisecond}
}

// anySize draws how many nodes there are.
func anySize(p Profile) Profile {
	p.Nodes = 0
	return p
}

// manyReads has few writes: one that an old owner cannot propose ends its token.
func manyReads(p Profile) Profile {
	p.Name, p.Reads, p.Wander = p.Name+"-reads", 0.85, 0.5
	return p
}

// ParseConfig reads a line of a corpus: seed, virtual seconds (0: default), profile (-: the general mix), and the classes of faults that are on (-: as drawn, or
// as the profile says), with commas between.
func ParseConfig(line string) (c Config, err error) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return c, fmt.Errorf("%d words", len(fields))
	}
	if c.Seed, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return c, err
	}
	seconds, err := strconv.Atoi(fields[1])
	if err != nil {
		return c, err
	}
	c.Virtual = time.Duration(seconds) * time.Second
	if fields[2] != "-" {
		p, ok := Profiles[fields[2]]
		if !ok {
			return c, fmt.Errorf("no profile %q; there are: %v", fields[2], slices.Sorted(maps.Keys(Profiles)))
		}
		c.Profile = p
	}
	if only := strings.Join(fields[3:], " "); only != "-" {
		c.Profile.Only, err = ParseClasses(only)
	}
	return c, err
}

var timing = replica.LANTiming
