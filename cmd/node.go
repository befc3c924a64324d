package cmd

import (
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/ringfence/ringfence/node"
	"github.com/spf13/cobra"
)

func (a *app) nodeCommand() *cobra.Command {
	var cfg node.Config
	var controlled bool
	c := &cobra.Command{
		Use:   "node --data DIR",
		Short: "Run one node of a cluster until it is told to stop",
		Long: `Run one node of a cluster until SIGTERM or SIGINT, which stop it cleanly.

Without --join, an empty directory forms a cluster of one. With --join it never forms a cluster by itself, unless
--bootstrap-expect says how many nodes that list each other form one together.`,
		Args: exactly(0),
	}
	fl := c.Flags()
	fl.StringVar(&cfg.Data, "data", "", "data `directory` of this node, for ever (required)")
	fl.StringVar(&cfg.Listen, "listen", node.DefaultListen, "`address` for calls and for other nodes")
	fl.StringVar(&cfg.Gossip, "gossip", "", "`address` for gossip, TCP and UDP (default: the port after --listen)")
	fl.StringVar(&cfg.HTTP, "http", "", "`address` for /healthz, /readyz and /metrics, or off (default: two ports after --listen)")
	fl.StringVar(&cfg.AdvertiseListen, "advertise-listen", "", "how others reach --listen, if not by its `address`")
	fl.StringVar(&cfg.AdvertiseGossip, "advertise-gossip", "", "how others reach --gossip, if not by its `address`")
	fl.StringSliceVar(&cfg.Join, "join", nil, "other nodes' --gossip `addresses`")
	fl.IntVar(&cfg.BootstrapExpect, "bootstrap-expect", 0, "this many nodes that list each other form one cluster")
	fl.IntVar(&cfg.Replicas, "replicas", 0, "copies of each shard, when the cluster forms (default 3)")
	fl.IntVar(&cfg.Shards, "shards", 0, "number of shards, when the cluster forms (default 64)")
	fl.StringVar(&cfg.Lease, "lease", "", "how an owner knows that it is one: clock, or quorum for hosts whose clocks can stand still (VM snapshots, live migration) (default clock)")
	fl.StringVar(&cfg.Timing, "timing", "", "lan or slow, when the cluster forms (default lan)")
	fl.IntVar(&cfg.SnapshotRate, "snapshot-rate", node.DefaultSnapshotRate, "`bytes` of snapshots that this node sends in a second at most")
	fl.IntVar(&cfg.MaxActivations, "max-activations", node.DefaultMaxActivations, "how many objects this node keeps in memory; beyond it idle ones are put away before their time")
	fl.DurationVar(&cfg.ReplaceAfter, "replace-after", node.DefaultReplaceAfter, "how long a node may be dead before its replicas are made anew on others")
	fl.BoolVar(&controlled, "control-stdin", false, "take orders of `demo` from stdin")
	_ = fl.MarkHidden("control-stdin") // it fails for a flag that is not there
	c.RunE = func(c *cobra.Command, _ []string) error {
		log, err := a.logger(c)
		if err != nil {
			return err
		}
		if cfg.Data == "" {
			return usagef(c, "--data is missing: a node needs a directory of its own")
		}
		cfg.HTTP = httpAddr(cfg.HTTP, cfg.Listen)
		cfg.Logger = log
		cfg.ReplicasSet, cfg.ShardsSet = fl.Changed("replicas"), fl.Changed("shards")
		if controlled {
			k := newControl(a.out)
			cfg.Switch, a.classes = &k.net, append(slices.Clone(a.classes), k.class())
			go k.run(c.InOrStdin())
		}
		return a.runNode(c, cfg)
	}
	return c
}

// httpAddr is where a node serves HTTP: as given, nowhere if that is off, or two ports after --listen. A --listen that cannot be read is
// refused by who needs it.
func httpAddr(given, listen string) string {
	switch given {
	case "off":
		return ""
	case "":
	default:
		return given
	}
	h, p, err := net.SplitHostPort(listen)
	port, atoiErr := strconv.Atoi(p)
	if err != nil || atoiErr != nil {
		return ""
	}
	if port != 0 {
		port += httpPort
	}
	return net.JoinHostPort(h, strconv.Itoa(port))
}

// gcPercent is a node's GOGC unless the environment sets one. A node keeps little in memory and allocates much of it briefly: with the
// default of 100 the collector took a tenth of the processor.
const gcPercent = 400

func (a *app) runNode(c *cobra.Command, cfg node.Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	n, err := node.New(cfg, a.classes...)
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-n.Serving():
			fmt.Fprintf(a.out, "serving at %s\n", n.Addr())
		case <-stopped:
		}
	}()
	return n.Run(c.Context())
}
