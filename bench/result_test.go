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

func TestTable(t *testing.T) {
	r := &Result{Version: "1.2.3", Go: "go1.26", CPUs: 2, GOMAXPROCS: 2, Nodes: 3, Fsync: Fsync{Dir: "d", Median: 850},
		Mode: Increment, Callers: 256, Objects: 1000, Warmup: Seconds(2 * time.Second), Duration: Seconds(10 * time.Second),
		Ops: 12345, OpsPerSecond: 1234.5, P50: 950, P90: 2500, P99: 12_340, P999: 99_990, Max: 10_000_000,
		Errors: map[string]int64{"overloaded, did not run": 2, "deadline, may have run": 1},
		Check:  &Check{Acknowledged: 10, MayHaveRun: 1, Counted: 12}}
	var b strings.Builder
	if err := WriteTable(&b, []*Result{r}); err != nil {
		t.Fatal(err)
	}
	want := `ringfence 1.2.3, go1.26, 2 CPUs, GOMAXPROCS 2, fsync 850µs (d)
counter increment: 256 callers, 1000 objects, warm-up 2s, 3 nodes started on this host

  run  seconds    ops  ops/s    p50     p90      p99    p99.9    max  errors
    1     10.0  12345   1234  950µs  2.50ms  12.34ms  99.99ms  10.0s       3
run 1: 1 errors: deadline, may have run
run 1: 2 errors: overloaded, did not run
run 1: THE COUNTERS DO NOT ADD UP: 10 acknowledged, 1 may have run, 12 counted
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestJSONUnits(t *testing.T) {
	b, err := json.Marshal(&Result{Duration: Seconds(1500 * time.Millisecond), P99: 2000, Fsync: Fsync{Median: 7}})
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
		all[i%2].add(time.Duration(i)*time.Millisecond, nil)
	}
	all[0].add(time.Second, errors.New("not counted as a latency"))
	all[1].add(2*time.Hour, nil)
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
