package nemesis

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// row is what one scenario came to.
type row struct {
	name    string
	calls   int
	failed  map[string]int // by kind
	longest time.Duration  // of any call
	outages []time.Duration
	remark  string
}

type table struct {
	mu   sync.Mutex
	rows []row
}

var report table

func (t *table) add(r row) {
	slices.Sort(r.outages)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tCALLS\tLONGEST WAIT\tOUTAGES\tP50\tP99\tMAX\tFAILED")
	for _, r := range t.rows {
		if r.calls > 0 {
			fmt.Fprintf(tw, "%s\t%d\t%v\t%d\t%v\t%v\t%v\t%s\n", r.name, r.calls, ms(r.longest), len(r.outages),
				ms(quantile(r.outages, 0.5)), ms(quantile(r.outages, 0.99)), ms(quantile(r.outages, 1)), r.failures())
		}
		if r.remark != "" {
			fmt.Fprintf(tw, "%s\t%s\n", r.name, r.remark)
		}
	}
	_ = tw.Flush() // to the standard output
}

func (r row) failures() string {
	if len(r.failed) == 0 {
		return "none"
	}
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(r.failed)) {
		all = append(all, fmt.Sprintf("%d %s", r.failed[kind], kind))
	}
	return strings.Join(all, "; ")
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
