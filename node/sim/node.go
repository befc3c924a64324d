package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

const maxNodes = 5

// A replica's ID says where it lives, and the how manieth of its shard it is: 10000 × generation + 100 × (shard + 1) + node + 1. The protocol
// does not know.
func makeReplicaID(generation, shard, node int) uint64 {
	return uint64(10000*generation + 100*(shard+1) + node + 1)
}
func nodeOf(id uint64) int               { return int(id%100) - 1 }
func shardOf(id uint64) int              { return int(id/100%100) - 1 }
func replicaID(id uint64) ring.ReplicaID { return ring.ReplicaID(id) }

// node is one process and its disk.
type node struct {
	w    *world
	id   int
	disk *disk
	boot ring.BootID
	inc  int // of the process: what an earlier one had asked for comes to nothing
	up   bool
	reps []*rep // by shard; nil where it has none

	rate float64 // of its clock

	paused   bool
	deferred []func() // what came while it was paused
	owed     int      // ticks

	appends  []appendTask // not yet written
	waiting  []appendTask // written, responses not yet sent
	syncing  bool
	sending  bool
	vital    uint64 // newest write on disk that a response may vouch for
	applies  []applyTask
	applying bool

	crashIn   int   // crash after so many more effects; 0: not armed
	crashFor  Class // what to count it as
	quick     bool  // the next crash is a quick restart
	failSync  bool  // the next fsync fails
	slowUntil time.Duration
	slowSync  time.Duration
}

type appendTask struct {
	r    *rep
	msg  *raftpb.Message
	need uint64 // what must be synced before its responses leave
}

type applyTask struct {
	r    *rep
	task *replica.ApplyTask
}

// rep is one replica in a running process.
type rep struct {
	n       *node
	shard   int
	rid     uint64
	gone    bool // removed: what it had under way comes to nothing
	g       *replica.Group
	applies int // handed out and not yet stored
	own     ownership

	term, vote uint64 // as written last
}

// clock is the node's time: it runs at a rate of its own, within the bounds that leases allow for.
func (n *node) clock() time.Duration { return time.Duration(float64(n.w.now) * n.rate) }

// start runs the process on what its disk holds.
func (n *node) start() {
	w := n.w
	w.stats.Restarts++
	if n.inc++; n.inc > 1 {
		w.stats.Quiet++
	}
	n.boot = ring.BootID(w.rng.Uint64() | 1)
	n.up = true
	n.reps = make([]*rep, len(w.models))
	w.trace("start", uint64(n.id), uint64(n.inc), uint64(n.boot))
	for shard, img := range n.disk.cur {
		if img == nil {
			continue
		}
		n.open(shard, img, n.inc == 1)
		w.checkRestart(n, shard)
	}
	n.tick()
	for _, r := range n.reps {
		if r != nil {
			n.drain(r)
		}
	}
}

// open starts a replica on what the disk holds of it.
func (n *node) open(shard int, img *image, fresh bool) *rep {
	r := &rep{n: n, shard: shard, rid: img.rid, term: img.term, vote: img.vote}
	g, err := replica.NewGroup(replica.GroupConfig{
		Group:   ring.ShardID(shard).Group(),
		Holder:  store.Holder{Replica: replicaID(r.rid), Node: ring.NodeID(n.id + 1), Boot: n.boot},
		Storage: img, Applied: img.applied, Fence: img.fence, Timing: timing, Logger: raftLogger,
		Epoch: n.w.hint(), Clock: n.w.clock, Now: n.clock(), Fresh: fresh,
	})
	if err != nil {
		panic(err)
	}
	r.g = g
	r.own.init(r)
	n.reps[shard] = r
	return r
}

// crash ends the process between two effects; unsynced operations are lost from some point on.
func (n *node) crash() {
	lost := n.disk.crash(n.w.rng)
	n.w.trace("crash", uint64(n.id), uint64(n.inc), uint64(lost))
	n.inc++
	n.up, n.paused, n.syncing, n.sending, n.applying = false, false, false, false, false
	n.vital = 0
	n.deferred, n.appends, n.waiting, n.applies = nil, nil, nil, nil
	n.owed, n.crashIn, n.failSync = 0, 0, false
	inc := n.inc
	outage := n.w.outage()
	if n.quick {
		outage, n.quick = n.w.between(time.Millisecond, timing.Promise/4), false
	}
	n.w.after(outage, func() {
		if n.inc == inc && !n.up {
			n.start()
		}
	})
}

// wipe empties the disk: the process that starts next is a new member, without the replicas of the old one.
func (n *node) wipe() {
	for shard, img := range n.disk.cur {
		if img == nil {
			continue
		}
		if mutant.has(wipedRejoins) {
			n.disk.place(shard, newImage(img.rid, n.w.models[shard].founders))
			continue
		}
		n.disk.place(shard, nil)
	}
	n.w.forget(n)
}

