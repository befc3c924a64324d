package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// snapshotsMax is how many snapshots a node sends at once.
const snapshotsMax = 2

// peers holds the links to other nodes; it is the driver's Network.
type peers struct {
	n    *Node
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	slot chan struct{}
	rate *throttle // of all snapshots sent

	mu    sync.Mutex
	links map[linkKey]*tcp.Link
}

type linkKey struct {
	node    ring.NodeID
	purpose transport.Purpose
}

func newPeers(n *Node) *peers {
	ctx, stop := context.WithCancel(context.Background())
	return &peers{n: n, ctx: ctx, stop: stop, slot: make(chan struct{}, snapshotsMax), rate: newThrottle(cmp.Or(n.cfg.SnapshotRate, DefaultSnapshotRate), replica.ChunkBytes), links: make(map[linkKey]*tcp.Link)}
}

// link is the link to a node for a purpose, made at first use; nil once closed.
func (p *peers) link(to ring.NodeID, purpose transport.Purpose) *tcp.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil
	}
	k := linkKey{to, purpose}
	l := p.links[k]
	if l == nil {
		l = tcp.NewLink(tcp.LinkConfig{
			Addr:  inTurn(func() []string { return p.n.addresses(to) }),
			Hello: func() transport.Hello { return p.n.hello(purpose, to) },
			Dial:  p.n.dialOptions(),
			Up: func(up bool) {
				if d := p.n.driver.Load(); !up && purpose == transport.PurposeRaft && d != nil {
					d.Unreachable(to)
				}
			},
			Fail: func(err error) { p.n.log.Debug("a peer cannot be reached", "peer", to.String(), "cause", err) },
		})
		p.links[k] = l
	}
	return l
}

// inTurn gives one of some addresses at each call, the first one first.
func inTurn(all func() []string) func() string {
	turn := 0
	return func() string {
		a := all()
		if len(a) == 0 {
			return ""
		}
		turn++
		return a[(turn-1)%len(a)]
	}
}

// follow ends the connections to members that a newer ring has at another address: where they were nobody may be left to say so.
func (p *peers) follow(old, r *ring.Ring) {
	if old == nil {
		return
	}
	for _, m := range r.Members() {
		if was, ok := old.Member(m.ID); !ok || was.Addr == m.Addr {
			continue
		}
		p.mu.Lock()
		for k, l := range p.links {
			if c := l.Conn(); k.node == m.ID && c != nil {
				c.Close()
				l.Kick()
			}
		}
		p.mu.Unlock()
	}
}

// kick makes the links to a node that are down try again now: it has just been heard.
func (p *peers) kick(node ring.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, l := range p.links {
		if k.node == node && l.Conn() == nil {
			l.Kick()
		}
	}
}

func (p *peers) close() {
	p.stop()
	p.mu.Lock()
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for _, l := range links {
		l.Close()
	}
	p.wg.Wait()
}

// SendRaft implements replica.Network.
func (p *peers) SendRaft(to ring.NodeID, body []byte) {
	if l := p.link(to, transport.PurposeRaft); l != nil {
		// What the driver has for a node it has gathered already: it goes at once, if it does not have to wait behind something else.
		l.TrySendNow(transport.Header{Kind: transport.KindRaft}, func(b []byte) []byte { return append(b, body...) })
	}
}

// FrameVersion implements replica.Network. What is made while there is no connection is never sent.
func (p *peers) FrameVersion(to ring.NodeID) byte {
	if l := p.link(to, transport.PurposeRaft); l != nil {
		if c := l.Conn(); c != nil && c.Peer().Version < 2 {
			return replica.FrameVersionMin
		}
	}
	return replica.FrameVersion
}

// Every chunk fits into a frame.
const _ = uint(transport.MaxBulkBody - replica.ChunkMost)

// SendSnapshot implements replica.Network.
func (p *peers) SendSnapshot(to ring.NodeID, src *replica.SnapshotSource, done func(error)) {
	p.wg.Go(func() {
		err := p.stream(to, src)
		done(errors.Join(err, src.Close()))
	})
}

// chunkTime is how long a peer may take to store one chunk; busyFirst to busyMost, how long to wait before asking again one that receives as many
// snapshots as it may.
const (
	chunkTime = 30 * time.Second
	busyFirst = 100 * time.Millisecond
	busyMost  = 2 * time.Second
)

