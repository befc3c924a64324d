package ring

// members moves members on whose groups have.
func (s *stepper) members(want [][]NodeID) {
	share, holds := map[NodeID]bool{}, map[NodeID]bool{} // lacks some of its share; has a replica
	for g := range GroupID(len(want)) {
		a := s.n.groupRef(g)
		for _, rep := range a.Replicas {
			holds[rep.Node] = true
		}
		for _, node := range want[g] {
			if rep, there := a.On(node); !there || rep.Role != Voter {
				share[node] = true
			}
		}
	}
	kept := s.n.members[:0]
	for _, m := range s.n.members {
		switch {
		case m.State == Joining && !share[m.ID]:
			m.State = Up
			s.steps = append(s.steps, Step{Kind: StepUp, Node: m.ID})
		case !m.State.Stays() && !holds[m.ID]:
			s.steps = append(s.steps, Step{Kind: StepForget, Node: m.ID})
			continue
		}
		kept = append(kept, m)
	}
	s.n.members = kept
}
