package sim

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// Stats counts what happened in runs.
type Stats struct {
	Seeds        int
	Virtual      time.Duration
	Acked        int                     // calls answered
	Kinds        [opKinds]int            // of them
	MayHaveRun   int                     // answered with an unknown outcome
	Refused      int                     // answers that a call did not run; it was sent again
	TimedOut     int                     // calls given up
	Long         int                     // events that waited in the middle
	Moved        int                     // storage accesses that failed because the object had moved
	Stale        int                     // replies held back because their activation was stale
	Waited       int                     // storage accesses that waited for the verdict
	Asked        int                     // requests for promises, and promises, that arrived
	Promised     int                     // of these, promises
	Removed      int                     // replicas that left a node
	Left         int                     // nodes that are members no more
	GivenUp      int                     // members that were dead for too long
	Steps        [ring.StepOrder + 1]int // of the planner
	Regressed    int                     // replicas found behind their watermark
	Abstaining   int                     // starts of such
	Halted       int                     // of them
	AlarmsSet    int                     // by calls
	Rang         int                     // alarms whose handler began
	NotDue       int                     // deliveries of alarms that were not due, or gone
	Again        int                     // idempotent calls sent again before they were answered, and alarms that failed
	Recalled     int                     // idempotent calls answered with what an earlier try came to
	Quiet        int                     // process starts after the first
	Acquires     int                     // tokens opened
	Released     int                     // tokens given back
	Snapshots    int                     // installed
	Chunks       int                     // of snapshots, sent
	Translated   int                     // messages between versions
	Unsent       int                     // snapshots given up
	Truncations  int
	Told         int // tasks of which an owner heard before they were stored
	Epochs       int
	Restarts     int
	Dropped      int // activations
	Syncs        int // events that waited for their writes
	Panics       int // events that were reset
	Faults       [classes]int
	SlowestServe time.Duration // slowest shard to answer after the last fault
}

// Add sums runs up.
func (s *Stats) Add(o *Stats) {
	s.Seeds += o.Seeds
	s.Virtual += o.Virtual
	for _, p := range []struct{ to, from *int }{{&s.Acked, &o.Acked}, {&s.MayHaveRun, &o.MayHaveRun}, {&s.Refused, &o.Refused},
		{&s.TimedOut, &o.TimedOut}, {&s.Long, &o.Long}, {&s.Moved, &o.Moved}, {&s.Stale, &o.Stale}, {&s.Waited, &o.Waited},
		{&s.Asked, &o.Asked}, {&s.Promised, &o.Promised}, {&s.Quiet, &o.Quiet}, {&s.Removed, &o.Removed}, {&s.Left, &o.Left}, {&s.GivenUp, &o.GivenUp},
		{&s.Regressed, &o.Regressed}, {&s.Abstaining, &o.Abstaining}, {&s.Halted, &o.Halted}, {&s.Chunks, &o.Chunks}, {&s.Translated, &o.Translated}, {&s.Unsent, &o.Unsent},
		{&s.AlarmsSet, &o.AlarmsSet}, {&s.Rang, &o.Rang}, {&s.NotDue, &o.NotDue}, {&s.Again, &o.Again}, {&s.Recalled, &o.Recalled},
		{&s.Acquires, &o.Acquires}, {&s.Released, &o.Released}, {&s.Snapshots, &o.Snapshots}, {&s.Truncations, &o.Truncations}, {&s.Told, &o.Told},
		{&s.Epochs, &o.Epochs}, {&s.Restarts, &o.Restarts},
		{&s.Dropped, &o.Dropped}, {&s.Syncs, &o.Syncs}, {&s.Panics, &o.Panics}} {
		*p.to += *p.from
	}
	for i := range s.Kinds {
		s.Kinds[i] += o.Kinds[i]
	}
	for i := range s.Steps {
		s.Steps[i] += o.Steps[i]
	}
	for i := range s.Faults {
		s.Faults[i] += o.Faults[i]
	}
	s.SlowestServe = max(s.SlowestServe, o.SlowestServe)
}

// line is one counter of a report.
type line struct {
	name  string
	value int
}

func (s *Stats) lines() []line {
	out := []line{{"seeds", s.Seeds}, {"calls answered", s.Acked}}
	for k, n := range s.Kinds[:clientKinds] {
		out = append(out, line{"  " + opKindNames[k], n})
	}
	out = append(out, line{"calls that may have run", s.MayHaveRun}, line{"calls timed out", s.TimedOut}, line{"tries refused", s.Refused},
		line{"events that waited in the middle", s.Long}, line{"storage accesses failed: moved", s.Moved},
		line{"storage accesses that waited", s.Waited}, line{"stale replies held back", s.Stale},
		line{"pings about promises", s.Asked}, line{"promises", s.Promised}, line{"starts with a quiet time", s.Quiet},
		line{"replicas removed", s.Removed}, line{"nodes gone", s.Left}, line{"members given up", s.GivenUp},
		line{"replicas found behind their watermark", s.Regressed}, line{"starts of such", s.Abstaining}, line{"such halted", s.Halted},
		line{"alarms set by calls", s.AlarmsSet}, line{"alarms run", s.Rang}, line{"alarms delivered that were not due", s.NotDue},
		line{"repetitions", s.Again}, line{"answered from an earlier try", s.Recalled}, line{"tokens opened", s.Acquires}, line{"tokens released", s.Released}, line{"process starts", s.Restarts},
		line{"activations dropped", s.Dropped}, line{"events that synced", s.Syncs}, line{"events that panicked", s.Panics},
		line{"snapshots installed", s.Snapshots}, line{"chunks of snapshots", s.Chunks}, line{"messages between versions", s.Translated}, line{"snapshots given up", s.Unsent}, line{"logs truncated", s.Truncations}, line{"tasks told before they were stored", s.Told}, line{"ring epochs", s.Epochs})
	for k := ring.StepJoin; k <= ring.StepOrder; k++ {
		out = append(out, line{"step: " + k.String(), s.Steps[k]})
	}
	total := 0
	for c, n := range s.Faults {
		if total += n; n == 0 && !allClasses.Has(Class(c)) {
			continue
		}
		out = append(out, line{"fault: " + Class(c).String(), n})
	}
	return append(out, line{"faults, all classes", total})
}

// Zero names the counters that are 0: what never happened was not tested.
func (s *Stats) Zero() (names []string) {
	for _, l := range s.lines() {
		if l.value == 0 {
			names = append(names, strings.TrimSpace(l.name))
		}
	}
	return names
}

// String is a table of all counters, one a line.
func (s *Stats) String() string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "virtual hours\t%.2f\t\n", s.Virtual.Hours())
	for _, l := range s.lines() {
		fmt.Fprintf(tw, "%s\t%d\t\n", l.name, l.value)
	}
	fmt.Fprintf(tw, "slowest shard to serve after the last fault\t%v\t\n", s.SlowestServe.Round(time.Millisecond))
	tw.Flush()
	return b.String()
}

// Minimise looks for a smaller set of fault classes with which a run still fails: it switches them off one at a time, and tries
// some other seeds too, since with one class less everything that is drawn afterwards is another. fails runs a Config.
func Minimise(cfg Config, on Classes, seeds int, fails func(Config) bool) Config {
	cfg.Profile.Only = on
	for c := range classes {
		if !cfg.Profile.Only.Has(c) || cfg.Profile.Only == set(c) {
			continue
		}
		try := cfg
		try.Profile.Only &^= set(c)
		for i := range seeds {
			if try.Seed = cfg.Seed + uint64(i)*1_000_003; fails(try) {
				cfg = try
				break
			}
		}
	}
	return cfg
}
