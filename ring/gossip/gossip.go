package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ringfence/ringfence/ring"
)

// Label marks our packets; a joiner does not know the cluster's ID yet, so it is the same for all clusters.
const Label = "ringfence"

// Config says how a node gossips.
type Config struct {
	Node      ring.NodeID
	Meta      Meta
	Bind      string          // HOST:PORT, TCP and UDP; port 0 is any free one
	Advertise string          // HOST:PORT as others reach it; empty: as bound
	Seeds     []string        // tried for ever
	Known     func() []string // more addresses to try, such as those in the ring; may be nil
	Logger    *slog.Logger
	Fast      bool // timing for one machine: deaths are seen in about a second
	Gate      Gate // nil: nothing stands between gossip and the network
	// Transport carries gossip in place of sockets, if not nil, without a Gate. Gossip shuts it down, also if Start fails, perhaps twice.
	Transport memberlist.NodeAwareTransport
	Rejoin    time.Duration // between tries to join once one has succeeded. Default 10 s.
}

// Member is one node as gossip shows it.
type Member struct {
	ID     ring.NodeID
	Gossip string // HOST:PORT
	Meta   Meta
}

// View is what gossip shows at one moment: the nodes believed alive, this one included, in ascending order of their IDs. Read only.
type View struct {
	Version uint64 // grows with each change
	Members []Member
}

// Gossip is a running membership. All methods are safe for concurrent use.
type Gossip struct {
	cfg     Config
	log     *slog.Logger
	list    *memberlist.Memberlist
	addr    string
	changed chan struct{}
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	meta    Meta
	members map[ring.NodeID]Member
	version uint64
	ever    map[string]bool // gossip addresses ever seen
	joined  bool
	joinErr error
	foreign error // the last refusal of a node of another cluster
}

// Start binds and begins to gossip. The error of a port in use names the flag that changes it.
func Start(cfg Config) (*Gossip, error) {
	g, err := begin(cfg)
	if err != nil && cfg.Transport != nil {
		err = errors.Join(err, cfg.Transport.Shutdown())
	}
	return g, err
}

func begin(cfg Config) (*Gossip, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Rejoin == 0 {
		cfg.Rejoin = 10 * time.Second
	}
	if _, err := cfg.Meta.encode(); err != nil {
		return nil, err
	}
	g := &Gossip{cfg: cfg, log: cfg.Logger, meta: cfg.Meta, changed: make(chan struct{}, 1), members: make(map[ring.NodeID]Member), ever: make(map[string]bool)}
	mc, err := g.memberlistConfig()
	if err != nil {
		return nil, bindError(cfg.Bind, err)
	}
	if g.list, err = memberlist.Create(mc); err != nil {
		if mc.Transport != nil && cfg.Transport == nil {
			err = errors.Join(err, mc.Transport.Shutdown())
		}
		return nil, bindError(cfg.Bind, err)
	}
	g.addr = address(g.list.LocalNode()) // memberlist writes to its node whenever the metadata changes: it is read once
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.wg.Go(func() { g.rejoin(ctx) })
	return g, nil
}

// bindError names the flag that changes a port in use. An error of an address that was given wrongly names its flag itself.
func bindError(bind string, err error) error {
	switch {
	case strings.HasPrefix(err.Error(), "--"):
		return err
	case strings.Contains(err.Error(), "address already in use"):
		return fmt.Errorf("--gossip %s: the port is in use by another process: stop it, or give another address with --gossip", bind)
	}
	return fmt.Errorf("--gossip %s: %w", bind, err)
}

