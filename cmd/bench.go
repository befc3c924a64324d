package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bench"
)

func (a *app) benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench WORKLOAD",
		Short: "Load a cluster, and say what it did",
		Long: `Load a cluster, and say what it did.

A workload starts a cluster for itself, as processes of this binary with their data on disk, which share the processors with the callers;
--server names one that runs already. Every workload verifies its own result: the exit code is 1 if that is not what callers were told.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				_, err := bench.Lookup(args[0])
				return usagef(c, "there is no command %q: %v, counter or all", args[0], err)
			}
			return needCommand(c, args)
		},
	}
	c.AddCommand(a.benchCounterCommand(), a.benchAllCommand())
	for _, w := range bench.Workloads() {
		c.AddCommand(a.benchWorkloadCommand(w))
	}
	return c
}

// benchCounterCommand is one workload of another age: it is told everything by flags, and does not start a cluster unless it is told to.
func (a *app) benchCounterCommand() *cobra.Command {
	var f benchFlags
	var mode string
	c := &cobra.Command{
		Use:   "counter",
		Short: "Callers over objects of the stock class Counter: increments, reads or echoes",
		Long: `Callers over objects of the stock class Counter. In a closed loop each waits for its reply before it calls again.

--start N measures a cluster of its own: N processes on this host, on free ports and in a temporary directory, which share the
processors with the callers. Otherwise --server names the cluster. Increments are counted afterwards: the exit code is 1 if the
counters do not add up to what was acknowledged.`,
		Args: exactly(0),
	}
	l := bench.Load{Callers: 256, Objects: 1000, Payload: 64, Window: 10 * time.Second, Warmup: 2 * time.Second}
	f.add(c, bench.Workload{Name: "counter", Default: bench.Options{Load: l}})
	c.Flags().IntVar(&f.o.Payload, "payload", l.Payload, "bytes of an echo")
	c.Flags().StringVar(&mode, "mode", string(bench.Increment), "increment (a durable write), get (a read) or echo (no storage)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch bench.Mode(mode) {
		case bench.Increment, bench.Get, bench.Echo:
		default:
			return usagef(c, "--mode %q: want increment, get or echo", mode)
		}
		if err := f.check(c); err != nil {
			return err
		}
		return a.benchOne(c, &f, bench.NewCounterWorkload("Counter", bench.Mode(mode)))
	}
	return c
}

func (a *app) benchWorkloadCommand(w bench.Workload) *cobra.Command {
	var f benchFlags
	c := &cobra.Command{Use: w.Name, Short: upper(w.Summary), Long: upper(w.Summary) + ".\n\n" + fold(w.Text, 128), Args: exactly(0)}
	f.add(c, w)
	f.addOwn(c, w)
	c.RunE = func(c *cobra.Command, _ []string) error {
		f.own(c, w)
		if err := f.check(c); err != nil {
			return err
		}
		if w.Faults && !f.starts() && f.faultCmd == "" {
			return usagef(c, "the processes of the cluster at --server are out of reach: give --start N for one of your own, or --fault-cmd")
		}
		return a.benchOne(c, &f, w)
	}
	return c
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// fold breaks a text into lines of at most width bytes.
func fold(text string, width int) string {
	var b strings.Builder
	used := 0
	for _, word := range strings.Fields(text) {
		switch {
		case used == 0:
		case used+1+len(word) > width:
			b.WriteByte('\n')
			used = 0
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += len(word)
	}
	return b.String()
}

// benchOne measures one workload and shows what came of it.
func (a *app) benchOne(c *cobra.Command, f *benchFlags, w bench.Workload) error {
	results, err := a.benchRuns(c.Context(), f, w, f.options(w))
	return benchFailed(errors.Join(err, a.show(f, results), bench.Wrong(results)))
}

// benchRuns is all runs of a workload. It returns those that it has when it fails.
func (a *app) benchRuns(ctx context.Context, f *benchFlags, w bench.Workload, o bench.Options) (results []*bench.Result, err error) {
	bench.EaseGC()
	var e *benchEnv
	defer func() {
		if e != nil {
			err = errors.Join(err, e.close())
		}
	}()
	for i := range f.runs {
		if e != nil && w.Alone && f.starts() {
			closing := e.close()
			if e = nil; closing != nil {
				return results, closing
			}
		}
		if e == nil {
			if e, err = a.openBench(ctx, f, w); err != nil {
				return results, err
			}
		}
		r, err := w.Run(ctx, &e.Env, o, i+1)
		a.clearProgress()
		if r != nil {
			results = append(results, r)
		}
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// benchFailed keeps the words of an error only: that a call inside may have run says nothing about the measurement.
func benchFailed(err error) error {
	if _, usage := errors.AsType[*usageError](err); err == nil || usage {
		return err
	}
	return errors.New(err.Error())
}

// show prints the results, and draws them if that is asked for.
func (a *app) show(f *benchFlags, results []*bench.Result) error {
	if len(results) == 0 {
		return nil
	}
	var err error
	if f.asJSON {
		err = writeJSON(a.out, results)
	} else {
		err = bench.WriteTable(a.out, results)
	}
	if f.plot == "" {
		return err
	}
	return errors.Join(err, writePlot(f.plot, results))
}

// onTerminal reports whether a line on stderr can be overwritten.
func (a *app) onTerminal() bool {
	st, err := os.Stderr.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && a.err == os.Stderr
}

// progress overwrites one line of the terminal.
func (a *app) progress(workload string, p bench.Progress) {
	doing := p.Doing
	if p.Warmup {
		doing = "warming up"
	}
	if doing != "" {
		doing = "  " + doing
	}
	fmt.Fprintf(a.err, "\r\x1b[K%s: %3.0fs  %.0f ops/s  %d errors%s", workload, p.Elapsed.Seconds(), p.Rate, p.Errors, doing)
}

func (a *app) clearProgress() {
	if a.onTerminal() {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
}
