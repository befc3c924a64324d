package ring

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// toy is a model of a cluster that carries rings out, as late and as incompletely as it likes.
type toy struct {
	t      *testing.T
	rng    *rand.Rand
	ring   *Ring
	plan   *Planner
	now    time.Duration
	alive  map[NodeID]bool
	gone   map[NodeID]bool // dead for good
	groups []*toyGroup
	used   ReplicaID
	joins  int
	joint  bool                     // changes of voters stay joint
	lags   bool                     // leaders may know older rings, reports come late, joint changes last
	told   map[GroupID][]GroupFacts // with lags: what leaders said last
}

// toyGroup is one replica group: what its applied configuration is, and who leads.
type toyGroup struct {
	voters, learners map[ReplicaID]NodeID
	filled           map[ReplicaID]bool
	leader           NodeID               // 0: none
	ring             *Ring                // that the leader knows
	fence            Epoch                // of the newest ring a change was made for
	leaving          map[ReplicaID]NodeID // voters before a joint change, while it lasts
}

func newToy(t *testing.T, seed uint64, nodes, shards, replicas int) *toy {
	c := &toy{t: t, rng: rand.New(rand.NewPCG(seed, 1)), plan: NewPlanner(PlanConfig{}), alive: map[NodeID]bool{}, gone: map[NodeID]bool{},
		told: map[GroupID][]GroupFacts{}}
	var members []Member
	for i := range nodes {
		id := NodeID(i + 1)
		members = append(members, Member{ID: id, Addr: fmt.Sprintf("h%d:1", id)})
		c.alive[id] = true
	}
	r, err := First(ClusterID{1}, members, shards, replicas)
	if err != nil {
		t.Fatal(err)
	}
	c.ring, c.used = r, r.nextReplica
	for g := range GroupID(shards + 1) {
		a := r.groupRef(g)
		tg := &toyGroup{voters: map[ReplicaID]NodeID{}, learners: map[ReplicaID]NodeID{}, filled: map[ReplicaID]bool{}, leader: a.Replicas[0].Node, ring: r}
		for _, rep := range a.Replicas {
			tg.voters[rep.ID], tg.filled[rep.ID] = rep.Node, true
		}
		c.groups = append(c.groups, tg)
	}
	return c
}

// quorum: majorities of the voters live, of both halves while a change is joint.
func (c *toy) quorum(g *toyGroup) bool {
	for _, voters := range [...]map[ReplicaID]NodeID{g.voters, g.leaving} {
		n := 0
		for _, node := range voters {
			if c.alive[node] {
				n++
			}
		}
		if voters != nil && n < len(voters)/2+1 {
			return false
		}
	}
	return true
}

// next asks the planner.
func (c *toy) next() (*Ring, []Step) {
	r, steps, err := c.plan.Next(c.ring, c.facts())
	if err != nil {
		c.t.Fatal(err)
	}
	return r, steps
}

// learn lets a group's leader know a newer ring; with lags: perhaps, and a new leader may know an older one than the last.
func (c *toy) learn(g *toyGroup) {
	if !c.lags || c.rng.IntN(3) == 0 {
		g.ring = c.ring
	}
}

// work lets a group do some of what the ring wants, by the rules of the group's leader.
func (c *toy) work(i int) {
	g := c.groups[i]
	c.learn(g)
	a := g.ring.groupRef(GroupID(i))
	if g.leader == 0 || !c.alive[g.leader] || !g.leads() {
		g.leader = 0
		if c.quorum(g) { // an election: any voter that lives
			for _, id := range sortedIDs(g.voters) {
				if c.alive[g.voters[id]] && (g.leader == 0 || c.rng.IntN(2) == 0) {
					g.leader = g.voters[id]
				}
			}
		}
		return
	}
	if !c.quorum(g) {
		return
	}
	if first := a.Replicas[0]; c.rng.IntN(2) == 0 && g.voters[first.ID] != 0 && c.alive[first.Node] {
		g.leader = first.Node // a hand-over
	}
	if rep, ok := a.On(g.leader); ok && rep.Role == Outgoing { // who is to go hands over to whoever stays
		for _, v := range a.Voters() {
			if _, votes := g.voters[v.ID]; votes && c.alive[v.Node] {
				g.leader = v.Node
				break
			}
		}
	}
	if g.leaving != nil {
		if !c.joint && (!c.lags || c.rng.IntN(3) == 0) {
			g.leaving = nil
		}
		return
	}
	if g.ring.epoch < g.fence {
		return
	}
	for _, id := range sortedIDs(g.learners) { // of rings that are over
		if rep, ok := a.On(g.learners[id]); !ok || rep.ID != id {
			delete(g.learners, id)
			g.fence = g.ring.epoch
			return
		}
	}
	for _, rep := range a.Replicas {
		_, voter := g.voters[rep.ID]
		_, learner := g.learners[rep.ID]
		switch {
		case rep.Role != Outgoing && !voter && !learner:
			g.learners[rep.ID], g.fence = rep.Node, g.ring.epoch
			return
		case rep.Role == Outgoing && learner:
			delete(g.learners, rep.ID)
			g.fence = g.ring.epoch
			return
		case learner && !g.filled[rep.ID] && c.alive[rep.Node]:
			g.filled[rep.ID] = c.rng.IntN(3) > 0
			return
		}
	}
	next := map[ReplicaID]NodeID{}
	for _, rep := range a.Replicas {
		if rep.Role != Voter {
			continue
		}
		if _, learner := g.learners[rep.ID]; learner && (!g.filled[rep.ID] || !c.alive[rep.Node]) {
			return
		}
		next[rep.ID] = rep.Node
	}
	for id, node := range g.voters {
		if node == g.leader {
			next[id] = node // it hands over before it goes
		}
	}
	c.change(i, next)
}

