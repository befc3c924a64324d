package sim

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
)

// conf is a configuration by the rules of proof.md, written a second time. While joint, outgoing is not empty.
type conf struct {
	voters, outgoing, learners []uint64
}

func (c conf) clone() conf {
	return conf{slices.Clone(c.voters), slices.Clone(c.outgoing), slices.Clone(c.learners)}
}

// same compares with what a replica has stored.
func (c conf) same(s *raftpb.ConfState) bool {
	sorted := func(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }
	return slices.Equal(sorted(c.voters), sorted(s.GetVoters())) && slices.Equal(sorted(c.outgoing), sorted(s.GetVotersOutgoing())) &&
		slices.Equal(sorted(c.learners), sorted(s.GetLearners()))
}

// change takes a committed change of the configuration: refused if a newer ring's came before, joint if it changes more than one replica.
// An empty one ends a joint configuration.
func (m *model) change(e *raftpb.Entry) string {
	var cc raftpb.ConfChangeV2
	if e.GetType() == raftpb.EntryConfChange {
		return "a change of the configuration in the old format"
	}
	if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
		return err.Error()
	}
	if len(cc.GetChanges()) == 0 {
		m.conf.outgoing = nil
		m.confs = append(m.confs, m.conf.clone())
		return ""
	}
	epoch, n := binary.Uvarint(cc.GetContext())
	if n <= 0 {
		return "a change of the configuration without an epoch"
	}
	if ring.Epoch(epoch) < m.fence.Epoch {
		return ""
	}
	m.fence.Epoch, m.actual.Epoch = ring.Epoch(epoch), ring.Epoch(epoch)
	if len(cc.GetChanges()) > 1 {
		m.conf.outgoing = slices.Clone(m.conf.voters)
	}
	for _, c := range cc.GetChanges() {
		id := c.GetNodeId()
		m.conf.voters = slices.DeleteFunc(slices.Clone(m.conf.voters), func(v uint64) bool { return v == id })
		m.conf.learners = slices.DeleteFunc(slices.Clone(m.conf.learners), func(v uint64) bool { return v == id })
		switch c.GetType() {
		case raftpb.ConfChangeAddNode:
			m.conf.voters = append(m.conf.voters, id)
		case raftpb.ConfChangeAddLearnerNode:
			m.conf.learners = append(m.conf.learners, id)
		}
	}
	m.confs = append(m.confs, m.conf.clone())
	return ""
}
