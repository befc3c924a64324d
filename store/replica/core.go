package replica

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// core is Raft's node of one replica. To ask Raft whether it has something to tell costs allocations, and it is asked several times a round for
// every group: so core remembers the answer for as long as nothing was told to Raft that it could have more to tell of.
type core struct {
	rn    *raft.RawNode
	asked bool // and nothing happened since
	ready bool // the answer

	commit uint64 // as Raft last told it
	handed uint64 // the last entry of that which it has handed out; less than commit after a snapshot, until there are more
	joint  bool   // Raft may leave this configuration by itself when more is applied
}

func newCore(cfg *raft.Config) (core, error) {
	hs, conf, err := cfg.Storage.InitialState()
	if err != nil {
		return core{}, err
	}
	rn, err := raft.NewRawNode(cfg)
	return core{rn: rn, commit: hs.GetCommit(), handed: cfg.Applied, joint: isJoint(conf)}, err
}

func isJoint(c *raftpb.ConfState) bool { return len(c.GetVotersOutgoing()) > 0 || c.GetAutoLeave() }

// node is Raft, to be told something.
func (c *core) node() *raft.RawNode {
	c.asked = c.asked && c.ready // who has something to tell goes on having it
	return c.rn
}

// HasReady reports whether Ready has anything to tell.
func (c *core) HasReady() bool {
	if !c.asked {
		c.asked, c.ready = true, c.rn.HasReady()
	}
	return c.ready
}

// Ready takes what Raft has to tell. There is no more until Raft is told something again: committed entries that were left for later wait for these to be applied.
func (c *core) Ready() raft.Ready {
	rd := c.rn.Ready()
	if rd.HardState != nil && !raft.IsEmptyHardState(rd.HardState) {
		c.commit = rd.HardState.GetCommit()
	}
	if n := len(rd.CommittedEntries); n > 0 {
		c.handed = rd.CommittedEntries[n-1].GetIndex()
	}
	if rd.Snapshot != nil && !raft.IsEmptySnap(rd.Snapshot) {
		c.joint = isJoint(rd.Snapshot.GetMetadata().GetConfState())
	}
	c.asked, c.ready = true, false
	return rd
}

func (c *core) Tick() { c.node().Tick() }

// TickQuiesced lets time go by and does nothing else.
func (c *core) TickQuiesced() { c.rn.TickQuiesced() }

func (c *core) Campaign() error             { return c.node().Campaign() }
func (c *core) Propose(data []byte) error   { return c.node().Propose(data) }
func (c *core) ReadIndex(ctx []byte)        { c.node().ReadIndex(ctx) }
func (c *core) TransferLeader(to uint64)    { c.node().TransferLeader(to) }
func (c *core) ForgetLeader() error         { return c.node().ForgetLeader() }
func (c *core) ReportUnreachable(id uint64) { c.node().ReportUnreachable(id) }

func (c *core) ReportSnapshot(id uint64, s raft.SnapshotStatus) { c.node().ReportSnapshot(id, s) }

// Step tells Raft of a message. That something is on disk, or applied, it only notes, unless it waits for that with committed entries or in a joint
// configuration.
func (c *core) Step(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgStorageAppendResp, raftpb.MsgStorageApplyResp:
		if c.handed >= c.commit && !c.joint {
			return c.rn.Step(m)
		}
	}
	return c.node().Step(m)
}

func (c *core) ProposeConfChange(cc raftpb.ConfChangeI) error { return c.node().ProposeConfChange(cc) }

func (c *core) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	conf := c.node().ApplyConfChange(cc)
	c.joint = isJoint(conf)
	return conf
}

func (c *core) BasicStatus() raft.BasicStatus { return c.rn.BasicStatus() }

func (c *core) WithProgress(visit func(id uint64, typ raft.ProgressType, pr tracker.Progress)) {
	c.rn.WithProgress(visit)
}
