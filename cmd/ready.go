package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

const (
	readyTimeout = 2 * time.Minute // a cluster that does not serve by then never will
	readyPause   = 50 * time.Millisecond
)

// waitServing waits until every node sees all nodes up and every shard owned. It fails if a child ends before.
func (l *local) waitServing(ctx context.Context) (*node.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ended := make(chan error, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case c := <-l.exits:
			ended <- fmt.Errorf("node %d (pid %d) ended before the cluster served: %s", c.number, c.pid(), c.howEnded())
			cancel()
		case <-ctx.Done():
		}
	}()
	var status *node.Status
	var err error
	for _, c := range l.all {
		if status, err = c.waitServing(ctx, len(l.all)); err != nil {
			break
		}
	}
	cancel()
	<-watching
	select {
	case err := <-ended:
		return nil, err
	default:
	}
	return status, err
}

// waitServing asks one node until it sees n nodes up and every shard owned.
func (c *child) waitServing(ctx context.Context, n int) (*node.Status, error) {
	cl, err := client.Dial(ctx, []string{c.addrs.listen}, nil)
	if err != nil {
		return nil, fmt.Errorf("node %d does not serve: %w", c.number, err)
	}
	defer cl.Close()
	pause := time.NewTicker(readyPause)
	defer pause.Stop()
	for {
		s, err := askStatus(ctx, cl, c.addrs.listen)
		if err == nil {
			if err = lacking(s, n); err == nil {
				return s, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("node %d does not serve: %w", c.number, err)
		case <-pause.C:
		}
	}
}

func askStatus(ctx context.Context, cl *client.Client, addr string) (*node.Status, error) {
	b, err := cl.Request(ctx, addr, "status", nil)
	if err != nil {
		return nil, err
	}
	s, err := node.DecodeStatus(b)
	if err != nil {
		return nil, fmt.Errorf("%s: the answer is not a status: %w", addr, err)
	}
	return &s, nil
}

// lacking says what a cluster of n nodes still waits for.
func lacking(s *node.Status, n int) error {
	up := 0
	for _, m := range s.Nodes {
		if m.State == "up" {
			up++
		}
	}
	switch {
	case up < n:
		return fmt.Errorf("%d of %d nodes are up", up, n)
	case s.Unowned > 0:
		return fmt.Errorf("%d of %d shards have no owner yet", s.Unowned, s.Shards)
	case len(s.Nodes) == 0:
		return errors.New("the status names no node")
	}
	return nil
}
