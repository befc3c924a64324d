package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// Pauses: between seeds that are tried at the same time, between rounds over the seeds, and between fetches of the ring.
const (
	seedPause  = 150 * time.Millisecond
	minRound   = 50 * time.Millisecond
	maxRound   = time.Second
	fetchPause = 50 * time.Millisecond
	failPause  = 200 * time.Millisecond // after a fetch that reached nobody
)

// maxAsked bounds how many nodes are asked for their rings at the same time.
const maxAsked = 16

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

// tryAll asks the seeds in random order. It returns the first ring, or nil when all have failed; failures has what came of each.
func (c *Client) tryAll(ctx context.Context, failures map[string]error) (first *ring.Ring) {
	seeds := slices.Clone(c.seeds)
	shuffle(seeds)
	c.askInTurn(ctx, seeds, func(seed string, r *ring.Ring, err error) (enough bool) {
		if err == nil {
			first = r
			return true
		}
		if old := failures[seed]; old == nil || ctx.Err() == nil {
			failures[seed] = err
		}
		return false
	})
	return first
}

// askInTurn asks addresses for their rings, in order, until took has enough. One that fails makes room for the next, one that does
// not answer at once does not hold it up. took is called for one outcome at a time. When it returns, nobody is being asked any more.
func (c *Client) askInTurn(ctx context.Context, addrs []string, took func(addr string, r *ring.Ring, err error) (enough bool)) {
	type result struct {
		addr string
		ring *ring.Ring
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, maxAsked)
	pause := time.NewTimer(0)
	start, running := 0, 0
	for start < len(addrs) || running > 0 {
		next := pause.C
		if start == len(addrs) || running == maxAsked {
			next = nil
		}
		select {
		case <-next:
			addr := addrs[start]
			start, running = start+1, running+1
			go func() {
				r, err := c.ringFrom(ctx, addr)
				results <- result{addr, r, err}
			}()
			pause.Reset(seedPause)
		case r := <-results:
			running--
			if took(r.addr, r.ring, r.err) {
				start = len(addrs)
				cancel()
				took = func(string, *ring.Ring, error) bool { return true }
			} else {
				pause.Reset(0)
			}
		}
	}
	cancel()
	pause.Stop()
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
	c.follow(old.get(), t.routes)
	return nil
}

// follow goes with members that have other addresses than in the ring before: what was known about the old ones is forgotten, and
// nothing new is sent there.
func (c *Client) follow(old, now *routes) {
	if old == nil {
		return
	}
	c.rests.keep(func(n ring.NodeID) bool { return now.has(n) && now.addrs[n] == old.addrs[n] })
	for _, l := range c.living() {
		if now.has(l.node) && now.addrs[l.node] != l.addr {
			l.retire(errMoved)
		}
	}
}

func routesOf(r *ring.Ring) *routes {
	t := &routes{epoch: r.Epoch(), replicas: make([][]ring.NodeID, r.Shards()), addrs: make(map[ring.NodeID]string)}
	for s := range t.replicas {
		for _, rep := range r.Shard(ring.ShardID(s)).Voters() { // the others never own the shard
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
		pause := fetchPause // whoever asks in vain must not ask all the time
		if !c.fetch(ctx) {
			pause = failPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	})
}

// fetch asks everybody who may know until one has a ring as new as the newest that was seen, or newer than ours. It reports whether
// anybody answered.
func (c *Client) fetch(ctx context.Context) (heard bool) {
	addrs, awake := c.addrs()
	was, same := c.epoch(), 0
	enough := func() bool {
		now, newest := c.epoch(), ring.Epoch(c.newest.Load())
		return ctx.Err() != nil || now >= newest && (now > was || same > 0 && same >= min(enoughSame, awake))
	}
	if l := c.opts.Local; l != nil {
		if resp, err := l.Request(ctx, transport.Request{Name: "ring"}); err == nil && resp.Error == "" {
			heard = c.adopt(ring.Decode(resp.Body))
		}
	}
	if enough() {
		return heard
	}
	c.askInTurn(ctx, addrs, func(_ string, r *ring.Ring, err error) bool {
		if c.adopt(r, err) {
			same++
			heard = true
		}
		return enough()
	})
	return heard
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

// addrs is everybody who may know the ring: the members, then the seeds, by which a cluster is found whose nodes have all come back at
// other addresses, then the members that rest; each in random order. The first awake of them are not known to rest.
func (c *Client) addrs() (list []string, awake int) {
	var resting []string
	have := make(map[string]bool)
	v := view{rests: c.rests.load(), now: time.Now()}
	if t := c.table.Load(); t != nil {
		for n, a := range t.routes.addrs {
			have[a] = true
			if v.resting(n) {
				resting = append(resting, a)
			} else {
				list = append(list, a)
			}
		}
		shuffle(list)
		shuffle(resting)
	}
	for _, i := range rand.Perm(len(c.seeds)) {
		if a := c.seeds[i]; !have[a] {
			list = append(list, a)
		}
	}
	return append(list, resting...), len(list)
}

func shuffle(list []string) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
