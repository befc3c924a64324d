package nodetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport/client"
	"github.com/ringfence/ringfence/transport/inmem"
)

// How long things may take, in the cluster's time, before the test fails.
const (
	serveTime = 60 * time.Second
	stopTime  = 30 * time.Second
	shards    = 16
	mostNodes = 100 // that are ever added; their addresses end in it

	// What the network takes one way. If calls took no time, a loop of them would keep virtual time from moving.
	leastDelay, mostDelay = 100 * time.Microsecond, 300 * time.Microsecond
)

// Cluster is some nodes in this process. Its methods belong to the test's goroutine; clients and nodes may be used from any. What goes
// wrong with a node fails the test; a test that has failed prints the ends of the nodes' logs.
type Cluster struct {
	t       testing.TB
	classes []actor.Class
	net     *inmem.Network
	hosts   []*inmem.Host
	outside *inmem.Host // where clients are
	seeds   []string    // gossip addresses of the founders
	members []*member
	moved   int // to other addresses
	client  *client.Client

	placedFor *ring.Ring // Settle's: where the members of this ring call for replicas
	placed    [][]ring.NodeID
}

// member is one machine, and the node that runs on it, if one does.
type member struct {
	*machine
	cfg    node.Config
	n      *node.Node
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	err    error         // of Run
	cut    bool
	left   bool // the cluster, for good
}

// Start forms a cluster of n nodes, 1 to 8, that have the classes, and waits until all of them serve. The test's end ends them. In a
// bubble of testing/synctest the cluster lives in the bubble's time.
func Start(t testing.TB, n int, c ...actor.Class) *Cluster {
	t.Helper()
	if n < 1 || n > shards/2 {
		t.Fatalf("nodetest: %d nodes: want 1 to %d", n, shards/2)
	}
	cl := &Cluster{t: t, classes: c, net: inmem.New(1)}
	t.Cleanup(cl.close)
	cl.outside = cl.newHost("10.0.1.1")
	for range n {
		m := cl.newMember()
		m.cfg.Shards = shards
		if n > 1 {
			m.cfg.BootstrapExpect = n
		}
		cl.seeds = append(cl.seeds, m.gossip())
	}
	for _, m := range cl.members {
		if n > 1 {
			m.cfg.Join = cl.seeds
		}
		cl.run(m)
	}
	for i := range cl.members {
		cl.await(i)
	}
	cl.client = cl.dial()
	return cl
}

func (c *Cluster) newHost(ip string) *inmem.Host {
	c.t.Helper()
	h, err := c.net.Host(ip)
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	for _, other := range c.hosts {
		c.net.Delay(h, other, leastDelay, mostDelay)
	}
	c.hosts = append(c.hosts, h)
	return h
}

func (c *Cluster) newMember() *member {
	c.t.Helper()
	i := len(c.members)
	if i >= mostNodes {
		c.t.Fatalf("nodetest: %d nodes are the most", mostNodes)
	}
	m := &member{machine: newMachine(c.newHost(fmt.Sprintf("10.0.0.%d", i+1)))}
	m.cfg = node.Config{Data: "/data", Listen: m.listen(), Gossip: m.gossip(), Logger: slog.New(slog.NewTextHandler(m.log, nil))}
	c.members = append(c.members, m)
	return m
}

// run starts a node on m.
func (c *Cluster) run(m *member) {
	c.t.Helper()
	m.cfg.Machine = m.under()
	n, err := node.New(m.cfg, c.classes...)
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.n, m.cancel, m.done = n, cancel, make(chan struct{})
	go func() {
		defer close(m.done)
		m.err = n.Run(ctx)
	}()
}

// await waits until node i serves.
func (c *Cluster) await(i int) {
	c.t.Helper()
	m := c.members[i]
	select {
	case <-m.n.Serving():
	case <-m.done:
		c.t.Fatalf("nodetest: node %d ended: %v", i, m.err)
	case <-time.After(serveTime):
		c.t.Fatalf("nodetest: node %d does not serve after %v", i, serveTime)
	}
}

func (c *Cluster) dial() *client.Client {
	c.t.Helper()
	var seeds []string
	for _, m := range c.members {
		seeds = append(seeds, m.listen())
	}
	ctx, cancel := context.WithTimeout(context.Background(), serveTime)
	defer cancel()
	cl, err := client.Dial(ctx, seeds, &client.Options{Net: c.outside.Dial})
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	return cl
}

// stragglerTime is longer than anything waits after its node has ended: questions that were being answered, and memberlist's probes.
const stragglerTime = 30 * time.Second

// close ends everything as a loss of power does: there is nobody left to say good-bye to.
func (c *Cluster) close() {
	if c.client != nil {
		c.client.Close()
	}
	var wg sync.WaitGroup
	for i, m := range c.members {
		if m.n != nil && !m.killed.Load() {
			c.Kill(i)
		}
		wg.Go(func() { c.end(i, m) })
	}
	wg.Wait()
	if c.t.Failed() {
		for i, m := range c.members {
			c.t.Logf("the end of the log of node %d:\n%s", i, m.log)
		}
	}
	if inBubble() {
		// Every goroutine must end before the bubble does, and its clock moves only as long as this one waits.
		time.Sleep(stragglerTime)
	}
}

// inBubble reports whether time is synctest's.
func inBubble() (yes bool) {
	defer func() {
		if recover() != nil { // what Wait does outside
			yes = false
		}
	}()
	synctest.Wait()
	return true
}