func (g *Gossip) memberlistConfig() (*memberlist.Config, error) {
	mc := memberlist.DefaultLANConfig()
	if g.cfg.Fast {
		mc = memberlist.DefaultLocalConfig()
		mc.ProbeInterval, mc.ProbeTimeout, mc.SuspicionMult = 200*time.Millisecond, 100*time.Millisecond, 3
		mc.GossipToTheDeadTime = 2 * time.Second
	}
	host, port, err := hostPort(g.cfg.Bind)
	if err != nil {
		return nil, fmt.Errorf("--gossip %q: %w", g.cfg.Bind, err)
	}
	mc.BindAddr, mc.BindPort, mc.AdvertisePort = host, port, port
	if g.cfg.Advertise != "" {
		if mc.AdvertiseAddr, mc.AdvertisePort, err = hostPort(g.cfg.Advertise); err != nil {
			return nil, fmt.Errorf("--advertise-gossip %q: %w", g.cfg.Advertise, err)
		}
		if mc.AdvertiseAddr, err = numeric(mc.AdvertiseAddr); err != nil {
			return nil, fmt.Errorf("--advertise-gossip %q: %w", g.cfg.Advertise, err)
		}
	}
	if mc.BindAddr, err = numeric(mc.BindAddr); err != nil {
		return nil, fmt.Errorf("--gossip %q: %w", g.cfg.Bind, err)
	}
	mc.Name = g.cfg.Node.String()
	mc.Label = Label
	// A node that comes back at another address while the others still remember the old one would be ignored for ever by default.
	mc.DeadNodeReclaimTime = time.Second
	mc.Logger = log.New(quiet{g.log}, "", 0)
	d := delegate{g}
	mc.Delegate, mc.Events, mc.Alive, mc.Merge, mc.Conflict = d, d, d, d, d
	if g.cfg.Transport != nil {
		mc.Transport = g.cfg.Transport
		return mc, nil
	}
	if g.cfg.Gate == nil {
		return mc, nil
	}
	t, err := newGated(mc, g.cfg.Gate, mc.Logger)
	if err != nil {
		return nil, err
	}
	mc.Transport = t
	return mc, nil
}

// numeric resolves a host's name once: memberlist wants an address.
func numeric(host string) (string, error) {
	if host == "" {
		return "0.0.0.0", nil
	}
	if net.ParseIP(host) != nil {
		return host, nil
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return "", err
	}
	return ips[0].String(), nil
}

func hostPort(s string) (string, int, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	return host, port, err
}

// Addr is the address that others are told.
func (g *Gossip) Addr() string { return g.addr }

// Changed gets a value after the view has changed; a slow reader misses intermediate views, never the newest.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

// View is the newest view.
func (g *Gossip) View() View {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := View{Version: g.version, Members: make([]Member, 0, len(g.members))}
	for _, m := range g.members {
		v.Members = append(v.Members, m)
	}
	slices.SortFunc(v.Members, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return v
}

// JoinError is why no seed has answered yet; nil once one has, or if there are none.
func (g *Gossip) JoinError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.joinErr
}

// Foreign is the last refusal of a node of another cluster, nil if there was none.
func (g *Gossip) Foreign() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.foreign
}

// SetCluster tells the others that this node belongs to a cluster now.
func (g *Gossip) SetCluster(c ring.ClusterID) { g.update(func(m *Meta) { m.Cluster = c }) }

// SetEpoch tells the others the newest ring's epoch.
func (g *Gossip) SetEpoch(e ring.Epoch) { g.update(func(m *Meta) { m.Epoch = max(m.Epoch, e) }) }

func (g *Gossip) update(change func(*Meta)) {
	g.mu.Lock()
	old := g.meta
	change(&g.meta)
	same := g.meta == old
	g.mu.Unlock()
	if !same {
		// The error is that the news has not left within the time; it goes on spreading.
		_ = g.list.UpdateNode(100 * time.Millisecond)
	}
}

// Close stops gossiping; the others see it as a death. Leave first to say good-bye.
func (g *Gossip) Close() error {
	g.cancel()
	err := g.list.Shutdown()
	g.wg.Wait()
	return err
}

// Leave tells the others that this node goes.
func (g *Gossip) Leave(timeout time.Duration) error { return g.list.Leave(timeout) }

