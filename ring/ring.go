package ring

import (
	"errors"
	"fmt"
	"slices"
)

// maxAddr bounds an address, in bytes.
const maxAddr = 255

// MemberState says what the cluster means to do with a member. Numbers only grow: they are on disks.
type MemberState uint8

const (
	Up      MemberState = iota // it holds its share
	Joining                    // admitted; its share is being filled
	Leaving                    // asked to go: its replicas move elsewhere, then it is no member any more
	Lost                       // given up, dead for too long or by command: as Leaving, and nothing is expected of it
)

func (s MemberState) String() string {
	switch s {
	case Up:
		return "up"
	case Joining:
		return "joining"
	case Leaving:
		return "leaving"
	case Lost:
		return "lost"
	}
	return fmt.Sprintf("member state %d", uint8(s))
}

// Stays reports whether shards are placed on such a member.
func (s MemberState) Stays() bool { return s == Up || s == Joining }

// Member is a node that the ring knows. Addr is its --listen and GossipAddr its --gossip, as others reach them; Boot is the
// start of its process that last told them, 0 if it has told nothing since the cluster formed.
type Member struct {
	ID         NodeID
	Addr       string
	GossipAddr string
	Boot       BootID
	State      MemberState
}

// Role says what the ring wants a replica to be in its group. Numbers only grow: they are on disks.
type Role uint8

const (
	Voter    Role = iota
	Learner       // being filled: it gets the log and has no vote
	Outgoing      // the group is to do without it; it stays until the group's leader has said that it does
)

