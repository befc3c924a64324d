package replica

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// lease is one token of one shard, as its owner holds it on this node. The driver's goroutine keeps until; the owner's goroutines
// read it. A lease never comes back to life: a new token is a new lease.
type lease struct {
	stored *store.StateReader
	view   view // over stored
	d      *Driver
	group  *member
	shard  ring.ShardID
	token  store.Token
	epoch  ring.Epoch

	until atomic.Int64 // driver's time, ns: see Group.LeaseUntil
	over  chan struct{}
	why   atomic.Pointer[store.MovedError] // set before over is closed

	mu      sync.Mutex // keeps batches in the order of their numbers on the way to the driver
	pos     uint64
	waiting atomic.Int64 // bytes on the way to the Group
}

func (l *lease) Shard() ring.ShardID { return l.shard }
func (l *lease) Token() store.Token  { return l.token }
func (l *lease) Epoch() ring.Epoch   { return l.epoch }

func (l *lease) Get(key []byte) ([]byte, bool, error) { return l.view.get(l.stored, key) }

func (l *lease) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	return l.view.scan(l.stored, start, end, reverse, fn)
}

func (l *lease) Proves() bool { return l.d.cfg.Clock }

func (l *lease) Valid() bool {
	return l.why.Load() == nil && int64(l.d.now()) < l.until.Load()
}

func (l *lease) Check(ctx context.Context) error {
	if l.Valid() {
		return nil
	}
	for {
		if why := l.why.Load(); why != nil {
			return why
		}
		// No majority was heard for a while: either one answers again, or Raft steps down within about an election timeout.
		t := time.NewTimer(l.d.cfg.Timing.Tick)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-l.over:
			t.Stop()
		case <-t.C:
			if l.Valid() {
				return nil
			}
		}
	}
}

func (l *lease) Commit(writes []store.Write) (uint64, error) {
	size := int64(0)
	for i := range writes {
		size += int64(store.WriteSize(&writes[i]))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why.Load() != nil {
		return 0, store.ErrTokenEnded
	}
	if w := l.waiting.Load() + l.group.queued.Load(); w > 0 && w+size > int64(l.d.cfg.Limits.Queue) {
		return 0, store.ErrBusy
	}
	l.waiting.Add(size)
	l.pos++
	l.d.inbox.commit(submission{l: l, writes: writes, bytes: size})
	return l.pos, nil
}

func (l *lease) Confirm(n uint64) { l.d.inbox.confirm(submission{l: l, round: n}) }

// end is called on the driver's goroutine, once.
func (l *lease) end(why *store.MovedError) {
	l.why.Store(why)
	l.until.Store(math.MinInt64)
	close(l.over)
}
