package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
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

// Result is one measurement with what it was made on.
type Result struct {
	Version    string `json:"version"`
	Go         string `json:"go"`
	CPUs       int    `json:"cpus"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	// Nodes is how many local processes were started for the run, on the same processors as the callers; 0 for a cluster
	// that ran already.
	Nodes int   `json:"nodes_started"`
	Conns int   `json:"connections"` // to each node
	Fsync Fsync `json:"fsync"`

	Mode     Mode    `json:"mode"`
	Callers  int     `json:"callers"`
	Objects  int     `json:"objects"`
	Payload  int     `json:"payload_bytes"`
	Warmup   Seconds `json:"warmup_s"`
	Duration Seconds `json:"duration_s"` // as it was, not as it was asked for
	Timeout  Seconds `json:"timeout_s"`

	Ops          int64            `json:"ops"` // calls that succeeded, begun and ended within the measured time
	OpsPerSecond float64          `json:"ops_per_s"`
	P50          Micros           `json:"p50_us"`
	P90          Micros           `json:"p90_us"`
	P99          Micros           `json:"p99_us"`
	P999         Micros           `json:"p999_us"`
	Max          Micros           `json:"max_us"`
	Errors       map[string]int64 `json:"errors"` // by kind, within the measured time
	Check        *Check           `json:"check,omitempty"`
}

// Check compares what was acknowledged with what the counters hold after the run, warm-up included.
type Check struct {
	Acknowledged int64 `json:"acknowledged"`
	MayHaveRun   int64 `json:"may_have_run"` // failed increments whose outcome is unknown
	Counted      int64 `json:"counted"`      // the sum of all counters
}

// OK reports whether every acknowledged increment, and nothing that did not run, is in the counters.
func (c Check) OK() bool {
	return c.Counted >= c.Acknowledged && c.Counted <= c.Acknowledged+c.MayHaveRun
}

// WriteTable prints the results for a reader: what it was measured on, then one line for each run.
func WriteTable(w io.Writer, results []*Result) error {
	if len(results) == 0 {
		return nil
	}
	r := results[0]
	where := "a cluster that ran already"
	if r.Nodes > 0 {
		where = fmt.Sprintf("%d nodes started on this host", r.Nodes)
	}
	fmt.Fprintf(w, "ringfence %s, %s, %d CPUs, GOMAXPROCS %d, fsync %v (%s)\n", r.Version, r.Go, r.CPUs, r.GOMAXPROCS, r.Fsync.Median, r.Fsync.Dir)
	fmt.Fprintf(w, "counter %s: %d callers, %d objects, warm-up %v, %s\n\n", r.Mode, r.Callers, r.Objects, time.Duration(r.Warmup), where)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "run\tseconds\tops\tops/s\tp50\tp90\tp99\tp99.9\tmax\terrors\t")
	for i, r := range results {
		fmt.Fprintf(t, "%d\t%.1f\t%d\t%.0f\t%v\t%v\t%v\t%v\t%v\t%d\t\n", i+1, time.Duration(r.Duration).Seconds(), r.Ops, r.OpsPerSecond,
			r.P50, r.P90, r.P99, r.P999, r.Max, r.errorCount())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, r := range results {
		for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
			fmt.Fprintf(w, "run %d: %d errors: %s\n", i+1, r.Errors[k], k)
		}
		if c := r.Check; c != nil {
			fmt.Fprintf(w, "run %d: %s\n", i+1, c)
		}
	}
	return nil
}

func (r *Result) errorCount() (n int64) {
	for _, k := range r.Errors {
		n += k
	}
	return n
}

func (c Check) String() string {
	verdict := "the counters add up"
	if !c.OK() {
		verdict = "THE COUNTERS DO NOT ADD UP"
	}
	return fmt.Sprintf("%s: %d acknowledged, %d may have run, %d counted", verdict, c.Acknowledged, c.MayHaveRun, c.Counted)
}
