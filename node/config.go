package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

// Version of this build, as `ringfence version` and `ringfence status` print it.
const Version = "0.1.0-dev"

// Config says how a node runs. Zero values mean the defaults named here; New checks the rest.
type Config struct {
	Data            string   // data directory; required
	Listen          string   // address for calls, Raft and requests. Default 127.0.0.1:7420.
	Gossip          string   // address for gossip, TCP and UDP. Default: Listen's host, port + 1.
	HTTP            string   // address for /healthz, /readyz and /metrics. Default: none.
	AdvertiseListen string   // how others reach Listen. Default: Listen as bound.
	AdvertiseGossip string   // how others reach Gossip. Default: Gossip as bound.
	Join            []string // other nodes' Gossip addresses. A node that joins never forms a cluster by itself.
	BootstrapExpect int      // this many nodes that list each other form one cluster. Default 1 without Join, 0 (never) with it.
	Replicas        int      // copies of each shard, counts at formation only. Default 3.
	Shards          int      // counts at formation only. Default 64.
	Lease           string   // how an owner knows that it is one: LeaseClock (default) or LeaseQuorum
	Timing          string   // "lan" (default) or "slow", counts at formation only
	// ReplaceAfter is how long a member may be dead before its replicas are made anew on others. Default 5 minutes; what counts is the
	// value at the node that runs the sequencer, so give all nodes the same.
	ReplaceAfter time.Duration
	// SnapshotRate is how many bytes of snapshots this node sends at most in a second, all of them together: a node that joins must not
	// take the network, or the disks, from those who call. Default 64 MiB.
	SnapshotRate int
	// MaxActivations is how many objects this node keeps in memory; beyond it idle ones are put away before their time. Default 200,000.
	MaxActivations int
	Logger         *slog.Logger

	// ReplicasSet and ShardsSet say that the values were given, not defaulted: then a cluster that differs is refused by name.
	ReplicasSet, ShardsSet bool

	// Switch, if not nil, can cut the node off from the network: for demonstrations and tests.
	Switch *Switch
	// Machine, if not nil, is what the node stands on in place of this one: for tests. It does without Switch and HTTP.
	Machine *Machine

	plan ring.PlanConfig // of the sequencer; tests hurry it
}

const (
	DefaultListen       = "127.0.0.1:7420"
	DefaultReplaceAfter = 5 * time.Minute
	DefaultSnapshotRate = 64 << 20
	// DefaultMaxActivations keeps quiet objects of a few hundred bytes within some 100 MB; those that keep more in memory may need less.
	DefaultMaxActivations = 200_000
	// LeaseClock is the lease that rests on clocks of bounded rate: a majority has promised for a while to help nobody else.
	LeaseClock = "clock"
	// LeaseQuorum is the lease that rests on no clock: an owner asks a majority before a reply leaves.
	LeaseQuorum = "quorum"
)

func (c *Config) fill() error {
	if c.Data == "" {
		return errors.New("a node needs a data directory: give --data DIR")
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	host, port, err := splitAddr("--listen", c.Listen)
	if err != nil {
		return err
	}
	if c.Gossip == "" {
		next := port + 1
		if port == 0 {
			next = 0 // any free port
		}
		c.Gossip = net.JoinHostPort(host, strconv.Itoa(next))
	}
	if _, _, err := splitAddr("--gossip", c.Gossip); err != nil {
		return err
	}
	if c.HTTP != "" {
		if _, _, err := splitAddr("--http", c.HTTP); err != nil {
			return err
		}
	}
	if c.Machine != nil && (c.HTTP != "" || c.Switch != nil) {
		return errors.New("a node on a Machine has no HTTP port and no Switch: leave them out")
	}
	for _, s := range c.Join {
		if _, p, err := splitAddr("--join", s); err != nil {
			return err
		} else if p == 0 {
			return fmt.Errorf("--join %s: a seed needs its port, the one of its --gossip", s)
		}
	}
	return c.fillFormation()
}

func (c *Config) fillFormation() error {
	if c.Shards == 0 && !c.ShardsSet {
		c.Shards = ring.DefaultShards
	}
	if c.Replicas == 0 && !c.ReplicasSet {
		c.Replicas = ring.DefaultReplicas
	}
	switch {
	case c.Shards < 1 || c.Shards > ring.MaxShards:
		return fmt.Errorf("--shards %d: want 1 to %d; 4 to 16 times the largest number of nodes expected is a good choice", c.Shards, ring.MaxShards)
	case c.Replicas < 1 || c.Replicas > ring.MaxReplicas:
		return fmt.Errorf("--replicas %d: want 1 to %d; 3 survives the loss of one node", c.Replicas, ring.MaxReplicas)
	case c.BootstrapExpect < 0 || c.BootstrapExpect > 64:
		return fmt.Errorf("--bootstrap-expect %d: want 1 to 64, the number of nodes that form the cluster together", c.BootstrapExpect)
	case c.BootstrapExpect > 1 && c.BootstrapExpect > c.Shards/2:
		return fmt.Errorf("--bootstrap-expect %d: with --shards %d at most %d nodes can share the work; create the cluster with more shards",
			c.BootstrapExpect, c.Shards, max(1, c.Shards/2))
	}
	switch c.Lease {
	case "":
		c.Lease = LeaseClock
	case LeaseClock, LeaseQuorum:
	default:
		return fmt.Errorf("--lease %s: want clock or quorum", c.Lease)
	}
	if c.Timing == "" {
		c.Timing = "lan"
	}
	if _, err := timing(c.Timing); err != nil {
		return err
	}
	if c.SnapshotRate == 0 {
		c.SnapshotRate = DefaultSnapshotRate
	}
	if c.MaxActivations == 0 {
		c.MaxActivations = DefaultMaxActivations
	}
	if c.MaxActivations < 1 {
		return fmt.Errorf("--max-activations %d: want at least 1", c.MaxActivations)
	}
	if c.SnapshotRate < replica.ChunkBytes {
		return fmt.Errorf("--snapshot-rate %d: want at least %d bytes a second, or a replica might never be filled", c.SnapshotRate, replica.ChunkBytes)
	}
	if c.ReplaceAfter == 0 {
		c.ReplaceAfter = DefaultReplaceAfter
	}
	if c.ReplaceAfter < aliveTime {
		return fmt.Errorf("--replace-after %v: want at least %v, or a node that restarts would be given up", c.ReplaceAfter, aliveTime)
	}
	if c.BootstrapExpect == 0 && len(c.Join) == 0 {
		c.BootstrapExpect = 1
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

func timing(name string) (replica.Timing, error) {
	switch name {
	case "lan":
		return replica.LANTiming, nil
	case "slow":
		return replica.SlowTiming, nil
	}
	return replica.Timing{}, fmt.Errorf("--timing %s: want lan or slow", name)
}

// splitAddr checks a host:port; port 0 means any free one.
func splitAddr(flag, s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%s %q: want HOST:PORT, such as 127.0.0.1:7420", flag, s)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%s %q: %q is not a port", flag, s, p)
	}
	if strings.ContainsAny(host, " /") {
		return "", 0, fmt.Errorf("%s %q: %q is not a host", flag, s, host)
	}
	return host, port, nil
}
