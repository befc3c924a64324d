package bench

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Options is what may be chosen of a workload. Zero values mean the workload's own defaults.
type Options struct {
	Load
	Pause time.Duration // of the workload pause: how long the node stands still
}

// Workload is one of those that Ringfence is measured by.
type Workload struct {
	Name    string
	Summary string // one line
	Text    string // what it does, how it is measured and what is verified
	Nodes   int    // of a cluster that is started for it
	// Faults: it ends, pauses or adds nodes, so that it needs Env.Nodes.
	Faults bool
	// Alone: each run needs a cluster of its own that nobody used before.
	Alone bool
	// Metrics: it reads the nodes' metrics.
	Metrics bool
	// NodeEnv and NodeFlags are what nodes which are started for it need in their environment and on their command line.
	NodeEnv, NodeFlags []string
	// Default is what Options are without a choice; Short likewise where time is short.
	Default, Short Options

	run func(ctx context.Context, e *Env, o Options) (*Result, error)
}

// Workloads are all, in the order in which they are run.
func Workloads() []Workload {
	return []Workload{hotWorkload(), spreadWorkload(), loneWorkload(), twinWorkload(), twinWritesWorkload(), readWorkload(), echoWorkload(),
		stormWorkload(), singleWorkload(),
		alarmsWorkload(), killWorkload(), pauseWorkload(), rollingWorkload(), joinWorkload(), idleWorkload()}
}

// Lookup is the workload of a name.
func Lookup(name string) (Workload, error) {
	var names []string
	for _, w := range Workloads() {
		if w.Name == name {
			return w, nil
		}
		names = append(names, w.Name)
	}
	return Workload{}, fmt.Errorf("there is no workload %q: want %s", name, strings.Join(names, ", "))
}

// Run measures once. number counts the runs, from 1.
func (w Workload) Run(ctx context.Context, e *Env, o Options, number int) (*Result, error) {
	if w.Faults && e.Nodes == nil {
		return nil, fmt.Errorf("workload %s needs to end and to start nodes: their processes are out of reach", w.Name)
	}
	if w.Metrics && e.Metrics == nil {
		return nil, fmt.Errorf("workload %s reads the nodes' metrics: they are out of reach", w.Name)
	}
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("workload %s: %w", w.Name, err)
	}
	r, err := w.run(ctx, e, o)
	if r != nil {
		r.Machine, r.System, r.Workload, r.Run, r.Nodes, r.Conns = e.Machine, "ringfence", w.Name, number, e.Started, e.Conns
		if s, statusErr := e.status(ctx); statusErr == nil {
			r.Shards, r.Replicas = s.Shards, min(s.Replicas, len(s.Nodes))
		}
	}
	if err != nil {
		return r, fmt.Errorf("workload %s, run %d: %w", w.Name, number, err)
	}
	return r, nil
}

// hooks are those of every workload.
func (e *Env) hooks() Hooks { return Hooks{OnProgress: e.OnProgress, CPU: e.CPU, pause: e.pause} }

// drive drives a target and closes it.
func (e *Env) drive(ctx context.Context, t Target, l Load, h Hooks) (*Result, error) {
	defer t.Close()
	return Drive(ctx, t, l, h)
}

const (
	second   = time.Second
	normally = 10 * second
	briefly  = 5 * second
)

// steady is a workload without events: a target under load for a while.
func steady(name, summary, text string, l Load, open func(context.Context, Objects, Load) (Target, error)) Workload {
	long, short := l, l
	long.Window, long.Warmup = normally, 2*second
	short.Window, short.Warmup = briefly, second
	return Workload{Name: name, Summary: summary, Text: text, Nodes: 3, Default: Options{Load: long}, Short: Options{Load: short},
		run: func(ctx context.Context, e *Env, o Options) (*Result, error) {
			t, err := open(ctx, e.Cluster, o.Load)
			if err != nil {
				return nil, err
			}
			return e.drive(ctx, t, o.Load, e.hooks())
		}}
}

