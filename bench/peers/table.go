package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ringfence/ringfence/bench"
)

// row is what all rounds of one workload came to on one system, done in one way. Figures are medians over the rounds.
type row struct {
	Workload     string       `json:"workload"`
	System       string       `json:"system"`
	Way          string       `json:"way,omitempty"`
	Runs         int          `json:"runs"`
	OpsPerSecond float64      `json:"ops_per_s"`
	Lowest       float64      `json:"ops_per_s_lowest"`
	Highest      float64      `json:"ops_per_s_highest"`
	P50          bench.Micros `json:"p50_us"`
	P99          bench.Micros `json:"p99_us"`
	CPUPerOp     float64      `json:"cpu_us_per_op"` // of all processes, callers included; 0: not known
	Errors       int64        `json:"errors"`        // of all rounds
	Checked      string       `json:"checked"`       // ok, FAILED, none
	// Ratio is Ringfence's rate by this one's, and P50Ratio this one's median latency by Ringfence's: the median of each round's. Above 1 Ringfence is ahead. 0: no round has both.
	Ratio    float64 `json:"ringfence_ratio"`
	P50Ratio float64 `json:"ringfence_p50_ratio"`
}

// finish makes the rows.
func (r *report) finish() *report {
	ours := map[string]map[int]*bench.Result{} // by workload and round
	for _, x := range r.Results {
		if x.System == ringfenceSystem().name {
			if ours[x.Workload] == nil {
				ours[x.Workload] = map[int]*bench.Result{}
			}
			ours[x.Workload][x.Run] = x
		}
	}
	for _, s := range bench.Summarize(r.Results) {
		r.Rows = append(r.Rows, newRow(s, ours[s.Runs[0].Workload]))
	}
	place := map[string]int{}
	for i, w := range r.workloads {
		place[w.name] = i
	}
	slices.SortStableFunc(r.Rows, func(a, b row) int { return place[a.Workload] - place[b.Workload] })
	return r
}

func newRow(s bench.Summary, ours map[int]*bench.Result) row {
	first := s.Runs[0]
	ops := s.Of(func(r *bench.Result) float64 { return r.OpsPerSecond })
	w := row{Workload: first.Workload, System: first.System, Way: first.Mode, Runs: len(s.Runs), OpsPerSecond: ops.Median, Lowest: ops.Min, Highest: ops.Max,
		P50:      bench.Micros(s.Of(func(r *bench.Result) float64 { return float64(r.P50) }).Median),
		P99:      bench.Micros(s.Of(func(r *bench.Result) float64 { return float64(r.P99) }).Median),
		CPUPerOp: s.Of(func(r *bench.Result) float64 { return r.CPUPerOp }).Median, Checked: "ok"}
	var both bench.Summary // rounds of this system in which Ringfence was measured too
	for _, r := range s.Runs {
		for _, n := range r.Errors {
			w.Errors += n
		}
		if r.Check == nil {
			w.Checked = "none"
		}
		if o := ours[r.Run]; o != nil && r.OpsPerSecond > 0 && o.P50 > 0 {
			both.Runs = append(both.Runs, r)
		}
	}
	if !s.OK() {
		w.Checked = "FAILED"
	}
	w.Ratio = both.Of(func(r *bench.Result) float64 { return ours[r.Run].OpsPerSecond / r.OpsPerSecond }).Median
	w.P50Ratio = both.Of(func(r *bench.Result) float64 { return float64(r.P50) / float64(ours[r.Run].P50) }).Median
	return w
}

// write prints the table for a reader.
func (r *report) write(out io.Writer) error {
	var b strings.Builder
	m := r.Machine
	commit := "commit " + m.Commit[:min(12, len(m.Commit))]
	switch {
	case m.Commit == "":
		commit = "commit unknown"
	case m.Modified:
		commit += " with changes"
	}
	fmt.Fprintf(&b, "%s, %s, %s; %s, %d CPUs for callers and systems together; 4 KiB write and fdatasync %v (%s)\n", commit, m.Go, m.Platform, m.CPU, m.CPUs, m.Fsync.Median, m.Fsync.Dir)
	fmt.Fprintf(&b, "%s: %s\n\n", m.At.Format(time.RFC3339), m.Command)
	g := grid{{"workload", "system", "way", "ops/s", "lowest-highest", "p50", "p99", "CPU/op", "errors", "check", "rate ratio", "p50 ratio"}}
	last := ""
	for _, w := range r.Rows {
		name := w.Workload
		if name == last {
			name = ""
		}
		last = w.Workload
		g = append(g, []string{name, w.System, w.Way, fmt.Sprintf("%.0f", w.OpsPerSecond), fmt.Sprintf("%.0f-%.0f", w.Lowest, w.Highest), w.P50.String(), w.P99.String(),
			micros(w.CPUPerOp), fmt.Sprint(w.Errors), w.Checked, ratio(w.Ratio), ratio(w.P50Ratio)})
	}
	g.write(&b)
	fmt.Fprintf(&b, "\nMedians of %d rounds. Ratios: Ringfence's rate by this system's, this system's p50 by Ringfence's; above 1 Ringfence is ahead.\n", r.rounds())
	for _, w := range r.workloads {
		callers := "256 callers"
		if w.load.Callers == 1 {
			callers = "1 caller"
		}
		fmt.Fprintf(&b, "%s: %s, %s\n", w.name, w.what, callers)
	}
	for _, s := range r.Systems {
		fmt.Fprintf(&b, "%s %s: %s\n", s.Name, s.Version, s.Settings)
		if s.Skipped != "" {
			fmt.Fprintf(&b, "%s: NOT MEASURED: %s\n", s.Name, s.Skipped)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *report) rounds() (n int) {
	for _, w := range r.Rows {
		n = max(n, w.Runs)
	}
	return n
}

func micros(us float64) string {
	if us == 0 {
		return "-"
	}
	return bench.Micros(us + 0.5).String()
}

func ratio(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

// grid is a table; its first row is the heading, its first leftCells columns are aligned to the left.
type grid [][]string

const leftCells = 3

func (g grid) write(b *strings.Builder) {
	widths := make([]int, len(g[0]))
	for _, r := range g {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range g {
		var line strings.Builder
		for i, c := range r {
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < leftCells {
				line.WriteString(c + fill + "  ")
			} else {
				line.WriteString(fill + c + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
