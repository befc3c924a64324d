package nemesis

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// row is what one scenario came to.
type row struct {
	t           *testing.T // says whether it failed
	name        string
	began       time.Time
	took        time.Duration
	calls       int
	faults      map[string]int // injected, by kind
	failed      failures
	violations  int             // of what callers are promised
	longest     time.Duration   // wait of any call
	unavailable time.Duration   // the longest that any object was without an answer
	outages     []time.Duration // the longest of each object that a fault hit, fault by fault
	load        string          // average of the machine over a minute, when the scenario ended
	remark      string
	notRun      string // why
}

// failures are calls that failed, by code and by what their callers may conclude.
type failures map[string]int

func (f *failures) add(what string, n int) {
	if *f == nil {
		*f = failures{}
	}
	(*f)[what] += n
}

type table struct {
	mu   sync.Mutex
	rows []row
}

var report table

// results is a row of a scenario that begins now.
func results(t *testing.T) row {
	return row{t: t, name: scenario(t), began: time.Now(), faults: map[string]int{}}
}

func scenario(t *testing.T) string { return strings.TrimPrefix(t.Name(), "Test") }

func (t *table) add(r row) {
	slices.Sort(r.outages)
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.load, _, _ = strings.Cut(string(b), " ")
	}
	if !r.began.IsZero() {
		r.took = time.Since(r.began)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// ended names a test that failed before it had any results.
func (t *table) ended(r row) {
	if !r.t.Failed() {
		return
	}
	t.mu.Lock()
	has := slices.ContainsFunc(t.rows, func(o row) bool {
		return o.t != nil && (o.name == r.name || strings.HasPrefix(o.name, r.name+"/")) && o.t.Failed()
	})
	t.mu.Unlock()
	if !has {
		t.add(r)
	}
}

// print writes the table of results (limits of time mean little where the load is beyond the number of processors), below it the remarks, and last what was not run, and why.
func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tRESULT\tTOOK\tOPERATIONS\tFAULTS\tVIOLATIONS\tLONGEST UNAVAILABLE\tOF WHAT WAS HIT: P50\tP99\tLONGEST CALL\tLOAD\tFAILED")
	all := row{name: "all", faults: map[string]int{}}
	failed, injected := 0, 0
	line := func(r row, result, faults string, p50, p99 any) {
		unavailable := any("-") // no object was called all the time
		if r.unavailable > 0 {
			unavailable = ms(r.unavailable)
		}
		fmt.Fprintf(tw, "%s\t%s\t%v\t%d\t%s\t%d\t%v\t%v\t%v\t%v\t%s\t%s\n", r.name, result, r.took.Round(time.Second), r.calls, faults,
			r.violations, unavailable, p50, p99, ms(r.longest), r.load, counted(r.failed, "; "))
	}
	for _, r := range t.rows {
		if r.t == nil {
			continue
		}
		result := "ok"
		if r.t.Failed() {
			result = "FAILED"
			failed++
		}
		p50, p99 := any("-"), any("-")
		if len(r.outages) > 0 {
			p50, p99 = ms(quantile(r.outages, 0.5)), ms(quantile(r.outages, 0.99))
		}
		line(r, result, counted(r.faults, ", "), p50, p99)
		for what, n := range r.failed {
			all.failed.add(what, n)
		}
		for kind, n := range r.faults {
			all.faults[kind] += n
			injected += n
		}
		all.took, all.calls, all.violations = all.took+r.took, all.calls+r.calls, all.violations+r.violations
		all.longest, all.unavailable = max(all.longest, r.longest), max(all.unavailable, r.unavailable)
	}
	line(all, fmt.Sprintf("%d FAILED", failed), strconv.Itoa(injected), "-", "-")
	_ = tw.Flush() // to the standard output
	fmt.Fprintf(w, "faults: %s\nviolations: %d\n", counted(all.faults, ", "), all.violations)
	for _, r := range t.rows {
		if r.remark != "" {
			fmt.Fprintf(w, "%s: %s\n", r.name, r.remark)
		}
	}
	for _, r := range t.rows {
		if r.notRun != "" {
			fmt.Fprintf(w, "not run: %s: %s\n", r.name, r.notRun)
		}
	}
}

func counted(kinds map[string]int, sep string) string {
	if len(kinds) == 0 {
		return "none"
	}
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	return strings.Join(all, sep)
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