// counting is steady on counters.
func counting(name, summary, text string, mode Mode, l Load) Workload {
	return steady(name, summary, text, l, func(ctx context.Context, c Objects, l Load) (Target, error) {
		return NewCounters(ctx, c, counterClass, mode, l)
	})
}

// NewCounterWorkload is callers on objects of a class that has the methods of the stock class Counter.
func NewCounterWorkload(class string, mode Mode) Workload {
	return Workload{Name: "counter", Nodes: 3, run: func(ctx context.Context, e *Env, o Options) (*Result, error) {
		t, err := NewCounters(ctx, e.Cluster, class, mode, o.Load)
		if err != nil {
			return nil, err
		}
		r, err := e.drive(ctx, t, o.Load, e.hooks())
		if r != nil {
			r.Mode = string(mode)
		}
		return r, err
	}}
}

const addUp = "Afterwards each counter is read and compared with what its callers were told."

func hotWorkload() Workload {
	return counting("hot", "durable increments of one object", "All callers increment one counter: how fast one object is. "+addUp,
		Increment, Load{Callers: 256, Objects: 1})
}

func spreadWorkload() Workload {
	return counting("spread", "durable increments of 1,000 objects", "Callers increment counters that they choose at random. "+addUp,
		Increment, Load{Callers: 256, Objects: 1000})
}

func loneWorkload() Workload {
	return counting("lone", "durable increments of one object by one caller",
		"One caller increments one counter: what a durable write takes when nobody else is there. "+addUp,
		Increment, Load{Callers: 1, Objects: 1})
}

func readWorkload() Workload {
	return counting("read", "reads of a stored value", "Callers read counters that were written before. Each reply must be what was stored.",
		Get, Load{Callers: 256, Objects: 1000})
}

func echoWorkload() Workload {
	return counting("echo", "calls that touch no storage",
		"Callers send 64 bytes and get them back. The owner holds a lease when it answers, but nothing is read or written. "+
			"Each reply must be what was sent.",
		Echo, Load{Callers: 256, Objects: 1000, Payload: 64})
}

func stormWorkload() Workload {
	return counting("storm", "activations: each call a durable increment of a new object",
		"Every call goes to an object that was never called before, activates it and is durable. Each new counter must answer 1; afterwards "+
			"up to 100,000 of them are read back.",
		Increment, Load{Callers: 256, Objects: 1, Fresh: true})
}

const twinText = "Objects have a state of --payload bytes, which a write replaces and a read returns. Each object is written once before. " +
	"Each reply must be a state that was written to its object; " +
	"afterwards the states' versions are compared with what callers were told."

func openTwins(ctx context.Context, c Objects, l Load) (Target, error) { return newTwins(ctx, c, l) }

func twinWorkload() Workload {
	return steady("twin", "digital twins of 550 bytes, 75 % reads and 25 % writes", twinText,
		Load{Callers: 256, Objects: 1000, Reads: 0.75, Payload: 550}, openTwins)
}

func twinWritesWorkload() Workload {
	return steady("twin-writes", "digital twins of 550 bytes, writes only", twinText, Load{Callers: 256, Objects: 1000, Payload: 550}, openTwins)
}

func singleWorkload() Workload {
	w := spreadWorkload()
	w.Name, w.Nodes = "single", 1
	w.Summary = "durable increments of 1,000 objects on one node, without replication"
	w.Text = "As spread, on a cluster of one node, whose shards have one replica. " + addUp
	run := w.run
	w.run = func(ctx context.Context, e *Env, o Options) (*Result, error) {
		s, err := e.status(ctx)
		if err != nil {
			return nil, err
		}
		if len(s.Nodes) != 1 {
			return nil, fmt.Errorf("it wants a cluster of one node, and this one has %d", len(s.Nodes))
		}
		return run(ctx, e, o)
	}
	return w
}
