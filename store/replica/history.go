package replica

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// A group's history (store.History) is stored when something happened that is worth a row, and before its log is truncated; in between it costs nothing
// on disk: what was applied since the last stored head is read again from the log, which still has it.

// loadHistory is the history of a replica as it was when it had applied all up to applied. One that cannot go on, because a version without histories has
// run here since or because there never was one, begins anew there; so does one that cannot be read, which err tells.
func loadHistory(e *store.Engine, l *LogStore, applied uint64, f store.Fence) (h *store.History, err error) {
	head, ok, err := e.HistoryHead(l.g)
	if err == nil && !ok {
		// Nothing was worth a row so far. What was applied since the group was made is in its log, unless no history was kept then.
		if first, err := l.FirstIndex(); err == nil && first == bootIndex+1 && applied >= bootIndex {
			head, ok = store.NewHistory(bootIndex, store.Fence{}, nil).Head(), true
		}
	}
	if err == nil && ok {
		if h, err = replay(l, head, applied, f); err == nil {
			return h, nil
		}
	}
	return store.NewHistory(applied, f, nil), err
}

// errHistoryGap is what a version without histories leaves behind.
var errHistoryGap = errors.New("a version without histories has run here, and the log from then on is gone")

// replay goes on from a stored head to applied, by the log.
func replay(l *LogStore, head store.HistoryHead, applied uint64, f store.Fence) (*store.History, error) {
	first, err := l.FirstIndex()
	if err != nil {
		return nil, err
	}
	if head.Index < applied && head.Index+1 < first {
		return nil, fmt.Errorf("%w (it ends at %d, and the log begins at %d)", errHistoryGap, head.Index, first)
	}
	if head.Index > applied {
		return nil, fmt.Errorf("the history goes to %d, and the state to %d", head.Index, applied)
	}
	h, fence := store.ResumeHistory(head), head.Fence
	var c store.Command
	for at := head.Index + 1; at <= applied; {
		entries, err := l.Entries(at, applied+1, tailBytes)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if fence, err = retrace(h, fence, &c, e); err != nil {
				return nil, err
			}
		}
		at += uint64(len(entries))
		h.Take(at-1, fence)
	}
	if fence != f {
		return nil, fmt.Errorf("after %d the fence is %s by history and log, and %s is stored", applied, fenceText(fence), fenceText(f))
	}
	return h, nil
}

func fenceText(f store.Fence) string {
	s := fmt.Sprintf("token %d of replica %d on node %v (boot %v, term %d), number %d, epoch %d", f.Token, f.Holder.Replica, f.Holder.Node, f.Holder.Boot, f.Term, f.Seq, f.Epoch)
	if f.Released {
		s += ", released"
	}
	return s
}

// retrace does with one entry what Group.decide does, as far as fence and history go. Times are not known any more.
func retrace(h *store.History, f store.Fence, c *store.Command, e *raftpb.Entry) (store.Fence, error) {
	switch e.GetType() {
	case raftpb.EntryNormal:
		if len(e.GetData()) == 0 {
			return f, nil
		}
		if err := store.DecodeCommand(e.GetData(), c); err != nil {
			return f, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		next, verdict := f.Step(e.GetIndex(), e.GetTerm(), c)
		h.Command(e.GetIndex(), e.GetTerm(), c, e.GetData(), verdict, 0)
		return next, nil
	default:
		var cc raftpb.ConfChangeV2
		epoch, err := ring.Epoch(0), unmarshalConfChange(e, &cc)
		if err == nil && len(cc.Changes) > 0 {
			epoch, err = changeEpoch(&cc)
		}
		if err != nil {
			return f, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if len(cc.Changes) > 0 && epoch < f.Epoch {
			return f, nil
		}
		h.Conf(e.GetIndex(), e.GetTerm(), e.GetData(), epoch, 0)
		f.Epoch = max(f.Epoch, epoch)
		return f, nil
	}
}

// historyPayload is what a snapshot carries of the history, behind the fence: its head if it stands where the snapshot does. Versions without histories leave it
// unread. It is called on the driver's goroutine.
func (m *member) historyPayload(index uint64) []byte {
	if h := m.g.History(); h != nil {
		if head := h.Head(); head.Index == index {
			return store.AppendHistoryHead(nil, &head)
		}
	}
	return nil
}

// snapshotHistory is the history of a replica that a snapshot has filled: it begins there, with the prints of who sent it if they came along.
func snapshotHistory(s *raftpb.Snapshot, f store.Fence) *store.History {
	var from *store.HistoryHead
	if _, payload, err := SplitSnapshotData(s.GetData()); err == nil && len(payload) > 0 {
		if head, err := store.DecodeHistoryHead(payload); err == nil {
			from = &head
		}
	}
	return store.NewHistory(s.GetMetadata().GetIndex(), f, from)
}

// saveHistory stores where the history stands, if the log up to upTo is still needed to find it again. It runs on the driver's goroutine, when all
// that is decided is stored, and comes before the truncation in the same WAL. While a snapshot is being installed nothing may go, and the truncation waits.
func (d *Driver) saveHistory(m *member, upTo uint64) (ok bool) {
	h := m.g.History()
	if h == nil || m.saved >= upTo {
		return true
	}
	if m.installing || h.Head().Index != m.g.Applied() {
		return false
	}
	c := h.Flush()
	d.batch.SetHistory(m.id, c)
	if err := d.batch.Commit(false); err != nil {
		d.cfg.Engine.Fatal(fmt.Errorf("%s: writing the history: %w", m.id, err))
	}
	m.saved = c.Head.Index
	return true
}

// History is what this node's replica of a group recorded, up to what it has applied. Safe from any goroutine.
func (d *Driver) History(ctx context.Context, g ring.GroupID) (store.ReplicaHistory, error) {
	got := make(chan store.ReplicaHistory, 1) // a caller that has given up must not share it
	err := d.on(ctx, func() error {
		m := d.groups[g]
		if m == nil {
			return fmt.Errorf("%v has no replica here", g)
		}
		m.settle() // the rows are read from storage, and go as far as the head
		d.apply()
		h := m.g.History()
		got <- store.ReplicaHistory{Node: d.cfg.Node, Replica: m.self, Head: h.Head(), Recent: h.Recent()}
		return nil
	})
	if err != nil {
		return store.ReplicaHistory{}, err
	}
	r := <-got
	r.Tenures, r.Checkpoints, err = d.cfg.Engine.HistoryRows(g, &r.Head)
	return r, err
}
