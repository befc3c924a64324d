package replica

import (
	"sort"

	"go.etcd.io/raft/v3"
)

// logIndex is what is kept in memory of every entry of a log: its term and its size. Raft asks for terms all the time, also for
// those of old entries when a follower lags; with the index none of these questions reads the disk. Not safe for concurrent use.
type logIndex struct {
	trunc     uint64 // last index before the log; its term is kept
	truncTerm uint64
	sizes     []uint32  // of entries trunc+1 …
	runs      []termRun // ascending; they cover the entries
	bytes     uint64    // sum of sizes
}

// termRun says that entries from first on, up to the next run, have the term.
type termRun struct{ first, term uint64 }

func (x *logIndex) first() uint64 { return x.trunc + 1 }
func (x *logIndex) last() uint64  { return x.trunc + uint64(len(x.sizes)) }

func (x *logIndex) lastTerm() uint64 {
	if n := len(x.runs); n > 0 {
		return x.runs[n-1].term
	}
	return x.truncTerm
}

// term is the term of entry i, or of the one before the log.
func (x *logIndex) term(i uint64) (uint64, error) {
	switch {
	case i < x.trunc:
		return 0, raft.ErrCompacted
	case i == x.trunc:
		return x.truncTerm, nil
	case i > x.last():
		return 0, raft.ErrUnavailable
	}
	return x.runs[x.runOf(i)].term, nil
}

// runOf is the run that entry i, which is in the log, belongs to.
func (x *logIndex) runOf(i uint64) int {
	return sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > i }) - 1
}

// push adds the next entry.
func (x *logIndex) push(term uint64, size uint32) {
	if len(x.runs) == 0 || x.runs[len(x.runs)-1].term != term {
		x.runs = append(x.runs, termRun{x.last() + 1, term})
	}
	x.sizes = append(x.sizes, size)
	x.bytes += uint64(size)
}

// cut removes entry from and all after it.
func (x *logIndex) cut(from uint64) {
	if from > x.last() {
		return
	}
	keep := from - x.first()
	for _, s := range x.sizes[keep:] {
		x.bytes -= uint64(s)
	}
	x.sizes = x.sizes[:keep]
	for len(x.runs) > 0 && x.runs[len(x.runs)-1].first >= from {
		x.runs = x.runs[:len(x.runs)-1]
	}
}

// compact removes the entries up to and including upTo, which is in the log.
func (x *logIndex) compact(upTo uint64) {
	k := x.runOf(upTo)
	term := x.runs[k].term
	drop := upTo - x.trunc
	for _, s := range x.sizes[:drop] {
		x.bytes -= uint64(s)
	}
	x.sizes = append([]uint32(nil), x.sizes[drop:]...)
	x.runs = append([]termRun(nil), x.runs[k:]...)
	x.runs[0].first = upTo + 1
	if len(x.sizes) == 0 || len(x.runs) > 1 && x.runs[1].first == upTo+1 {
		x.runs = x.runs[1:]
	}
	x.trunc, x.truncTerm = upTo, term
}

// reset makes the log empty, to begin after index.
func (x *logIndex) reset(index, term uint64) { *x = logIndex{trunc: index, truncTerm: term} }

// fit is the end of the longest run of entries from lo, before hi, whose sizes sum to at most maxSize; at least one entry.
func (x *logIndex) fit(lo, hi, maxSize uint64) uint64 {
	sum := uint64(0)
	for i := lo; i < hi; i++ {
		sum += uint64(x.sizes[i-x.first()])
		if sum > maxSize && i > lo {
			return i
		}
	}
	return hi
}
