package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

var (
	faultRounds = flag.Int("replica.faults", 10, "rounds of TestDisksFailUnderDrivers")
	faultSeed   = flag.Uint64("replica.seed", 1, "its seed")
)

var errInjected = errors.New("an injected error")

// diskErrors makes changes of a disk fail.
type diskErrors struct {
	mu      sync.Mutex
	left    int // changes of that kind until one fails; 0: none does
	kind    string
	lasting bool
	failed  int
}

func (f *diskErrors) arm(kind string, n int, lasting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.left, f.lasting, f.failed = kind, n, lasting, 0
}

func (f *diskErrors) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

var diskKinds = map[string][]errorfs.OpKind{
	"sync":   {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
	"write":  {errorfs.OpFileWrite, errorfs.OpFileWriteAt},
	"create": {errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpLink},
	"rename": {errorfs.OpRename, errorfs.OpRemove},
	"any": {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpReuseForWrite,
		errorfs.OpLink, errorfs.OpRename, errorfs.OpRemove, errorfs.OpMkdirAll, errorfs.OpFilePreallocate},
}

// MaybeError is of errorfs.Injector.
func (f *diskErrors) MaybeError(o errorfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(diskKinds[f.kind], o.Kind) {
		return nil
	}
	if f.left > 0 {
		if f.left--; f.left > 0 {
			return nil
		}
	} else if f.failed == 0 || !f.lasting {
		return nil
	}
	f.failed++
	return errInjected
}

func (f *diskErrors) String() string { return "errors" }

// said is the most that a node has told others of a group: what it must find again on its disk, whatever happened to that.
type said struct {
	term, vote       uint64
	index, indexTerm uint64 // appended, and acknowledged to the leader of the term
}

// faultNode is one node whose disk fails.
type faultNode struct {
	id     ring.NodeID
	fs     *vfs.MemFS
	disk   *diskErrors
	rng    *rand.Rand // of what the disk keeps
	e      *store.Engine
	d      *Driver
	owner  *follower
	cancel context.CancelFunc
	done   chan struct{}
	dead   chan struct{} // closed when its process has ended
	ended  bool          // under the wire's lock
	why    string
	said   map[ring.GroupID]said // under the wire's lock
}

// faultWorld is three nodes, and one writer for each group.
type faultWorld struct {
	t      *testing.T
	w      *wire
	rng    *rand.Rand
	nodes  []*faultNode
	mu     sync.Mutex
	acked  [testGroups]uint64
	issued [testGroups]uint64
	pause  sync.RWMutex // held for writing when nobody may write
	stop   chan struct{}
	wg     sync.WaitGroup
	bad    atomic.Pointer[string]
}

// telling notes what a node says.
type telling struct {
	port
	n *faultNode
}

func (p telling) SendRaft(to ring.NodeID, body []byte) {
	msgs, err := DecodeFrame(body)
	if err != nil {
		panic(err)
	}
	p.w.mu.Lock()
	cut := p.w.cut[p.n.id]
	if !cut { // else its disk is that of before
		for _, m := range msgs {
			p.n.note(m.Group, m.Message)
		}
	}
	p.w.mu.Unlock()
	if !cut {
		p.port.SendRaft(to, body)
	}
}

func (n *faultNode) note(g ring.GroupID, m *raftpb.Message) {
	if m == nil {
		return
	}
	s := n.said[g]
	vote := uint64(0)
	switch m.GetType() {
	case raftpb.MsgVote:
		vote = m.GetFrom()
	case raftpb.MsgVoteResp:
		if m.GetReject() {
			return
		}
		vote = m.GetTo()
	case raftpb.MsgAppResp:
		if !m.GetReject() && (m.GetTerm() > s.indexTerm || m.GetIndex() > s.index) {
			s.index, s.indexTerm = m.GetIndex(), m.GetTerm()
			n.said[g] = s
		}
		return
	default:
		return
	}
	if m.GetTerm() > s.term {
		s.term, s.vote = m.GetTerm(), vote
	}
	n.said[g] = s
}

// die is the end of a node's process, at whatever it was doing: nothing that it says from here on is heard, and its disk is as a crash leaves it.
func (f *faultWorld) die(n *faultNode, dead chan struct{}, why string) {
	f.w.mu.Lock()
	again := n.dead != dead || n.ended // an earlier process, or what still runs of this one
	if !again {
		n.ended, f.w.cut[n.id] = true, true
		delete(f.w.nodes, n.id)
	}
	f.w.mu.Unlock()
	if again {
		return
	}
	percent := []int{0, 1 + n.rng.IntN(99), 100}[n.rng.IntN(3)]
	n.fs = n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: n.rng})
	n.why = why
	close(dead)
}

