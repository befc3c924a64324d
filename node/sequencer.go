package node

import (
	"context"
	"log/slog"
	"sync"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// sequencer runs on the system shard's leader and hands out rings, each epoch once: what it commits goes through the system shard's
// fence like any object's writes, so a superseded sequencer commits nothing. In this version there is one ring: the first.
type sequencer struct {
	log     *slog.Logger
	first   *ring.Ring // what epoch 1 is if there is none yet; the same on every founder
	publish func(*ring.Ring)

	mu     sync.Mutex
	lease  store.Lease
	commit uint64     // position of the ring being committed; 0 if none
	next   *ring.Ring // that ring
	wake   chan struct{}
}

func newSequencer(log *slog.Logger, first *ring.Ring, publish func(*ring.Ring)) *sequencer {
	return &sequencer{log: log, first: first, publish: publish, wake: make(chan struct{}, 1)}
}

// ringKey is where the system shard keeps the newest ring.
var ringKey = store.SystemKey("ring")

// Opened implements store.Owner.
func (q *sequencer) Opened(l store.Lease) { q.change(func() { q.lease, q.commit, q.next = l, 0, nil }) }

// Lost implements store.Owner.
func (q *sequencer) Lost(ring.ShardID, store.Token, *store.MovedError) {
	q.change(func() { q.lease, q.commit, q.next = nil, 0, nil })
}

// Confirmed implements store.Owner.
func (q *sequencer) Confirmed(ring.ShardID, store.Token, uint64) {}

// Applied implements store.Owner.
func (q *sequencer) Applied(_ ring.ShardID, _ store.Token, pos uint64) {
	q.change(func() {
		if q.commit != 0 && pos >= q.commit {
			q.commit, q.next = 0, nil // it is in the Reader now
		}
	})
}

func (q *sequencer) change(f func()) {
	q.mu.Lock()
	f()
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *sequencer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		if r := q.step(); r != nil {
			q.publish(r)
		}
	}
}

// step commits what is missing and returns the ring that is committed, nil if there is none yet.
func (q *sequencer) step() *ring.Ring {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lease == nil || q.next != nil {
		return nil
	}
	b, ok, err := q.lease.Get(ringKey)
	if err == nil && ok {
		var r *ring.Ring
		if r, err = ring.Decode(b); err == nil {
			return r
		}
	}
	if err != nil {
		q.log.Error("the system shard's ring cannot be read", "cause", err)
		return nil
	}
	pos, err := q.lease.Commit([]store.Write{{Key: ringKey, Value: q.first.Encode()}})
	if err != nil {
		return nil // the token has ended: who holds the next one does it
	}
	q.commit, q.next = pos, q.first
	return nil
}
