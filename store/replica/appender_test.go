package replica

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
)

// TestWhatAppendTasksNeed: entries, votes, terms and answers go to the disk; a commit index alone does not, until writeCommit or a truncation asks.
func TestWhatAppendTasksNeed(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	l, err := CreateLog(e, 3, 1, []ring.ReplicaID{1})
	noErr(t, err)
	d := NewDriver(DriverConfig{Engine: e, Timing: LANTiming})
	m := &member{d: d, id: 3, log: l}
	task := func(term, vote, commit uint64, es []*raftpb.Entry, answers int) *raftpb.Message {
		msg := &raftpb.Message{Type: raftpb.MsgStorageAppend.Enum(), Entries: es, Responses: make([]*raftpb.Message, answers)}
		if term != 0 {
			msg.Term, msg.Vote, msg.Commit = &term, &vote, &commit
		}
		return msg
	}
	for i, c := range []struct {
		msg                 *raftpb.Message
		needed, vital, hard bool
	}{
		{task(2, 0, 1, nil, 0), true, true, true},   // the first of a process
		{task(2, 0, 1, nil, 1), true, false, false}, // an answer
		{task(2, 1, 1, nil, 1), true, true, true},   // a vote
		{task(2, 1, 1, logEntries(2, 4, 2), 1), true, true, false},
		{task(2, 1, 3, nil, 0), false, false, false}, // more is committed
		{task(2, 1, 4, logEntries(6, 1, 2), 0), true, true, false},
		{task(0, 0, 0, nil, 1), true, false, false},
		{task(3, 0, 4, nil, 0), true, true, true}, // a term
		{task(3, 0, 5, nil, 0), false, false, false},
	} {
		j, needed := m.job(c.msg)
		if needed != c.needed || j.vital != c.vital || (j.hard != nil) != c.hard {
			t.Errorf("%d: %v: needed %v, %+v", i, c.msg, needed, j)
		}
		if needed {
			d.disk.add(j)
		}
	}
	write := func() {
		b := e.NewBatch()
		defer b.Close()
		d.disk.write(b, d.disk.staged)
		d.disk.staged = nil
	}
	write()
	if c := l.Mark(); c.Last != 6 || c.Term != 3 || c.Vote != 0 || c.Commit != 4 {
		t.Errorf("on disk: %+v", c)
	}
	m.writeCommit()
	d.disk.add(appendJob{m: m, compactTo: 5}) // is refused unless the commit index goes before
	write()
	m.writeCommit()
	if len(d.disk.staged) > 0 {
		t.Error("the commit index is written again")
	}
	noErr(t, e.Close())
}