// effect is one thing done to the world: a crash may come before it. False: the process is gone.
func (n *node) effect() bool {
	if n.crashIn > 0 {
		if n.crashIn--; n.crashIn == 0 {
			n.w.count(n.crashFor)
			n.crash()
		}
	}
	return n.up
}

// do runs fn in the process that was started as number inc; later, if it is paused; never, if it is gone.
func (n *node) do(inc int, fn func()) {
	if !n.up || n.inc != inc {
		return
	}
	if n.paused {
		n.deferred = append(n.deferred, func() { n.do(inc, fn) })
		return
	}
	fn()
}

func (n *node) pause(d time.Duration) {
	if !n.up || n.paused {
		return
	}
	n.w.count(pause)
	n.w.trace("pause", uint64(n.id), uint64(d), 0)
	n.paused = true
	inc := n.inc
	n.w.after(d, func() {
		if n.inc == inc && n.paused {
			n.resume()
		}
	})
}

func (n *node) resume() {
	n.w.trace("resume", uint64(n.id), uint64(len(n.deferred)), 0)
	n.paused = false
	todo := n.deferred
	n.deferred = nil
	for i := 0; i < min(n.owed, 2); i++ { // its clock went on; a burst of ticks would make followers campaign
		n.tickGroups()
	}
	n.owed = 0
	for _, fn := range todo {
		fn()
	}
}

func (n *node) tick() {
	inc := n.inc
	n.w.after(time.Duration(float64(timing.Tick)/n.rate), func() {
		if n.inc != inc || !n.up {
			return
		}
		n.tick()
		if n.paused {
			n.owed++
			return
		}
		n.tickGroups()
	})
}

func (n *node) tickGroups() {
	for _, r := range n.reps {
		if r != nil && n.up {
			r.g.Tick(n.clock())
			r.own.tick()
			n.drain(r)
		}
	}
}

func (n *node) byReplica(id uint64) *rep {
	if s := shardOf(id); s < len(n.reps) && n.up && n.reps[s] != nil && n.reps[s].rid == id {
		return n.reps[s]
	}
	return nil
}

// drain does what a group wants done, in the order of the contract of replica.Output.
func (n *node) drain(r *rep) {
	for n.up && !r.gone && r.g.HasReady() {
		out := r.g.Ready()
		r.own.events(out.Lost)
		for _, m := range out.Send {
			if !n.effect() {
				return
			}
			n.w.net.send(n, packet{Message: m})
		}
		for _, p := range out.Pings {
			if !n.effect() {
				return
			}
			n.w.net.send(n, packet{ping: p})
		}
		for _, m := range out.Append {
			if !n.effect() {
				return
			}
			n.appends = append(n.appends, appendTask{r: r, msg: m})
			n.writeAppends()
		}
		for _, t := range out.Apply {
			if !n.effect() {
				return
			}
			r.applies++
			n.applies = append(n.applies, applyTask{r, t})
		}
		r.own.events(out.Events)
		n.runApplies()
	}
	if err := r.g.Err(); err != nil {
		n.w.fail("replica works", "replica %d halted: %v", r.rid, err)
	}
}

// writeAppends writes Append tasks in order. One with a snapshot waits for the Apply tasks before it, or they would be stored over it.
func (n *node) writeAppends() {
	for len(n.appends) > 0 {
		t := n.appends[0]
		if t.r.gone {
			n.appends = n.appends[1:]
			continue
		}
		if !raft.IsEmptySnap(t.msg.GetSnapshot()) {
			if t.r.applies > 0 {
				return
			}
			n.w.stats.Snapshots++
			n.w.trace("snapshot", t.r.rid, t.msg.GetSnapshot().GetMetadata().GetIndex(), 0)
		}
		n.appends = n.appends[1:]
		pos := n.disk.write(diskOp{shard: t.r.shard, msg: t.msg})
		if t.vital() {
			n.vital = pos
		}
		if len(t.msg.GetResponses()) > 0 && !mutant.has(ackBeforeSync) {
			t.need = n.vital
		}
		if !raft.IsEmptySnap(t.msg.GetSnapshot()) {
			n.w.checkImage(n, t.r.shard)
		}
		n.waiting = append(n.waiting, t)
	}
	n.sync()
}

// vital reports whether a response may vouch for what the task writes: entries, a snapshot, another term or vote. The commit index
// may be lost, it is learned again.
func (t *appendTask) vital() bool {
	changed := false
	if t.msg.GetTerm() != 0 {
		changed = t.msg.GetTerm() != t.r.term || t.msg.GetVote() != t.r.vote
		t.r.term, t.r.vote = t.msg.GetTerm(), t.msg.GetVote()
	}
	return changed || len(t.msg.GetEntries()) > 0 || !raft.IsEmptySnap(t.msg.GetSnapshot())
}

