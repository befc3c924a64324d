package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/ringfence/ringfence/bench"
)

// report is what one run of the program found; all of it is in the JSON.
type report struct {
	Machine bench.Machine   `json:"machine"`
	Systems []about         `json:"systems"`
	Rows    []row           `json:"rows"`
	Results []*bench.Result `json:"results"`

	workloads []*workload
}

// about is what a reader must know of a system.
type about struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Settings string `json:"settings"`
	Skipped  string `json:"skipped,omitempty"` // why it was not measured, or not to the end
}

// startTime is how long a cluster may take to serve, without what is installed for it.
const startTime = time.Minute

// run measures round by round, so that whatever changes on the machine meanwhile meets all systems alike. A system that cannot be had here is left out; one that
// fails is left out of what follows, and its error returned with the report.
func run(ctx context.Context, o *options) (*report, error) {
	machine, err := bench.ThisMachine(o.dir)
	if err != nil {
		return nil, err
	}
	log := io.Discard
	if o.logFile != "" {
		f, err := os.Create(o.logFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		log = f
	}
	r := &report{Machine: machine, workloads: o.workloads}
	for _, s := range o.systems {
		r.Systems = append(r.Systems, about{Name: s.name, Version: s.version, Settings: s.settings})
	}
	e := env{cache: o.cache, install: o.install, log: log, family: newFamily(), shards: o.shards}
	var failures []error
	for round := range o.runs {
		for i, s := range o.systems {
			if r.Systems[i].Skipped != "" {
				continue
			}
			o.say("round %d of %d: %s", round+1, o.runs, s.name)
			results, err := s.round(ctx, e, o, machine, round+1)
			r.Results = append(r.Results, results...)
			if ctx.Err() != nil {
				return r.finish(), errors.Join(append(failures, err, context.Cause(ctx))...)
			}
			if err == nil {
				continue
			}
			r.Systems[i].Skipped = err.Error()
			if m := (*missing)(nil); !errors.As(err, &m) {
				failures = append(failures, fmt.Errorf("%s: %w", s.name, err))
			}
		}
	}
	return r.finish(), errors.Join(append(failures, bench.Wrong(r.Results))...)
}

func (o *options) say(format string, args ...any) {
	if !o.quiet {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// round starts a system in a directory of its own and does every workload once. It returns what it has when something fails.
func (s *system) round(ctx context.Context, e env, o *options, m bench.Machine, number int) (results []*bench.Result, err error) {
	var todo []*workload
	for _, w := range o.workloads {
		if len(s.does[w.name]) > 0 {
			todo = append(todo, w)
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	if e.dir, err = os.MkdirTemp(o.dir, "ringfence-peers-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(e.dir)) }()
	starting, cancel := context.WithTimeoutCause(ctx, startTime+installTime, fmt.Errorf("not ready within %v", startTime+installTime))
	c, err := s.start(starting, e)
	cancel()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for _, w := range todo {
		for _, way := range s.does[w.name] {
			o.say("  %s %s", w.name, way)
			spec := bench.Spec{System: s.name, Workload: w.name, Mode: way, Nodes: s.nodes, Conns: s.conns, Load: w.load,
				Hooks: bench.Hooks{CPU: c.cpu},
				Open:  func(ctx context.Context) (bench.Target, error) { return c.open(ctx, w, way) }}
			rs, err := bench.Measure(ctx, m, spec, 1)
			for _, r := range rs {
				r.Run = number
			}
			results = append(results, rs...)
			if err != nil {
				return results, err
			}
		}
	}
	return results, nil
}

// moduleVersion is the version of a module that this program was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == path {
			return d.Version
		}
	}
	return "unknown"
}
