package nemesis

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// row is what one scenario came to.
type row struct {
	name       string
	calls      int
	faults     map[string]int // injected, by kind
	failed     failures
	violations int           // of what callers are promised
	longest    time.Duration // wait of any call
	outages    []time.Duration
	load       string // average of the machine over a minute, when the scenario ended
	remark     string
	notRun     string // why
}

// failures are calls that failed, by what their callers may conclude.
type failures struct {
	didNotRun, mayHaveRun, other int
	kinds                        map[string]int // by code and outcome
}

func (f *failures) count(what string, o actor.Outcome) {
	if f.kinds == nil {
		f.kinds = map[string]int{}
	}
	f.kinds[what]++
	switch o {
	case actor.DidNotRun:
		f.didNotRun++
	case actor.MayHaveRun:
		f.mayHaveRun++
	default:
		f.other++
	}
}

type table struct {
	mu   sync.Mutex
	rows []row
}

var report table

func (t *table) add(r row) {
	slices.Sort(r.outages)
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.load, _, _ = strings.Cut(string(b), " ")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// print writes the table of results (limits of time mean little where the load is beyond the number of processors), below it the remarks, and last what was not run, and why.
func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tCALLS\tFAULTS\tDID NOT RUN\tMAY HAVE RUN\tOTHER\tVIOLATIONS\tLONGEST WAIT\tOUTAGES\tP50\tP99\tMAX\tLOAD\tFAILED")
	total := 0
	for _, r := range t.rows {
		if r.remark != "" || r.notRun != "" {
			continue
		}
		total += r.violations
		fmt.Fprintf(tw, "%s\t%d\t%s\t%d\t%d\t%d\t%d\t%v\t%d\t%v\t%v\t%v\t%s\t%s\n", r.name, r.calls, counted(r.faults, ", "), r.failed.didNotRun, r.failed.mayHaveRun, r.failed.other,
			r.violations, ms(r.longest), len(r.outages), ms(quantile(r.outages, 0.5)), ms(quantile(r.outages, 0.99)), ms(quantile(r.outages, 1)), r.load, counted(r.failed.kinds, "; "))
	}
	fmt.Fprintf(tw, "violations: %d\n", total)
	for _, r := range t.rows {
		if r.remark != "" {
			fmt.Fprintf(tw, "%s: %s\n", r.name, r.remark)
		}
	}
	for _, r := range t.rows {
		if r.notRun != "" {
			fmt.Fprintf(tw, "not run: %s: %s\n", r.name, r.notRun)
		}
	}
	_ = tw.Flush() // to the standard output
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
