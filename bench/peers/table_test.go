package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bench"
)

func result(round int, system, workload, way string, rate float64, p50 bench.Micros, ok bool) *bench.Result {
	return &bench.Result{Run: round, System: system, Workload: workload, Mode: way, OpsPerSecond: rate, P50: p50, P99: 4 * p50, CPUPerOp: 25.4, Errors: map[string]int64{},
		Check: &bench.Check{OK: ok, What: "they add up"}}
}

// Ratios are of the same round, and the median of them; workloads stand in their own order, not in that of the systems.
func TestTable(t *testing.T) {
	r := &report{
		Machine: bench.Machine{At: time.Unix(0, 0).UTC(), Command: "peers", Commit: "0123456789abcdef", Go: "go1.26", Platform: "linux/amd64", CPU: "a processor", CPUs: 2,
			Fsync: bench.Fsync{Dir: "/d", Median: 200}},
		workloads: []*workload{{"hot", "one object", increment, bench.Load{Callers: 256}}, {"lone", "one caller", increment, bench.Load{Callers: 1}}},
		Systems:   []about{{Name: "ringfence", Version: "1", Settings: "as it is"}, {Name: "etcd", Version: "2", Settings: "fsync"}, {Name: "workerd", Version: "3", Skipped: "there is no npm here"}},
		Results: []*bench.Result{
			result(1, "ringfence", "hot", "", 1000, 100, true), result(1, "ringfence", "lone", "", 10, 1000, true),
			result(1, "etcd", "hot", asCAS, 500, 300, true), result(1, "etcd", "lone", asCAS, 20, 500, false),
			result(2, "ringfence", "hot", "", 3000, 50, true), result(2, "etcd", "hot", asCAS, 1000, 300, true),
			result(3, "ringfence", "hot", "", 2000, 60, true), result(3, "etcd", "hot", asCAS, 200, 300, true),
		},
	}
	var b strings.Builder
	if err := r.finish().write(&b); err != nil {
		t.Fatal(err)
	}
	want := `commit 0123456789ab, go1.26, linux/amd64; a processor, 2 CPUs for callers and systems together; 4 KiB write and fdatasync 200µs (/d)
1970-01-01T00:00:00Z: peers

workload  system     way              ops/s  lowest-highest     p50     p99  CPU/op  errors   check  rate ratio  p50 ratio
hot       ringfence                    2000       1000-3000    60µs   240µs    25µs       0      ok        1.00       1.00
          etcd       compare-and-set    500        200-1000   300µs  1.20ms    25µs       0      ok        3.00       5.00
lone      ringfence                      10           10-10  1.00ms  4.00ms    25µs       0      ok        1.00       1.00
          etcd       compare-and-set     20           20-20   500µs  2.00ms    25µs       0  FAILED        0.50       0.50

Medians of 3 rounds. Ratios: Ringfence's rate by this system's, this system's p50 by Ringfence's; above 1 Ringfence is ahead.
hot: one object, 256 callers
lone: one caller, 1 caller
ringfence 1: as it is
etcd 2: fsync
workerd 3: 
workerd: NOT MEASURED: there is no npm here
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A system in a round without Ringfence, or one that did nothing, has no ratio.
func TestNoRatio(t *testing.T) {
	r := &report{workloads: workloads(), Results: []*bench.Result{
		result(1, "ringfence", "hot", "", 1000, 100, true), result(2, "etcd", "hot", asCAS, 500, 300, true), result(1, "workerd", "hot", "", 0, 0, true)}}
	for _, w := range r.finish().Rows[1:] {
		if w.Ratio != 0 || w.P50Ratio != 0 {
			t.Errorf("%s: ratios %v and %v", w.System, w.Ratio, w.P50Ratio)
		}
	}
}