func (r Role) String() string {
	switch r {
	case Voter:
		return "voter"
	case Learner:
		return "learner"
	case Outgoing:
		return "outgoing"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Replica is one copy of a shard: which node holds it, its ID in the shard's group, and what it is to be there.
type Replica struct {
	Node NodeID
	ID   ReplicaID
	Role Role
}

// Assignment is where a group's replicas are; the first is a voter, and preferred as owner.
type Assignment struct{ Replicas []Replica }

// Voters are the replicas with a vote, in the assignment's order.
func (a Assignment) Voters() []Replica {
	var out []Replica
	for _, r := range a.Replicas {
		if r.Role == Voter {
			out = append(out, r)
		}
	}
	return out
}

// On returns the replica that a node holds.
func (a Assignment) On(n NodeID) (Replica, bool) {
	for _, r := range a.Replicas {
		if r.Node == n {
			return r, true
		}
	}
	return Replica{}, false
}

// Ring is one epoch's table. It never changes: a newer epoch is a new Ring. All methods are safe for concurrent use; slices
// they return are read only.
type Ring struct {
	cluster     ClusterID
	epoch       Epoch
	replicas    int // wanted per shard
	nextReplica ReplicaID
	members     []Member // sorted by ID
	system      Assignment
	shards      []Assignment
}

// Cluster is whose ring it is.
func (r *Ring) Cluster() ClusterID { return r.cluster }

// Epoch numbers the ring, from 1.
func (r *Ring) Epoch() Epoch { return r.epoch }

// Shards is the number of shards, fixed for the cluster's life.
func (r *Ring) Shards() int { return len(r.shards) }

// Replicas is how many copies of a shard are wanted; with fewer members there are as many as members.
func (r *Ring) Replicas() int { return r.replicas }

// Members in ascending order of their IDs.
func (r *Ring) Members() []Member { return r.members }

// Member finds one by its ID.
func (r *Ring) Member(id NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(r.members, id, func(m Member, id NodeID) int { return compare(m.ID, id) })
	if !ok {
		return Member{}, false
	}
	return r.members[i], true
}

// Shard is where a shard is. It panics if s is not below Shards.
func (r *Ring) Shard(s ShardID) Assignment { return r.shards[s] }

// Group is where a group is; ok is false if the ring has no such group.
func (r *Ring) Group(g GroupID) (a Assignment, ok bool) {
	s, isShard := g.Shard()
	if !isShard {
		return r.system, true
	}
	if int(s) >= len(r.shards) {
		return a, false
	}
	return r.shards[s], true
}

// Owner is the node preferred as the shard's owner.
func (r *Ring) Owner(s ShardID) NodeID { return r.shards[s].Replicas[0].Node }

// ShardOf places an object on this ring's shards.
func (r *Ring) ShardOf(class, key string) ShardID { return ShardOf(class, key, len(r.shards)) }

// First is the ring of epoch 1: the founders, the system shard on the three with the lowest IDs (five of five or more), every shard by
// [Place]. The same arguments give the same ring, whatever the order of members.
func First(cluster ClusterID, members []Member, shards, replicas int) (*Ring, error) {
	if cluster.IsZero() {
		return nil, errors.New("ring: a cluster needs an ID")
	}
	ms := slices.Clone(members)
	slices.SortFunc(ms, func(a, b Member) int { return compare(a.ID, b.ID) })
	ids := make([]NodeID, len(ms))
	for i, m := range ms {
		ids[i] = m.ID
	}
	placed, err := Place(ids, shards, replicas)
	if err != nil {
		return nil, err
	}
	r := &Ring{cluster: cluster, epoch: 1, replicas: replicas, nextReplica: 1, members: ms, shards: make([]Assignment, shards)}
	r.system = r.assign(ids[:SystemVoters(len(ids))])
	for s, nodes := range placed {
		r.shards[s] = r.assign(nodes)
	}
	return r, r.check()
}

// SystemVoters is how many of n members vote in the system shard.
func SystemVoters(n int) int {
	switch {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	}
	return n
}

// assign hands out replica IDs. One counter serves all groups, so an ID is never used twice in any of them.
func (r *Ring) assign(nodes []NodeID) Assignment {
	var a Assignment
	for _, n := range nodes {
		a.Replicas = append(a.Replicas, Replica{Node: n, ID: r.nextReplica})
		r.nextReplica++
	}
	return a
}

// check holds what every ring must obey; Decode relies on it, too.
func (r *Ring) check() error {
	switch {
	case r.cluster.IsZero():
		return errors.New("ring: no cluster ID")
	case r.epoch == 0:
		return errors.New("ring: epoch 0")
	case len(r.shards) < 1 || len(r.shards) > MaxShards:
		return fmt.Errorf("ring: %d shards; 1 to %d are allowed", len(r.shards), MaxShards)
	case r.replicas < 1 || r.replicas > MaxReplicas:
		return fmt.Errorf("ring: %d replicas; 1 to %d are allowed", r.replicas, MaxReplicas)
	case len(r.members) == 0:
		return errors.New("ring: no members")
	}
	for i, m := range r.members {
		if m.ID == 0 || (i > 0 && r.members[i-1].ID >= m.ID) {
			return fmt.Errorf("ring: member %s is out of order, twice there or zero", m.ID)
		}
		if m.Addr == "" || len(m.Addr) > maxAddr || len(m.GossipAddr) > maxAddr {
			return fmt.Errorf("ring: member %s has no address, or one longer than %d bytes", m.ID, maxAddr)
		}
		if m.State > Lost {
			return fmt.Errorf("ring: member %s is in state %d, which this version does not know", m.ID, uint8(m.State))
		}
	}
	if err := r.checkAssignment("the system shard", r.system); err != nil {
		return err
	}
	for s, a := range r.shards {
		if err := r.checkAssignment(fmt.Sprintf("shard %d", s), a); err != nil {
			return err
		}
	}
	return nil
}

func (r *Ring) checkAssignment(what string, a Assignment) error {
	if len(a.Replicas) == 0 || a.Replicas[0].Role != Voter {
		return fmt.Errorf("ring: %s has no replica, or its first is no voter", what)
	}
	for i, rep := range a.Replicas {
		if _, ok := r.Member(rep.Node); !ok {
			return fmt.Errorf("ring: %s: replica %d is on node %s, which is no member", what, rep.ID, rep.Node)
		}
		if rep.ID == 0 || rep.ID >= r.nextReplica {
			return fmt.Errorf("ring: %s: replica ID %d was never handed out", what, rep.ID)
		}
		if rep.Role > Outgoing {
			return fmt.Errorf("ring: %s: replica %d has role %d, which this version does not know", what, rep.ID, uint8(rep.Role))
		}
		for _, other := range a.Replicas[:i] {
			if other.Node == rep.Node || other.ID == rep.ID {
				return fmt.Errorf("ring: %s: replicas %d and %d are the same, or on the same node", what, other.ID, rep.ID)
			}
		}
	}
	return nil
}

func compare(a, b NodeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
