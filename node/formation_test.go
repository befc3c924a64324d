package node

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ringfence/ringfence/ring"
)

// formWorld drives formation machines over a network that loses, delays and reorders, with views that lie, and with crashes.
// The test asks for one thing above all: whatever happens, a node is never in two clusters, and of any two clusters' members none is in both.
type formWorld struct {
	t       *testing.T
	rng     *rand.Rand
	nodes   []*formNode
	queue   []func()
	ids     byte
	lossy   bool
	formed  map[ring.ClusterID]*Proposal
	visible func(from, to int) bool
}

type formNode struct {
	i       int
	f       *formation
	self    Candidate
	promise *Proposal // disk
	cluster *Proposal // disk
	down    bool
}

func newFormWorld(t *testing.T, seed uint64, n, expect int) *formWorld {
	w := &formWorld{t: t, rng: rand.New(rand.NewPCG(seed, 1)), formed: map[ring.ClusterID]*Proposal{}, visible: func(int, int) bool { return true }}
	for i := range n {
		c := Candidate{Member: ring.Member{ID: ring.NodeID(i + 1), Addr: fmt.Sprint("n", i+1)}, Expect: expect, Shards: 8, Replicas: 3, Timing: "lan"}
		w.nodes = append(w.nodes, &formNode{i: i, self: c})
		w.start(w.nodes[i])
	}
	return w
}

func (w *formWorld) newID() ring.ClusterID { w.ids++; return ring.ClusterID{w.ids} }

func (w *formWorld) start(n *formNode) {
	n.down = false
	var acts []formAction
	n.f, acts = newFormation(n.self, n.promise, w.newID)
	w.do(n, acts)
}

func (w *formWorld) send(to ring.NodeID, f func(*formNode)) {
	if w.lossy && w.rng.IntN(4) == 0 {
		return
	}
	w.queue = append(w.queue, func() {
		for _, n := range w.nodes {
			if n.self.Member.ID == to && !n.down {
				f(n)
			}
		}
	})
}

func (w *formWorld) do(n *formNode, acts []formAction) {
	me := n.self.Member.ID
	for _, a := range acts {
		switch a.kind {
		case formPersist:
			n.promise = a.proposal
		case formDecide:
			if n.cluster != nil && n.cluster.ID != a.proposal.ID {
				w.t.Fatalf("node %v is in two clusters", me)
			}
			n.cluster, w.formed[a.proposal.ID] = a.proposal, a.proposal
		case formAsk:
			p := a.proposal
			w.send(a.to.ID, func(o *formNode) {
				if o.cluster != nil {
					w.send(me, func(n *formNode) { w.do(n, n.f.answered(p.ID, o.self.Member.ID, o.cluster.ID == p.ID)) })
					return
				}
				no, acts := o.f.ask(p)
				w.do(o, acts)
				w.send(me, func(n *formNode) {
					if n.cluster == nil {
						w.do(n, n.f.answered(p.ID, o.self.Member.ID, no == ""))
					}
				})
			})
		case formAbort:
			p := a.proposal
			w.send(a.to.ID, func(o *formNode) {
				if o.cluster == nil {
					w.do(o, o.f.outcome(p.ID, OutcomeAborted))
				}
			})
		case formQuery:
			p := a.proposal
			w.send(a.to.ID, func(o *formNode) {
				out := o.f.tell(p.ID)
				if o.cluster != nil {
					if out = OutcomeAborted; o.cluster.ID == p.ID {
						out = OutcomeCommitted
					}
				}
				w.send(me, func(n *formNode) {
					if n.cluster == nil {
						w.do(n, n.f.outcome(p.ID, out))
					}
				})
			})
		}
	}
}

func (w *formWorld) view(n *formNode) []Candidate {
	var out []Candidate
	for _, o := range w.nodes {
		if o != n && o.cluster == nil && w.visible(n.i, o.i) {
			out = append(out, o.self)
		}
	}
	return out
}

func (w *formWorld) step() {
	switch r := w.rng.IntN(10); {
	case r < 7 && len(w.queue) > 0:
		i := w.rng.IntN(len(w.queue))
		f := w.queue[i]
		w.queue = append(w.queue[:i], w.queue[i+1:]...)
		f()
	case r == 9 && w.lossy && w.rng.IntN(10) == 0:
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		if n.down = !n.down; !n.down && n.cluster == nil {
			w.start(n)
		}
	default:
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; !n.down && n.cluster == nil {
			w.do(n, n.f.view(w.view(n)))
		}
	}
}

func TestFormationNeverMakesTwoOfOne(t *testing.T) {
	for seed := range uint64(3000) {
		size := 3 + int(seed%4) // more nodes than are expected, too
		w := newFormWorld(t, seed, size, 3)
		w.lossy = true
		cut := w.rng.IntN(2) == 0
		w.visible = func(a, b int) bool { return !cut || (a < 2) == (b < 2) || w.rng.IntN(3) == 0 }
		for range 600 {
			w.step()
		}
		w.lossy, w.visible = false, func(int, int) bool { return true }
		for _, n := range w.nodes {
			if n.down && n.cluster == nil {
				w.start(n)
			}
			n.down = false
		}
		for range 3000 {
			w.step()
		}
		members := map[ring.NodeID]ring.ClusterID{}
		for id, p := range w.formed {
			if len(p.Members) != 3 {
				t.Fatalf("seed %d: a cluster of %d", seed, len(p.Members))
			}
			for _, m := range p.Members {
				if other, ok := members[m.ID]; ok {
					t.Fatalf("seed %d: node %v is in clusters %v and %v", seed, m.ID, other, id)
				}
				members[m.ID] = id
			}
		}
		if want := size / 3; len(w.formed) != want {
			t.Fatalf("seed %d: %d nodes formed %d clusters of 3 once all saw each other, want %d", seed, size, len(w.formed), want)
		}
		for _, n := range w.nodes {
			if id, ok := members[n.self.Member.ID]; ok && (n.cluster == nil || n.cluster.ID != id) {
				t.Fatalf("seed %d: node %v never heard that it is in a cluster", seed, n.self.Member.ID)
			}
		}
	}
}

func TestFormationNamesWhatDiffers(t *testing.T) {
	w := newFormWorld(t, 1, 2, 2)
	w.nodes[1].self.Shards = 16
	w.start(w.nodes[1])
	if acts := w.nodes[0].f.view(w.view(w.nodes[0])); len(acts) != 0 {
		t.Fatalf("proposed to a node with other flags: %v", acts)
	}
	want := "nodes 0000000000000001 and 0000000000000002 cannot form a cluster: --shards is 8 here and 16 there; start them with the same values"
	if got := w.nodes[0].f.mismatch(w.nodes[1].self); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}
