package ring

import (
	"fmt"
	"slices"
)

// Admit is the next ring with a new member, which is joining. A member already with the same data: r itself; with other data: as Update.
// Refused if the shards are too few for one more.
func (r *Ring) Admit(m Member) (*Ring, error) {
	if m.ID == 0 {
		return nil, fmt.Errorf("ring: a member needs an ID")
	}
	if _, ok := r.Member(m.ID); ok {
		return r.Update(m)
	}
	// Who is on its way out does not count: it may be waiting for nothing but this node to take its replicas.
	stay := 1
	for _, o := range r.members {
		if o.State.Stays() {
			stay++
		}
	}
	if stay > max(1, len(r.shards)/2) {
		return nil, fmt.Errorf("node %s cannot be admitted: %d members are too many for %d shards, which take at most half as many; the number of shards is fixed when a cluster is created",
			m.ID, stay, len(r.shards))
	}
	n := r.clone()
	m.State = Joining
	n.members = append(n.members, m)
	slices.SortFunc(n.members, func(a, b Member) int { return compare(a.ID, b.ID) })
	return n, n.check()
}

// Update is the next ring with a member's addresses and boot as given; r itself if they are so already. The state stays.
func (r *Ring) Update(m Member) (*Ring, error) {
	i := slices.IndexFunc(r.members, func(o Member) bool { return o.ID == m.ID })
	if i < 0 {
		return nil, fmt.Errorf("node %s is no member of this cluster any more: wipe its data directory to join as a new node", m.ID)
	}
	m.State = r.members[i].State
	if m.State == Lost {
		return nil, fmt.Errorf("node %s was given up as lost: wipe its data directory to join as a new node", m.ID)
	}
	if r.members[i] == m {
		return r, nil
	}
	n := r.clone()
	n.members[i] = m
	return n, n.check()
}

// Leave is the next ring in which a member is leaving; r itself if it is already. Refused for the last one that stays.
func (r *Ring) Leave(id NodeID) (*Ring, error) { return r.part(id, Leaving) }

// Lose is the next ring in which a member is given up. Refused while it is alive, for the last one that stays, and if some group would not
// keep a majority that answers without it.
func (r *Ring) Lose(id NodeID, f *Facts) (*Ring, error) {
	if _, ok := r.Member(id); !ok {
		return nil, fmt.Errorf("node %s is no member of this cluster", id)
	}
	if f.Nodes[id].Alive {
		return nil, fmt.Errorf("node %s is alive: let it leave instead, or stop it first", id)
	}
	for g := range GroupID(len(r.shards) + 1) {
		a := r.groupRef(g)
		if rep, here := a.On(id); !here || rep.Role != Voter {
			continue
		}
		gf, known := f.Groups[g]
		left, voters := 0, a.Voters()
		for _, rep := range voters {
			if rep.Node != id && f.Nodes[rep.Node].Alive && slices.Contains(gf.Active, rep.ID) {
				left++
			}
		}
		if !known || left < len(voters)/2+1 {
			return nil, fmt.Errorf("node %s cannot be removed now: %s would keep %d of %d voters that answer, which is no majority; bring another of its nodes back first", id, g, left, len(voters))
		}
	}
	return r.part(id, Lost)
}

func (r *Ring) part(id NodeID, state MemberState) (*Ring, error) {
	i, others := -1, 0
	for k, m := range r.members {
		if m.ID == id {
			i = k
		} else if m.State.Stays() {
			others++
		}
	}
	switch {
	case i < 0:
		return nil, fmt.Errorf("node %s is no member of this cluster", id)
	case r.members[i].State == state:
		return r, nil
	case others == 0:
		return nil, fmt.Errorf("node %s is the last member that stays; a cluster needs one", id)
	}
	n := r.clone()
	n.members[i].State = state
	return n, n.check()
}
