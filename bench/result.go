package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Seconds is a duration that reads as a number of seconds in JSON.
type Seconds time.Duration

func (s Seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Seconds()) }

func (s *Seconds) UnmarshalJSON(b []byte) error {
	var n float64
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*s = Seconds(n * float64(time.Second))
	return nil
}

// Micros is a latency in microseconds, in JSON too.
type Micros int64

func (m Micros) String() string {
	d := time.Duration(m) * time.Microsecond
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(m)/1000)
	}
	return fmt.Sprintf("%dµs", int64(m))
}

// Result is one run of one workload on one system, with what it was made on. All of it is in the JSON.
type Result struct {
	System   string `json:"system"`
	Workload string `json:"workload"`
	Mode     string `json:"mode,omitempty"`
	Run      int    `json:"run"` // from 1
	Machine
	// Nodes is how many local processes were started for the run, on the same processors as the callers; 0 for a system that
	// ran already.
	Nodes int `json:"nodes_started"`
	Conns int `json:"connections"` // to each node
	// Shards and Replicas are the cluster's; 0: it has none, or they are not known.
	Shards   int `json:"shards,omitempty"`
	Replicas int `json:"replicas,omitempty"`

	Callers  int     `json:"callers"`
	Objects  int     `json:"objects"` // 0: a new one for each operation
	Pinned   bool    `json:"pinned,omitempty"`
	Reads    float64 `json:"reads"` // share of the operations
	Payload  int     `json:"payload_bytes"`
	Rate     float64 `json:"rate_per_s"` // asked for; 0: closed loop
	Warmup   Seconds `json:"warmup_s"`
	Duration Seconds `json:"duration_s"` // of the window, as it was
	Timeout  Seconds `json:"timeout_s"`

	Ops          int64            `json:"ops"` // that succeeded and ended within the window
	OpsPerSecond float64          `json:"ops_per_s"`
	P50          Micros           `json:"p50_us"` // these of the operations that were due in the window, failed ones apart
	P90          Micros           `json:"p90_us"`
	P99          Micros           `json:"p99_us"`
	P999         Micros           `json:"p999_us"`
	Max          Micros           `json:"max_us"`
	CPUPerOp     float64          `json:"cpu_us_per_op"` // processor time of all processes, nodes and callers; 0: not known
	Errors       map[string]int64 `json:"errors"`        // by kind, of the operations that were due in the window
	Figures      []Figure         `json:"figures,omitempty"`
	Phases       []Phase          `json:"phases,omitempty"`
	Check        *Check           `json:"check,omitempty"`
	Series       *Series          `json:"series,omitempty"`
	// Latencies is the whole distribution in microseconds, as HdrHistogram's V2 compressed format, base64.
	Latencies string `json:"latencies_hdr,omitempty"`
}

// Figure is what a workload measures beside rate and latencies.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // ms, B, /s, %; empty for a number
}

// Check is whether a system holds what its callers were told.
type Check struct {
	OK           bool     `json:"ok"`
	What         string   `json:"what"`         // what holds if OK
	Acknowledged int64    `json:"acknowledged"` // writes
	MayHaveRun   int64    `json:"may_have_run"` // failed writes whose outcome is unknown
	Counted      int64    `json:"counted"`      // what was found
	Wrong        []string `json:"wrong,omitempty"`
}

// wrongs is how many of the things that are wrong a Check names.
const wrongs = 5

// Fail notes something that is wrong. The first few are kept.
func (c *Check) Fail(format string, args ...any) {
	c.OK = false
	if len(c.Wrong) < wrongs {
		c.Wrong = append(c.Wrong, fmt.Sprintf(format, args...))
	}
}

func (c *Check) String() string {
	numbers := fmt.Sprintf("%d acknowledged, %d may have run, %d counted", c.Acknowledged, c.MayHaveRun, c.Counted)
	if c.OK {
		return c.What + ": " + numbers
	}
	return "NOT TRUE: " + c.What + ": " + numbers + "; " + strings.Join(c.Wrong, "; ")
}

// Phase is a part of a window: from one Stage.Begin to the next.
type Phase struct {
	Name   string  `json:"name"`
	From   Seconds `json:"from_s"` // since the beginning of the window
	To     Seconds `json:"to_s"`
	Ops    int64   `json:"ops"`    // that succeeded and ended within it
	Failed int64   `json:"failed"` // likewise
	P50    Micros  `json:"p50_us"` // of those
	P99    Micros  `json:"p99_us"`
	Max    Micros  `json:"max_us"`
}

// Series is the course of a window in steps of equal length.
type Series struct {
	Step   Seconds  `json:"step_s"`
	OK     []int64  `json:"ok"`     // operations that succeeded, by when they ended
	Failed []int64  `json:"failed"` // likewise
	P99    []Micros `json:"p99_us"` // latency, to one digit; 0: none succeeded
	Max    []Micros `json:"max_us"`
	Events []Event  `json:"events,omitempty"`
}

// result is what the recorders hold.
func (d *driver) result() *Result {
	total, window, l := mergeRecorders(d.recorders), time.Duration(d.end.Load()), d.load
	res := &Result{
		Callers: l.Callers, Objects: l.Objects, Pinned: l.Pinned, Reads: l.Reads, Payload: l.Payload, Rate: l.Rate,
		Warmup: Seconds(l.Warmup), Duration: Seconds(window), Timeout: Seconds(l.Timeout),
		Ops: total.ended, OpsPerSecond: float64(total.ended) / window.Seconds(), Errors: total.errors,
		P50: total.quantile(50), P90: total.quantile(90), P99: total.quantile(99), P999: total.quantile(99.9), Max: total.max,
		Series: total.series(window),
	}
	if l.Fresh {
		res.Objects = 0
	}
	res.Series.Events = d.stage.all()
	res.Phases = d.stage.phasesUntil(window, total)
	if b, err := total.hist.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil { // it writes to memory
		res.Latencies = string(b)
	}
	return res
}

func (r *recorder) quantile(q float64) Micros { return min(r.max, Micros(r.hist.ValueAtQuantile(q))) }

func (r *recorder) series(window time.Duration) *Series {
	n := min(maxBuckets, int((window+bucketWidth-1)/bucketWidth))
	s := &Series{Step: Seconds(bucketWidth), OK: make([]int64, n), Failed: make([]int64, n), P99: make([]Micros, n), Max: make([]Micros, n)}
	for i, b := range r.line[:min(n, len(r.line))] {
		s.OK[i], s.Failed[i], s.Max[i] = b.ok, b.failed, b.max
		if b.hist != nil {
			s.P99[i] = min(b.max, Micros(b.hist.ValueAtQuantile(99)))
		}
	}
	return s
}

// histogram is the result's whole distribution, nil if it has none.
func (r *Result) histogram() (*hdrhistogram.Histogram, error) {
	if r.Latencies == "" {
		return nil, nil
	}
	h, err := hdrhistogram.Decode([]byte(r.Latencies))
	if err != nil {
		return nil, fmt.Errorf("workload %s, run %d: latencies_hdr is no histogram: %w", r.Workload, r.Run, err)
	}
	return h, nil
}

func (r *Result) errorCount() (n int64) {
	for _, k := range r.Errors {
		n += k
	}
	return n
}