// stream sends a snapshot, until it is of no use any more or this node ends.
func (p *peers) stream(to ring.NodeID, src *replica.SnapshotSource) error {
	ctx, cancel := context.WithCancelCause(src.Context())
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(tcp.ErrClosed) })()
	select {
	case p.slot <- struct{}{}:
		defer func() { <-p.slot }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l := p.link(to, transport.PurposeBulk)
	if l == nil {
		return tcp.ErrClosed
	}
	c, err := awaitConn(ctx, l)
	if err != nil {
		return err
	}
	for {
		b, err := src.Next()
		if err != nil || b == nil {
			return err
		}
		if err := whenTaken(ctx, func() error { return p.sendChunk(ctx, c, b) }); err != nil {
			return err
		}
	}
}

// whenTaken repeats send, ever more slowly, for as long as the peer is busy.
func whenTaken(ctx context.Context, send func() error) error {
	for pause := busyFirst; ; pause = min(2*pause, busyMost) {
		err := send()
		if err == nil || !strings.Contains(err.Error(), replica.ErrBusy.Error()) {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *peers) sendChunk(ctx context.Context, c *tcp.Conn, b []byte) error {
	if err := p.rate.pass(ctx, len(b)); err != nil {
		return err
	}
	p.n.snapshotBytes.Add(uint64(len(b)))
	ctx, cancel := context.WithTimeout(ctx, chunkTime)
	defer cancel()
	return c.SendChunk(ctx, b)
}

// awaitConn waits for a link to come up, a few seconds.
func awaitConn(ctx context.Context, l *tcp.Link) (*tcp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		if c := l.Conn(); c != nil {
			return c, nil
		}
		l.Kick()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the peer cannot be reached: %w", ctx.Err())
		case <-t.C:
		}
	}
}

func (n *Node) hello(p transport.Purpose, want ring.NodeID) transport.Hello {
	return transport.Hello{Purpose: p, Cluster: n.cluster(), Node: n.id, Boot: n.boot, WantNode: want}
}

// dialOptions are those of every connection to another node.
func (n *Node) dialOptions() tcp.DialOptions {
	return tcp.DialOptions{Handler: linkHandler{n}, Epoch: n.epoch, Net: n.cfg.dial()}
}

// ask sends one request to a node at addr over a connection of its own: outside the hot path. want 0 means whoever is there.
func (n *Node) ask(ctx context.Context, addr string, want ring.NodeID, name string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := tcp.Dial(ctx, addr, n.hello(transport.PurposeCalls, want), n.dialOptions())
	if err != nil {
		return nil, err
	}
	return askOver(ctx, c, name, body)
}

// askMember sends one request to a node, which is looked for at each of its addresses.
func (n *Node) askMember(ctx context.Context, id ring.NodeID, name string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	all := n.addresses(id)
	err := fmt.Errorf("nobody has said where node %s listens", id)
	opts := n.dialOptions()
	opts.ConnectTimeout = askTime / time.Duration(1+len(all))
	for _, addr := range all {
		var c *tcp.Conn
		if c, err = tcp.Dial(ctx, addr, n.hello(transport.PurposeCalls, id), opts); err == nil {
			return askOver(ctx, c, name, body)
		}
	}
	return nil, err
}

// askOver asks, and ends the connection.
func askOver(ctx context.Context, c *tcp.Conn, name string, body []byte) ([]byte, error) {
	defer c.Close()
	resp, err := c.Roundtrip(ctx, transport.Request{Name: name, Body: body})
	if err == nil && resp.Error != "" {
		err = &answerError{resp.Error}
	}
	return resp.Body, err
}

// answerError is what another node answered instead of what was asked for.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

// askTime bounds one question to another node.
const askTime = 2 * time.Second

// askMax bounds the questions that a node answers at once.
const askMax = 256

// linkHandler hears what comes back on connections that this node has opened: only news of epochs matter.
type linkHandler struct{ n *Node }

func (l linkHandler) Frame(_ *tcp.Conn, h transport.Header, _ []byte) { l.n.heard(h.Epoch) }
func (l linkHandler) Closed(*tcp.Conn, error)                         {}

// heard notes that somebody knows a ring of epoch e.
func (n *Node) heard(e ring.Epoch) {
	if e > n.epoch() {
		select {
		case n.news <- e:
		default:
		}
	}
}