// shut lets a node die and tidies up behind it, unless something in it stands still because of an error that it hears of only now.
func (f *faultWorld) shut(n *faultNode, why string) {
	f.die(n, n.dead, why)
	n.cancel()
	select {
	case <-n.done:
		_ = n.e.Close()
	case <-time.After(2 * time.Second):
	}
}

// open starts a node's process; it returns why it did not start.
func (f *faultWorld) open(n *faultNode) error {
	dead := make(chan struct{})
	f.w.mu.Lock()
	n.dead, n.ended = dead, false
	f.w.mu.Unlock()
	fs := errorfs.Wrap(crashFS{n.fs}, n.disk)
	opened := make(chan error, 1)
	go func() {
		e, err := store.Open("data", store.Options{FS: fs, Logger: slog.New(slog.DiscardHandler), CacheBytes: 1 << 20, MemTableBytes: 128 << 10, JournalBytes: int(n.id%2) * smallJournal,
			Fatal: func(msg string) {
				f.die(n, dead, msg)
				select {} // like the end of a process, it runs nothing that is deferred
			}})
		if err == nil {
			n.e = e
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			return err
		}
	case <-dead:
		return errors.New(n.why)
	}
	n.owner = newFollower()
	n.d = NewDriver(DriverConfig{Engine: n.e, Node: n.id, Boot: ring.BootID(time.Now().UnixNano()), LogBytes: 32 << 10,
		Timing:  Timing{Tick: 5 * time.Millisecond, HeartbeatTicks: 2, ElectionTicks: 20, CommitTicks: 1000},
		Network: telling{port{f.w, n.id}, n}, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan struct{})
	go func(d *Driver, done chan struct{}) {
		defer close(done)
		_ = d.Run(ctx)
	}(n.d, n.done)
	f.w.mu.Lock()
	f.w.cut[n.id] = false
	f.w.nodes[n.id] = n.d
	f.w.mu.Unlock()
	started := make(chan error, 1)
	go func(d *Driver, owner *follower) {
		for g := range testGroups {
			if err := d.Start(ctx, GroupSpec{Group: ring.ShardID(g).Group(), Replicas: firstReplicas(g), Founders: []ring.ReplicaID{1, 2, 3}, Owner: owner}); err != nil {
				started <- err
				return
			}
		}
		started <- nil
	}(n.d, n.owner)
	select {
	case err := <-started:
		return err
	case <-dead:
		return errors.New(n.why)
	}
}

// check looks at a dead node's disk: what it has said is there, and its state is that after one of the batches.
func (f *faultWorld) check(n *faultNode) {
	f.t.Helper()
	e, err := store.Open("data", store.Options{FS: n.fs, Logger: slog.New(slog.DiscardHandler), CacheBytes: 1 << 20, MemTableBytes: 128 << 10,
		Fatal: func(msg string) { panic(msg) }})
	if err != nil {
		f.t.Fatalf("node %v, which ended with %q, does not start again: %v", n.id, n.why, err)
	}
	defer e.Close()
	for g := range testGroups {
		id := ring.ShardID(g).Group()
		l, exists, err := OpenLog(e, id)
		noErr(f.t, err)
		if !exists {
			if n.said[id] != (said{}) {
				f.t.Fatalf("node %v, %v: no log, and it had said %+v", n.id, id, n.said[id])
			}
			continue
		}
		hs, _, err := l.InitialState()
		noErr(f.t, err)
		s := n.said[id]
		if hs.GetTerm() < s.term || hs.GetTerm() == s.term && s.vote != 0 && hs.GetVote() != s.vote {
			f.t.Fatalf("node %v, %v: term %d, vote %d; it had voted for %d in term %d", n.id, id, hs.GetTerm(), hs.GetVote(), s.vote, s.term)
		}
		if hs.GetTerm() < s.indexTerm || hs.GetTerm() == s.indexTerm && l.idx.last() < s.index {
			f.t.Fatalf("node %v, %v: term %d, last entry %d; it had acknowledged %d in term %d", n.id, id, hs.GetTerm(), l.idx.last(), s.index, s.indexTerm)
		}
		noErr(f.t, l.Regression())
		applied, _, err := NewStateStore(e, id).Load()
		noErr(f.t, err)
		if hs.GetCommit() < applied || hs.GetCommit() > l.idx.last() {
			f.t.Fatalf("node %v, %v: applied %d, commit %d, last %d", n.id, id, applied, hs.GetCommit(), l.idx.last())
		}
		f.mu.Lock()
		issued := f.issued[g]
		f.mu.Unlock()
		i, err := faultState(e.StateReader(id))
		if err != nil || i > issued {
			f.t.Fatalf("node %v, %v, applied %d: state %d of %d: %v", n.id, id, applied, i, issued, err)
		}
	}
}

const faultReplies = 20 // records that are kept

// faultWrites is batch i of a group: data, and beside it, as a host has them, the record of a call with a key and the row of an alarm.
func faultWrites(i uint64) []store.Write {
	number := binary.BigEndian.AppendUint64(nil, i)
	ws := append(crashWrites(i, i), store.Write{Key: []byte("n"), Value: number},
		store.Write{Key: fmt.Appendf(nil, "reply-%08d", i), Value: number},
		store.Write{Key: fmt.Appendf(nil, "reply-%08d", max(i, faultReplies)-faultReplies), Delete: true},
		store.Write{Key: []byte("alarm-"), End: []byte("alarm."), Delete: true},
		store.Write{Key: fmt.Appendf(nil, "alarm-%08d", i), Value: make([]byte, 300)})
	return ws
}

// faultState reads which batch was the last, and compares everything with what it must be after that.
func faultState(r store.Reader) (i uint64, err error) {
	got := map[string]string{}
	if err := r.Scan(nil, nil, false, func(k, v []byte) bool { got[string(k)] = string(v); return true }); err != nil {
		return 0, err
	}
	if len(got) == 0 {
		return 1, nil
	}
	if len(got["n"]) != 8 {
		return 0, fmt.Errorf("no number among %d keys", len(got))
	}
	i = binary.BigEndian.Uint64([]byte(got["n"]))
	want := crashState(i)
	want["n"] = got["n"]
	for j := max(i, faultReplies+1) - faultReplies + 1; j <= i; j++ {
		want[fmt.Sprintf("reply-%08d", j)] = string(binary.BigEndian.AppendUint64(nil, j))
	}
	want[fmt.Sprintf("alarm-%08d", i)] = string(make([]byte, 300))
	if !maps.Equal(got, want) {
		return i, fmt.Errorf("after batch %d: %v, want %v", i, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	return i, nil
}

// write goes on with the batches of a group under whoever owns it.
func (f *faultWorld) write(g int) {
	for {
		select {
		case <-f.stop:
			return
		case <-time.After(time.Millisecond):
		}
		f.pause.RLock()
		for _, n := range f.nodes {
			if n.owner == nil {
				continue
			}
			n.owner.mu.Lock()
			l := n.owner.leases[ring.ShardID(g)]
			n.owner.mu.Unlock()
			if l != nil && l.Valid() {
				if why := f.writeUnder(n, g, l); why != "" {
					why = fmt.Sprintf("group %d: %s", g, why)
					f.bad.CompareAndSwap(nil, &why)
				}
			}
		}
		f.pause.RUnlock()
	}
}

// writeUnder writes some batches under a lease that begins where the one before ended.
func (f *faultWorld) writeUnder(n *faultNode, g int, l store.Lease) (wrong string) {
	f.w.mu.Lock()
	cut := f.w.cut[n.id]
	f.w.mu.Unlock()
	if cut {
		return ""
	}
	f.mu.Lock()
	acked, issued := f.acked[g], f.issued[g]
	f.mu.Unlock()
	type state struct {
		i   uint64
		err error
	}
	read := make(chan state, 1)
	go func() {
		i, err := faultState(l)
		read <- state{i, err}
	}()
	var i uint64
	var err error
	select {
	case s := <-read:
		i, err = s.i, s.err
	case <-n.dead: // who reads then may wait for ever for what its process holds: that ended in the middle of something
		return ""
	}
	if !l.Valid() || errors.Is(err, store.ErrClosed) {
		return ""
	}
	if err != nil || i < acked || i > issued {
		return fmt.Sprintf("node %v, token %d has state %d (%v); acknowledged are %d, issued %d", n.id, l.Token(), i, err, acked, issued)
	}
	var pos uint64
	for range 4 {
		i++
		f.mu.Lock()
		f.issued[g] = max(f.issued[g], i)
		f.mu.Unlock()
		if pos, err = l.Commit(faultWrites(i)); err != nil {
			return ""
		}
	}
	deadline := time.After(200 * time.Millisecond)
	for {
		n.owner.mu.Lock()
		applied, news := n.owner.applied[tenure{l.Shard(), l.Token()}] >= pos, n.owner.news
		over := n.owner.leases[ring.ShardID(g)] != l
		n.owner.mu.Unlock()
		if applied {
			f.w.mu.Lock()
			if !f.w.cut[n.id] { // then its disk was still that on which this rests
				f.mu.Lock()
				f.acked[g] = max(f.acked[g], i)
				f.mu.Unlock()
			}
			f.w.mu.Unlock()
		}
		if applied || over {
			return ""
		}
		select {
		case <-news:
		case <-n.dead:
			return ""
		case <-f.stop:
			return ""
		case <-deadline:
			if !l.Valid() {
				return ""
			}
			deadline = time.After(200 * time.Millisecond)
		}
	}
}

// deadNodes are those whose process has ended.
func (f *faultWorld) deadNodes() (dead []*faultNode) {
	for _, n := range f.nodes {
		if f.isDead(n) {
			dead = append(dead, n)
		}
	}
	return dead
}

// progress waits until every group has acknowledged something new, or there is no majority that could.
func (f *faultWorld) progress(what string) {
	f.t.Helper()
	f.mu.Lock()
	before := f.acked
	f.mu.Unlock()
	f.until(what, 30*time.Second, func() bool {
		if len(f.deadNodes()) > 1 { // an earlier error has made itself felt only now
			return true
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for g := range before {
			if f.acked[g] <= before[g] {
				return false
			}
		}
		return true
	})
}

func (f *faultWorld) until(what string, limit time.Duration, ok func() bool) bool {
	f.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if why := f.bad.Load(); why != nil {
			f.t.Fatal(*why)
		}
		if time.Since(began) > limit {
			if what != "" {
				f.t.Fatalf("waited in vain for %s", what)
			}
			return false
		}
	}
	return true
}

func (f *faultWorld) isDead(n *faultNode) bool {
	select {
	case <-n.dead:
		return true
	default:
		return false
	}
}

// restart opens dead nodes, first on a disk that fails once more, in the midst of finding out what it has.
func (f *faultWorld) restart(ended map[string]int, nodes ...*faultNode) {
	f.t.Helper()
	for _, n := range nodes {
		n.disk = &diskErrors{}
		f.check(n)
		if f.rng.IntN(2) == 0 {
			n.disk.arm("any", 1+f.rng.IntN(40), f.rng.IntN(2) == 0)
			err := f.open(n)
			if err != nil {
				ended["at open"]++
				if !strings.Contains(err.Error(), errInjected.Error()) {
					f.t.Fatalf("node %v: the error of opening hides its cause: %v", n.id, err)
				}
				f.die(n, n.dead, err.Error())
				<-n.dead // it may be dying already, on another goroutine
				n.disk = &diskErrors{}
				f.check(n)
			} else if n.disk.count() > 0 {
				ended["not, at open"]++ // for example a file that could not be removed
			}
		}
		if f.w.get(n.id, n.id) == nil {
			<-n.dead
			if err := f.open(n); err != nil {
				f.t.Fatalf("node %v does not start: %v", n.id, err)
			}
		}
		n.disk.arm("", 0, false)
	}
}

// TestDisksFailUnderDrivers makes one disk after the other fail at some write, sync, creation or renaming, under real drivers, logs and engines that write.
// Either the node goes on, or its process ends and says why. Then what it has told others is on its disk (votes, terms, entries), its state is that after one of
// the batches, with the records and rows beside it, and over all nodes acknowledged ⊆ recovered ⊆ issued, in order; also if all lose power just then.
func TestDisksFailUnderDrivers(t *testing.T) {
	f := &faultWorld{t: t, w: &wire{nodes: map[ring.NodeID]*Driver{}, cut: map[ring.NodeID]bool{}}, rng: rand.New(rand.NewPCG(*faultSeed, 0)), stop: make(chan struct{})}
	for g := range testGroups {
		f.acked[g], f.issued[g] = 1, 1
	}
	for i := range 3 {
		n := &faultNode{id: ring.NodeID(i + 1), fs: vfs.NewCrashableMem(), disk: &diskErrors{}, rng: rand.New(rand.NewPCG(*faultSeed, uint64(1+i))), said: map[ring.GroupID]said{}}
		f.nodes = append(f.nodes, n)
		noErr(t, f.open(n))
	}
	for g := range testGroups {
		f.wg.Go(func() { f.write(g) })
	}
	paused := false
	defer func() {
		close(f.stop)
		if paused { // the test has failed
			f.pause.Unlock()
		}
		f.wg.Wait()
		f.w.wg.Wait()
	}()
	f.progress("the first batches")
	ended := map[string]int{}
	kinds := slices.Sorted(maps.Keys(diskKinds))
	for round := range *faultRounds {
		n := f.nodes[f.rng.IntN(3)]
		kind, all := kinds[f.rng.IntN(len(kinds))], round%3 == 2
		n.disk.arm(kind, 1+f.rng.IntN(25), f.rng.IntN(2) == 0)
		f.until("", time.Second, func() bool { return f.isDead(n) || n.disk.count() > 0 }) // some changes are rare
		f.until("", 50*time.Millisecond, func() bool { return f.isDead(n) })
		n.disk.arm("", 0, false)
		if f.isDead(n) {
			ended[kind]++
			if !strings.Contains(n.why, errInjected.Error()) {
				t.Fatalf("round %d: the process ended with %q", round, n.why)
			}
		} else {
			ended["not, at "+kind]++
		}
		if !all && f.isDead(n) {
			f.progress("batches while a node is dead")
		}
		f.pause.Lock()
		paused = true
		for _, n := range f.nodes {
			if all && !f.isDead(n) {
				f.shut(n, "all lost power")
			}
		}
		f.restart(ended, f.deadNodes()...)
		paused = false
		f.pause.Unlock()
		f.progress(fmt.Sprintf("batches after round %d", round))
	}
	f.pause.Lock()
	paused = true
	t.Logf("seed %d: ended %v; acknowledged %v of %v", *faultSeed, ended, f.acked, f.issued)
	for _, n := range f.nodes {
		f.shut(n, "the end")
		f.check(n)
	}
}
