//go:build linux

package nemesis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
)

// status is what one server's `status --json` says.
func status(server string) (s node.Status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, binary, "status", "--json", "--server", server, "--timeout", "3s")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return s, fmt.Errorf("status of %s: %w: %s", server, err, stderr.Bytes())
	}
	return s, json.Unmarshal(out, &s)
}

// whole says what a node still lacks to see the cluster whole: every node up, and every shard owned by exactly one.
func (c *cluster) whole(server string) error {
	s, err := status(server)
	if err != nil {
		return err
	}
	up, owned := 0, 0
	for _, n := range s.Nodes {
		if n.State == "up" {
			up++
		}
		owned += n.Owned
	}
	if up != len(c.nodes) || len(s.Nodes) != len(c.nodes) || s.Unowned != 0 || owned != c.shards || s.Shards != c.shards {
		return fmt.Errorf("as %s sees it, %d of %d nodes are up, and own %d of %d shards; %d unowned: %+v", server, up, len(c.nodes), owned, c.shards, s.Unowned, s.Nodes)
	}
	return nil
}

// waitWhole waits until every node sees the cluster whole, and says how long that took.
func (c *cluster) waitWhole(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	return c.waitUntil(t, limit, c.whole)
}

func (c *cluster) waitUntil(t *testing.T, limit time.Duration, check func(server string) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		var errs []error
		for _, p := range c.nodes {
			p.running(t)
			errs = append(errs, check(listenAddr(p.number)))
		}
		err := errors.Join(errs...)
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("the cluster is not as it should be after %v:\n%v", limit, err)
		}
		pass(t, 200*time.Millisecond)
	}
}

// settled says what is still to be done until nothing moves and every node has its share: half an even one at the least, and what the
// placement allows, 1.25 times an even one rounded up, at the most.
func (c *cluster) settled(server string) error {
	if err := c.whole(server); err != nil {
		return err
	}
	s, err := status(server)
	if err != nil {
		return err
	}
	if len(s.Moves) > 0 {
		return fmt.Errorf("as %s sees it, %d replicas move", server, len(s.Moves))
	}
	even := float64(c.shards) / float64(len(c.nodes))
	for _, n := range s.Nodes {
		if float64(n.Owned) < even/2 || n.Owned > int(math.Ceil(1.25*even)) {
			return fmt.Errorf("as %s sees it, the node at %s owns %d of %d shards, and an even share is %.1f", server, n.Addr, n.Owned, c.shards, even)
		}
	}
	return nil
}

// waitSettled waits until every node sees the cluster settled, and says how long that took.
func (c *cluster) waitSettled(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	return c.waitUntil(t, limit, c.settled)
}

// shares says how many shards each node owns.
func (c *cluster) shares(t *testing.T) string {
	t.Helper()
	s, err := status(listenAddr(c.nodes[0].number))
	if err != nil {
		t.Fatal(err)
	}
	var owned []string
	for _, n := range s.Nodes {
		owned = append(owned, strconv.Itoa(n.Owned))
	}
	return strings.Join(owned, " ")
}

// successor is the ID of the node that is up at an address where an older one, of another ID, is known to be dead.
func (c *cluster) successor(server, old, addr string) (id string, err error) {
	s, err := status(server)
	if err != nil {
		return "", err
	}
	gone := false
	for _, n := range s.Nodes {
		switch {
		case n.ID == old && n.State != "dead":
			return "", fmt.Errorf("as %s sees it, the old node is %s", server, n.State)
		case n.ID == old:
			gone = true
		case n.Addr == addr && n.State == "up":
			id = n.ID
		}
	}
	if !gone || id == "" {
		return "", fmt.Errorf("as %s sees it, there are %+v", server, s.Nodes)
	}
	return id, nil
}

// idOf is the ID of the node at an address, as another node says.
func (c *cluster) idOf(t *testing.T, server, addr string) string {
	t.Helper()
	s, err := status(server)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Addr == addr {
			return n.ID
		}
	}
	t.Fatalf("%s knows no node at %s: %+v", server, addr, s.Nodes)
	return ""
}

// pass lets time pass, which is what a fault of a given length takes.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
