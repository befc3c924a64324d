package nemesis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// op is one call as its caller saw it. Times are of CLOCK_MONOTONIC, so that those of several processes of one machine compare.
type op struct {
	Key        int
	Get        bool // else an increment by one
	Start, End time.Duration
	Value      int64 // what it returned, if it did not fail
	Fail       string
	Outcome    actor.Outcome // of a failed one
}

func (o op) ok() bool { return o.Fail == "" }

// checkCounter says why the calls of one counter, read as final after all of them, are not linearizable; nil if they are. With
// increments by one a returned value is the call's place in the only order there can be, so the rules are exact, in O(n log n):
//
//   - values of increments are unique, between 1 and final;
//   - a call that began after another ended has a higher value, or the same if it is a read;
//   - each place that no answered increment takes is taken by one that may have run, and that began before anybody saw that place.
func checkCounter(ops []op, final int64) error {
	var known, began, ended []op // answered calls, by value, by start and by end
	var unsure []time.Duration   // starts of increments that may have run
	for _, o := range ops {
		switch {
		case o.ok():
			known = append(known, o)
		case !o.Get && o.Outcome != actor.DidNotRun:
			unsure = append(unsure, o.Start)
		}
	}
	known = append(known, op{Get: true, Start: math.MaxInt64 - 1, End: math.MaxInt64, Value: final})
	began, ended = slices.Clone(known), slices.Clone(known)
	slices.SortFunc(began, func(a, b op) int { return cmp.Compare(a.Start, b.Start) })
	slices.SortFunc(ended, func(a, b op) int { return cmp.Compare(a.End, b.End) })
	if err := checkRealTime(began, ended); err != nil {
		return err
	}
	return checkPlaces(known, unsure, final)
}

func checkRealTime(began, ended []op) error {
	var last op // the ended call of the highest value
	next := 0
	for _, o := range began {
		for ; next < len(ended) && ended[next].End < o.Start; next++ {
			if ended[next].Value >= last.Value {
				last = ended[next]
			}
		}
		if o.Get && o.Value < last.Value {
			return fmt.Errorf("stale: a read that began at %v returned %d after %d had been returned at %v", o.Start, o.Value, last.Value, last.End)
		}
		if !o.Get && o.Value <= last.Value {
			return fmt.Errorf("lost: an increment that began at %v returned %d after %d had been returned at %v", o.Start, o.Value, last.Value, last.End)
		}
	}
	return nil
}

// checkPlaces goes through the places from the last to the first, to know when each was seen first, and then matches those that are
// free with the increments that may have run. A place that is seen later can be taken by all that can take an earlier one: so counting does.
func checkPlaces(known []op, unsure []time.Duration, final int64) error {
	slices.SortFunc(known, func(a, b op) int { return cmp.Compare(b.Value, a.Value) })
	slices.Sort(unsure)
	taken := map[int64]bool{}
	answered := 0
	for _, o := range known {
		if o.Value < 0 || o.Value > final || !o.Get && o.Value == 0 {
			return fmt.Errorf("a call returned %d; the counter is %d", o.Value, final)
		}
		if o.Get {
			continue
		}
		if taken[o.Value] {
			return fmt.Errorf("doubled: two increments returned %d", o.Value)
		}
		taken[o.Value] = true
		answered++
	}
	if holes := final - int64(answered); holes < 0 || holes > int64(len(unsure)) {
		return fmt.Errorf("the counter is %d after %d acknowledged increments and %d that may have run", final, answered, len(unsure))
	}
	free := final - int64(answered) // free places up to the current one
	seen, next := time.Duration(math.MaxInt64), 0
	for place := final; place > 0; place-- {
		for ; next < len(known) && known[next].Value >= place; next++ {
			seen = min(seen, known[next].End)
		}
		if taken[place] {
			continue
		}
		could := sort.Search(len(unsure), func(i int) bool { return unsure[i] >= seen })
		if int64(could) < free {
			return fmt.Errorf("%d places up to %d were seen at %v, when only %d increments that may have run had begun", free, place, seen, could)
		}
		free--
	}
	return nil
}

// outage is the longest time without a success of one object, of the times that overlap [from, to]. ops are in any order.
func outage(ops []op, from, to time.Duration) time.Duration {
	var ends []time.Duration
	for _, o := range ops {
		if o.ok() {
			ends = append(ends, o.End)
		}
	}
	slices.Sort(ends)
	longest, last := time.Duration(0), from
	for _, e := range ends {
		if e > from && last < to {
			longest = max(longest, e-last)
		}
		last = e
	}
	if last < to {
		longest = max(longest, to-last)
	}
	return longest
}

// quantile of sorted durations; 0 if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)]
}
