package ring

import (
	"fmt"
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// How the library is driven. These, the hash and the form of names decide where everything is: changing one moves everything.
const (
	load      = 1.25 // no member is preferred for more than ceil(load · floor(shards / members)) shards
	pointsMax = 128
)

// points is how many points a member has on the circle: 128, and fewer where members are many, because building costs time.
func points(members int) int {
	switch {
	case members <= 16:
		return pointsMax
	case members <= 32:
		return pointsMax / 2
	}
	return pointsMax / 4
}

// Place decides where the replicas of each shard belong: replica 1 on the node that the consistent-hash ring of all members
// gives, replica k+1 on the node that it would give if the first k were gone. So whoever the next ring prefers after a death holds a
// replica already. The result has, per shard, min(replicas, members) distinct nodes; it does not depend on the order of members.
//
// It panics never: the library's own panics are out of reach of what is let through here.
func Place(members []NodeID, shards, replicas int) ([][]NodeID, error) {
	ids := slices.Clone(members)
	if !mutArrivalOrder() {
		slices.Sort(ids)
	}
	switch {
	case len(ids) == 0:
		return nil, fmt.Errorf("ring: no members to place shards on")
	case shards < 1 || shards > MaxShards:
		return nil, fmt.Errorf("ring: %d shards; 1 to %d are allowed", shards, MaxShards)
	case replicas < 1 || replicas > MaxReplicas:
		return nil, fmt.Errorf("ring: %d replicas; 1 to %d are allowed", replicas, MaxReplicas)
	case len(ids) > max(1, shards/2):
		return nil, fmt.Errorf("ring: %d members are too many for %d shards: a cluster takes at most half as many members as shards; create it with at least %d shards",
			len(ids), shards, 2*len(ids))
	case ids[0] == 0 || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != len(ids):
		return nil, fmt.Errorf("ring: a member's ID is zero or there twice")
	}
	p := placer{members: ids, shards: shards, points: points(len(ids)), memo: make(map[string][]NodeID)}
	out := make([][]NodeID, shards)
	for s := range out {
		chosen := make([]NodeID, 0, min(replicas, len(ids)))
		for len(chosen) < cap(chosen) {
			chosen = append(chosen, p.owners(chosen)[s])
		}
		out[s] = chosen
	}
	return out, nil
}

// placer remembers the tables it has built, by the members left out.
type placer struct {
	members []NodeID
	shards  int
	points  int
	memo    map[string][]NodeID
}

// owners is the table of the members less those gone: shard → node.
func (p *placer) owners(gone []NodeID) []NodeID {
	key := slices.Clone(gone)
	slices.Sort(key)
	name := fmt.Sprint(key)
	if t, ok := p.memo[name]; ok {
		return t
	}
	var left []consistent.Member
	for _, id := range p.members {
		if !slices.Contains(gone, id) {
			left = append(left, point(id))
		}
	}
	c := consistent.New(left, consistent.Config{Hasher: hasher{}, PartitionCount: p.shards, ReplicationFactor: p.points, Load: load})
	t := make([]NodeID, p.shards)
	for s := range t {
		t[s] = NodeID(c.GetPartitionOwner(s).(point))
	}
	p.memo[name] = t
	return t
}

// point is a member under the name that the library hashes. It appends a decimal number to it; the fixed width and the terminator keep
// one name with its number from being another's.
type point NodeID

func (p point) String() string {
	if mutPlainNames() {
		return fmt.Sprint(uint64(p))
	}
	return fmt.Sprintf("%016x#", uint64(p))
}

type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
