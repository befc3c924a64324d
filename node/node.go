package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/ring/gossip"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/client"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Node is one process of a cluster. New makes it; Run makes it work, once.
type Node struct {
	cfg  Config
	log  *slog.Logger
	id   ring.NodeID
	boot ring.BootID

	engine *store.Engine
	host   *host.Host
	ln     net.Listener
	httpLn net.Listener // nil without --http
	addr   string       // --listen as others reach it
	gossip *gossip.Gossip
	peers  *peers
	client *client.Client

	snapshotBytes atomic.Uint64 // sent
	server        *tcp.Server
	forms         *former

	parking   *parking
	mover     *mover
	sequencer *sequencer
	first     *ring.Ring // that the cluster was founded with; nil on a node that joined it. keepRing's.
	leaving   atomic.Bool
	stopping  atomic.Bool // shards are handed over, nothing new is begun

	ring    atomic.Pointer[ring.Ring] // newest known; nil until the first
	driver  atomic.Pointer[replica.Driver]
	news    chan ring.Epoch // of rings newer than ours, heard of
	ownRing chan *ring.Ring // from this node's sequencer
	serving chan struct{}
	asking  chan struct{} // bounds the questions being answered

	mu          sync.Mutex
	fatal       error
	stop        context.CancelCauseFunc
	sequencerAt ring.NodeID // that answered last
}

// New opens the data directory and the ports. Errors name what is wrong and the remedy. Who does not call Run calls Close.
func New(cfg Config, classes ...actor.Class) (*Node, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, news: make(chan ring.Epoch, 1), ownRing: make(chan *ring.Ring), serving: make(chan struct{}), asking: make(chan struct{}, askMax)}
	n.parking, n.mover = &parking{n: n}, newMover(n)
	var err error
	if n.host, err = host.New(classes, host.Options{Logger: cfg.Logger, Skim: skim, Objects: n.object, MaxActivations: cfg.MaxActivations}); err != nil {
		return nil, err
	}
	if n.boot, err = newBoot(); err != nil {
		return nil, err
	}
	if n.ln, err = cfg.listen(); err != nil {
		return nil, err
	}
	if n.httpLn, err = listenHTTP(cfg); err != nil {
		return nil, errors.Join(err, n.ln.Close())
	}
	if n.addr = cfg.AdvertiseListen; n.addr == "" {
		n.addr = n.ln.Addr().String()
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.closeListeners())
	}
	if n.client, err = n.newClient(); err != nil {
		return nil, errors.Join(err, n.closeListeners(), n.engine.Close())
	}
	return n, nil
}

func (n *Node) closeListeners() error {
	if n.httpLn != nil {
		return errors.Join(n.ln.Close(), n.httpLn.Close())
	}
	return n.ln.Close()
}

// open opens the data directory and checks that it is what the flags say.
func (n *Node) open() error {
	var err error
	if n.engine, err = store.Open(n.cfg.Data, n.cfg.store(n.log)); err != nil {
		return err
	}
	id := n.engine.Identity()
	n.id = id.Node
	n.log = n.log.With("node", n.id.String())
	if err := n.checkIdentity(id); err != nil {
		return errors.Join(err, n.engine.Close())
	}
	if n.forms, err = newFormer(n); err != nil {
		return errors.Join(err, n.engine.Close())
	}
	return nil
}

func (n *Node) checkIdentity(id store.Identity) error {
	if id.Cluster.IsZero() {
		return nil
	}
	switch {
	case n.cfg.ShardsSet && n.cfg.Shards != id.Shards:
		return fmt.Errorf("--shards %d: data directory %s belongs to cluster %s, which has %d shards; the number is fixed for a cluster's life: leave the flag out",
			n.cfg.Shards, n.cfg.Data, id.Cluster, id.Shards)
	case n.cfg.ReplicasSet && n.cfg.Replicas != id.Replicas:
		return fmt.Errorf("--replicas %d: data directory %s belongs to cluster %s, which keeps %d replicas: leave the flag out",
			n.cfg.Replicas, n.cfg.Data, id.Cluster, id.Replicas)
	}
	n.cfg.Shards, n.cfg.Replicas, n.cfg.Timing = id.Shards, id.Replicas, id.Timing
	return nil
}

func newBoot() (ring.BootID, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("no randomness for a boot ID: %w", err)
	}
	return ring.BootID(binary.LittleEndian.Uint64(b[:]) | 1), nil
}

