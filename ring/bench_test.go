package ring

import (
	"fmt"
	"testing"
)

func benchNodes(n int) (ids []NodeID, members []Member) {
	for i := range n {
		id := NodeID(i + 1)
		ids, members = append(ids, id), append(members, Member{ID: id, Addr: fmt.Sprintf("host-%d:7420", id)})
	}
	return ids, members
}

// sizes are clusters, a small one and a larger.
var sizes = []struct{ nodes, shards int }{{3, 64}, {9, 1024}}

// BenchmarkPlace places all shards anew, as at each change of members.
func BenchmarkPlace(b *testing.B) {
	for _, s := range sizes {
		b.Run(fmt.Sprintf("nodes=%d/shards=%d", s.nodes, s.shards), func(b *testing.B) {
			ids, _ := benchNodes(s.nodes)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Place(ids, s.shards, 3); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkShardOf is what a client and an owner ask for each call.
func BenchmarkShardOf(b *testing.B) {
	b.ReportAllocs()
	var sum ShardID
	for b.Loop() {
		sum += ShardOf("Counter", "orders-2026-11-25", 64)
	}
	if sum == 0 {
		b.Fatal("the key hashes to shard 0: that says nothing")
	}
}

// BenchmarkNext asks the planner for the next ring: of a cluster that has nothing to do, and of one that a node has just joined.
func BenchmarkNext(b *testing.B) {
	for _, s := range sizes {
		ids, members := benchNodes(s.nodes)
		settled, err := First(ClusterID{1}, members, s.shards, 3)
		if err != nil {
			b.Fatal(err)
		}
		joined, err := settled.Admit(Member{ID: NodeID(s.nodes + 1), Addr: "host-new:7420"})
		if err != nil {
			b.Fatal(err)
		}
		for name, r := range map[string]*Ring{"settled": settled, "joined": joined} {
			b.Run(fmt.Sprintf("nodes=%d/shards=%d/%s", s.nodes, s.shards, name), func(b *testing.B) {
				f := benchFacts(r, append(ids, NodeID(s.nodes+1)))
				b.ReportAllocs()
				steps := 0
				for b.Loop() {
					_, due, err := NewPlanner(PlanConfig{}).Next(r, f)
					if err != nil {
						b.Fatal(err)
					}
					steps = len(due)
				}
				b.ReportMetric(float64(steps), "steps")
				if (steps > 0) != (name == "joined") {
					b.Fatalf("%d steps are due", steps)
				}
			})
		}
	}
}

// benchFacts are what leaders say that are content: all alive, all filled, everybody knows the ring.
func benchFacts(r *Ring, nodes []NodeID) *Facts {
	f := &Facts{Nodes: map[NodeID]NodeFacts{}, Groups: map[GroupID]GroupFacts{}}
	for _, n := range nodes {
		f.Nodes[n] = NodeFacts{Alive: true}
	}
	for g := range GroupID(r.Shards() + 1) {
		a, _ := r.Group(g)
		var ids []ReplicaID
		for _, rep := range a.Replicas {
			ids = append(ids, rep.ID)
		}
		f.Groups[g] = GroupFacts{Epoch: r.Epoch(), Leader: a.Replicas[0].Node, Voters: ids, Filled: ids, Active: ids}
	}
	return f
}

// BenchmarkCodec encodes and decodes a ring, as it is handed out.
func BenchmarkCodec(b *testing.B) {
	for _, s := range sizes {
		_, members := benchNodes(s.nodes)
		r, err := First(ClusterID{1}, members, s.shards, 3)
		if err != nil {
			b.Fatal(err)
		}
		encoded := r.Encode()
		name := fmt.Sprintf("nodes=%d/shards=%d", s.nodes, s.shards)
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(encoded)))
			b.ReportAllocs()
			for b.Loop() {
				r.Encode()
			}
		})
		b.Run("decode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(encoded)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
