package replica

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store"
)

// appender is the worker that makes Append tasks durable: whatever gathered while the last fsync was under way goes into one
// batch, of all groups, with one fsync. Raft bounds how much can gather.
type appender struct {
	engine *store.Engine
	inbox  *inbox
	staged []appendJob // driver's goroutine

	dirty bool // worker: something that a response vouches for is written and not synced

	mu      sync.Mutex
	pending []appendJob
	stopped bool
	wake    chan struct{}

	appends, syncs, tasks, syncNanos atomic.Uint64
}

func newAppender(e *store.Engine, b *inbox) *appender {
	return &appender{engine: e, inbox: b, wake: make(chan struct{}, 1)}
}

// add takes a job, on the driver's goroutine; submit passes what was added on.
func (a *appender) add(j appendJob) { a.staged = append(a.staged, j) }

func (a *appender) submit() {
	if len(a.staged) == 0 {
		return
	}
	a.mu.Lock()
	a.pending = append(a.pending, a.staged...)
	a.mu.Unlock()
	clear(a.staged)
	a.staged = a.staged[:0]
	a.signal()
}

func (a *appender) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// start runs the worker; stop lets it write what is pending and waits for its end.
func (a *appender) start() (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.run()
	}()
	return func() {
		a.mu.Lock()
		a.stopped = true
		a.mu.Unlock()
		a.signal()
		<-done
	}
}

func (a *appender) run() {
	batch := a.engine.NewBatch()
	defer batch.Close()
	var jobs []appendJob
	for range a.wake {
		runtime.Gosched() // as the driver does: what is about to be asked for goes into the same batch, with the same fsync
		a.mu.Lock()
		jobs, a.pending = a.pending, jobs[:0]
		stopped := a.stopped
		a.mu.Unlock()
		if len(jobs) > 0 {
			a.write(batch, jobs)
			a.inbox.appended(jobs)
			clear(jobs)
		}
		if stopped {
			return
		}
	}
}

// stage puts one job into the batch.
func (j *appendJob) stage(batch *store.Batch) error {
	if j.compactTo != 0 {
		return j.m.log.Compact(batch, j.compactTo)
	}
	if j.flushed != nil {
		return nil
	}
	if s := j.msg.GetSnapshot(); !raft.IsEmptySnap(s) {
		fence, err := SnapshotFence(s)
		if err == nil && j.install == nil {
			err = errors.New("a snapshot without its data")
		}
		if err != nil {
			return err
		}
		md := s.GetMetadata()
		m := StateMeta{Index: md.GetIndex(), Fence: fence, Conf: md.GetConfState()}
		if err := j.m.state.StageInstall(batch, j.m.log, j.install, m, md.GetTerm()); err != nil {
			return err
		}
		head := snapshotHistory(s, fence).Head()
		batch.ReplaceHistory(j.m.id, &head)
	}
	// The commit index goes to disk with the entries that it came with. Raft rests on it: a configuration counts when it is applied, so a replica that
	// holds the end of a joint change, and does not know its beginning for committed, would be elected by the old voters alone, beside
	// a leader of the new ones (simulation, seed 100,651, 40 s).
	var hs *raftpb.HardState
	if j.msg.Term != nil && j.msg.Commit != nil {
		hs = &raftpb.HardState{Term: j.msg.Term, Vote: j.msg.Vote, Commit: j.msg.Commit}
	}
	return j.m.log.Stage(batch, hs, j.msg.GetEntries())
}

// write makes jobs durable, in order. A response vouches for entries, term and vote; the commit index may be lost, since it is
// learned again. So an fsync is needed only where a response leaves and something of that kind is not synced yet: what merely tells a
// follower the commit index costs none.
func (a *appender) write(batch *store.Batch, jobs []appendJob) {
	responds := false
	for i := range jobs {
		j := &jobs[i]
		if err := j.stage(batch); err != nil {
			a.engine.Fatal(fmt.Errorf("%s: writing the log: %w", j.m.id, err))
		}
		a.dirty = a.dirty || j.vital()
		responds = responds || len(j.msg.GetResponses()) > 0
	}
	sync := a.dirty && responds
	began := time.Now()
	if err := batch.Commit(sync); err != nil {
		a.engine.Fatal(fmt.Errorf("writing the log: %w", err))
	}
	if sync {
		a.syncNanos.Add(uint64(time.Since(began)))
	}
	a.appends.Add(1)
	a.tasks.Add(uint64(len(jobs)))
	if sync {
		a.dirty = false
		a.syncs.Add(1)
	}
}

// vital reports whether the job writes entries, a snapshot, or another term or vote than the group's last job did.
func (j *appendJob) vital() bool {
	if j.msg == nil {
		return false
	}
	changed := false
	if j.msg.Term != nil {
		changed = j.msg.GetTerm() != j.m.writtenTerm || j.msg.GetVote() != j.m.writtenVote
		j.m.writtenTerm, j.m.writtenVote = j.msg.GetTerm(), j.msg.GetVote()
	}
	return changed || len(j.msg.GetEntries()) > 0 || !raft.IsEmptySnap(j.msg.GetSnapshot())
}
