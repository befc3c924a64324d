package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// maxNodes is how many machines there are at most.
const maxNodes = 7

func replicaID(id uint64) ring.ReplicaID { return ring.ReplicaID(id) }

// node is one machine: a process and its disk, if a node of the cluster, or one that wants to be, lives there.
type node struct {
	w         *world
	id        int         // of the machine
	name      ring.NodeID // whose data its disk holds; 0: nobody lives here
	founder   bool
	ring      *ring.Ring // the newest that it knows; on disk
	disk      *disk
	boot      ring.BootID
	inc       int // of the process: what an earlier one had asked for comes to nothing
	up        bool
	old       bool        // the process is of the version before
	reps      []*rep      // by group; nil where it has none
	seq       *sequencing // while it owns the system shard
	wanted    []bool      // by shard's group: a ring has just given it another preferred owner
	fit       []int       // by group: beats in which its preferred owner could have taken it
	tombs     []uint64    // by group: replicas below have been here and are gone; on disk
	seen      []view      // by group: what its store said last
	alarms    *host.Alarms
	kicked    bool   // the loop of alarms is about to look
	alarmLook int    // counts its sleeps
	synced    []view // by group: what its last fsync promised

	rate  float64 // of its clock
	tells bool    // its owners hear before all is stored, see told

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
	group   int
	rid     uint64
	gone    bool // removed: what it had under way comes to nothing
	g       *replica.Group
	applies int // handed out and not yet stored
	own     ownership
	told    told
	sends   []uint64 // indexes of the snapshots that are on their way

	term, vote uint64 // as written last
}

// clock is the node's time: it runs at a rate of its own, within the bounds that leases allow for.
func (n *node) clock() time.Duration { return time.Duration(float64(n.w.now) * n.rate) }

// newNode is a machine where nobody lives yet.
func newNode(w *world, id int) *node {
	n := &node{w: w, id: id, disk: newDisk(w.groups), rate: w.drawRate(), tells: tells(&w.cfg, id), reps: make([]*rep, w.groups)}
	n.forget()
	return n
}

// forget drops what is known of a disk that is gone.
func (n *node) forget() {
	n.wanted, n.fit, n.tombs = make([]bool, n.w.groups), make([]int, n.w.groups), make([]uint64, n.w.groups)
	n.seen, n.synced = make([]view, n.w.groups), make([]view, n.w.groups)
}

// settle makes a machine a new node, with an empty disk.
func (n *node) settle(founder bool) {
	n.w.names++
	n.name, n.founder, n.ring, n.disk = n.w.names, founder, nil, newDisk(n.w.groups)
	n.forget()
	n.w.slots[n.name] = n.id
}

// start runs the process on what its disk holds.
func (n *node) start() {
	w := n.w
	w.stats.Restarts++
	n.inc++
	n.boot = ring.BootID(w.rng.Uint64() | 1)
	n.up = true
	if n.old = w.on.Has(mixedVersions) && w.chance(0.5); n.old {
		w.count(mixedVersions)
	}
	n.reps, n.alarms = make([]*rep, w.groups), host.NewAlarms()
	w.trace("start", uint64(n.id), uint64(n.inc), uint64(n.boot))
	n.disk.opened()
	n.checkWatermark()
	n.tick()
	n.beat()
	n.mark()
	switch {
	case n.ring != nil:
		n.carryOut()
	case n.founder:
		n.startGroup(0, w.first)
	}
}

// open starts a replica on what the disk holds of it.
func (n *node) open(group int, img *image, fresh bool) *rep {
	r := &rep{n: n, group: group, rid: img.rid, term: img.term, vote: img.vote}
	if !fresh {
		n.w.stats.Quiet++
	}
	if img.regressed {
		n.w.stats.Abstaining++
	}
	epoch := n.w.hint()
	if n.ring != nil {
		epoch = n.ring.Epoch()
	}
	g, err := replica.NewGroup(replica.GroupConfig{
		Group:   ring.GroupID(group),
		Holder:  store.Holder{Replica: replicaID(r.rid), Node: n.name, Boot: n.boot},
		Storage: img, Applied: img.applied, Fence: img.fence, Timing: timing, Logger: raftLogger,
		Epoch: epoch, Clock: n.w.clock, Now: n.clock(), Fresh: fresh, Abstain: img.regressed && !mutant.has(noWatermark),
		Preferred: n.prefers(group),
	})
	if err != nil {
		panic(err)
	}
	r.g = g
	img.asked = func() { r.storeTold() }
	r.own.init(r)
	n.reps[group] = r
	return r
}

