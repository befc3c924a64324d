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

// recorder takes the latencies of some of the callers, so that they do not all wait for one lock.
type recorder struct {
	mu     sync.Mutex
	hist   *hdrhistogram.Histogram // microseconds
	max    Micros
	errors map[string]int64
}

// Latencies are kept to three digits, from a microsecond to a minute; what took longer is recorded as a minute, its true
// length as the maximum.
const longest = int64(time.Minute / time.Microsecond)

func (r *recorder) init() {
	r.hist, r.errors = hdrhistogram.New(1, longest, 3), map[string]int64{}
}

func (r *recorder) add(took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errors[kind(err)]++
		return
	}
	us := max(1, took.Microseconds())
	r.max = max(r.max, Micros(us))
	// RecordValue refuses only what is out of range, which min and max rule out.
	_ = r.hist.RecordValue(min(us, longest))
}

func (r *recorder) quantile(q float64) Micros { return Micros(r.hist.ValueAtQuantile(q)) }

func mergeRecorders(all []recorder) *recorder {
	var sum recorder
	sum.init()
	for i := range all {
		r := &all[i]
		r.mu.Lock()
		sum.hist.Merge(r.hist)
		sum.max = max(sum.max, r.max)
		for k, n := range r.errors {
			sum.errors[k] += n
		}
		r.mu.Unlock()
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
