package sim

import (
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

const (
	// formationTime is left to a cluster to form before the first fault.
	formationTime = 500 * time.Millisecond

	copies   = 3
	machines = maxNodes + 1

	maxEvents  = 10_000_000 // of a run: usual are some 300,000
	maxPending = 100_000    // at a time: usual are some hundreds
	// calmFor is the last part of a run: no faults begin, all are undone, every shard must serve, every object is read.
	calmFor = 16 * time.Second
	// serveWithin is how soon after the last fault every shard must have answered a call: what was late by four election
	// timeouts, an fsync of three, two elections of two timeouts each, and the calls between.
	serveWithin = 6 * time.Second
)

var raftLogger = replica.RaftLogger(slog.New(slog.DiscardHandler))

// Config says what to run. The same Config gives the same run, event by event, if crypto/rand is seeded too: Raft draws its
// election jitter from it.
type Config struct {
	Seed    uint64
	Virtual time.Duration // default 120 s; the last 16 s are calm
	Profile Profile
	// HistoryOnly leaves the run-time invariants out: only what clients saw is checked. For measuring mutants.
	HistoryOnly bool
	// Stored lets no owner hear of anything before it is stored, on no node: so were all seeds before some did, see told.
	Stored bool
	Log    io.Writer // every event in words; nil for none
}

// Result of a run.
type Result struct {
	Violation *Violation // nil if all is well
	Hash      uint64     // of all events
	On        Classes    // what was switched on
	Stats     Stats
	Ops       []Op
	Chains    [][]Version // by object: the versions that took effect
}

// world is everything in one run.
type world struct {
	scheduler
	cfg    Config
	on     Classes
	calm   time.Duration // when faults end
	stop   time.Duration // when clients end
	net    network
	nodes  []*node  // by machine
	models []*model // by group: the system group, then the shards'
	keep   int      // log entries kept

	groups   int // the system group and one for each shard
	members  int // at most at a time
	first    *ring.Ring
	newest   *ring.Ring           // committed
	rings    [][]byte             // by epoch, from 1: what was committed
	names    ring.NodeID          // newest handed out
	slots    map[ring.NodeID]int  // where nodes live, and lived
	homes    []home               // by replica
	lost     map[uint64]bool      // replicas whose disk is gone, or has forgotten something
	inChange int                  // group whose voters crashed in a change last
	apart    [machines]bool       // machines where they were
	lostAt   time.Duration        // when that was last
	going    map[ring.NodeID]bool // members that a proposed ring has as leaving
	ghosts   map[int]int          // machines with a second process of the same node, and where that runs: mutants only

	policy, stalePolicy host.Policy

	clock     bool // leases rest on promises and clocks, else on rounds
	cuts      uint64
	powerNext bool // power goes at the next reply

	rang    map[uint64]int64 // by operation: the alarm that it ran, by when it was due
	ops     []Op
	kinds   []opKind
	served  []time.Duration // by group: first answer to a call begun after the calm
	gates   []uint64        // by group: newest log index that a reply depended on
	broken  *Violation
	stats   Stats
	clients []*client
}

// Run runs one seed.
func Run(cfg Config) (res Result) {
	if cfg.Virtual == 0 {
		cfg.Virtual = 120 * time.Second
	}
	cfg.Profile.fill()
	w := &world{scheduler: newScheduler(cfg.Seed, cfg.Log), cfg: cfg, calm: cfg.Virtual - calmFor, stop: cfg.Virtual - time.Second}
	w.build()
	w.run()
	w.finish()
	res = Result{Violation: w.broken, Hash: w.hash, On: w.on, Stats: w.stats, Ops: w.ops}
	for _, m := range w.models[1:] {
		for o := range objects {
			res.Chains = append(res.Chains, m.chains[o])
		}
	}
	return res
}

func (w *world) build() {
	w.on = w.drawClasses()
	if only := w.cfg.Profile.Only; only != 0 {
		w.on = only
	}
	w.on &^= w.cfg.Profile.Never
	w.keep = 10 + w.pick(41)
	w.net = network{w: w, loss: w.rng.Float64() * 0.05, repeat: w.rng.Float64() * 0.05, late: w.rng.Float64() * 0.03}
	w.policy = host.Policy{Mailbox: 1 + w.pick(4), MailboxBytes: 250 + w.pick(1000), HeldBytes: w.pick(3 * replyBytes),
		CacheBytes: w.pick(400), IdleTicks: uint64(1 + w.pick(40))}
	w.stalePolicy = w.policy
	w.stalePolicy.AllowStaleReplies = true
	if w.clock = w.chance(0.5); w.cfg.Profile.Lease != "" {
		w.clock = w.cfg.Profile.Lease == "clock"
	}
	n := w.drawSize()
	w.members = min(n+1, maxNodes)
	w.groups = 1 + 2*w.members // a ring takes half as many members as shards
	w.slots, w.lost, w.going, w.ghosts = map[ring.NodeID]int{}, map[uint64]bool{}, map[ring.NodeID]bool{}, map[int]int{}
	w.gates = make([]uint64, w.groups)
	for id := range w.members + 1 {
		w.nodes = append(w.nodes, newNode(w, id))
	}
	var members []ring.Member
	for _, n := range w.nodes[:n] {
		n.settle(true)
		members = append(members, ring.Member{ID: n.name, Addr: fmt.Sprintf("machine-%d:1", n.id)})
	}
	var err error
	if w.first, err = ring.First(ring.ClusterID{1}, members, w.groups-1, copies); err != nil {
		panic(err)
	}
	w.settle(w.first)
	for g := range w.groups {
		a, _ := w.first.Group(ring.GroupID(g))
		var voters []uint64
		for _, rep := range a.Replicas {
			voters = append(voters, uint64(rep.ID))
		}
		w.models = append(w.models, newModel(g, voters))
	}
	w.models[0].ringPut = w.ringCommitted
	for _, m := range w.models[1:] {
		m.check = w.checkAlarms
	}
	w.rang = map[uint64]int64{}
	w.served = make([]time.Duration, w.groups)
	w.trace("seed", w.cfg.Seed, uint64(w.on), uint64(n))
	w.note("%d nodes, at most %d, log of %d entries, leases by the clock: %v, faults: %v", n, w.members, w.keep, w.clock, w.on)
}

// drawSize draws how many nodes a cluster begins with: few more often than many.
func (w *world) drawSize() int {
	if n := w.cfg.Profile.Nodes; n != 0 {
		return n
	}
	switch p := w.rng.Float64(); {
	case p < 0.45:
		return 3
	case p < 0.70:
		return 4
	case p < 0.85:
		return 5
	case p < 0.93:
		return 6
	}
	return maxNodes
}

// drawRate draws how fast a clock runs, at the bounds as often as between.
func (w *world) drawRate() float64 {
	e := timing.Drift
	if !w.on.Has(clockRate) {
		return 1
	}
	w.count(clockRate)
	switch w.pick(4) {
	case 0:
		return 1 - e
	case 1:
		return 1 + e
	}
	return 1 - e + 2*e*w.rng.Float64()
}

func (w *world) run() {
	defer func() {
		if p := recover(); p != nil {
			w.fail("nothing panics", "%v\n%s", p, debug.Stack())
		}
	}()
	for _, n := range w.nodes {
		if n.name != 0 {
			n.start()
		}
	}
	for i := range w.cfg.Profile.Clients {
		w.clients = append(w.clients, newClient(w, i, 0))
	}
	w.after(formationTime, w.nextFault)
	w.after(w.calm, func() {
		w.beCalm()
		for g := 1; g < w.groups; g++ { // one client for each shard, so that each is asked at once
			w.clients = append(w.clients, newClient(w, len(w.clients), g))
		}
		w.after(serveWithin, w.checkServed)
	})
	for events := 0; w.broken == nil && w.next(w.cfg.Virtual); events++ {
		if events > maxEvents || len(w.heap) > maxPending {
			w.fail("time goes on", "%d events, %d more to come: something feeds itself", events, len(w.heap))
		}
	}
}

// finish checks the history.
func (w *world) finish() {
	w.stats.Virtual = w.now
	w.stats.Seeds = 1
	if w.broken != nil {
		return
	}
	w.checkRung()
	w.checkSettled()
	byObject := make([][]Op, (w.groups-1)*objects)
	for i := range w.ops {
		if o := &w.ops[i]; !o.Echo {
			byObject[o.Object] = append(byObject[o.Object], *o)
		}
	}
	for object, ops := range byObject {
		chain := w.models[1+object/objects].chains[object%objects]
		if err := CheckObject(ops, chain); err != nil {
			w.fail("I1 linearizable", "object %d of group %d: %v", object%objects, 1+object/objects, err)
			return
		}
	}
}

// acknowledged takes note of an answer that reached its client.
func (w *world) acknowledged(c *client, o *Op) {
	w.stats.Acked++
	w.stats.Kinds[w.kinds[o.ID-1]]++
	group := 1 + o.Object/objects
	if o.Call >= w.calm && w.served[group] == 0 {
		w.served[group] = w.now
		w.stats.SlowestServe = max(w.stats.SlowestServe, w.now-w.calm)
	}
	if w.powerNext && w.now < w.calm {
		w.powerNext = false
		w.count(powerAfterReply)
		w.powerLoss()
	}
}

// checkServed holds I16: after the faults every shard serves again, soon.
func (w *world) checkServed() {
	for group, at := range w.served {
		if at == 0 && group > 0 {
			w.fail("I16 liveness", "group %d has answered nothing for %v since all faults ended; %s", group, serveWithin, w.describe(group))
		}
	}
}

// describe says who is in a group, for whoever looks at a run.
func (w *world) describe(group int) string {
	m := w.models[group]
	var b strings.Builder
	fmt.Fprintf(&b, "by the log at %d: %+v", m.last(), m.conf)
	for _, n := range w.nodes {
		img := n.disk.cur[group]
		if img == nil {
			continue
		}
		fmt.Fprintf(&b, "; node %s holds replica %d of %v at %d of %d in term %d (lost: %v, regressed: %v)", n.name, img.rid, img.conf, img.applied, img.last(), img.term, w.lost[img.rid], img.regressed)
		if r := n.reps[group]; r != nil {
			fmt.Fprintf(&b, " led by %d", r.g.Leader())
			if f, ok := r.g.Facts(); ok {
				fmt.Fprintf(&b, ", owned, filled %v, active %v, joint %v, may lead %v, fence %+v", f.Filled, f.Active, f.Joint, r.g.Filled(), r.g.Fence())
			}
		}
	}
	return b.String()
}

// hint is an epoch that a starting founder may know: any so far.
func (w *world) hint() ring.Epoch { return 1 + ring.Epoch(w.rng.Uint64N(uint64(len(w.rings)+1))) }

// aVoter is a machine that holds a voter of the group, as far as anybody knows.
func (w *world) aVoter(group int) int {
	voters := w.models[group].conf.voters
	return w.nodeOf(voters[w.pick(len(voters))])
}

// stray sends a copy of a proposal, much later, to some replica of the shard, as a node that forwards proposals would.
func (w *world) stray(r *rep, data []byte) {
	election := timing.Election()
	w.after(w.between(election/2, 8*election), func() {
		if w.now >= w.calm {
			return
		}
		voters := r.g.Voters()
		if len(voters) == 0 {
			return
		}
		to := voters[w.pick(len(voters))]
		for _, v := range voters { // whoever leads, if anybody: others drop proposals
			if t := w.nodes[w.nodeOf(v)].byReplica(v); t != nil && t.leads() {
				to = v
			}
		}
		dst := w.nodes[w.nodeOf(to)]
		dst.do(dst.inc, func() {
			t := dst.byReplica(to)
			if t == nil {
				return
			}
			w.count(strayProposal)
			w.trace("stray", r.rid, to, 0)
			t.g.Step(dst.clock(), &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(r.rid), To: new(to), Entries: []*raftpb.Entry{{Data: data}}})
			dst.drain(t)
		})
	})
}

func (c Config) String() string { return fmt.Sprintf("seed %d", c.Seed) }
