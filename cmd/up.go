package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/node"
)

func (a *app) upCommand() *cobra.Command {
	var o localOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a local cluster in the foreground, and say how to call it",
		Long: `Start a local cluster in the foreground, and say how to call it. Ctrl-C stops it.

Every node is a process of this binary. Without --data the cluster's directory is temporary and goes away with it.`,
		Args: exactly(0),
	}
	c.Flags().IntVar(&o.nodes, "nodes", 3, "number of nodes")
	c.Flags().StringVar(&o.dir, "data", "", "`directory` that keeps the nodes' data (default: a temporary one)")
	c.Flags().IntVar(&o.basePort, "base-port", basePort, "first port of the first node; each further node's is 10 higher; 0 takes any free ports")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkLocal(c, o.nodes, o.basePort); err != nil {
			return err
		}
		if _, err := a.logger(c); err != nil {
			return err
		}
		o.level, o.log = a.level, a.err
		l, err := startLocal(o)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		if underGoRun() {
			go endWithParent(ctx, cancel)
		}
		err = a.runLocal(ctx, l)
		return errors.Join(err, l.stop())
	}
	return c
}

func checkLocal(c *cobra.Command, nodes, port int) error {
	switch {
	case nodes < 1 || nodes > maxLocal:
		return usagef(c, "%d nodes: want 1 to %d on one host", nodes, maxLocal)
	case port < 0 || port+portStep*nodes > 65535:
		return usagef(c, "--base-port %d: want 1 to %d, or 0 for any free ports", port, 65535-portStep*nodes)
	}
	return nil
}

// runLocal shows the cluster once it serves, and stays until ctx ends or the last node is gone.
func (a *app) runLocal(ctx context.Context, l *local) error {
	status, err := l.waitServing(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped on the way up: that is what was asked for
		}
		return err
	}
	if err := a.writeLocal(l, status); err != nil {
		return err
	}
	for left := l.nodes; left > 0; {
		select {
		case <-ctx.Done():
			return nil
		case c := <-l.exits:
			left--
			l.say("ringfence: node %d (pid %d) ended: %s; %d of %d nodes go on", c.number, c.pid(), c.howEnded(), left, l.nodes)
		}
	}
	return errors.New("every node has ended")
}

func (a *app) writeLocal(l *local, s *node.Status) error {
	ids := map[string]string{}
	for _, n := range s.Nodes {
		ids[n.Addr] = n.ID
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tID\tLISTEN\tGOSSIP\tPID\tDATA")
	for _, c := range l.all {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%s\n", c.number, ids[c.addrs.listen], c.addrs.listen, c.addrs.gossip, c.pid(), c.dir)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	self, server := invocation(a.name), ""
	if !slices.Contains(strings.Split(defaultServers, ","), l.all[0].addrs.listen) {
		server = " --server " + strings.Join(l.servers(), ",")
	}
	last := l.all[len(l.all)-1].addrs.listen
	_, err := fmt.Fprintf(a.out, `
cluster %s serves: %s, %d shards, epoch %d. Ctrl-C stops it.
Health and metrics of node 1: http://%[8]s/metrics

From another terminal:
  %[5]s call Counter/hello Increment 1%[6]s
  %[5]s call Counter/hello Get --server %[7]s
  %[5]s status%[6]s
`, s.Cluster, plural(l.nodes, "node"), s.Shards, s.Epoch, self, server, last, l.all[0].addrs.http)
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// underGoRun tells a program that `go run` has just built, or found in the build cache.
func underGoRun() bool {
	exe, err := os.Executable()
	return err == nil && builtByGoRun(exe)
}

var cacheDir = regexp.MustCompile(`^[0-9a-f]{64}-d$`)

// builtByGoRun knows the two places: …/go-build123/b001/exe/NAME, and HASH-d/NAME in the build cache.
func builtByGoRun(exe string) bool {
	dir := filepath.Dir(exe)
	fresh := filepath.Base(dir) == "exe" && strings.Contains(dir, string(filepath.Separator)+"go-build")
	return fresh || cacheDir.MatchString(filepath.Base(dir))
}

// parentPause is how often a program under `go run` looks for its parent.
const parentPause = time.Second

// endWithParent ends the cluster when `go run` is gone: a SIGTERM ends that alone, and nobody would know whom to stop.
func endWithParent(ctx context.Context, end func()) {
	parent := os.Getppid()
	t := time.NewTicker(parentPause)
	defer t.Stop()
	for os.Getppid() == parent {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
	end()
}

// invocation is how this program was started, as one would type it again. `go run` leaves a file in a temporary directory: the package
// that it was built from says what was typed.
func invocation(name string) string {
	if underGoRun() {
		if info, ok := debug.ReadBuildInfo(); ok && info.Path != "command-line-arguments" {
			rel, inside := strings.CutPrefix(info.Path, info.Main.Path+"/")
			if st, err := os.Stat(rel); inside && err == nil && st.IsDir() {
				return "go run ./" + rel
			}
			return "go run " + info.Path
		}
		if exe, err := os.Executable(); err == nil {
			return exe
		}
	}
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		return os.Args[0]
	}
	return name
}
