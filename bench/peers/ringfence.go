package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
	"github.com/ringfence/ringfence/transport/freeport"
)

// ringfenceCommand is the hidden first argument with which this program is the command line of Ringfence.
const ringfenceCommand = "ringfence"

// defaultShards is what a cluster has whose creator gives no other number; fewer than leastShards are not enough for three nodes.
const (
	defaultShards = 64
	leastShards   = 6
)

func ringfenceSystem() *system {
	return &system{
		name: "ringfence", version: node.Version, nodes: 3, conns: 1,
		settings: fmt.Sprintf("3 nodes, 3 copies, %d shards; each batch fsynced by a majority before its reply; clock leases; all else by default", defaultShards),
		start:    startRingfence,
		does:     map[string][]string{"hot": {""}, "spread": {""}, "lone": {""}, "lone-spread": {""}, "fresh": {""}, "read": {""}, "echo": {""}},
	}
}

type ringfence struct {
	processes
	cl *client.Client
}

func startRingfence(ctx context.Context, e env) (_ cluster, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own file is not known: %w", err)
	}
	const n = 3
	var listen, gossip, http [n]string
	for i := range n {
		for _, a := range []*string{&listen[i], &gossip[i], &http[i]} {
			if *a, err = freeport.Addr(); err != nil {
				return nil, err
			}
		}
	}
	r := &ringfence{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	for i := range n {
		p, err := e.family.start("ringfence node "+strconv.Itoa(i+1), "serving at", e.log, self, ringfenceCommand, "node",
			"--data", filepath.Join(e.dir, strconv.Itoa(i+1)), "--listen", listen[i], "--gossip", gossip[i], "--http", http[i],
			"--join", strings.Join(gossip[:], ","), "--bootstrap-expect", strconv.Itoa(n), "--shards", strconv.Itoa(e.shards))
		if err != nil {
			return nil, err
		}
		r.processes = append(r.processes, p)
	}
	for _, p := range r.processes {
		if _, err := p.waitReady(ctx); err != nil {
			return nil, err
		}
	}
	r.cl, err = client.Dial(ctx, listen[:], nil)
	return r, err
}

func (r *ringfence) open(ctx context.Context, w *workload, _ string) (bench.Target, error) {
	mode := map[op]bench.Mode{increment: bench.Increment, read: bench.Get, echo: bench.Echo}[w.op]
	return bench.NewCounters(ctx, r.cl, "Counter", mode, w.load)
}

func (r *ringfence) close() error {
	if r.cl != nil {
		r.cl.Close()
	}
	r.end()
	return nil
}
