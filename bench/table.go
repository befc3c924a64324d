package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// WriteTable prints results for a reader: what they were measured on, then, of one workload, a line for each run with the median and the
// spread, and of several workloads or systems a line for each, with the medians of its runs.
func WriteTable(w io.Writer, results []*Result) error {
	if len(results) == 0 {
		return nil
	}
	var b strings.Builder
	writeMachine(&b, results[0])
	if all := Summarize(results); len(all) == 1 {
		writeRuns(&b, all[0])
	} else {
		writeSummaries(&b, all)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeMachine(b *strings.Builder, r *Result) {
	fmt.Fprintf(b, "ringfence %s, %s, %s, %s\n", r.Version, r.commitText(), r.Go, r.Platform)
	fmt.Fprintf(b, "%s: %d CPUs, GOMAXPROCS %d, load average %s before; 4 KiB write and fdatasync %v (%s)\n",
		r.CPU, r.CPUs, r.GOMAXPROCS, number(r.Load), r.Fsync.Median, r.Fsync.Dir)
	fmt.Fprintf(b, "%s: %s\n", r.At.Format(time.RFC3339), r.Command)
}

// describe is a workload's load in words.
func (r *Result) describe() string {
	objects := plural(r.Objects, "object")
	if r.Objects == 0 {
		objects = "a new object for each operation"
	}
	loop := ""
	if r.Rate > 0 {
		loop = fmt.Sprintf(", %s operations/s", number(r.Rate))
	}
	where := "a system that ran already"
	if r.Nodes > 0 {
		where = plural(r.Nodes, "node") + " started on this host"
	}
	return fmt.Sprintf("%s, %s%s, warm-up %v, %s", plural(r.Callers, "caller"), objects, loop, time.Duration(r.Warmup), where)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// writeRuns is the table of one workload.
func writeRuns(b *strings.Builder, s Summary) {
	first := s.Runs[0]
	fmt.Fprintf(b, "%s on %s: %s\n\n", first.name(), first.System, first.describe())
	g := newGrid("run<", "seconds", "ops", "ops/s", "p50", "p90", "p99", "p99.9", "max", "CPU/op", "errors")
	for _, r := range s.Runs {
		g.row(strconv.Itoa(r.Run), fmt.Sprintf("%.1f", time.Duration(r.Duration).Seconds()), strconv.FormatInt(r.Ops, 10), fmt.Sprintf("%.0f", r.OpsPerSecond),
			r.P50.String(), r.P90.String(), r.P99.String(), r.P999.String(), r.Max.String(), cpuText(r.CPUPerOp), strconv.FormatInt(r.errorCount(), 10))
	}
	if len(s.Runs) > 1 {
		for i, name := range []string{"median", "lowest", "highest"} {
			of := func(f func(*Result) float64) float64 {
				v := s.Of(f)
				return [...]float64{v.Median, v.Min, v.Max}[i]
			}
			latency := func(f func(*Result) Micros) string {
				return Micros(of(func(r *Result) float64 { return float64(f(r)) })).String()
			}
			g.row(name, fmt.Sprintf("%.1f", of(func(r *Result) float64 { return time.Duration(r.Duration).Seconds() })),
				fmt.Sprintf("%.0f", of(func(r *Result) float64 { return float64(r.Ops) })), fmt.Sprintf("%.0f", of((*Result).opsPerSecond)),
				latency((*Result).p50), latency((*Result).p90), latency((*Result).p99), latency((*Result).p999), latency((*Result).max),
				cpuText(of((*Result).cpuPerOp)), fmt.Sprintf("%.0f", of((*Result).errors)))
		}
	}
	g.write(b)
	writeFigures(b, []Summary{s})
	for _, r := range s.Runs {
		for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
			fmt.Fprintf(b, "run %d: %d errors: %s\n", r.Run, r.Errors[k], k)
		}
		if r.Check != nil {
			fmt.Fprintf(b, "run %d: %s\n", r.Run, r.Check)
		}
	}
}

func (r *Result) opsPerSecond() float64 { return r.OpsPerSecond }
func (r *Result) p50() Micros           { return r.P50 }
func (r *Result) p90() Micros           { return r.P90 }
func (r *Result) p99() Micros           { return r.P99 }
func (r *Result) p999() Micros          { return r.P999 }
func (r *Result) max() Micros           { return r.Max }
func (r *Result) cpuPerOp() float64     { return r.CPUPerOp }
func (r *Result) errors() float64       { return float64(r.errorCount()) }

func cpuText(us float64) string {
	if us == 0 {
		return "-"
	}
	return Micros(us + 0.5).String()
}

// writeSummaries is the table of several workloads or systems.
func writeSummaries(b *strings.Builder, all []Summary) {
	b.WriteByte('\n')
	g := newGrid("workload<", "system<", "callers", "objects", "runs", "ops/s", "lowest-highest", "p50", "p99", "max", "CPU/op", "errors", "check<")
	for _, s := range all {
		r := s.Runs[0]
		objects, system := strconv.Itoa(r.Objects), r.System
		if r.Objects == 0 {
			objects = "new"
		}
		if r.Nodes > 0 {
			system = fmt.Sprintf("%s, %s", system, plural(r.Nodes, "node"))
		}
		name := r.name()
		if r.Rate > 0 {
			name += fmt.Sprintf(" at %s/s", number(r.Rate))
		}
		check := "none"
		if !s.OK() {
			check = "FAILED"
		} else if r.Check != nil {
			check = "ok"
		}
		micros := func(f func(*Result) Micros) string {
			return Micros(s.Of(func(r *Result) float64 { return float64(f(r)) }).Median).String()
		}
		ops := s.Of((*Result).opsPerSecond)
		g.row(name, system, strconv.Itoa(r.Callers), objects, strconv.Itoa(len(s.Runs)), fmt.Sprintf("%.0f", ops.Median), fmt.Sprintf("%.0f-%.0f", ops.Min, ops.Max),
			micros((*Result).p50), micros((*Result).p99), micros((*Result).max), cpuText(s.Of((*Result).cpuPerOp).Median),
			fmt.Sprintf("%.0f", s.Of((*Result).errors).Median), check)
	}
	g.write(b)
	writeFigures(b, all)
	for _, s := range all {
		for _, r := range s.Runs {
			if r.Check != nil && !r.Check.OK {
				fmt.Fprintf(b, "%s on %s, run %d: %s\n", r.name(), r.System, r.Run, r.Check)
			}
		}
	}
}

// writeFigures is the table of what the workloads measured beside rate and latencies.
func writeFigures(b *strings.Builder, all []Summary) {
	g := newGrid("workload<", "system<", "figure<", "median", "lowest", "highest", "unit<")
	for _, s := range all {
		names, units, spreads := s.Figures()
		for i, v := range spreads {
			g.row(s.Runs[0].name(), s.Runs[0].System, names[i], number(v.Median), number(v.Min), number(v.Max), units[i])
		}
	}
	if len(g.rows) > 1 {
		b.WriteByte('\n')
		g.write(b)
		b.WriteByte('\n')
	}
}

// number is a number to three digits, or all before its point.
func number(v float64) string {
	switch a := max(v, -v); {
	case v == float64(int64(v)) && a < 1e15:
		return strconv.FormatInt(int64(v), 10)
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// grid is a table with aligned columns: to the right, but those whose heading ends in < to the left.
type grid struct {
	left []bool
	rows [][]string
}

func newGrid(headings ...string) *grid {
	g := &grid{}
	var row []string
	for _, h := range headings {
		name, left := strings.CutSuffix(h, "<")
		g.left, row = append(g.left, left), append(row, name)
	}
	g.row(row...)
	return g
}

func (g *grid) row(cells ...string) { g.rows = append(g.rows, cells) }

func (g *grid) write(b *strings.Builder) {
	widths := make([]int, len(g.left))
	for _, r := range g.rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range g.rows {
		var line strings.Builder
		for i, c := range r {
			if i > 0 {
				line.WriteString("  ")
			}
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if g.left[i] {
				line.WriteString(c + fill)
			} else {
				line.WriteString(fill + c)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