// rejoin joins the seeds until one answers, and again and again afterwards: memberlist never merges two sides that have forgotten each other.
func (g *Gossip) rejoin(ctx context.Context) {
	wait := 100 * time.Millisecond
	lastLog := time.Now() // what settles itself within a second is not worth a word
	for {
		targets := g.targets()
		if len(targets) > 0 {
			n, err := g.list.Join(targets)
			g.mu.Lock()
			if n > 0 {
				g.joined, err = true, nil
			}
			g.joinErr = err
			joined := g.joined
			g.mu.Unlock()
			if err != nil && time.Since(lastLog) >= time.Second && !joined {
				g.log.Warn("no seed answers; waiting, and trying again", "seeds", strings.Join(targets, ","), "cause", lastLine(err))
				lastLog = time.Now()
			}
			if wait = min(wait*2, time.Second); joined {
				wait = g.cfg.Rejoin
			}
		} else {
			wait = g.cfg.Rejoin
		}
		t := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// targets are the seeds and all addresses ever known that no member in view has.
func (g *Gossip) targets() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	inView := make(map[string]bool, len(g.members))
	for _, m := range g.members {
		inView[m.Gossip] = true
	}
	var out []string
	add := func(a string) {
		if !inView[a] && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, s := range g.cfg.Seeds {
		add(s)
	}
	if g.cfg.Known != nil {
		for _, s := range g.cfg.Known() {
			add(s)
		}
	}
	ever := make([]string, 0, len(g.ever))
	for a := range g.ever {
		ever = append(ever, a)
	}
	slices.Sort(ever)
	for _, a := range ever {
		add(a)
	}
	return out
}

// lastLine is the last of the errors that memberlist has gathered, one line each.
func lastLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return strings.TrimLeft(lines[len(lines)-1], "\t *")
}

// see takes a node over into the view. It runs under memberlist's lock: nothing of memberlist may be called.
func (g *Gossip) see(n *memberlist.Node) {
	id, err := ring.ParseNodeID(n.Name)
	if err != nil {
		return
	}
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		g.log.Warn("a node's gossip cannot be read; it is ignored", "node", n.Name, "cause", err)
		return
	}
	m := Member{ID: id, Gossip: address(n), Meta: meta}
	g.mu.Lock()
	g.members[id] = m
	g.note(m.Gossip)
	g.version++
	g.mu.Unlock()
	g.signal()
}

// everMax bounds the addresses that are remembered.
const everMax = 1024

func (g *Gossip) note(addr string) {
	if len(g.ever) < everMax {
		g.ever[addr] = true
	}
}

func (g *Gossip) lose(n *memberlist.Node) {
	id, err := ring.ParseNodeID(n.Name)
	if err != nil {
		return
	}
	g.mu.Lock()
	delete(g.members, id)
	g.version++
	g.mu.Unlock()
	g.signal()
}

func (g *Gossip) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// admits reports whether a node with this metadata may be in our view.
func (g *Gossip) admits(n *memberlist.Node) error {
	if _, err := ring.ParseNodeID(n.Name); err != nil {
		return err
	}
	theirs, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	ours := g.meta.Cluster
	if !ours.IsZero() && !theirs.Cluster.IsZero() && ours != theirs.Cluster {
		g.foreign = fmt.Errorf("gossip: node %s belongs to cluster %s, and this one to %s: take its address out of --join", n.Name, theirs.Cluster, ours)
		return g.foreign
	}
	return nil
}

func address(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// delegate is what memberlist calls back.
type delegate struct{ g *Gossip }

func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	b, err := d.g.meta.encode()
	if err != nil { // Start has checked; numbers that grow cannot outgrow the limit
		d.g.log.Error("gossip metadata", "error", err)
	}
	return b
}

func (d delegate) NotifyMsg([]byte)                     {}
func (d delegate) GetBroadcasts(int, int) [][]byte      { return nil }
func (d delegate) LocalState(bool) []byte               { return nil }
func (d delegate) MergeRemoteState([]byte, bool)        {}
func (d delegate) NotifyJoin(n *memberlist.Node)        { d.g.see(n) }
func (d delegate) NotifyUpdate(n *memberlist.Node)      { d.g.see(n) }
func (d delegate) NotifyLeave(n *memberlist.Node)       { d.g.lose(n) }
func (d delegate) NotifyAlive(n *memberlist.Node) error { return d.g.admits(n) }

func (d delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if err := d.g.admits(n); err != nil {
			return err
		}
	}
	return nil
}

func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.log.Warn("a node is seen at two addresses", "node", existing.Name, "first", address(existing), "second", address(other))
}

// quiet hands memberlist's log lines on as debug lines: what matters of them we say ourselves.
type quiet struct{ l *slog.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.l.Debug("memberlist: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
