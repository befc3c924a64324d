package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Pauses: between seeds that are tried at the same time, between rounds over the seeds, and between fetches of the ring.
const (
	seedPause  = 150 * time.Millisecond
	minRound   = 50 * time.Millisecond
	maxRound   = time.Second
	fetchPause = 50 * time.Millisecond
)

// enoughSame: so many nodes that all have no newer ring are believed.
const enoughSame = 3

// Dial connects to a cluster through any of seeds, which are --listen addresses, and fetches its ring. It tries the seeds in random
// order, again and again, until one gives the ring or ctx ends (Options.Timeout if it has no deadline): a cluster that starts later
// than its clients is found. The error says what came of each seed.
func Dial(ctx context.Context, seeds []string, opts *Options) (*Client, error) {
	if len(seeds) == 0 {
		return nil, errors.New("client: no seeds: give at least one --listen address of the cluster, such as 127.0.0.1:7420")
	}
	c, err := New(opts)
	if err != nil {
		return nil, err
	}
	c.seeds = append(c.seeds, seeds...)
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
	}
	if err := c.join(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// join gets the first ring.
func (c *Client) join(ctx context.Context) error {
	failures := make(map[string]error, len(c.seeds))
	for round := minRound; ; round = min(2*round, maxRound) {
		if r := c.tryAll(ctx, failures); r != nil {
			return c.SetRing(r)
		}
		select {
		case <-ctx.Done():
			return c.joinError(failures)
		case <-time.After(round/2 + rand.N(round/2)):
		}
	}
}

func (c *Client) joinError(failures map[string]error) error {
	var b strings.Builder
	b.WriteString("client: no seed gave the cluster's ring in time:")
	for _, s := range c.seeds {
		fmt.Fprintf(&b, "\n  %s: %v", s, failures[s])
	}
	return errors.New(b.String())
}

// tryAll asks the seeds in random order. A seed that does not answer at once does not hold up the next. It returns the first ring, or
// nil when all have failed; failures has what came of each.
func (c *Client) tryAll(ctx context.Context, failures map[string]error) *ring.Ring {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		seed string
		ring *ring.Ring
		err  error
	}
	results := make(chan result, len(c.seeds))
	order := rand.Perm(len(c.seeds))
	start, running := 0, 0
	for start < len(order) || running > 0 {
		var next <-chan time.Time
		if start < len(order) {
			if running < 1 {
				next = time.After(0)
			} else if running < 16 {
				next = time.After(seedPause)
			}
		}
		select {
		case <-next:
			seed := c.seeds[order[start]]
			start, running = start+1, running+1
			go func() {
				r, err := c.ringFrom(ctx, seed)
				results <- result{seed, r, err}
			}()
		case r := <-results:
			running--
			if r.err == nil {
				return r.ring
			}
			if old := failures[r.seed]; old == nil || ctx.Err() == nil {
				failures[r.seed] = r.err
			}
		}
	}
	return nil
}

// ringFrom fetches the ring from one address.
func (c *Client) ringFrom(ctx context.Context, addr string) (*ring.Ring, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	body, err := c.ask(ctx, addr, 0, transport.Request{Name: "ring"})
	if err != nil {
		return nil, err
	}
	return ring.Decode(body)
}

// SetRing makes r the client's ring, unless it has this or a newer one. It is for who learns of rings by another way than asking.
func (c *Client) SetRing(r *ring.Ring) error {
	c.setRing.Lock()
	defer c.setRing.Unlock()
	cluster := r.Cluster()
	if mine := c.cluster.Load(); mine != nil && *mine != cluster {
		return fmt.Errorf("client: a ring of cluster %s; this client belongs to cluster %s", cluster, *mine)
	}
	old := c.table.Load()
	if old != nil && old.epoch >= r.Epoch() {
		return nil
	}
	t := &table{routes: routesOf(r)}
	switch {
	case old == nil:
		t.hints = make([]atomic.Pointer[hint], r.Shards())
	case len(old.hints) != r.Shards():
		return fmt.Errorf("client: ring %d has %d shards; the cluster has %d", r.Epoch(), r.Shards(), len(old.hints))
	default:
		t.hints = old.hints
	}
	c.cluster.Store(&cluster)
	c.table.Store(t)
	c.log.Info("new ring", "epoch", uint64(r.Epoch()), "members", len(r.Members()))
	return nil
}

func routesOf(r *ring.Ring) *routes {
	t := &routes{epoch: r.Epoch(), replicas: make([][]ring.NodeID, r.Shards()), addrs: make(map[ring.NodeID]string)}
	for s := range t.replicas {
		for _, rep := range r.Shard(ring.ShardID(s)).Replicas {
			t.replicas[s] = append(t.replicas[s], rep.Node)
		}
	}
	for _, m := range r.Members() {
		t.addrs[m.ID] = m.Addr
	}
	return t
}

// epoch is the ring that this client's frames name.
func (c *Client) epoch() ring.Epoch {
	if t := c.table.Load(); t != nil {
		return t.routes.epoch
	}
	return 0
}

