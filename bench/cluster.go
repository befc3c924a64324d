package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
)

// Cluster is a Ringfence cluster as callers see it; a *client.Client is one.
type Cluster interface {
	Object(class, key string) actor.Ref
	// Request asks the node at a --listen address a named question.
	Request(ctx context.Context, addr, name string, body []byte) ([]byte, error)
}

// Nodes are a cluster's processes, for workloads that need more of them than to be called. They are named by their --listen addresses.
type Nodes interface {
	Addrs() []string // those that have been started and not been ended
	// Fault does something to a node; Stop and Kill return when it has ended, Start as soon as it is under way.
	Fault(ctx context.Context, f Fault, addr string) error
	// Add starts one more node and returns its address.
	Add(ctx context.Context) (addr string, err error)
}

// Fault is what happens to a node.
type Fault string

const (
	Kill   Fault = "kill"   // SIGKILL
	Pause  Fault = "pause"  // SIGSTOP
	Resume Fault = "resume" // SIGCONT
	Stop   Fault = "stop"   // SIGTERM, and wait until it has ended
	Start  Fault = "start"  // start it again, with its data
)

// Env is what a workload runs on.
type Env struct {
	Cluster Cluster
	Servers []string // --listen addresses of nodes
	Nodes   Nodes    // nil: the processes are out of reach
	Started int      // local processes that were started for this; 0: the cluster ran already
	Conns   int      // to each node
	Machine Machine
	// Metrics are the unlabelled figures that a node serves at --http. nil: not known.
	Metrics func(ctx context.Context, addr string) (map[string]float64, error)
	// CPU is the processor time used by all nodes so far, those included that have ended. nil: not known.
	CPU func() (time.Duration, error)
	// OnProgress may be nil.
	OnProgress func(Progress)

	pause func(context.Context, time.Duration) // see Hooks
}

// name is how a node is called on the time line: by its number if it was started here, in the order of their start, else by its address.
func (e *Env) name(addr string) string {
	for i, a := range e.Servers {
		if a == addr && e.Started > 0 {
			return fmt.Sprintf("node %d", i+1)
		}
	}
	if e.Started > 0 {
		return "a new node"
	}
	return addr
}

// status is what the first server that answers says.
func (e *Env) status(ctx context.Context) (*node.Status, error) {
	var all []error
	for _, addr := range e.Servers {
		s, err := e.statusOf(ctx, addr)
		if err == nil {
			return s, nil
		}
		all = append(all, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(all...)
}

// askTime bounds one question to one node, which asks others that may be dead.
const askTime = 5 * time.Second

func (e *Env) statusOf(ctx context.Context, addr string) (*node.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	b, err := e.Cluster.Request(ctx, addr, "status", nil)
	if err != nil {
		return nil, err
	}
	s, err := node.DecodeStatus(b)
	if err != nil {
		return nil, fmt.Errorf("the answer is not a status: %w", err)
	}
	return &s, nil
}

// where asks for the owner and the replicas of an object.
func (e *Env) where(ctx context.Context, class, key string) (*node.Where, error) {
	body, err := msgpack.Marshal(node.WhereRequest{Class: class, Key: key})
	if err != nil {
		return nil, err
	}
	var all []error
	for _, addr := range e.Servers {
		b, err := e.Cluster.Request(ctx, addr, "where", body)
		if err == nil {
			var w node.Where
			if w, err = node.DecodeWhere(b); err == nil {
				return &w, nil
			}
		}
		all = append(all, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, fmt.Errorf("where is %s/%s: %w", class, key, errors.Join(all...))
}

// whole waits until each of the nodes sees all of them up, and every shard owned; settled also that nothing moves and shards are spread.
func (e *Env) whole(ctx context.Context, addrs []string, settled bool) error {
	if len(addrs) == 0 {
		return errors.New("no node runs")
	}
	limit := time.NewTimer(wholeTime)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.lacks(ctx, addrs, settled)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("the cluster is not whole after %v: %w", wholeTime, err)
		case <-tick.C:
		}
	}
}

// wholeTime is how long a cluster may take to be whole again.
const wholeTime = 3 * time.Minute

// lacks says what the first of the nodes that is not content sees.
func (e *Env) lacks(ctx context.Context, addrs []string, settled bool) error {
	for _, addr := range addrs {
		s, err := e.statusOf(ctx, addr)
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
		up := 0
		low, high := shares(s.Shards, len(s.Nodes))
		for _, n := range s.Nodes {
			if n.State == "up" {
				up++
			}
			if settled && (n.Owned < low || n.Owned > high) {
				return fmt.Errorf("as %s sees it, %s owns %d of %d shards", addr, n.Addr, n.Owned, s.Shards)
			}
		}
		switch {
		case up < len(addrs):
			return fmt.Errorf("as %s sees it, %d of %d nodes are up", addr, up, len(addrs))
		case s.Unowned > 0:
			return fmt.Errorf("as %s sees it, %d of %d shards have no owner", addr, s.Unowned, s.Shards)
		case settled && len(s.Moves) > 0:
			return fmt.Errorf("as %s sees it, %d replicas move", addr, len(s.Moves))
		}
	}
	return nil
}

// shares are the fewest and the most shards that a node owns in a cluster that is balanced: at most a quarter above an even share, and not
// less than half of one, or than what the others may leave.
func shares(shards, nodes int) (low, high int) {
	even := float64(shards) / float64(nodes)
	high = int(math.Ceil(1.25 * even))
	return max(1, min(int(even/2), shards-(nodes-1)*high)), high
}

// metric is the sum of one figure over some nodes.
func (e *Env) metric(ctx context.Context, addrs []string, name string) (sum float64, err error) {
	all, err := e.metrics(ctx, addrs)
	for _, m := range all {
		v, ok := m[name]
		if !ok {
			return 0, fmt.Errorf("a node does not serve the metric %s", name)
		}
		sum += v
	}
	return sum, err
}

// metrics are those of some nodes, in their order.
func (e *Env) metrics(ctx context.Context, addrs []string) ([]map[string]float64, error) {
	if e.Metrics == nil {
		return nil, errors.New("the nodes' metrics are needed, and out of reach")
	}
	var all []map[string]float64
	for _, addr := range addrs {
		m, err := e.Metrics(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("the metrics of the node at %s: %w", addr, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
