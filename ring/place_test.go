package ring

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// slowPlace is the rule of placement written a second time, as plainly as it can be said and without the library: points on a
// circle, shards in order, each to the next point clockwise whose member has room.
func slowPlace(members []NodeID, shards, replicas int) [][]NodeID {
	owner := func(left []NodeID) []NodeID {
		type pt struct {
			hash uint64
			node NodeID
		}
		var circle []pt
		for _, id := range left {
			for i := range points(len(members)) {
				circle = append(circle, pt{xxhash.Sum64String(fmt.Sprintf("%016x#%d", uint64(id), i)), id})
			}
		}
		sort.Slice(circle, func(i, j int) bool { return circle[i].hash < circle[j].hash })
		room := int(math.Ceil(float64(shards/len(left)) * load))
		used := map[NodeID]int{}
		out := make([]NodeID, shards)
		for s := range out {
			h := xxhash.Sum64(binary.LittleEndian.AppendUint64(nil, uint64(s)))
			at := sort.Search(len(circle), func(i int) bool { return circle[i].hash >= h })
			for used[circle[at%len(circle)].node] >= room {
				at++
			}
			out[s] = circle[at%len(circle)].node
			used[out[s]]++
		}
		return out
	}
	out := make([][]NodeID, shards)
	for s := range out {
		left := slices.Clone(members)
		for len(out[s]) < replicas && len(left) > 0 {
			next := owner(left)[s]
			out[s] = append(out[s], next)
			left = slices.DeleteFunc(left, func(id NodeID) bool { return id == next })
		}
	}
	return out
}

func randomIDs(rng *rand.Rand, n int) []NodeID {
	var ids []NodeID
	for len(ids) < n {
		id := NodeID(rng.Uint64())
		if rng.IntN(2) == 0 {
			id = NodeID(1 + rng.IntN(40)) // small ones, whose decimal and hex forms begin alike
		}
		if id != 0 && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func TestPlaceEqualsTheRuleWrittenTwice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 120 {
		n := 1 + rng.IntN(9)
		shards := max(2*n, 1+rng.IntN(80))
		replicas := 1 + rng.IntN(4)
		ids := randomIDs(rng, n)
		got, err := Place(ids, shards, replicas)
		if err != nil {
			t.Fatal(err)
		}
		if want := slowPlace(ids, shards, replicas); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("members %v, %d shards, %d replicas\ngot  %v\nwant %v", ids, shards, replicas, got, want)
		}
		slices.Reverse(ids)
		if again, err := Place(ids, shards, replicas); err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
			t.Fatalf("another order of members gives another placement (%v)", err)
		}
	}
}

func TestPlaceNeverPanicsAndKeepsItsBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := 1; n <= 24; n++ {
		ids := randomIDs(rng, n)
		for _, shards := range []int{1, 2, 3, 5, 7, 16, 31, 48, 64, 127} {
			got, err := Place(ids, shards, 2)
			if n > max(1, shards/2) {
				if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("at least %d shards", 2*n)) {
					t.Fatalf("%d members, %d shards: %v", n, shards, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			count := map[NodeID]int{}
			for _, nodes := range got {
				count[nodes[0]]++
				if len(nodes) != min(2, n) || (len(nodes) == 2 && nodes[0] == nodes[1]) {
					t.Fatalf("%d members: replicas %v", n, nodes)
				}
			}
			for id, c := range count {
				if limit := int(math.Ceil(float64(shards/n) * load)); c > limit {
					t.Fatalf("%d members, %d shards: %v owns %d, more than %d", n, shards, id, c, limit)
				}
			}
		}
	}
}

// TestPlaceSuccessorIsFilled: after any one death, the member that the next ring prefers holds a replica already.
func TestPlaceSuccessorIsFilled(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		n := 4 + rng.IntN(5)
		ids := randomIDs(rng, n)
		before, err := Place(ids, 256, 3)
		if err != nil {
			t.Fatal(err)
		}
		dead := ids[rng.IntN(n)]
		after, err := Place(slices.DeleteFunc(slices.Clone(ids), func(id NodeID) bool { return id == dead }), 256, 3)
		if err != nil {
			t.Fatal(err)
		}
		filled := 0
		for s := range after {
			if slices.Contains(before[s], after[s][0]) {
				filled++
			}
		}
		if filled < 243 { // 95 % of 256
			t.Fatalf("%d members, one dead: only %d of 256 new owners hold a replica", n, filled)
		}
	}
}

func TestPlaceRefuses(t *testing.T) {
	for _, c := range []struct {
		members          []NodeID
		shards, replicas int
		want             string
	}{
		{nil, 8, 3, "no members"},
		{[]NodeID{1}, 0, 3, "0 shards"},
		{[]NodeID{1}, MaxShards + 1, 3, "shards"},
		{[]NodeID{1}, 8, 0, "0 replicas"},
		{[]NodeID{1, 1}, 8, 3, "twice"},
		{[]NodeID{0, 1}, 8, 3, "zero"},
		{[]NodeID{1, 2, 3}, 4, 3, "at least 6 shards"},
	} {
		if _, err := Place(c.members, c.shards, c.replicas); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want an error with %q", c, err, c.want)
		}
	}
}

// TestPlaceGolden pins placements: a change moves everybody's data.
func TestPlaceGolden(t *testing.T) {
	var b strings.Builder
	for _, c := range [][3]int{{1, 4, 3}, {2, 8, 3}, {3, 8, 3}, {5, 16, 3}, {17, 34, 3}} {
		fmt.Fprintf(&b, "place nodes=%d shards=%d replicas=%d\n", c[0], c[1], c[2])
		var ids []NodeID
		for i := range c[0] {
			ids = append(ids, NodeID(i+1)<<32|NodeID(i+1))
		}
		placed, err := Place(ids, c[1], c[2])
		if err != nil {
			t.Fatal(err)
		}
		for s, nodes := range placed {
			fmt.Fprintf(&b, "  shard %2d:", s)
			for _, id := range nodes {
				fmt.Fprintf(&b, " %2d", uint32(id))
			}
			b.WriteByte('\n')
		}
	}
	for _, id := range [][2]string{{"Counter", "a"}, {"Counter", "b"}, {"Map", "a/b"}, {"A", "é"}, {strings.Repeat("C", 64), strings.Repeat("k", 1024)}} {
		fmt.Fprintf(&b, "shard of %.10s/%.10s: %d\n", id[0], id[1], ShardOf(id[0], id[1], 64))
	}
	file := filepath.Join("testdata", "place.txt")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Fatalf("placement differs from %s; got\n%s", file, b.String())
	}
}