// end waits until a node that was told to end has ended.
func (c *Cluster) end(i int, m *member) {
	if m.n == nil {
		return
	}
	select {
	case <-m.done:
	case <-time.After(stopTime):
		c.t.Errorf("nodetest: node %d does not end", i)
		return
	}
	m.cancel()
	if m.err != nil && !(m.killed.Load() && errors.Is(m.err, node.ErrPowerLoss)) {
		c.t.Errorf("nodetest: node %d: %v", i, m.err)
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

// running is node i, which must run.
func (c *Cluster) running(i int) *member {
	c.t.Helper()
	m := c.member(i)
	if m.n == nil || m.killed.Load() {
		c.t.Fatalf("nodetest: node %d does not run: Restart it first", i)
	}
	return m
}

// Len is how many nodes there are, those that were killed or stopped included. They are numbered from 0.
func (c *Cluster) Len() int { return len(c.members) }

// Client is a client of the cluster, outside of all nodes. The test's end closes it.
func (c *Cluster) Client() *client.Client { return c.client }

// Network is what nodes and clients talk over, for faults that the cluster has no method for.
func (c *Cluster) Network() *inmem.Network { return c.net }

// Host is the machine of node i on the network.
func (c *Cluster) Host(i int) *inmem.Host {
	c.t.Helper()
	return c.member(i).host
}

// Node is node i; nil if it was stopped, or killed, and not started again.
func (c *Cluster) Node(i int) *node.Node {
	c.t.Helper()
	if m := c.member(i); !m.killed.Load() {
		return m.n
	}
	return nil
}

// Kill takes the power from the machine of node i: it falls silent, and its disk keeps what was synced. A method of an object that runs there
// may go on for a moment, but nobody hears from it.
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	m := c.running(i)
	m.lose(vfs.CrashCloneCfg{})
}

// Stop ends node i as SIGTERM does: it hands its shards over first. It stays a member.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	m := c.running(i)
	m.cancel()
	c.end(i, m)
}

// Restart starts nodes that were killed or stopped on their disks and addresses, and waits until they serve. A node does not serve before a
// majority is there: if there is none without them, start enough of them with one call.
func (c *Cluster) Restart(nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		m := c.member(i)
		if m.n != nil && !m.killed.Load() {
			c.t.Fatalf("nodetest: node %d runs: Stop or Kill it first", i)
		}
		if m.left {
			c.t.Fatalf("nodetest: node %d has left: Add another", i)
		}
		c.end(i, m)
		if m.killed.Load() {
			m.restore()
			if !m.cut {
				m.host.Plug()
			}
		}
		c.run(m)
	}
	for _, i := range nodes {
		c.await(i)
	}
}

// Relocate starts node i, which was killed or stopped, on its disk but at another address, and waits until it serves.
func (c *Cluster) Relocate(i int) {
	c.t.Helper()
	m := c.member(i)
	if m.n != nil && !m.killed.Load() {
		c.t.Fatalf("nodetest: node %d runs: Stop or Kill it first", i)
	}
	c.end(i, m)
	c.moved++
	if c.moved >= mostNodes {
		c.t.Fatalf("nodetest: %d moves are the most", mostNodes)
	}
	if m.killed.Load() {
		m.restore()
	}
	m.host.PowerOff() // nobody is left there
	m.host = c.newHost(fmt.Sprintf("10.0.2.%d", c.moved))
	m.cfg.Listen, m.cfg.Gossip, m.cfg.Join, m.cut = m.listen(), m.gossip(), c.seeds, false
	c.run(m)
	c.await(i)
}

// Cut takes node i from the network; it goes on running. What others have sent waits, as with TCP, until Heal or for 10 s.
func (c *Cluster) Cut(i int) {
	c.t.Helper()
	m := c.member(i)
	m.cut = true
	m.host.Unplug()
}

// Heal connects node i again.
func (c *Cluster) Heal(i int) {
	c.t.Helper()
	m := c.member(i)
	m.cut = false
	m.host.Plug()
}

// Add starts one more node, which joins the cluster, waits until it serves, and returns its number. Shards come to it in the seconds that
// follow: see Settle.
func (c *Cluster) Add() int {
	c.t.Helper()
	m := c.newMember()
	m.cfg.Join = c.seeds
	c.run(m)
	c.await(len(c.members) - 1)
	return len(c.members) - 1
}

// Leave lets node i leave the cluster for good, as "ringfence leave" does: its replicas move to others, then it ends. It is not started again.
func (c *Cluster) Leave(i int) {
	c.t.Helper()
	m := c.running(i)
	body, err := node.NodeRequest(m.n.ID().String())
	if err != nil {
		c.t.Fatalf("nodetest: %v", err)
	}
	c.until(serveTime, fmt.Sprintf("node %d cannot leave", i), func() string {
		ctx, cancel := context.WithTimeout(context.Background(), serveTime)
		defer cancel()
		if _, err := c.client.Request(ctx, m.listen(), "leave", body); err != nil {
			return err.Error()
		}
		return ""
	})
	select {
	case <-m.done:
	case <-time.After(settleTime):
		c.t.Fatalf("nodetest: node %d still leaves after %v: %s", i, settleTime, c.unsettled())
	}
	c.end(i, m)
	m.left = true
}