// change makes a group's voters others.
func (c *toy) change(i int, next map[ReplicaID]NodeID) {
	g, a := c.groups[i], c.ring.groupRef(GroupID(i))
	if maps.Equal(next, g.voters) {
		return
	}
	old := g.voters
	if g.voters = next; !c.quorum(g) {
		if g.ring != c.ring { // what a newer ring has taken back: the leader hears of no majority, and waits
			g.voters = old
			return
		}
		c.t.Fatalf("group %d: a ring wants voters %v, of whom no majority lives; before: %v; ring: %v", i, next, old, a.Replicas)
	}
	g.fence = g.ring.epoch
	for id, node := range next {
		if rep, ok := a.On(node); !ok || rep.ID != id {
			c.t.Fatalf("group %d: replica %d on %s votes, and is out of the ring: %v", i, id, node, a.Replicas)
		}
	}
	if c.lags || c.joint {
		g.leaving = old
	}
	for id := range next {
		delete(g.learners, id)
	}
}

func (g *toyGroup) leads() bool {
	for _, node := range g.voters {
		if node == g.leader {
			return true
		}
	}
	return false
}

func sortedIDs(m map[ReplicaID]NodeID) []ReplicaID {
	var out []ReplicaID
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (c *toy) facts() *Facts {
	f := &Facts{Now: c.now, Nodes: map[NodeID]NodeFacts{}, Groups: map[GroupID]GroupFacts{}}
	for id, ok := range c.alive {
		f.Nodes[id] = NodeFacts{Alive: ok}
	}
	for i, g := range c.groups {
		if g.leader == 0 || !c.alive[g.leader] || !c.quorum(g) {
			continue
		}
		both := maps.Clone(g.voters)
		maps.Copy(both, g.leaving)
		gf := GroupFacts{Epoch: g.ring.epoch, Leader: g.leader, Voters: sortedIDs(both), Learners: sortedIDs(g.learners), Joint: g.leaving != nil}
		for _, m := range [...]map[ReplicaID]NodeID{both, g.learners} {
			for _, id := range sortedIDs(m) {
				if c.alive[m[id]] {
					gf.Active = append(gf.Active, id)
					if g.filled[id] {
						gf.Filled = append(gf.Filled, id)
					}
				}
			}
		}
		f.Groups[GroupID(i)] = c.late(GroupID(i), gf)
	}
	return f
}

// late is what has arrived of what a group's leaders said: with lags, perhaps something older.
func (c *toy) late(g GroupID, gf GroupFacts) GroupFacts {
	if !c.lags {
		return gf
	}
	said := append(c.told[g], gf)
	c.told[g] = said[max(0, len(said)-8):]
	if c.rng.IntN(2) == 0 {
		return gf
	}
	return c.told[g][c.rng.IntN(len(c.told[g]))]
}

// accept checks a next ring and makes it the present one.
func (c *toy) accept(next *Ring, what string) {
	if err := next.check(); err != nil || next.epoch != c.ring.epoch+1 {
		c.t.Fatalf("%s: epoch %d after %d, %v", what, next.epoch, c.ring.epoch, err)
	}
	for g := range GroupID(len(c.groups)) {
		a, old := next.groupRef(g), c.ring.groupRef(g)
		for _, rep := range a.Replicas {
			if before, there := old.On(rep.Node); there && before.ID == rep.ID {
				continue
			}
			if rep.ID < c.used || rep.Role != Learner {
				c.t.Fatalf("%s: %s: replica %d on %s is new as a %s; IDs below %d were handed out", what, g, rep.ID, rep.Node, rep.Role, c.used)
			}
			c.joins++
		}
		for _, rep := range old.Replicas {
			_, kept := a.On(rep.Node)
			_, votes := c.groups[g].voters[rep.ID]
			_, learns := c.groups[g].learners[rep.ID]
			if !kept && (votes || learns && !c.lags) {
				c.t.Fatalf("%s: %s: replica %d left the ring while its group has it", what, g, rep.ID)
			}
		}
	}
	c.ring, c.used = next, next.nextReplica
}

// disturb lets something happen to the cluster that it must survive: at most one node is dead at a time.
func (c *toy) disturb(next *NodeID) {
	ids := make([]NodeID, 0, len(c.ring.members))
	dead := NodeID(0)
	for _, m := range c.ring.members {
		ids = append(ids, m.ID)
		if !c.alive[m.ID] {
			dead = m.ID
		}
	}
	id := ids[c.rng.IntN(len(ids))]
	switch c.rng.IntN(8) {
	case 0:
		*next++
		if r, err := c.ring.Admit(Member{ID: *next, Addr: "new:1"}); err == nil {
			c.alive[*next] = true
			c.accept(r, "admit")
		}
	case 1:
		if r, err := c.ring.Leave(id); err == nil && r != c.ring && len(ids) > 2 {
			c.accept(r, "leave")
		}
	case 2, 3:
		if dead == 0 && c.survives(id) {
			c.alive[id] = false
		}
	case 4, 5:
		if dead != 0 && !c.gone[dead] {
			c.alive[dead] = true
		}
	case 6:
		if dead != 0 {
			if r, err := c.ring.Lose(dead, c.facts()); err == nil && r != c.ring {
				c.gone[dead] = true
				c.accept(r, "lose")
			}
		}
	case 7: // leadership moves by itself
		g := c.groups[c.rng.IntN(len(c.groups))]
		g.leader = 0
	}
}

// survives: every group keeps a majority without the node, now and when it has done what the ring wants.
func (c *toy) survives(id NodeID) bool {
	c.alive[id] = false
	defer func() { c.alive[id] = true }()
	for i, g := range c.groups {
		wanted := &toyGroup{voters: map[ReplicaID]NodeID{}}
		for _, rep := range c.ring.groupRef(GroupID(i)).Voters() {
			wanted.voters[rep.ID] = rep.Node
		}
		if !c.quorum(g) || !c.quorum(wanted) {
			return false
		}
	}
	return true
}

var nextSeeds = flag.Int("next.seeds", 200, "seeds of the random test of the planner")

// TestNextAgainstAModel: from whatever a cluster was put through, the steps end at the wanted placement, and none costs a group its majority.
func TestNextAgainstAModel(t *testing.T) {
	seeds := uint64(*nextSeeds)
	for seed := uint64(1); seed <= seeds; seed++ {
		rng := rand.New(rand.NewPCG(seed, 2))
		c := newToy(t, seed, 1+rng.IntN(6), 16, 1+rng.IntN(3))
		next := NodeID(100)
		c.lags = seed%2 == 0
		for range 150 {
			c.now += time.Duration(rng.IntN(3000)) * time.Millisecond
			if rng.IntN(6) == 0 {
				c.disturb(&next)
			}
			for range 1 + rng.IntN(10) {
				c.work(rng.IntN(len(c.groups)))
			}
			if r, _ := c.next(); r != nil {
				c.accept(r, "next")
			}
		}
		c.settle(seed)
	}
}

// settle lets faults end and checks where the steps end.
func (c *toy) settle(seed uint64) {
	for id := range c.alive {
		c.alive[id] = !c.gone[id]
	}
	quiet := 0
	c.lags = false
	for range 3000 {
		c.now += 10 * time.Second
		for i := range c.groups {
			c.work(i)
		}
		r, _ := c.next()
		if r == nil {
			if quiet++; quiet > 100 {
				c.wanted(seed)
				return
			}
			continue
		}
		quiet = 0
		c.accept(r, "next")
	}
	c.t.Fatalf("seed %d: the steps do not end; ring %d", seed, c.ring.epoch)
}

func (c *toy) wanted(seed uint64) {
	want, err := c.plan.Wanted(c.ring, c.facts())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range c.ring.members {
		if m.State != Up {
			var held []string
			for g := range c.groups {
				if rep, ok := c.ring.groupRef(GroupID(g)).On(m.ID); ok {
					held = append(held, fmt.Sprintf("%s: %v of %v, wanted %v; facts %+v", GroupID(g), rep, c.ring.groupRef(GroupID(g)).Replicas, want[g], c.facts().Groups[GroupID(g)]))
				}
			}
			c.t.Fatalf("seed %d: member %s ends as %s and holds %s", seed, m.ID, m.State, strings.Join(held, "; "))
		}
	}
	for g, nodes := range want {
		var got []NodeID
		for _, rep := range c.ring.groupRef(GroupID(g)).Replicas {
			if rep.Role != Voter {
				c.t.Fatalf("seed %d: %s ends with replica %+v", seed, GroupID(g), rep)
			}
			got = append(got, rep.Node)
		}
		if g == 0 {
			slices.Sort(got)
			nodes = slices.Sorted(slices.Values(nodes))
		}
		if !slices.Equal(got, nodes) {
			c.t.Fatalf("seed %d: %s ends on %v, want %v", seed, GroupID(g), got, nodes)
		}
	}
}

// TestJoinsMoveTheLeast: a node that comes or goes costs as many new replicas as the placements differ, and no more.
func TestJoinsMoveTheLeast(t *testing.T) {
	for n := 3; n <= 6; n++ {
		c := newToy(t, uint64(n), n, 64, 3)
		before, err := c.plan.Wanted(c.ring, c.facts())
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range []string{"join", "leave"} {
			var r *Ring
			if change == "join" {
				c.alive[50] = true
				r, err = c.ring.Admit(Member{ID: 50, Addr: "new:1"})
			} else {
				r, err = c.ring.Leave(50)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.accept(r, change)
			c.joins = 0
			c.settle(uint64(n))
			after, err := c.plan.Wanted(c.ring, c.facts())
			if err != nil {
				t.Fatal(err)
			}
			least := 0
			for g := range after {
				for _, node := range after[g] {
					if !slices.Contains(before[g], node) {
						least++
					}
				}
			}
			if c.joins != least {
				t.Errorf("%s at %d nodes: %d replicas were filled, %d would do", change, n, c.joins, least)
			}
			before = after
		}
	}
}

// TestOwnerDiesAndComesBack: the ring follows the take-over at once, and goes back later, damped.
func TestOwnerDiesAndComesBack(t *testing.T) {
	c := newToy(t, 1, 3, 16, 3)
	dead := c.ring.Owner(0)
	var log []string
	step := func(d time.Duration) {
		for end := c.now + d; c.now < end; c.now += 500 * time.Millisecond {
			for i := range c.groups {
				c.work(i)
			}
			if r, steps := c.next(); r != nil {
				c.accept(r, "next")
				for _, s := range steps {
					if s.Group == 1 {
						log = append(log, fmt.Sprintf("%v %s", c.now, s.Kind))
					}
				}
			}
		}
	}
	step(10 * time.Second)
	c.alive[dead] = false
	step(10 * time.Second)
	c.alive[dead] = true
	step(2 * time.Minute)
	if got, want := strings.Join(log, ", "), "10s adopt, 40s prefer"; got != want {
		t.Fatalf("steps of shard 0: %s; want %s", got, want)
	}
	if c.ring.Owner(0) != dead {
		t.Fatal("the shard did not go back")
	}
}

func TestRefusals(t *testing.T) {
	c := newToy(t, 1, 3, 6, 3)
	f := c.facts()
	for what, got := range map[string]func() (*Ring, error){
		"4 members are too many for 6 shards":                                                  func() (*Ring, error) { return c.ring.Admit(Member{ID: 9, Addr: "a:1"}) },
		"is alive: let it leave instead":                                                       func() (*Ring, error) { return c.ring.Lose(1, f) },
		"node 0000000000000009 is no member of this cluster":                                   func() (*Ring, error) { return c.ring.Lose(9, f) },
		"node 0000000000000009 is no member of this cluster any more: wipe its data directory": func() (*Ring, error) { return c.ring.Update(Member{ID: 9, Addr: "a:1"}) },
	} {
		if _, err := got(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
	c.alive[1], c.alive[2] = false, false // a majority
	if _, err := c.ring.Lose(1, c.facts()); err == nil || !strings.Contains(err.Error(), "which is no majority; bring another of its nodes back first") {
		t.Error(err)
	}
	r := c.ring
	for _, id := range []NodeID{1, 2} {
		var err error
		if r, err = r.Leave(id); err != nil {
			t.Fatal(err)
		}
	}
	// Who leaves makes room: it may be waiting for nothing but a node to take its replicas.
	if _, err := r.Admit(Member{ID: 9, Addr: "a:1"}); err != nil {
		t.Error(err)
	}
	if _, err := r.Leave(3); err == nil || !strings.Contains(err.Error(), "is the last member that stays") {
		t.Error(err)
	}
	if again, err := r.Leave(2); err != nil || again != r {
		t.Error("leaving twice is a change")
	}
}
