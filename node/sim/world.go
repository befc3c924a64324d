package sim

import (
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

const (
	shards = 4
	copies = 3

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
	Log         io.Writer // every event in words; nil for none
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
	nodes  []*node
	models []*model
	moves  [shards]move
	gen    int // newest generation of replicas
	keep   int // log entries kept

	policy, stalePolicy host.Policy

	clock     bool       // leases rest on promises and clocks, else on rounds
	epoch     ring.Epoch // newest ring; nodes hear of it or not
	cuts      uint64
	wiped     bool
	powerNext bool // power goes at the next reply

	ops     []Op
	kinds   []opKind
	served  []time.Duration // by shard: first answer to a call begun after the calm
	seen    [maxNodes][shards]view
	synced  [maxNodes][shards]view
	gates   [shards]uint64 // by shard: newest log index that a reply depended on
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
	for _, m := range w.models {
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
	w.keep = 10 + w.pick(41)
	w.net = network{w: w, loss: w.rng.Float64() * 0.05, repeat: w.rng.Float64() * 0.05, late: w.rng.Float64() * 0.03}
	w.policy = host.Policy{Mailbox: 1 + w.pick(4), MailboxBytes: 250 + w.pick(1000), HeldBytes: w.pick(3 * replyBytes),
		CacheBytes: w.pick(400), IdleTicks: uint64(1 + w.pick(40))}
	w.stalePolicy = w.policy
	w.stalePolicy.AllowStaleReplies = true
	w.epoch = 1
	if w.clock = w.chance(0.5); w.cfg.Profile.Lease != "" {
		w.clock = w.cfg.Profile.Lease == "clock"
	}
	n := 3 + w.pick(maxNodes-2)
	for shard := range shards {
		var voters []uint64
		for k := range copies {
			voters = append(voters, makeReplicaID(0, shard, (shard+k)%n))
		}
		w.models = append(w.models, newModel(shard, voters))
	}
	for id := range n {
		d := &disk{base: make([]*image, shards), cur: make([]*image, shards)}
		for shard, m := range w.models {
			if rid := makeReplicaID(0, shard, id); slices.Contains(m.founders, rid) {
				d.place(shard, newImage(rid, m.founders))
			}
		}
		w.nodes = append(w.nodes, &node{w: w, id: id, disk: d, rate: w.drawRate()})
	}
	w.served = make([]time.Duration, shards)
	w.trace("seed", w.cfg.Seed, uint64(w.on), uint64(n))
	w.note("%d nodes, log of %d entries, leases by the clock: %v, faults: %v", n, w.keep, w.clock, w.on)
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
		n.start()
	}
	for i := range w.cfg.Profile.Clients {
		w.clients = append(w.clients, newClient(w, i, -1))
	}
	w.nextFault()
	w.nextEpoch()
	w.after(w.calm, func() {
		w.beCalm()
		for shard := range shards { // one client for each shard, so that each is asked at once
			w.clients = append(w.clients, newClient(w, len(w.clients), shard))
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
	byObject := make([][]Op, shards*objects)
	for i := range w.ops {
		if o := &w.ops[i]; !o.Echo {
			byObject[o.Object] = append(byObject[o.Object], *o)
		}
	}
	for object, ops := range byObject {
		chain := w.models[object/objects].chains[object%objects]
		if err := CheckObject(ops, chain); err != nil {
			w.fail("I1 linearizable", "object %d of shard %d: %v", object%objects, object/objects, err)
			return
		}
	}
}

// acknowledged takes note of an answer that reached its client.
func (w *world) acknowledged(c *client, o *Op) {
	w.stats.Acked++
	w.stats.Kinds[w.kinds[o.ID-1]]++
	shard := o.Object / objects
	if o.Call >= w.calm && w.served[shard] == 0 {
		w.served[shard] = w.now
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
	for shard, at := range w.served {
		if at == 0 {
			w.fail("I16 liveness", "shard %d has answered nothing for %v since all faults ended", shard, serveWithin)
		}
	}
}

// nextEpoch makes new rings from time to time. Each node hears of each, late, or not.
func (w *world) nextEpoch() {
	w.after(w.between(time.Second, 8*time.Second), func() {
		w.epoch++
		w.stats.Epochs++
		e := w.epoch
		for _, n := range w.nodes {
			if w.faulty(wrongHint) && w.chance(0.3) {
				w.count(wrongHint)
				continue
			}
			inc := n.inc
			w.after(w.between(0, 3*time.Second), func() {
				n.do(inc, func() {
					for _, r := range n.reps {
						if r != nil {
							r.g.SetEpoch(e)
						}
					}
				})
			})
		}
		w.nextEpoch()
	})
}

// hint is an epoch that a starting node may know: any so far.
func (w *world) hint() ring.Epoch { return 1 + ring.Epoch(w.rng.Uint64N(uint64(w.epoch))) }

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
			if t := w.nodes[nodeOf(v)].byReplica(v); t != nil && t.leads() {
				to = v
			}
		}
		dst := w.nodes[nodeOf(to)]
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
