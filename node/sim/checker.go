package sim

import (
	"fmt"
	"sort"
	"time"
)

// Outcome is what a client knows of a call.
type Outcome uint8

const (
	Open      Outcome = iota // no answer: it may have run, or may yet
	Ran                      // answered
	DidNotRun                // refused, and not sent again
)

// Op is one call of a history. Of a write that was answered, Number is the version it made; of a read, the version it saw and
// Seen the operation that made it (0: the object was new).
type Op struct {
	ID           uint64
	Object       int // over all shards
	Write        bool
	Echo         bool // touches nothing of the object, or may be stale: not checked
	Call, Return time.Duration
	Outcome      Outcome
	Number, Seen uint64
}

// CheckObject checks one object's calls against the versions that took effect, in their order, in O(n log n):
//
//   - the versions are 1, 2, 3 …, each made by another operation, each naming the one before: nothing was lost or doubled;
//   - an answered write made the version it says; a refused one made none; a read saw a version that exists;
//   - an operation that was called after another returned has a higher version if it is a write, none lower if it is a read.
//
// With versions unique and chained this is all that linearizability of a register asks for.
func CheckObject(ops []Op, chain []Version) error {
	made := make(map[uint64]uint64, len(chain)) // operation → version
	prev := uint64(0)
	for i, v := range chain {
		switch {
		case made[v.Op] != 0:
			return fmt.Errorf("op %d took effect twice: versions %d and %d", v.Op, made[v.Op], i+1)
		case v.Number != uint64(i)+1 || v.Prev != prev:
			return fmt.Errorf("effect %d is version %d of op %d after op %d; before it was op %d: computed on something else than it was applied to",
				i+1, v.Number, v.Op, v.Prev, prev)
		}
		made[v.Op], prev = v.Number, v.Op
	}
	for i := range ops {
		if err := checkOp(&ops[i], chain, made); err != nil {
			return err
		}
	}
	return checkRealTime(ops, made)
}

func checkOp(o *Op, chain []Version, made map[uint64]uint64) error {
	version, took := made[o.ID]
	switch {
	case took && !o.Write:
		return fmt.Errorf("op %d is a read and wrote version %d", o.ID, version)
	case o.Outcome == DidNotRun && took:
		return fmt.Errorf("op %d was reported not to have run and made version %d", o.ID, version)
	case o.Outcome != Ran:
		return nil
	case o.Write && (!took || version != o.Number):
		return fmt.Errorf("write %d was answered with version %d and made version %d (0: lost)", o.ID, o.Number, version)
	case o.Write:
		return nil
	case o.Number > uint64(len(chain)):
		return fmt.Errorf("read %d saw version %d of op %d; there are only %d", o.ID, o.Number, o.Seen, len(chain))
	case o.Number == 0 && o.Seen != 0, o.Number > 0 && chain[o.Number-1].Op != o.Seen:
		return fmt.Errorf("read %d saw version %d as made by op %d, which it was not", o.ID, o.Number, o.Seen)
	}
	return nil
}

// checkRealTime sweeps over calls and returns in order of time.
func checkRealTime(ops []Op, made map[uint64]uint64) error {
	type point struct {
		at     time.Duration
		o      *Op
		number uint64
	}
	var calls, returns []point
	for i := range ops {
		o := &ops[i]
		number := o.Number
		if o.Outcome != Ran {
			if number = made[o.ID]; number == 0 {
				continue
			}
		} else {
			returns = append(returns, point{o.Return, o, number})
		}
		calls = append(calls, point{o.Call, o, number})
	}
	sort.SliceStable(calls, func(i, j int) bool { return calls[i].at < calls[j].at })
	sort.SliceStable(returns, func(i, j int) bool { return returns[i].at < returns[j].at })
	var newest point
	next := 0
	for _, c := range calls {
		for next < len(returns) && returns[next].at < c.at {
			if returns[next].number > newest.number || newest.o == nil {
				newest = returns[next]
			}
			next++
		}
		if newest.o == nil {
			continue
		}
		if c.number < newest.number || c.o.Write && c.number == newest.number {
			return fmt.Errorf("op %d (write: %v), called at %v, has version %d; op %d had returned version %d at %v",
				c.o.ID, c.o.Write, c.o.Call, c.number, newest.o.ID, newest.number, newest.o.Return)
		}
	}
	return nil
}
