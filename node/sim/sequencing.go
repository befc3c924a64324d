package sim

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// sequencing is the sequencer on the system shard's owner, under one token: the real machine, and the loop that commits what it wants.
type sequencing struct {
	r       *rep
	token   store.Token
	q       *ring.Sequencer
	next    *ring.Ring // being committed as batch commit
	commit  uint64
	posted  uint64 // newest batch
	asked   []wish
	serving *wish // for which next is
}

// wish is a change that somebody asked for. done is called with the ring that has it, when that is committed; never if nothing comes of it.
type wish struct {
	make func(*ring.Ring, *ring.Facts) (*ring.Ring, error)
	done func(*ring.Ring)
}

// A member is given up sooner than in production: a run is short.
var sequencerConfig = ring.SequencerConfig{Alive: time.Second, ReplaceAfter: 4 * time.Second,
	Plan: ring.PlanConfig{Damp: 4 * time.Second, Adopt: 1500 * time.Millisecond, Place: placed}}

// placed is ring.Place, remembered over all runs: it is a function, and costs more than all else that a sequencer does.
func placed(members []ring.NodeID, shards, replicas int) ([][]ring.NodeID, error) {
	key := placeKey{fmt.Sprint(members), shards, replicas}
	if p, ok := places[key]; ok {
		return p, nil
	}
	p, err := ring.Place(members, shards, replicas)
	if err == nil {
		places[key] = p
	}
	return p, err
}

type placeKey struct {
	members          string
	shards, replicas int
}

var places = map[placeKey][][]ring.NodeID{}

// sequence takes what the system group says, in order.
func (n *node) sequence(r *rep, e *replica.Event) {
	w := n.w
	s := n.seq
	switch {
	case e.Kind == replica.EventOpened:
		w.checkOpened(r, e.Token)
		n.seq = &sequencing{r: r, token: e.Token, q: ring.NewSequencer(sequencerConfig)}
		n.seq.read()
		n.seq.look()
	case s == nil || s.token != e.Token:
	case e.Kind == replica.EventLost:
		n.seq = nil
	case e.Kind == replica.EventApplied && s.commit != 0 && e.Pos >= s.commit:
		s.committed()
	}
}

// read takes the committed ring from the system shard; if there is none yet it is the founders'.
func (s *sequencing) read() {
	if b, ok := s.r.kv()[string(ringKey)]; ok {
		r, err := ring.Decode([]byte(b))
		if err != nil {
			s.r.n.w.fail("I8 one ring per epoch", "the system shard holds a ring that cannot be read: %v", err)
			return
		}
		s.q.Committed(s.r.n.clock(), r)
		s.publish(r)
		return
	}
	if s.r.n.founder {
		s.put(s.r.n.w.first)
	}
}

func (s *sequencing) committed() {
	r := s.next
	s.next, s.commit = nil, 0
	s.q.Committed(s.r.n.clock(), r)
	if c := s.serving; c != nil {
		s.serving = nil
		if c.done != nil {
			c.done(r)
		}
	}
	s.publish(r)
}

// publish hands the ring to the node, whose other parts are not called from within a group's events.
func (s *sequencing) publish(r *ring.Ring) {
	n := s.r.n
	inc := n.inc
	n.w.after(0, func() { n.do(inc, func() { n.adopt(r) }) })
}

// look decides a few times a second, as long as the token lasts.
func (s *sequencing) look() {
	n := s.r.n
	inc := n.inc
	n.w.after(n.w.between(50*time.Millisecond, 200*time.Millisecond), func() {
		if n.inc != inc || n.seq != s {
			return
		}
		s.look()
		n.do(inc, func() {
			if n.seq == s && s.next == nil && s.q.Current() != nil {
				s.decide()
				n.drain(s.r)
			}
		})
	})
}