// prefers reports whether the ring prefers this node as the group's owner.
func (n *node) prefers(group int) bool {
	r := n.ring
	if r == nil {
		r = n.w.first
	}
	a, _ := r.Group(ring.GroupID(group))
	return a.Replicas[0].Node == n.name
}

// step hands a message to Raft. One that has forgotten what it had acknowledged is an impossible state to Raft, which panics, and the replica
// halts: its group goes on without it.
func (r *rep) step(m *raftpb.Message) {
	if r.image().regressed {
		defer func() {
			if p := recover(); p != nil {
				r.n.w.stats.Halted++
				r.n.w.trace("halted", r.rid, 0, 0)
				r.end()
			}
		}()
	}
	r.g.Step(r.n.clock(), m)
}

// end gives up what a replica does, for good.
func (r *rep) end() {
	if s := r.own.serve; s != nil {
		r.own.serve = nil
		r.n.alarms.Close(ring.ShardID(r.group-1), s.token)
		s.do(s.t.Lost(nil))
	}
	if q := r.n.seq; q != nil && q.r == r {
		r.n.seq = nil
	}
	r.gone = true
}

// stop ends the process, and what it had under way.
func (n *node) stop() {
	n.inc++
	n.up, n.paused, n.syncing, n.sending, n.applying = false, false, false, false, false
	n.vital, n.seq, n.kicked = 0, nil, false
	n.deferred, n.appends, n.waiting, n.applies = nil, nil, nil, nil
	n.owed, n.crashIn, n.failSync = 0, 0, false
	n.reps = make([]*rep, n.w.groups)
}

// crash ends the process between two effects; unsynced operations are lost from some point on.
func (n *node) crash() {
	lost := n.disk.crash(n.w.rng)
	n.w.trace("crash", uint64(n.id), uint64(n.inc), uint64(lost))
	n.stop()
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

// wipe empties the disk: the process that starts next is another node, which asks to be admitted.
func (n *node) wipe() {
	for g, img := range n.disk.cur {
		if img == nil {
			continue
		}
		if mutant.has(wipedRejoins) {
			n.disk.place(g, newImage(img.rid, n.w.models[g].founders))
			n.seen[g], n.synced[g] = view{}, view{}
			continue
		}
		n.w.lose(img.rid)
	}
	if !mutant.has(wipedRejoins) {
		n.settle(false)
	}
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
		if r != nil && n.up && !r.gone {
			r.g.Tick(n.clock())
			r.own.tick()
			n.drain(r)
			if n.up && !r.gone {
				r.tickTold()
			}
		}
	}
}

func (n *node) byReplica(id uint64) *rep {
	if g := n.w.groupOf(id); n.up && n.reps[g] != nil && n.reps[g].rid == id && !n.reps[g].gone {
		return n.reps[g]
	}
	return nil
}

func (r *rep) leads() bool { return uint64(r.g.Leader()) == r.rid }

func (r *rep) image() *image { return r.n.disk.cur[r.group] }

// anotherVoter is one of the other voters of the configuration that the replica has applied; itself if it is the only one.
func (r *rep) anotherVoter(rng *rand.Rand) uint64 {
	others := slices.DeleteFunc(slices.Clone(r.g.Voters()), func(v uint64) bool { return v == r.rid })
	if len(others) == 0 {
		return r.rid
	}
	return others[rng.IntN(len(others))]
}

// handOver gives a group to another replica, properly.
func (r *rep) handOver(to uint64) {
	switch s := r.own.serve; {
	case s != nil:
		s.handOver(to)
	case r.n.seq != nil && r.n.seq.r == r:
		if r.g.HandOver(replicaID(to)) {
			r.n.w.stats.Released++
		}
	}
}

// owns reports whether the replica's node holds an open token of its group.
func (r *rep) owns() bool { return r.own.serve != nil || r.n.seq != nil && r.n.seq.r == r }
