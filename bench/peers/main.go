package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/cmd"
	"github.com/ringfence/ringfence/ring"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ringfenceCommand:
			os.Args = append([]string{ringfenceCommand}, os.Args[2:]...)
			cmd.Main()
		case childCommand:
			exit(runNode(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	exit(compare(ctx, os.Args[1:]))
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func exit(err error) {
	switch {
	case err == nil || errors.Is(err, pflag.ErrHelp):
		os.Exit(0)
	case errors.As(err, &usageError{}):
		fmt.Fprintf(os.Stderr, "peers: %v (see --help)\n", err)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "peers: %v\n", err)
	os.Exit(1)
}

// options are the command line's.
type options struct {
	systems   []*system
	workloads []*workload
	runs      int
	dir       string // where clusters keep their data; empty: the directory for temporary files
	cache     string
	install   bool
	logFile   string
	asJSON    bool
	quiet     bool
	shards    int
}

func parse(args []string) (*options, error) {
	o := &options{}
	var names, loads []string
	var duration, warmup time.Duration
	var short, noInstall bool
	f := pflag.NewFlagSet("peers", pflag.ContinueOnError)
	f.StringSliceVar(&names, "systems", nil, "only these: "+strings.Join(namesOf(systems()), ", "))
	f.StringSliceVar(&loads, "workloads", nil, "only these: "+strings.Join(namesOfWorkloads(workloads()), ", "))
	f.IntVar(&o.runs, "runs", 3, "rounds, in each of which every system is started anew and does every workload")
	f.DurationVar(&duration, "duration", 3*time.Second, "measured time of one workload")
	f.DurationVar(&warmup, "warmup", time.Second, "time before it that does not count")
	f.BoolVar(&short, "short", false, "one round of 1 s each, with 0.5 s of warm-up")
	f.IntVar(&o.shards, "shards", defaultShards, "shards of Ringfence's cluster; 4 to 16 for each node are a good choice")
	f.StringVar(&o.dir, "dir", "", "where the systems keep their data while they run (default: the directory for temporary files)")
	f.StringVar(&o.cache, "cache", "", "where what is installed from npm stays (default: the user's cache directory)")
	f.BoolVar(&noInstall, "no-install", false, "install nothing")
	f.StringVar(&o.logFile, "log", "", "a file for what the systems' processes say")
	f.BoolVar(&o.asJSON, "json", false, "print everything as one JSON object")
	f.BoolVar(&o.quiet, "quiet", false, "do not say on stderr what is going on")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{err}
	}
	o.install = !noInstall
	if short {
		for name, v := range map[string]string{"runs": "1", "duration": "1s", "warmup": "500ms"} {
			if !f.Changed(name) {
				if err := f.Set(name, v); err != nil {
					return nil, err
				}
			}
		}
	}
	switch {
	case f.NArg() > 0:
		return nil, usageError{fmt.Errorf("unknown argument %q", f.Arg(0))}
	case o.runs < 1:
		return nil, usageError{fmt.Errorf("--runs %d: want at least 1", o.runs)}
	case o.shards < leastShards || o.shards > ring.MaxShards:
		return nil, usageError{fmt.Errorf("--shards %d: want %d, two for each node, to %d", o.shards, leastShards, ring.MaxShards)}
	case duration <= 0 || warmup < 0:
		return nil, usageError{fmt.Errorf("--duration %v, --warmup %v: want a duration above 0 and a warm-up of at least 0", duration, warmup)}
	}
	return o, errors.Join(o.choose(names, loads, duration, warmup), o.place())
}

// choose finds what was named; nothing named is all.
func (o *options) choose(names, loads []string, duration, warmup time.Duration) error {
	for _, s := range systems() {
		if s.name == ringfenceSystem().name && o.shards != defaultShards {
			s.settings = strings.Replace(s.settings, fmt.Sprintf("%d shards;", defaultShards), fmt.Sprintf("%d shards (--shards);", o.shards), 1)
		}
		if len(names) == 0 || slices.Contains(names, s.name) {
			o.systems = append(o.systems, s)
		}
	}
	for _, w := range workloads() {
		if len(loads) == 0 || slices.Contains(loads, w.name) {
			w.load.Window, w.load.Warmup = duration, warmup
			o.workloads = append(o.workloads, w)
		}
	}
	for _, n := range names {
		if !slices.Contains(namesOf(o.systems), n) {
			return usageError{fmt.Errorf("no system %q; there are %s", n, strings.Join(namesOf(systems()), ", "))}
		}
	}
	for _, n := range loads {
		if !slices.Contains(namesOfWorkloads(o.workloads), n) {
			return usageError{fmt.Errorf("no workload %q; there are %s", n, strings.Join(namesOfWorkloads(workloads()), ", "))}
		}
	}
	return nil
}

func (o *options) place() (err error) {
	if o.cache != "" {
		o.cache, err = filepath.Abs(o.cache)
		return err
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	o.cache = filepath.Join(base, "ringfence-peers")
	return nil
}

func namesOf(all []*system) (names []string) {
	for _, s := range all {
		names = append(names, s.name)
	}
	return names
}

func namesOfWorkloads(all []*workload) (names []string) {
	for _, w := range all {
		names = append(names, w.name)
	}
	return names
}

// compare is the program.
func compare(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	bench.EaseGC()
	r, err := run(ctx, o)
	if r != nil && len(r.Results) > 0 {
		if o.asJSON {
			enc := json.NewEncoder(os.Stdout)
			enc.SetIndent("", "  ")
			err = errors.Join(err, enc.Encode(r))
		} else {
			err = errors.Join(err, r.write(os.Stdout))
		}
	}
	return err
}