// decide finds the next ring: what somebody asked for, else what the machine wants.
func (s *sequencing) decide() {
	w, now := s.r.n.w, s.r.n.clock()
	for len(s.asked) > 0 {
		c := s.asked[0]
		s.asked = s.asked[1:]
		next, err := c.make(s.q.Current(), s.q.Facts(now))
		if err != nil {
			continue
		}
		if next == s.q.Current() {
			if c.done != nil {
				c.done(next)
			}
			continue
		}
		s.serving = &c
		s.put(next)
		return
	}
	next, steps, lost, err := s.q.Next(now)
	if err != nil {
		w.fail("planner works", "%v", err)
		return
	}
	if lost != 0 {
		w.stats.GivenUp++
	}
	for _, step := range steps {
		w.stats.Steps[step.Kind]++
		w.note("step of ring %d: %s", s.q.Current().Epoch()+1, step)
	}
	if next != nil {
		s.put(next)
	}
}

func (s *sequencing) put(r *ring.Ring) {
	b := r.Encode()
	if s.r.g.Commit(s.token, []store.Write{{Key: ringKey, Value: b}}) == nil {
		s.next = r
		s.posted++
		s.commit = s.posted
	}
}

// hear takes a member's report; false if it comes from nobody that the ring knows.
func (s *sequencing) hear(rep *ring.Report) bool {
	if s.q.Current() == nil {
		return true
	}
	news, err := s.q.Hear(s.r.n.clock(), rep)
	if news != nil {
		m := *news
		s.ask(func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) { return r.Update(m) }, nil)
	}
	return err != ring.ErrNoMember
}

// ask puts a wish into the queue.
func (s *sequencing) ask(change func(*ring.Ring, *ring.Facts) (*ring.Ring, error), done func(*ring.Ring)) {
	if len(s.asked) < 16 {
		s.asked = append(s.asked, wish{change, done})
	}
}

// staying are the members of the newest ring that mean to stay, and have their disks. Who is in a ring that was proposed as leaving does not stay, though
// that ring may not be committed yet, or never.
func (w *world) staying() (out []ring.NodeID) {
	for _, m := range w.newest.Members() {
		if n := w.nodes[w.slots[m.ID]]; m.State.Stays() && !w.going[m.ID] && n.name == m.ID && !n.disk.lost {
			out = append(out, m.ID)
		}
	}
	return out
}

// spares reports whether a node's disk may be lost: no other's is, and the cluster can go on with as many copies: others stay, or there is room for the
// new node that comes in its place. Else nothing would end before an operator gave the node up by hand.
func (w *world) spares(n *node) bool {
	left := 0
	for _, id := range w.staying() {
		if id != n.name {
			left++
		}
	}
	return w.whole() && (left >= copies || left == copies-1 && len(w.newest.Members()) < w.members)
}

// noticed is how long after a disk is lost no leader takes its replicas for filled any more, whatever comes late.
const noticed = 2 * time.Second

// whole reports whether every replica that votes somewhere has its disk: then one more disk may be lost. A learner's counts too while its leader may not
// have noticed, and while a change that gives it a vote is in some log: with that carried out its group would be without two of its voters.
func (w *world) whole() bool {
	if w.lostAt > 0 && w.now < w.lostAt+noticed {
		return false
	}
	for _, n := range w.nodes {
		for _, img := range n.disk.cur {
			if img != nil && w.promotesLost(img) {
				return false
			}
		}
	}
	for g, m := range w.models {
		for _, v := range slices.Concat(m.conf.voters, m.conf.outgoing) {
			if w.lost[v] {
				return false
			}
			if img := w.nodes[w.nodeOf(v)].disk.cur[g]; img == nil || img.rid != v || img.regressed {
				return false
			}
		}
	}
	return true
}

// promotesLost reports whether a log holds a change, not yet applied there, that gives a vote to a replica whose disk is lost.
func (w *world) promotesLost(img *image) bool {
	for i := max(img.applied, img.trunc) + 1; i <= img.last(); i++ {
		e := img.ents[i-img.trunc-1]
		if e.GetType() == raftpb.EntryNormal {
			continue
		}
		var cc raftpb.ConfChangeV2
		if proto.Unmarshal(e.GetData(), &cc) != nil {
			continue // whoever applies it will say so
		}
		for _, c := range cc.GetChanges() {
			if c.GetType() == raftpb.ConfChangeAddNode && w.lost[c.GetNodeId()] {
				return true
			}
		}
	}
	return false
}