// sawEpoch hears the epoch in a frame's header.
func (c *Client) sawEpoch(e ring.Epoch) {
	if e <= c.epoch() {
		return
	}
	for old := c.newest.Load(); old < uint64(e) && !c.newest.CompareAndSwap(old, uint64(e)); old = c.newest.Load() {
	}
	c.fetchRing()
}

// fetchRing gets a newer ring in the background, once for all who ask meanwhile.
func (c *Client) fetchRing() {
	if c.fetching.Load() || c.closed.Load() || !c.fetching.CompareAndSwap(false, true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() { // Close waits for the goroutines that began before it took the lock
		return
	}
	c.wg.Go(func() {
		defer c.fetching.Store(false)
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.Timeout)
		defer cancel()
		c.fetch(ctx)
		select { // whoever asks in vain must not ask all the time
		case <-ctx.Done():
		case <-time.After(fetchPause):
		}
	})
}

// fetch asks members and seeds in random order until one has a ring as new as the newest that was seen, or newer than ours.
func (c *Client) fetch(ctx context.Context) {
	was := c.epoch()
	if l := c.opts.Local; l != nil {
		if resp, err := l.Request(ctx, transport.Request{Name: "ring"}); err == nil && resp.Error == "" {
			c.adopt(ring.Decode(resp.Body))
		}
	}
	same := 0
	for _, addr := range c.addrs() {
		now, newest := c.epoch(), ring.Epoch(c.newest.Load())
		if ctx.Err() != nil || now >= newest && (now > was || same == enoughSame) {
			return
		}
		if c.adopt(c.ringFrom(ctx, addr)) {
			same++
		}
	}
}

// adopt takes a fetched ring and reports whether there was one.
func (c *Client) adopt(r *ring.Ring, err error) bool {
	if err == nil {
		err = c.SetRing(r)
	}
	if err != nil {
		c.log.Debug("the ring could not be fetched", "error", err)
	}
	return err == nil
}

// addrs is everybody who may know the ring, in random order, members first.
func (c *Client) addrs() []string {
	var list []string
	have := make(map[string]bool)
	if t := c.table.Load(); t != nil {
		for _, a := range t.routes.addrs {
			have[a] = true
			list = append(list, a)
		}
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	for _, i := range rand.Perm(len(c.seeds)) {
		if a := c.seeds[i]; !have[a] {
			list = append(list, a)
		}
	}
	return list
}

// Request asks a node one named question ("ring", "status", "where"; their bodies belong to the names) and returns the response's body.
// to is an address, a node's ID in 16 hex digits, or empty for any node that answers.
func (c *Client) Request(ctx context.Context, to, name string, body []byte) ([]byte, error) {
	q := transport.Request{Name: name, Body: body}
	if to == "" {
		var all []error
		for _, addr := range c.addrs() {
			b, err := c.askBriefly(ctx, addr, q)
			if err == nil || ctx.Err() != nil {
				return b, err
			}
			all = append(all, err)
		}
		return nil, fmt.Errorf("client: no node answered %q: %w", name, errors.Join(all...))
	}
	if id, err := ring.ParseNodeID(to); err == nil {
		t := c.table.Load().get()
		if !t.has(id) {
			return nil, fmt.Errorf("client: node %s is not in the ring of epoch %d", to, c.epoch())
		}
		return c.ask(ctx, t.addrs[id], id, q)
	}
	return c.ask(ctx, to, 0, q)
}

// askBriefly gives a node no longer than a silent connection is given.
func (c *Client) askBriefly(ctx context.Context, addr string, q transport.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.KeepAlive)
	defer cancel()
	return c.ask(ctx, addr, 0, q)
}

// ask sends a request over an open connection to the address, or over one of its own.
func (c *Client) ask(ctx context.Context, addr string, node ring.NodeID, q transport.Request) ([]byte, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
	}
	conn := c.openTo(addr)
	if conn == nil {
		var err error
		if conn, err = c.dialAsker(ctx, addr, node); err != nil {
			return nil, err
		}
		defer conn.Close()
	}
	resp, err := conn.Roundtrip(ctx, q)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer %q in time: %w", addr, q.Name, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", addr, err)
	case resp.Error != "":
		return nil, fmt.Errorf("%s: %s", addr, resp.Error)
	}
	return resp.Body, nil
}

func (c *Client) dialAsker(ctx context.Context, addr string, node ring.NodeID) (*tcp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	return tcp.Dial(ctx, addr, c.hello(node), tcp.DialOptions{Handler: asker{c}, Epoch: c.epoch})
}

// openTo is an open connection to the address, nil if there is none.
func (c *Client) openTo(addr string) *tcp.Conn {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for l := range c.live {
		if l.addr != addr {
			continue
		}
		l.mu.Lock()
		conn, open := l.conn, l.state == linkOpen && !l.leaving
		l.mu.Unlock()
		if open {
			return conn
		}
	}
	return nil
}

// asker hears what comes on a connection for one request.
type asker struct{ client *Client }

func (a asker) Frame(_ *tcp.Conn, h transport.Header, _ []byte) { a.client.sawEpoch(h.Epoch) }
func (a asker) Closed(*tcp.Conn, error)                         {}
