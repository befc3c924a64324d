package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// How long things may take before the test fails.
const (
	serveTime = 60 * time.Second
	stopTime  = 30 * time.Second
	shards    = 16
)

// Cluster is some nodes in this process. Its methods belong to the test's goroutine; clients and nodes may be used from any. What goes
// wrong with a node fails the test, and prints the node's log.
type Cluster struct {
	t       testing.TB
	classes []actor.Class
	dir     string
	gossips []string // of the founders
	members []*member
	client  *client.Client
}

// member is one data directory, and the node that runs on it, if one does.
type member struct {
	cfg    node.Config
	log    *logBuffer
	n      *node.Node
	sw     *node.Switch
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	err    error         // of Run
	killed bool
}

// Start forms a cluster of n nodes, 1 to 8, that have the classes, and waits until all of them serve. The test's end stops them.
func Start(t testing.TB, n int, c ...actor.Class) *Cluster {
	t.Helper()
	if n < 1 || n > shards/2 {
		t.Fatalf("nodetest: %d nodes: want 1 to %d", n, shards/2)
	}
	cl := &Cluster{t: t, classes: c, dir: t.TempDir()}
	t.Cleanup(cl.close)
	for range n {
		cl.gossips = append(cl.gossips, freeAddr(t))
	}
	for i, g := range cl.gossips {
		cfg := cl.config(i)
		cfg.Gossip = g
		if n > 1 {
			cfg.Join, cfg.BootstrapExpect = cl.gossips, n
		}
		cl.run(&member{cfg: cfg})
	}
	for i := range cl.members {
		cl.await(i)
	}
	cl.client = cl.dial()
	return cl
}

func (c *Cluster) config(i int) node.Config {
	return node.Config{Data: filepath.Join(c.dir, fmt.Sprint("node", i)), Listen: "127.0.0.1:0", Shards: shards}
}

// run starts a node on m's directory.
func (c *Cluster) run(m *member) {
	c.t.Helper()
	m.log, m.sw = &logBuffer{}, &node.Switch{}
	m.cfg.Switch, m.cfg.Logger = m.sw, slog.New(slog.NewTextHandler(m.log, nil))
	n, err := node.New(m.cfg, c.classes...)
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.n, m.cancel, m.done, m.killed = n, cancel, make(chan struct{}), false
	m.cfg.Listen = n.Addr() // the next run listens there again
	go func() {
		defer close(m.done)
		m.err = n.Run(ctx)
	}()
	for _, other := range c.members {
		if other == m {
			return
		}
	}
	c.members = append(c.members, m)
}

// await waits until node i serves.
func (c *Cluster) await(i int) {
	c.t.Helper()
	m := c.members[i]
	select {
	case <-m.n.Serving():
	case <-m.done:
		c.t.Fatalf("nodetest: node %d ended: %v\n%s", i, m.err, m.log)
	case <-time.After(serveTime):
		c.t.Fatalf("nodetest: node %d does not serve after %v\n%s", i, serveTime, m.log)
	}
}

func (c *Cluster) dial() *client.Client {
	c.t.Helper()
	var seeds []string
	for _, m := range c.members {
		seeds = append(seeds, m.n.Addr())
	}
	ctx, cancel := context.WithTimeout(context.Background(), serveTime)
	defer cancel()
	cl, err := client.Dial(ctx, seeds, nil)
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	return cl
}

func (c *Cluster) close() {
	if c.client != nil {
		c.client.Close()
	}
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() { c.end(i, m) })
	}
	wg.Wait()
}

// end stops a node, if it runs, and waits until it has ended.
func (c *Cluster) end(i int, m *member) {
	if m.n == nil {
		return
	}
	m.cancel()
	select {
	case <-m.done:
	case <-time.After(stopTime):
		c.t.Errorf("nodetest: node %d does not stop\n%s", i, m.log)
		return
	}
	if m.err != nil && !m.killed {
		c.t.Errorf("nodetest: node %d: %v\n%s", i, m.err, m.log)
	}
	m.n = nil
}

func (c *Cluster) member(i int) *member {
	c.t.Helper()
	if i < 0 || i >= len(c.members) {
		c.t.Fatalf("nodetest: node %d of %d", i, len(c.members))
	}
	return c.members[i]
}

// Len is how many nodes there are, those that were killed or stopped included. They are numbered from 0.
func (c *Cluster) Len() int { return len(c.members) }

// Client is a client of the cluster, outside of all nodes. The test's end closes it.
func (c *Cluster) Client() *client.Client { return c.client }

// Node is node i; nil if it was stopped, or killed, and not started again.
func (c *Cluster) Node(i int) *node.Node {
	c.t.Helper()
	if m := c.member(i); !m.killed {
		return m.n
	}
	return nil
}

// Owner is the number of the node that owns an object now. It waits until there is one that is neither killed nor stopped.
func (c *Cluster) Owner(class, key string) int {
	c.t.Helper()
	question, err := msgpack.Marshal(node.WhereRequest{Class: class, Key: key})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serveTime)
	defer cancel()
	for pause := 20 * time.Millisecond; ; {
		b, err := c.client.Request(ctx, "", "where", question)
		if err == nil {
			if where, e := node.DecodeWhere(b); e == nil && where.Owner.ID != "" {
				for i, m := range c.members {
					if m.n != nil && !m.killed && m.sw.Open() && m.n.ID().String() == where.Owner.ID {
						return i
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("nodetest: %s/%s has no owner after %v: %v", class, key, serveTime, err)
		case <-time.After(pause):
		}
	}
}

// Kill takes node i from the network for good and ends it, without a word to the others: to them, and to its callers, it is as if its
// machine had died. Its data stays; what was acknowledged is in it.
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	m := c.member(i)
	m.killed = true
	m.sw.Cut()
	if m.cancel != nil {
		m.cancel()
	}
}

// Stop ends node i as SIGTERM does: it hands its shards over first. It stays a member.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	c.end(i, c.member(i))
}

// Restart starts a node that was killed or stopped on its data and address, and waits until it serves.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	m := c.member(i)
	c.end(i, m)
	c.run(m)
	c.await(i)
}

// Cut takes node i from the network; it goes on running. Heal takes it back.
func (c *Cluster) Cut(i int) { c.member(i).sw.Cut() }

// Heal connects node i again.
func (c *Cluster) Heal(i int) { c.member(i).sw.Heal() }

// Add starts one more node, which joins the cluster, waits until it serves, and returns its number. Shards come to it in the seconds that follow.
func (c *Cluster) Add() int {
	c.t.Helper()
	cfg := c.config(len(c.members))
	cfg.Shards, cfg.Gossip, cfg.Join = 0, freeAddr(c.t), c.gossips
	c.run(&member{cfg: cfg})
	c.await(len(c.members) - 1)
	return len(c.members) - 1
}

// freeAddr is a port that was free a moment ago, for TCP and UDP.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		pc, err := net.ListenPacket("udp", addr)
		_ = ln.Close()
		if err == nil {
			_ = pc.Close()
			return addr
		}
	}
	t.Fatal("nodetest: no port is free for TCP and UDP")
	return ""
}

// logBuffer keeps the last of a node's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const logKeep = 64 << 10

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 2*logKeep {
		l.b.Next(l.b.Len() - logKeep)
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
