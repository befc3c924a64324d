package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ringfence/ringfence/actor"
)

// recorder takes the operations of some of the callers, so that they do not all wait for one lock.
type recorder struct {
	mu     sync.Mutex
	hist   *hdrhistogram.Histogram // microseconds
	max    Micros
	ended  int64 // successes that ended within the window
	errors map[string]int64
	line   []bucket
	phases []bucket // by Stage.phase
}

// bucket is a part of the time line, or a phase of it.
type bucket struct {
	ok, failed int64
	hist       *hdrhistogram.Histogram // nil: nothing yet
	max        Micros
}

// Latencies are kept to three digits, from a microsecond to a minute; what took longer is recorded as a minute, its true
// length as the maximum.
const longest = int64(time.Minute / time.Microsecond)

const (
	bucketWidth = 100 * time.Millisecond
	maxBuckets  = 36_000 // an hour; what comes later is not on the time line
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

func (r *recorder) init() { r.hist, r.errors = newHistogram(), map[string]int64{} }

// sample is one operation; its times are relative to the beginning of the window, and negative before that.
type sample struct {
	due, ended time.Duration // due: when it was begun, or in an open loop when it should have been
	err        error
	phase      int // in which it ended
}

// add takes a sample of a window of the given length. Latencies and errors are those of operations that were due within the window,
// however late they ended; the rate and the time line are of what ended within it.
func (r *recorder) add(s sample, window time.Duration) {
	due, ended := s.due >= 0 && s.due < window, s.ended >= 0 && s.ended < window
	if !due && !ended {
		return
	}
	us := max(1, (s.ended - s.due).Microseconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	if ended {
		r.mark(s, us)
	}
	switch {
	case s.err == nil && ended:
		r.ended++
	case s.err != nil && due:
		r.errors[kind(s.err)]++
	}
	if s.err == nil && due {
		r.max = max(r.max, Micros(us))
		// RecordValue refuses only what is out of range, which min and max rule out.
		_ = r.hist.RecordValue(min(us, longest))
	}
}

// The digits to which latencies are kept in a part of the time line, and in a phase.
const (
	lineDigits  = 1
	phaseDigits = 3
)

// mark puts a sample on the time line.
func (r *recorder) mark(s sample, us int64) {
	if i := int(s.ended / bucketWidth); i < maxBuckets {
		grow(&r.line, i).add(s.err, us, lineDigits)
	}
	if s.phase > 0 {
		grow(&r.phases, s.phase).add(s.err, us, phaseDigits)
	}
}

func grow(all *[]bucket, i int) *bucket {
	for len(*all) <= i {
		*all = append(*all, bucket{})
	}
	return &(*all)[i]
}

func (b *bucket) add(err error, us int64, digits int) {
	if err != nil {
		b.failed++
		return
	}
	b.ok++
	b.max = max(b.max, Micros(us))
	if b.hist == nil {
		b.hist = hdrhistogram.New(1, longest, digits)
	}
	_ = b.hist.RecordValue(min(us, longest))
}

// missed counts operations that were due and never begun.
func (r *recorder) missed(n int64, err string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[err] += n
}

func (r *recorder) merge(o *recorder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.hist.Merge(o.hist)
	r.max = max(r.max, o.max)
	r.ended += o.ended
	for k, n := range o.errors {
		r.errors[k] += n
	}
	for i, b := range o.line {
		grow(&r.line, i).merge(b)
	}
	for i, b := range o.phases {
		grow(&r.phases, i).merge(b)
	}
}

func (b *bucket) merge(o bucket) {
	b.ok, b.failed, b.max = b.ok+o.ok, b.failed+o.failed, max(b.max, o.max)
	switch {
	case o.hist == nil:
	case b.hist == nil:
		b.hist = hdrhistogram.Import(o.hist.Export())
	default:
		b.hist.Merge(o.hist)
	}
}

func mergeRecorders(all []recorder) *recorder {
	var sum recorder
	sum.init()
	for i := range all {
		sum.merge(&all[i])
	}
	return &sum
}

// kind names an error by what a reader can act on: its code and whether the call may have run.
func kind(err error) string {
	if e := (*actor.Error)(nil); errors.As(err, &e) {
		return fmt.Sprintf("%v, %v", e.Code, e.Outcome)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return err.Error()
}