// sync sends responses for which all is synced, and makes the rest durable: one fsync for all groups.
func (n *node) sync() {
	inc := n.inc
	if len(n.waiting) > 0 && n.waiting[0].need <= n.disk.done && !n.sending {
		n.sending = true
		n.w.after(n.w.between(5*time.Microsecond, 50*time.Microsecond), func() { n.do(inc, n.respond) })
	}
	if n.syncing || n.vital <= n.disk.done {
		return
	}
	n.syncing = true
	pos := n.disk.end()
	d := n.w.between(100*time.Microsecond, 1200*time.Microsecond)
	if n.w.now < n.slowUntil {
		d = n.slowSync
	}
	n.w.after(d, func() {
		if n.inc != inc {
			return
		}
		if n.failSync { // nothing may be concluded from a failed fsync: the process ends
			n.failSync = false
			n.w.count(syncError)
			n.crash()
			return
		}
		n.disk.sync(pos)
		n.w.checkSynced(n)
		n.do(inc, func() {
			n.syncing = false
			n.w.trace("synced", uint64(n.id), pos, 0)
			n.respond()
		})
	})
}

func (n *node) respond() {
	n.sending = false
	for n.up && len(n.waiting) > 0 && n.waiting[0].need <= n.disk.done {
		t := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.appended(t)
	}
	if n.up {
		n.sync()
	}
}

func (n *node) appended(t appendTask) {
	if t.r.gone {
		return
	}
	inc := n.inc
	n.w.trace("appended", t.r.rid, t.need, uint64(len(t.msg.GetEntries())))
	t.r.g.AppendDone(n.clock(), t.msg, func(m *raftpb.Message) {
		if n.inc == inc && n.effect() {
			n.w.net.send(n, packet{Message: m})
		}
	})
	n.drain(t.r)
}

func (n *node) slowFor(d time.Duration) {
	if !n.up {
		return
	}
	n.w.count(slowDisk)
	n.w.trace("slow disk", uint64(n.id), uint64(d), 0)
	n.slowUntil = n.w.now + d
	n.slowSync = n.w.between(20*time.Millisecond, 3*timing.Election())
}

// runApplies stores Apply tasks in order, at once or a little later.
func (n *node) runApplies() {
	for n.up && !n.applying && len(n.applies) > 0 {
		if n.w.faulty(slowApply) && n.w.chance(0.05) {
			n.w.count(slowApply)
			n.applying = true
			inc := n.inc
			n.w.after(n.w.between(time.Millisecond, timing.Election()), func() {
				n.do(inc, func() {
					n.applying = false
					n.applyOne()
					n.runApplies()
				})
			})
			return
		}
		n.applyOne()
	}
}

func (n *node) applyOne() {
	t := n.applies[0]
	n.applies = n.applies[1:]
	r := t.r
	if r.gone {
		return
	}
	r.applies--
	if mutant.has(fenceApart) {
		n.disk.write(diskOp{shard: r.shard, task: t.task, noFence: true})
		if !n.effect() {
			return
		}
		n.disk.write(diskOp{shard: r.shard, task: t.task, onlyFnce: true})
	} else {
		n.disk.write(diskOp{shard: r.shard, task: t.task})
	}
	n.w.trace("apply", r.rid, t.task.Index, n.disk.cur[r.shard].sum)
	n.w.checkImage(n, r.shard)
	if !n.effect() {
		return
	}
	r.g.ApplyDone(n.clock(), t.task)
	n.truncate(r)
	n.writeAppends()
	n.drain(r)
}

// truncate keeps the log small, so that who was away needs a snapshot.
func (n *node) truncate(r *rep) {
	img := n.disk.cur[r.shard]
	if upTo, ok := r.g.LogKeep(img.trunc+1, len(img.ents), n.w.keep); ok {
		n.disk.write(diskOp{shard: r.shard, truncate: upTo})
		n.w.stats.Truncations++
	}
}

func (r *rep) leads() bool { return uint64(r.g.Leader()) == r.rid }

func (r *rep) image() *image { return r.n.disk.cur[r.shard] }

// anotherVoter is one of the other voters of the configuration that the replica has applied; itself if it is the only one.
func (r *rep) anotherVoter(rng *rand.Rand) uint64 {
	others := slices.DeleteFunc(slices.Clone(r.g.Voters()), func(v uint64) bool { return v == r.rid })
	if len(others) == 0 {
		return r.rid
	}
	return others[rng.IntN(len(others))]
}
