package client

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Client calls objects of one cluster. Safe for concurrent use. Close it when it is not needed any more.
type Client struct {
	opts  Options
	log   *slog.Logger
	seeds []string

	table   atomic.Pointer[table] // nil until the first ring
	cluster atomic.Pointer[ring.ClusterID]
	rests   rests
	calls   atomic.Int64 // underway
	streams atomic.Uint64
	timers  [timerLists]timerList
	signals sync.Pool // channels with room for a token, of calls that are over; the client's own, since some live in a test's bubble
	closed  atomic.Bool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.RWMutex
	links map[linkKey]*link // to pick from
	live  map[*link]bool    // all that have not ended, those that were replaced too

	newest   atomic.Uint64 // the highest epoch seen in any frame
	fetching atomic.Bool
	setRing  sync.Mutex
}

type linkKey struct {
	node ring.NodeID
	slot uint64
}

// table is what the client knows of the cluster: the current ring's routes, and per shard the best hint, which outlives rings.
type table struct {
	*routes
	hints []atomic.Pointer[hint]
}

// New makes a client that is given its ring by SetRing, as a node does for the client within it. It knows no seeds, so it fetches
// newer rings only from members of the ring it has, or from Options.Local.
func New(opts *Options) (*Client, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{opts: o, log: o.Logger, links: make(map[linkKey]*link), live: make(map[*link]bool)}
	if !o.Cluster.IsZero() {
		c.cluster.Store(&o.Cluster)
	}
	// A stream's ID must be unique among all that a node sees over one connection; a random start keeps the clients apart in logs, too.
	c.streams.Store(rand.Uint64() >> 16)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.monitor)
	return c, nil
}

// Object is a reference to an object, without I/O. Each is an independent stream: order is kept among the calls of one Ref. An
// invalid class or key is reported by the calls.
func (c *Client) Object(class, key string) actor.Ref { return c.object(class, key) }

func (c *Client) object(class, key string) *ref {
	r := &ref{client: c, id: actor.ID{Class: class, Key: key}, stream: c.streams.Add(1)}
	r.fault = r.id.Validate()
	r.s = newStream(c.opts.MaxPerRef, rand.Uint64())
	return r
}

// CallJSON calls a method with a JSON argument (none if empty) and returns the JSON of its result, empty if it has none. The owner
// converts; see the package actor for the shapes. The options are those of Ref.Call. The error is an *actor.Error.
func (c *Client) CallJSON(ctx context.Context, class, key, method string, jsonArg []byte, opts ...actor.CallOption) ([]byte, error) {
	r := c.object(class, key)
	if len(jsonArg) > 0 && !json.Valid(jsonArg) {
		return nil, failed(r.id, actor.CodeBadArgument, "the argument %.100q is not JSON: strings need double quotes", jsonArg)
	}
	return r.callJSON(ctx, method, jsonArg, opts)
}

// Close ends all connections and waits until the client's goroutines are gone. Calls that wait to be sent fail with
// actor.ErrStopping, those in flight may have run.
func (c *Client) Close() {
	if c.closed.Swap(true) {
		return
	}
	c.cancel()
	for _, l := range c.living() {
		l.end(errClosed, time.Time{})
	}
	c.wg.Wait()
	for i := range c.timers {
		c.timers[i].stop()
	}
}

// senderTo is the way to a node, which rt knows. It never blocks: a connection that is not there yet is dialed in the background.
func (c *Client) senderTo(node ring.NodeID, rt *routes, stream uint64) sender {
	if c.opts.Local != nil && c.opts.Local.Node() == node {
		return localSender{c.opts.Local}
	}
	key := linkKey{node, stream % uint64(c.opts.ConnsPerNode)}
	addr := rt.addrs[node]
	c.mu.RLock()
	l := c.links[key]
	c.mu.RUnlock()
	if l != nil && l.addr == addr && (l.usable() || !l.replaceable(time.Now())) {
		return l
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.links[key]; other != nil && other != l && other.addr == addr {
		return other
	}
	l = newLink(c, node, addr)
	if c.closed.Load() {
		l.state, l.err = linkDead, errClosed
		return l
	}
	c.links[key], c.live[l] = l, true
	c.wg.Go(func() { l.dial(c.ctx) })
	return l
}

// forget drops a link that has ended from the set of the live ones. It stays in links until it is replaced: it knows when that is due.
func (c *Client) forget(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, l)
}

func (c *Client) dialOptions(h tcp.Handler) tcp.DialOptions {
	return tcp.DialOptions{Handler: h, Epoch: c.epoch, Net: c.opts.Net}
}

func (c *Client) hello(want ring.NodeID) transport.Hello {
	h := transport.Hello{Purpose: transport.PurposeCalls, WantNode: want}
	if id := c.cluster.Load(); id != nil {
		h.Cluster = *id
	}
	return h
}

// learn puts a hint into the table if it is better than what is there.
func (c *Client) learn(s ring.ShardID, h hint) {
	slot := &c.table.Load().hints[s]
	for {
		old := slot.Load()
		if old != nil && !h.better(*old) {
			return
		}
		if slot.CompareAndSwap(old, &h) {
			return
		}
	}
}

// monitor looks after silent connections, and ends those to nodes that left the ring.
func (c *Client) monitor() {
	every := max(c.opts.KeepAlive/looksPerKeepAlive, time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		t := c.table.Load()
		for _, l := range c.living() {
			if l.look(every) && t != nil && !t.has(l.node) {
				l.retire(errLeft)
			}
		}
	}
}

// living is all links that have not ended.
func (c *Client) living() []*link {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Keys(c.live))
}

// nodeText names a node for messages.
func (c *Client) nodeText(n ring.NodeID) string {
	if t := c.table.Load(); t.get().has(n) {
		return "node " + n.String() + " (" + t.addrs[n] + ")"
	}
	return "node " + n.String()
}

func (t *table) get() *routes {
	if t == nil {
		return nil
	}
	return t.routes
}
