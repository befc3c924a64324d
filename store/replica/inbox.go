package replica

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// submission is what an owner asks of its shard's Group: a batch, or a confirming round.
type submission struct {
	l      *lease
	writes []store.Write
	bytes  int64
	round  uint64 // not 0: a round
}

// received is a frame's messages with the node that sent them.
type received struct {
	from  ring.NodeID
	msgs  []GroupMessage
	bytes int
}

// messages are slices of GroupMessage between two frames.
var messages sync.Pool

// keepMessages is how many messages a slice holds that is kept.
const keepMessages = 4096

func takeMessages() []GroupMessage {
	if p, ok := messages.Get().(*[]GroupMessage); ok {
		return *p
	}
	return nil
}

func giveMessages(ms []GroupMessage) {
	if cap(ms) > 0 && cap(ms) <= keepMessages {
		clear(ms)
		ms = ms[:0]
		messages.Put(&ms)
	}
}

// inbox gathers what the driver's goroutine is to do. Adding never blocks; a wake-up is left behind for the driver.
// Batches are bounded by their leases' limits, messages by maxReceived: those above it are dropped, as a network may.
type inbox struct {
	wake chan struct{}

	mu    sync.Mutex
	work  work
	bytes int // of received messages
}

// work is one round's worth, taken all at once.
type work struct {
	submissions []submission
	received    []received
	appended    []appendJob
	calls       []func()
}

// maxReceived bounds the bytes of messages that wait for the driver.
const maxReceived = 64 << 20

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) commit(s submission) {
	b.mu.Lock()
	b.work.submissions = append(b.work.submissions, s)
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) confirm(s submission) { b.commit(s) }

// receive reports false if there is no room.
func (b *inbox) receive(r received) bool {
	b.mu.Lock()
	ok := b.bytes+r.bytes <= maxReceived
	if ok {
		b.bytes += r.bytes
		b.work.received = append(b.work.received, r)
	}
	b.mu.Unlock()
	b.signal()
	return ok
}

func (b *inbox) appended(jobs []appendJob) {
	b.mu.Lock()
	b.work.appended = append(b.work.appended, jobs...)
	b.mu.Unlock()
	b.signal()
}

// call runs f on the driver's goroutine.
func (b *inbox) call(f func()) {
	b.mu.Lock()
	b.work.calls = append(b.work.calls, f)
	b.mu.Unlock()
	b.signal()
}

// take swaps the gathered work with an empty one; the caller gives its memory back by the next take.
func (b *inbox) take(spare work) work {
	clear(spare.submissions)
	clear(spare.received)
	clear(spare.appended)
	clear(spare.calls)
	spare = work{spare.submissions[:0], spare.received[:0], spare.appended[:0], spare.calls[:0]}
	b.mu.Lock()
	w := b.work
	b.work, b.bytes = spare, 0
	b.mu.Unlock()
	return w
}

// appendJob is one Append task on its way through the append worker.
type appendJob struct {
	m         *member
	msg       *raftpb.Message
	compactTo uint64         // instead of msg: truncate the log up to here
	install   *store.Install // with msg: the data of the snapshot in it
	flushed   func()         // instead of msg: called on the driver's goroutine when all jobs before are written
}
