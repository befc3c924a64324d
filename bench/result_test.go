package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

var testMachine = Machine{At: time.Date(2026, 11, 25, 19, 0, 0, 0, time.UTC), Command: "ringfence bench counter", Version: "1.2.3", Commit: "0123456789abcdef", Go: "go1.26",
	Platform: "linux/amd64", CPU: "Some CPU", CPUs: 2, GOMAXPROCS: 2, Load: 1.25, Fsync: Fsync{Dir: "d", Median: 850}}

func testResult(run int, rate float64) *Result {
	return &Result{Machine: testMachine, System: "ringfence", Workload: "counter", Mode: "increment", Run: run, Nodes: 3,
		Callers: 256, Objects: 1000, Warmup: Seconds(2 * time.Second), Duration: Seconds(10 * time.Second),
		Ops: int64(10 * rate), OpsPerSecond: rate, P50: 950, P90: 2500, P99: 12_340, P999: 99_990, Max: 10_000_000, CPUPerOp: 93.7,
		Errors:  map[string]int64{"overloaded, did not run": 2, "deadline, may have run": 1},
		Figures: []Figure{{"outage p99", 600 + rate/1000, "ms"}},
		Check:   &Check{OK: true, What: "the counters add up", Acknowledged: 10, MayHaveRun: 1, Counted: 11}}
}

func table(t *testing.T, results ...*Result) string {
	var b strings.Builder
	if err := WriteTable(&b, results); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTableOfRuns(t *testing.T) {
	wrong := testResult(2, 2000)
	wrong.Check.Fail("object 7 counts 3")
	wrong.Errors = nil
	want := `ringfence 1.2.3, commit 0123456789ab, go1.26, linux/amd64
Some CPU: 2 CPUs, GOMAXPROCS 2, load average 1.25 before; 4 KiB write and fdatasync 850µs (d)
2026-11-25T19:00:00Z: ringfence bench counter
counter increment on ringfence: 256 callers, 1000 objects, warm-up 2s, 3 nodes started on this host

run      seconds    ops  ops/s    p50     p90      p99    p99.9    max  CPU/op  errors
1           10.0  12345   1234  950µs  2.50ms  12.34ms  99.99ms  10.0s    94µs       3
2           10.0  20000   2000  950µs  2.50ms  12.34ms  99.99ms  10.0s    94µs       0
median      10.0  16172   1617  950µs  2.50ms  12.34ms  99.99ms  10.0s    94µs       2
lowest      10.0  12345   1234  950µs  2.50ms  12.34ms  99.99ms  10.0s    94µs       0
highest     10.0  20000   2000  950µs  2.50ms  12.34ms  99.99ms  10.0s    94µs       3

workload           system     figure      median  lowest  highest  unit
counter increment  ringfence  outage p99     602     601      602  ms

run 1: 1 errors: deadline, may have run
run 1: 2 errors: overloaded, did not run
run 1: the counters add up: 10 acknowledged, 1 may have run, 11 counted
run 2: NOT TRUE: the counters add up: 10 acknowledged, 1 may have run, 11 counted; object 7 counts 3
`
	if got := table(t, testResult(1, 1234.5), wrong); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTableOfWorkloads(t *testing.T) {
	other := testResult(1, 3000)
	other.System, other.Nodes, other.Check, other.Figures = "another", 0, nil, nil
	storm := testResult(1, 50)
	storm.Workload, storm.Mode, storm.Objects, storm.Rate, storm.Figures = "storm", "", 0, 50, nil
	storm.Check.Fail("object 7 counts 3")
	want := `ringfence 1.2.3, commit 0123456789ab, go1.26, linux/amd64
Some CPU: 2 CPUs, GOMAXPROCS 2, load average 1.25 before; 4 KiB write and fdatasync 850µs (d)
2026-11-25T19:00:00Z: ringfence bench counter

workload           system              callers  objects  runs  ops/s  lowest-highest    p50      p99    max  CPU/op  errors  check
counter increment  ringfence, 3 nodes      256     1000     2   1500       1000-2000  950µs  12.34ms  10.0s    94µs       3  ok
storm at 50/s      ringfence, 3 nodes      256      new     1     50           50-50  950µs  12.34ms  10.0s    94µs       3  FAILED
counter increment  another                 256     1000     1   3000       3000-3000  950µs  12.34ms  10.0s    94µs       3  none

workload           system     figure      median  lowest  highest  unit
counter increment  ringfence  outage p99     602     601      602  ms

storm on ringfence, run 1: NOT TRUE: the counters add up: 10 acknowledged, 1 may have run, 11 counted; object 7 counts 3
`
	if got := table(t, testResult(1, 1000), testResult(2, 2000), storm, other); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestJSONUnits(t *testing.T) {
	b, err := json.Marshal(&Result{Machine: Machine{Fsync: Fsync{Median: 7}}, Duration: Seconds(1500 * time.Millisecond), P99: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"duration_s":1.5`, `"p99_us":2000`, `"median_us":7`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil || back.Duration != Seconds(1500*time.Millisecond) || back.P99 != 2000 {
		t.Errorf("read back: %+v (%v)", back, err)
	}
	if strings.Contains(string(b), `"check"`) {
		t.Errorf("%s has a check although there was none", b)
	}
}

// The quantiles of two recorders together are those of all values, within the three digits that are kept.
func TestRecordersMerge(t *testing.T) {
	all := make([]recorder, 2)
	for i := range all {
		all[i].init()
	}
	for i := 1; i <= 1000; i++ {
		all[i%2].add(sample{0, time.Duration(i) * time.Millisecond, nil, 0}, time.Second)
	}
	all[0].add(sample{0, time.Second, errors.New("not counted as a latency"), 0}, time.Second)
	all[1].add(sample{0, 2 * time.Hour, nil, 0}, time.Second)
	all[1].add(sample{-1, time.Hour, nil, 0}, time.Second)              // neither due within the window nor ended
	all[1].add(sample{-1, 999 * time.Millisecond, nil, 0}, time.Second) // ended within it, but not due
	sum := mergeRecorders(all)
	if n := sum.hist.TotalCount(); n != 1001 {
		t.Errorf("%d values, want 1001", n)
	}
	for q, want := range map[float64]int64{50: 501_000, 90: 901_000, 99: 991_000} {
		if got := int64(sum.quantile(q)); got < want*998/1000 || got > want*1002/1000 {
			t.Errorf("quantile %v is %d µs, want about %d", q, got, want)
		}
	}
	if want := Micros((2 * time.Hour).Microseconds()); sum.max != want {
		t.Errorf("maximum %v, want %v: it must not be cut off", sum.max, want)
	}
	if sum.ended != 1000 {
		t.Errorf("%d ended within the window, want 999 and one more", sum.ended)
	}
	if line := sum.series(time.Second); line.OK[0] != 99 || line.OK[9] != 101 || line.P99[4] < 440_000 || line.Max[4] != 499_000 {
		t.Errorf("time line %+v", line)
	}
	if sum.errors["not counted as a latency"] != 1 {
		t.Errorf("errors %v", sum.errors)
	}
}

func TestKind(t *testing.T) {
	e := &actor.Error{Code: actor.CodeMoved, Outcome: actor.MayHaveRun, Message: "details that differ from call to call"}
	if got := kind(fmt.Errorf("wrapped: %w", e)); got != "moved, may have run" {
		t.Errorf("got %q", got)
	}
}
