package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/client"
)

func (a *app) benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Load a cluster and say what it did", Args: cobra.ArbitraryArgs, RunE: needCommand}
	c.AddCommand(a.benchCounterCommand())
	return c
}

// benchFlags are those of `bench counter` beside the workload's own.
type benchFlags struct {
	clientFlags
	load   bench.Load
	mode   string
	start  int
	conns  int
	runs   int
	asJSON bool
}

func (a *app) benchCounterCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "counter",
		Short: "Callers in closed loops over objects of class Counter",
		Long: `Callers in closed loops over objects of class Counter: each waits for its reply before it calls again.

--start N measures a cluster of its own: N processes on this host, on free ports and in a temporary directory, which share the
processors with the callers. Otherwise --server names the cluster. Increments are counted afterwards: the exit code is 1 if the
counters do not add up to what was acknowledged.`,
		Args: exactly(0),
	}
	f.add(c)
	fl := c.Flags()
	fl.IntVar(&f.load.Callers, "callers", 256, "closed-loop callers")
	fl.IntVar(&f.load.Objects, "objects", 1000, "objects that they choose from, at random")
	fl.DurationVar(&f.load.Window, "duration", 10*time.Second, "measured time")
	fl.DurationVar(&f.load.Warmup, "warmup", 2*time.Second, "time before it that does not count")
	fl.StringVar(&f.mode, "mode", string(bench.Increment), "increment (a durable write), get (a read) or echo (no storage)")
	fl.IntVar(&f.load.Payload, "payload", 64, "bytes of an echo")
	fl.IntVar(&f.conns, "conns", 1, "connections to each node")
	fl.IntVar(&f.start, "start", 0, "start a cluster of this many local processes for the run")
	fl.IntVar(&f.runs, "runs", 1, "how often to measure")
	fl.BoolVar(&f.asJSON, "json", false, "print the runs as a JSON array")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.runBench(c, &f) }
	return c
}

func (f *benchFlags) check(c *cobra.Command) error {
	switch {
	case f.runs < 1:
		return usagef(c, "--runs %d: want at least 1", f.runs)
	case f.load.Callers < 1 || f.load.Objects < 1 || f.load.Window <= 0:
		return usagef(c, "--callers %d, --objects %d, --duration %v: want all above 0", f.load.Callers, f.load.Objects, f.load.Window)
	case f.conns < 1 || f.conns > 64:
		return usagef(c, "--conns %d: want 1 to 64", f.conns)
	case f.start > 0 && c.Flags().Changed("server"):
		return usagef(c, "--start and --server: a run measures its own cluster or another, not both")
	case c.Flags().Changed("start"):
		if err := checkLocal(c, f.start, 0); err != nil {
			return err
		}
	}
	switch bench.Mode(f.mode) {
	case bench.Increment, bench.Get, bench.Echo:
	default:
		return usagef(c, "mode %q: want increment, get or echo", f.mode)
	}
	f.load.Timeout = f.timeout
	if err := f.load.Check(); err != nil {
		return usagef(c, "%v", err)
	}
	return f.clientFlags.check(c)
}

func (a *app) runBench(c *cobra.Command, f *benchFlags) (err error) {
	if err := f.check(c); err != nil {
		return err
	}
	ctx, dir := c.Context(), ""
	if f.start > 0 {
		l, err := startLocal(localOptions{nodes: f.start, level: a.level, log: a.err})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.stop()) }()
		if _, err := l.waitServing(ctx); err != nil {
			return err
		}
		f.servers, dir = l.servers(), l.dir
	}
	results, err := a.measure(ctx, f, dir)
	if err != nil {
		return err
	}
	if f.asJSON {
		err = writeJSON(a.out, results)
	} else {
		err = bench.WriteTable(a.out, results)
	}
	return errors.Join(err, bench.Wrong(results))
}

func (a *app) measure(ctx context.Context, f *benchFlags, dir string) ([]*bench.Result, error) {
	dialCtx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	cl, err := dialServers(dialCtx, f.servers, client.Options{Timeout: f.timeout, ConnsPerNode: f.conns})
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	m, err := bench.ThisMachine(dir)
	if err != nil {
		return nil, err
	}
	s := bench.Spec{System: "ringfence", Workload: "counter", Mode: f.mode, Nodes: f.start, Conns: f.conns, Load: f.load,
		Open: func(ctx context.Context) (bench.Target, error) {
			return bench.NewCounters(ctx, cl, "Counter", bench.Mode(f.mode), f.load)
		}}
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 && a.err == os.Stderr {
		s.Hooks.OnProgress = a.progress
		defer fmt.Fprint(a.err, "\r\x1b[K")
	}
	return bench.Measure(ctx, m, s, f.runs)
}

// progress overwrites one line of the terminal.
func (a *app) progress(p bench.Progress) {
	phase := ""
	if p.Warmup {
		phase = " (warming up)"
	}
	fmt.Fprintf(a.err, "\r\x1b[K%3.0fs  %.0f ops/s  %d errors%s", p.Elapsed.Seconds(), p.Rate, p.Errors, phase)
}
