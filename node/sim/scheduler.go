package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// scheduler owns virtual time: a heap of (time, sequence, function), one random source, and the running hash of everything that happened.
type scheduler struct {
	now  time.Duration
	seq  uint64
	heap []event
	rng  *rand.Rand
	hash uint64
	log  io.Writer // nil unless one seed is looked at
}

type event struct {
	at  time.Duration
	seq uint64
	fn  func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func newScheduler(seed uint64, log io.Writer) scheduler {
	return scheduler{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), hash: 14695981039346656037, log: log}
}

// after runs fn d from now. Events of the same moment run in the order in which they were asked for.
func (s *scheduler) after(d time.Duration, fn func()) {
	s.seq++
	s.heap = append(s.heap, event{at: s.now + max(d, 0), seq: s.seq, fn: fn})
	i := len(s.heap) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !s.heap[i].before(s.heap[p]) {
			break
		}
		s.heap[i], s.heap[p] = s.heap[p], s.heap[i]
		i = p
	}
}

// next runs the earliest event not after end; false if there is none.
func (s *scheduler) next(end time.Duration) bool {
	if len(s.heap) == 0 || s.heap[0].at > end {
		s.now = max(s.now, end)
		return false
	}
	e := s.heap[0]
	n := len(s.heap) - 1
	s.heap[0] = s.heap[n]
	s.heap[n] = event{}
	s.heap = s.heap[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && s.heap[c+1].before(s.heap[c]) {
			c++
		}
		if !s.heap[c].before(s.heap[i]) {
			break
		}
		s.heap[i], s.heap[c] = s.heap[c], s.heap[i]
		i = c
	}
	s.now = e.at
	e.fn()
	return true
}

// trace records that something happened: always in the hash, in words if somebody reads along.
func (s *scheduler) trace(kind string, a, b, c uint64) {
	h := s.hash
	for i := range len(kind) {
		h = (h ^ uint64(kind[i])) * 1099511628211
	}
	for _, v := range [...]uint64{uint64(s.now), a, b, c} {
		h = (h ^ v) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	s.hash = h
	if s.log != nil {
		fmt.Fprintf(s.log, "%12.6f %-14s %d %d %d\n", s.now.Seconds(), kind, a, b, c)
	}
}

// note adds words for the reader only. Callers build their arguments cheaply: it is called often and rarely prints.
func (s *scheduler) note(format string, args ...any) {
	if s.log != nil {
		fmt.Fprintf(s.log, "%12.6f   %s\n", s.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// chance is true with probability p.
func (s *scheduler) chance(p float64) bool { return p > 0 && s.rng.Float64() < p }

// between draws evenly from [lo, hi].
func (s *scheduler) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.rng.Int64N(int64(hi-lo)+1))
}

// pick draws evenly from [0, n).
func (s *scheduler) pick(n int) int { return s.rng.IntN(n) }