// ID is the node's identity, for ever.
func (n *Node) ID() ring.NodeID { return n.id }

// Addr is the node's --listen address as others reach it.
func (n *Node) Addr() string { return n.addr }

// GossipAddr is the node's --gossip address as others reach it; empty before Run.
func (n *Node) GossipAddr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gossip == nil {
		return ""
	}
	return n.gossip.Addr()
}

// Serving is closed once the node knows a ring and an owner of every shard that it has a replica of.
func (n *Node) Serving() <-chan struct{} { return n.serving }

// Ring is the newest ring known, nil before the first.
func (n *Node) Ring() *ring.Ring { return n.ring.Load() }

// Close gives back what New opened, if Run is not called.
func (n *Node) Close() error {
	n.client.Close()
	return errors.Join(n.closeListeners(), n.engine.Close())
}

// Run serves until ctx ends, then stops cleanly and returns nil. An error says why the node cannot go on.
func (n *Node) Run(ctx context.Context) error {
	ctx, n.stop = context.WithCancelCause(ctx)
	defer n.stop(nil)
	defer n.engine.Close()
	defer n.client.Close()
	n.peers = newPeers(n)
	defer n.peers.close()
	if err := n.startGossip(); err != nil {
		return errors.Join(err, n.closeListeners())
	}
	defer n.gossip.Close()
	var wg sync.WaitGroup
	n.server = tcp.NewServer(tcp.ServerConfig{Handshake: n.handshake, Handler: n.handler, Epoch: n.epoch, Logger: n.log})
	// The server outlives ctx: while shards are handed over callers must hear where to go.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	wg.Go(func() {
		if err := n.server.Serve(serving, n.ln); err != nil {
			n.fail(err)
		}
	})
	wg.Go(func() { n.awaitPowerLoss(ctx) })
	wg.Go(func() {
		if err := n.serveHTTP(serving, n.httpLn, ctx.Done()); err != nil {
			n.fail(err)
		}
	})
	err := n.life(ctx)
	stopServing()
	n.stop(err)
	wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.fatal, err)
}

// skim looks at an argument before it is decoded.
func skim(e actor.Encoding, t reflect.Type, b []byte) error {
	return transport.SkimFor(t, e == actor.EncodingJSON, b)
}

