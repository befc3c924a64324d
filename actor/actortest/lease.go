package actortest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// shard is the shard in which all objects of a test live: its state in memory, and one lease at a time, which a new one replaces when the
// test moves the objects.
type shard struct {
	h    *host.Host
	work chan func() // what the driver of a node would do, in order
	done chan struct{}

	mu     sync.Mutex
	data   map[string][]byte
	lease  *lease
	token  store.Token
	held   bool // batches wait for release
	over   bool // the test has ended
	faults faults
}

// faults are what the next accesses come to.
type faults struct {
	moveAt     int  // accesses to storage until the object has moved; 0: it does not
	failCommit bool // the next batch is lost, and its token with it
}

func newShard() *shard {
	s := &shard{data: map[string][]byte{}, work: make(chan func(), 1<<16), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for do := range s.work {
			do()
		}
	}()
	return s
}

func (s *shard) close() {
	s.mu.Lock()
	l := s.lease
	l.end("the test is over")
	s.mu.Unlock()
	s.h.Lost(l.Shard(), l.token, l.why)
	close(s.work)
	<-s.done
}

// open gives the shard to the host under a new token.
func (s *shard) open() {
	s.mu.Lock()
	s.token += 10
	l := &lease{s: s, token: s.token}
	s.lease = l
	s.mu.Unlock()
	s.h.Opened(l)
}

// lose ends the lease and opens the next, on the goroutine that does the work. It is called with the lock held.
func (s *shard) lose(l *lease, why string) {
	if l.why != nil {
		return
	}
	l.end(why)
	s.work <- func() {
		s.h.Lost(l.Shard(), l.token, l.why)
		if s.mu.Lock(); s.over {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.open()
	}
}

// move is a planned move of all objects.
func (s *shard) move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose(s.lease, "the test moved it")
}

// release applies what was held back.
func (s *shard) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	s.apply(s.lease)
}

// apply has all batches of l applied that are not. It is called with the lock held.
func (s *shard) apply(l *lease) {
	if s.held || l.why != nil || l.applied == len(l.batches) {
		return
	}
	for ; l.applied < len(l.batches); l.applied++ {
		for _, w := range l.batches[l.applied] {
			switch {
			case w.IsRange():
				maps.DeleteFunc(s.data, func(k string, _ []byte) bool { return w.Removes([]byte(k)) })
			case w.Delete:
				delete(s.data, string(w.Key))
			default:
				s.data[string(w.Key)] = bytes.Clone(w.Value)
			}
		}
		l.batches[l.applied] = nil
	}
	pos := uint64(l.applied)
	s.work <- func() { s.h.Applied(l.Shard(), l.token, pos) }
}

// lease is a store.Lease over the shard.
type lease struct {
	s     *shard
	token store.Token

	// under the shard's lock
	why     *store.MovedError
	batches [][]store.Write
	applied int
}

var _ store.Lease = (*lease)(nil)

// end is called with the lock held.
func (l *lease) end(why string) {
	if l.why == nil {
		l.why = &store.MovedError{HeldToken: l.token, HeldEpoch: 1, CurrentToken: l.token + 10, CurrentEpoch: 1, Reason: why}
	}
}

func (l *lease) Shard() ring.ShardID { return 0 }
func (l *lease) Token() store.Token  { return l.token }
func (l *lease) Epoch() ring.Epoch   { return 1 }
func (l *lease) Proves() bool        { return true }

func (l *lease) Valid() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.why == nil
}

// Check is asked once before each access to storage.
func (l *lease) Check(context.Context) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if f := &l.s.faults; l.why == nil && f.moveAt > 0 {
		if f.moveAt--; f.moveAt == 0 {
			l.s.lose(l, "the test moved it")
		}
	}
	if l.why != nil {
		return l.why
	}
	return nil
}

func (l *lease) Commit(writes []store.Write) (uint64, error) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.failCommit && l.why == nil {
		s.faults.failCommit = false
		s.lose(l, "the test lost the batch")
	}
	if l.why != nil {
		return 0, store.ErrTokenEnded
	}
	l.batches = append(l.batches, writes)
	pos := uint64(len(l.batches))
	s.work <- func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.apply(l)
	}
	return pos, nil
}

func (l *lease) Confirm(n uint64) {
	l.s.work <- func() { l.s.h.Confirmed(l.Shard(), l.token, n) }
}

func (l *lease) Get(key []byte) ([]byte, bool, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	v, ok := l.s.data[string(key)]
	return bytes.Clone(v), ok, nil
}

func (l *lease) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	l.s.mu.Lock()
	data := maps.Clone(l.s.data)
	l.s.mu.Unlock()
	keys := slices.Sorted(maps.Keys(data))
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if k < string(start) || end != nil && k >= string(end) {
			continue
		}
		if !fn([]byte(k), data[k]) {
			break
		}
	}
	return nil
}
