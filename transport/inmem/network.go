package inmem

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Limits of a network.
const (
	window       = 256 << 10        // bytes of one direction of a stream that are on the way or unread
	backlog      = 128              // streams of one listener that wait to be accepted
	packetQueue  = 1024             // packets of one port that wait to be read
	packetFlight = 1024             // packets on the way to one port
	maxPacket    = 65507            // bytes of a packet, as UDP's
	unackedTime  = 10 * time.Second // bytes that have not arrived for so long end their stream
	connectTime  = 2 * time.Minute  // a try to connect that nothing answers
)

// Network is a set of hosts. All methods, and those of what belongs to it, are safe for concurrent use.
type Network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	hosts   map[netip.Addr]*Host
	paths   map[route]*path
	changed chan struct{} // closed, and made anew, when who is refused or waits to connect should try again
}

// route is one direction between two hosts.
type route struct{ from, to *Host }

// path is the state of a route.
type path struct {
	route
	back     *path // the other direction
	cut      bool
	min, max time.Duration
	loss     float64
	pipes    map[*pipe]struct{} // with something on the way
}

// New makes a network without hosts. The same seed draws the same delays and losses.
func New(seed uint64) *Network {
	return &Network{rng: rand.New(rand.NewPCG(seed, 0)), hosts: make(map[netip.Addr]*Host), paths: make(map[route]*path), changed: make(chan struct{})}
}

// Host adds a machine with an IP address of its own.
func (n *Network) Host(ip string) (*Host, error) {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.IsUnspecified() || a.Zone() != "" {
		return nil, fmt.Errorf("inmem: host %q: want an IP address such as 10.0.0.1", ip)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[a] != nil {
		return nil, fmt.Errorf("inmem: there is a host %s already: give each an address of its own", a)
	}
	h := &Host{n: n, ip: a, next: firstPort, listeners: make(map[uint16]*listener), packets: make(map[uint16]*packetConn), conns: make(map[*conn]struct{})}
	n.hosts[a] = h
	return h, nil
}

// path is the state of the route between two hosts. Called with the lock.
func (n *Network) path(from, to *Host) *path {
	r := route{from, to}
	if p := n.paths[r]; p != nil {
		return p
	}
	p := &path{route: r, pipes: make(map[*pipe]struct{})}
	n.paths[r], p.back = p, p
	if from != to {
		p.back = &path{route: route{to, from}, back: p, pipes: make(map[*pipe]struct{})}
		n.paths[p.back.route] = p.back
	}
	return p
}

// blocked reports whether nothing passes. A host reaches itself as long as it runs.
func (p *path) blocked() bool {
	return p.from.off || p.to.off || p.from != p.to && (p.cut || p.from.unplugged || p.to.unplugged)
}

// delay draws how long the next thing takes. Called with the lock.
func (n *Network) delay(p *path) time.Duration {
	if p.max <= p.min {
		return p.min
	}
	return p.min + time.Duration(n.rng.Int64N(int64(p.max-p.min)+1))
}

// Cut silences both directions between two hosts, as when every packet is dropped: streams stay, what is written to them waits, packets are
// lost, and who connects waits.
func (n *Network) Cut(a, b *Host) {
	n.change(func() { n.path(a, b).cut, n.path(b, a).cut = true, true })
}

// CutOneWay silences one direction. Streams still carry what is sent the other way, but it is not acknowledged, so they end after a while.
func (n *Network) CutOneWay(from, to *Host) { n.change(func() { n.path(from, to).cut = true }) }

// Heal ends Cut and CutOneWay between two hosts.
func (n *Network) Heal(a, b *Host) {
	n.change(func() { n.path(a, b).cut, n.path(b, a).cut = false, false })
}

// Delay makes whatever is sent from now on between two hosts, either way, take between least and most. Streams stay in order, packets
// may overtake each other.
func (n *Network) Delay(a, b *Host, least, most time.Duration) {
	n.change(func() {
		for _, p := range [...]*path{n.path(a, b), n.path(b, a)} {
			p.min, p.max = max(least, 0), max(least, most, 0)
		}
	})
}

// Lose drops a share, 0 to 1, of the packets between two hosts, either way. Streams repeat what is lost, so they do not notice.
func (n *Network) Lose(a, b *Host, share float64) {
	n.change(func() { n.path(a, b).loss, n.path(b, a).loss = share, share })
}

// Reset ends all streams between two hosts: both ends hear that the other has reset the connection. It returns how many there were.
func (n *Network) Reset(a, b *Host) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range a.conns {
		if c.peer.host == b {
			c.fail(errReset)
			c.peer.fail(errReset)
			count++
		}
	}
	return count
}

// change makes a change of the network and lets go on what can go on after it.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	n.settle()
}

// settle moves on whatever was blocked. Called with the lock.
func (n *Network) settle() {
	for _, p := range n.paths {
		for s := range p.pipes {
			s.advance()
		}
	}
	n.tryAgain()
}

// tryAgain wakes who waits to connect. Called with the lock.
func (n *Network) tryAgain() {
	close(n.changed)
	n.changed = make(chan struct{})
}