// life is what a node does: become part of a cluster, then serve it.
func (n *Node) life(ctx context.Context) error {
	if n.engine.Identity().Cluster.IsZero() {
		if err := n.forms.run(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
	if err := n.onlyOne(ctx); err != nil {
		return err
	}
	n.gossip.SetCluster(n.engine.Identity().Cluster)
	return n.serve(ctx)
}

// onlyOne refuses to serve from a copy of a data directory while the original runs where the cluster knows it. Two processes with one
// identity would vote twice.
func (n *Node) onlyOne(ctx context.Context) error {
	b, ok, err := n.engine.Record(recordRing)
	if err != nil || !ok {
		return err
	}
	r, err := ring.Decode(b)
	if err != nil {
		return n.engine.Damaged(err)
	}
	m, ok := r.Member(n.id)
	if !ok || m.Addr == n.addr { // nobody else listens there
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := tcp.Dial(ctx, m.Addr, n.hello(transport.PurposeCalls, n.id), n.dialOptions())
	if err == nil {
		c.Close()
		return nil
	}
	if strings.Contains(err.Error(), alreadyRuns) {
		return fmt.Errorf("data directory %s is a copy: node %s, whose directory it is, runs at %s; remove the copy, and give this process an empty --data to join as a new node",
			n.cfg.Data, n.id, m.Addr)
	}
	return nil
}

// serve runs the node's groups until ctx ends.
func (n *Node) serve(ctx context.Context) error {
	t, err := timing(n.engine.Identity().Timing)
	if err != nil {
		return err
	}
	d := replica.NewDriver(replica.DriverConfig{Engine: n.engine, Node: n.id, Boot: n.boot, Timing: t, Clock: n.cfg.Lease == LeaseClock, Now: n.cfg.clock(), Network: n.peers, Logger: n.log})
	driverCtx, stopDriver := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDriver()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Run(driverCtx); err != nil {
			n.fail(err)
		}
	})
	n.sequencer = newSequencer(n.log, n.cfg.ReplaceAfter, n.cfg.plan, func(r *ring.Ring) { n.publish(ctx, r) })
	n.driver.Store(d)
	wg.Go(func() { n.sequencer.run(ctx) })
	wg.Go(func() { n.reportNews(ctx) })
	wg.Go(func() {
		if err := n.keepRing(ctx); err != nil {
			n.fail(err)
		}
	})
	wg.Go(func() { n.mover.run(ctx) })
	<-ctx.Done()
	n.leaveQuietly(context.WithoutCancel(ctx))
	stopDriver()
	wg.Wait()
	return nil
}

// How long a stopping node takes at most for each part of its good-bye.
const (
	handOverTime = 5 * time.Second
	quiesceTime  = time.Second
)

// leaveQuietly ends a node's work without a caller noticing: its shards go to others, then callers are sent away, then what still runs is
// waited for. A node that fails does without.
func (n *Node) leaveQuietly(ctx context.Context) {
	n.mu.Lock()
	failed := n.fatal != nil
	n.mu.Unlock()
	if !failed {
		moves, cancel := context.WithTimeout(ctx, handOverTime)
		if err := n.mover.everything(moves); err != nil {
			n.log.Warn("not everything was handed over; its callers wait for an election", "cause", err)
		}
		cancel()
	}
	n.stopping.Store(true)
	closing, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := n.host.Close(closing); err != nil {
		n.log.Warn("some events were still running when the node stopped", "cause", err)
	}
	if !failed {
		quiet, cancel := context.WithTimeout(ctx, quiesceTime)
		defer cancel()
		if err := n.server.Quiesce(quiet); err != nil {
			n.log.Debug("some callers stayed", "cause", err)
		}
	}
}

func (n *Node) startGossip() error {
	id := n.engine.Identity()
	c := gossip.Config{
		Node: n.id, Bind: n.cfg.Gossip, Advertise: n.cfg.AdvertiseGossip, Seeds: n.cfg.Join, Known: n.knownGossip, Logger: n.log,
		Meta: gossip.Meta{Boot: n.boot, Cluster: id.Cluster, Listen: n.addr, Version: Version,
			Expect: n.cfg.BootstrapExpect, Shards: n.cfg.Shards, Replicas: n.cfg.Replicas, Timing: n.cfg.Timing},
	}
	if n.cfg.Switch != nil {
		c.Gate = n.cfg.Switch
	}
	var err error
	if c.Transport, err = n.cfg.gossip(); err != nil {
		return err
	}
	g, err := gossip.Start(c)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.gossip = g
	n.mu.Unlock()
	return nil
}

func (n *Node) knownGossip() []string {
	var out []string
	if r := n.ring.Load(); r != nil {
		for _, m := range r.Members() {
			if m.ID != n.id && m.GossipAddr != "" {
				out = append(out, m.GossipAddr)
			}
		}
	}
	return out
}

// fail ends the node because of err. What fails on a machine without power fails because of that.
func (n *Node) fail(err error) {
	if n.cfg.Machine.lost() {
		err = ErrPowerLoss
	}
	n.mu.Lock()
	if n.fatal == nil {
		n.fatal = err
	}
	n.mu.Unlock()
	n.stop(err)
}

func (n *Node) epoch() ring.Epoch {
	if r := n.ring.Load(); r != nil {
		return r.Epoch()
	}
	return 0
}

// cluster is the cluster that this node belongs to; zero if none.
func (n *Node) cluster() ring.ClusterID { return n.engine.Identity().Cluster }

// address is where a node listens, most likely; "" if nobody has said.
func (n *Node) address(id ring.NodeID) string {
	if all := n.addresses(id); len(all) > 0 {
		return all[0]
	}
	return ""
}

// addresses are where a node may listen: as gossip tells, as the ring does, as it was when the cluster formed. Gossip and the ring differ while
// a node that has moved is known at its new address to one of them alone: gossip holds on to an old address until it takes its node for dead.
func (n *Node) addresses(id ring.NodeID) (all []string) {
	add := func(a string) {
		if a != "" && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	for _, m := range n.gossip.View().Members {
		if m.ID == id {
			add(m.Meta.Listen)
		}
	}
	if r := n.ring.Load(); r != nil {
		m, _ := r.Member(id)
		add(m.Addr)
	}
	if p := n.forms.founding(); p != nil && len(all) == 0 {
		for _, m := range p.Members {
			if m.ID == id {
				add(m.Addr)
			}
		}
	}
	return all
}
