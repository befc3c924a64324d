package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bench"
)

func (a *app) benchAllCommand() *cobra.Command {
	var f benchFlags
	var only []string
	c := &cobra.Command{
		Use:   "all",
		Short: "All workloads, in one table",
		Long: `All workloads, each with its own load, in one table.

Each has a cluster of its own, unless --server names one: then those that would end nodes are left out, by name. A workload that fails does
not keep the others from running; the exit code is 1 then.`,
		Args: exactly(0),
	}
	f.clientFlags.add(c)
	f.addRun(c, 3)
	c.Flags().BoolVar(&f.short, "short", false, "fewer objects and less time: all in less than 5 minutes on two processors")
	c.Flags().StringSliceVar(&only, "only", nil, "these `workloads` alone")
	c.Flags().Lookup("timeout").Usage = "how long one call may take"
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !c.Flags().Changed("start") && c.Flags().Changed("server") {
			f.start = 0
		}
		f.timeoutGiven = c.Flags().Changed("timeout")
		if err := f.checkRun(c); err != nil {
			return err
		}
		for _, name := range only {
			if _, err := bench.Lookup(name); err != nil {
				return usagef(c, "--only: %v", err)
			}
		}
		return a.benchAll(c.Context(), &f, only)
	}
	return c
}

func (a *app) benchAll(ctx context.Context, f *benchFlags, only []string) error {
	var all []*bench.Result
	var failures []error
	for _, w := range bench.Workloads() {
		if len(only) > 0 && !slices.Contains(only, w.Name) {
			continue
		}
		if why := f.leftOut(w); why != "" {
			fmt.Fprintf(a.err, "%-12s left out: %s\n", w.Name, why)
			continue
		}
		began := time.Now()
		results, err := a.benchRuns(ctx, f.forWorkload(w), w, f.forWorkload(w).options(w))
		all = append(all, results...)
		word := "done"
		if wrong := bench.Wrong(results); err != nil || wrong != nil {
			word = "FAILED"
			failures = append(failures, err, wrong)
		}
		fmt.Fprintf(a.err, "%-12s %s after %.0f s\n", w.Name, word, time.Since(began).Seconds())
		if ctx.Err() != nil {
			break
		}
	}
	return benchFailed(errors.Join(append([]error{a.show(f, all)}, failures...)...))
}

// leftOut says why a workload cannot run, empty if it can.
func (f *benchFlags) leftOut(w bench.Workload) string {
	switch {
	case f.starts():
		return ""
	case w.Faults:
		return "it ends nodes, and those of --server are out of reach"
	case w.Name == "single":
		return "it needs a cluster of one node"
	}
	return ""
}

// forWorkload are the flags as a workload needs them: its own load, and its own number of nodes if that is not the usual one.
func (f *benchFlags) forWorkload(w bench.Workload) *benchFlags {
	own := *f
	if own.o = w.Default; f.short {
		own.o = w.Short
	}
	if own.starts() && w.Nodes != 3 {
		own.start = w.Nodes
	}
	return &own
}
