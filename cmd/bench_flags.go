package cmd

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/bench"
)

// benchFlags are those of the workloads.
type benchFlags struct {
	clientFlags
	o        bench.Options
	start    int
	shards   int
	conns    int
	runs     int
	short    bool
	asJSON   bool
	plot     string
	faultCmd string

	timeoutGiven bool
}

// add adds the flags that all workloads have.
func (f *benchFlags) add(c *cobra.Command, w bench.Workload) {
	f.clientFlags.add(c)
	c.Flags().Lookup("timeout").Usage = "how long one call may take"
	f.addRun(c, w.Nodes)
	fl := c.Flags()
	fl.IntVar(&f.o.Callers, "callers", w.Default.Callers, "calls under way at a time, at most; in a closed loop always")
	fl.IntVar(&f.o.Objects, "objects", w.Default.Objects, "number of objects")
	fl.DurationVar(&f.o.Window, "duration", w.Default.Window, "measured time")
	fl.DurationVar(&f.o.Warmup, "warmup", w.Default.Warmup, "time before it that does not count")
	fl.Float64Var(&f.o.Rate, "rate", w.Default.Rate, "open loop: begin so many calls a second, whether or not replies come; 0: closed loop")
}

// addRun adds those that `all` has, too.
func (f *benchFlags) addRun(c *cobra.Command, nodes int) {
	fl := c.Flags()
	fl.IntVar(&f.conns, "conns", 1, "connections to each node")
	fl.IntVar(&f.start, "start", nodes, "start a cluster of this many local processes for the runs; 0: use that of --server")
	fl.IntVar(&f.shards, "shards", 0, "shards of a cluster that is started (default 64)")
	fl.IntVar(&f.runs, "runs", 1, "how often to measure")
	fl.BoolVar(&f.asJSON, "json", false, "print the runs as a JSON array")
	fl.StringVar(&f.plot, "plot", "", "draw the latencies, and the time line of workloads with events, into this `file`.svg or .png")
}

// addOwn adds those that only some workloads have.
func (f *benchFlags) addOwn(c *cobra.Command, w bench.Workload) {
	fl := c.Flags()
	fl.BoolVar(&f.short, "short", false, "fewer objects and less time, where they are not given")
	if w.Default.Payload > 0 {
		fl.IntVar(&f.o.Payload, "payload", w.Default.Payload, "bytes that a call carries")
	}
	if w.Default.Reads > 0 {
		fl.Float64Var(&f.o.Reads, "reads", w.Default.Reads, "share of the calls that read")
	}
	if w.Default.Pause > 0 && w.Name == "pause" {
		fl.DurationVar(&f.o.Pause, "pause", w.Default.Pause, "how long the node stands still")
	}
	if w.Faults {
		fl.StringVar(&f.faultCmd, "fault-cmd", "", "with --server: a shell `command` that does what is to happen to a node; see below")
		c.Long += `

The processes of a cluster at --server are out of reach. --fault-cmd does the work there: it is run by sh with RINGFENCE_FAULT set to kill,
pause, resume, stop, start or add, and RINGFENCE_NODE to the node's --listen address. For kill and stop it must wait until the node has ended;
for add it prints the --listen address of the new node.`
	}
}

// own takes what is short where it was not chosen, and drops what --start does not need.
func (f *benchFlags) own(c *cobra.Command, w bench.Workload) {
	if !c.Flags().Changed("start") && c.Flags().Changed("server") {
		f.start = 0
	}
	if !f.short {
		return
	}
	given := c.Flags().Changed
	for name, take := range map[string]func(){
		"objects":  func() { f.o.Objects = w.Short.Objects },
		"duration": func() { f.o.Window = w.Short.Window },
		"warmup":   func() { f.o.Warmup = w.Short.Warmup },
		"pause":    func() { f.o.Pause = w.Short.Pause },
	} {
		if !given(name) {
			take()
		}
	}
}

// options are the workload's own with what was chosen.
func (f *benchFlags) options(w bench.Workload) bench.Options {
	o := f.o
	d := w.Default
	o.Fresh, o.Pinned, o.Limit = d.Fresh, d.Pinned, d.Limit
	if o.Timeout = f.timeout; !f.timeoutGiven && d.Timeout > 0 {
		o.Timeout = d.Timeout
	}
	return o
}

// starts reports whether clusters are started for the runs.
func (f *benchFlags) starts() bool { return f.start > 0 }

func (f *benchFlags) check(c *cobra.Command) error {
	f.timeoutGiven = c.Flags().Changed("timeout")
	l := f.o.Load
	l.Timeout = f.timeout
	switch {
	case l.Callers < 1 || l.Objects < 1 || l.Window <= 0:
		return usagef(c, "--callers %d, --objects %d, --duration %v: want all above 0", l.Callers, l.Objects, l.Window)
	case f.o.Pause < 0:
		return usagef(c, "--pause %v: want a time above 0, such as 10s", f.o.Pause)
	}
	if err := l.Check(); err != nil {
		return usagef(c, "%v", err)
	}
	return f.checkRun(c)
}

func (f *benchFlags) checkRun(c *cobra.Command) error {
	switch {
	case f.runs < 1:
		return usagef(c, "--runs %d: want at least 1", f.runs)
	case f.conns < 1 || f.conns > 64:
		return usagef(c, "--conns %d: want 1 to 64", f.conns)
	case f.start > 0 && c.Flags().Changed("server"):
		return usagef(c, "--start and --server: a run measures its own cluster or another, not both")
	case f.start > 0 && f.faultCmd != "":
		return usagef(c, "--start and --fault-cmd: a cluster that is started needs no command")
	case f.shards != 0 && !f.starts():
		return usagef(c, "--shards %d: only a cluster that is started can be given them", f.shards)
	case f.shards < 0 || f.shards == 0 && c.Flags().Changed("shards"):
		return usagef(c, "--shards %d: want a number above 0", f.shards)
	}
	if c.Flags().Changed("start") && !(f.start == 0 && c.Flags().Changed("server")) {
		if err := checkLocal(c, f.start, 0); err != nil {
			return err
		}
	}
	if f.plot != "" {
		if ext := strings.ToLower(filepath.Ext(f.plot)); ext != ".svg" && ext != ".png" {
			return usagef(c, "--plot %s: want a name that ends in .svg or .png", f.plot)
		}
	}
	return f.clientFlags.check(c)
}

// writePlot draws results into a file.
func writePlot(name string, results []*bench.Result) (err error) {
	draw := bench.WriteSVG
	if strings.EqualFold(filepath.Ext(name), ".png") {
		draw = bench.WritePNG
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closing := file.Close(); err == nil {
			err = closing
		}
	}()
	return draw(file, results)
}
