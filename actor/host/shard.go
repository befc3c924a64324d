package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// shard is the loop around one Tenure: one lease, one lock.
//
// The pattern of every method: lock, let the Tenure decide, do under the lock what must keep its order (confirming rounds), unlock, do the
// rest. Batches go to the lease just before the Tenure is told, under the same lock, since the lease may refuse one.
type shard struct {
	h     *Host
	lease store.Lease

	over atomic.Bool // the Tenure is lost: for a look without the lock

	mu       sync.Mutex
	t        *Tenure
	why      *store.MovedError  // set when the Tenure is lost, if known
	space    chan struct{}      // closed at the next Applied or Lost; nil unless somebody waits for it
	index    queue[alarmChange] // what batches that are not applied do to the index of alarms
	ringing  map[actor.ID]*run  // deliveries of alarms that have begun
	draining bool
	quiet    chan struct{} // closed once a draining shard is quiet
	isQuiet  bool
}

// acts is room for the actions of one step, so that most steps allocate nothing.
type acts [6]Action

// deliver puts an event into its mailbox and returns what is to be run now, if there is something.
func (s *shard) deliver(r *run) (*Activation, *run) {
	var buf acts
	s.mu.Lock()
	out := s.t.Deliver(buf[:0], &r.Event, &r.class.policy)
	s.settle(out)
	return s.perform(out)
}

func (s *shard) applied(pos uint64) {
	var buf acts
	s.mu.Lock()
	out := s.t.Applied(buf[:0], pos)
	s.indexApplied(pos)
	s.wakeSpace()
	s.settle(out)
	s.do(out)
}

func (s *shard) confirmed(n uint64) {
	var buf acts
	s.mu.Lock()
	out := s.t.Confirmed(buf[:0], n)
	s.settle(out)
	s.do(out)
}

func (s *shard) lose(why *store.MovedError) {
	var buf acts
	s.mu.Lock()
	out := s.lost(buf[:0], why)
	s.settle(out)
	s.do(out)
}

// lost is called with the lock held.
func (s *shard) lost(out []Action, why *store.MovedError) []Action {
	if s.why == nil {
		s.why = why
	}
	if !s.over.Swap(true) {
		s.closeAlarms()
	}
	s.wakeSpace()
	return s.t.Lost(out)
}

func (s *shard) tick() {
	var buf acts
	s.mu.Lock()
	out := s.t.Tick(buf[:0])
	s.settle(out)
	s.h.counts.evicted.Add(uint64(len(out)))
	s.do(out)
}

func (s *shard) evict() bool {
	var buf acts
	s.mu.Lock()
	out, ok := s.t.Evict(buf[:0])
	s.settle(out)
	if ok {
		s.h.counts.evicted.Add(1)
	}
	s.do(out)
	return ok
}

func (s *shard) evictObject(id actor.ID) bool {
	var buf acts
	s.mu.Lock()
	out, ok := s.t.EvictObject(buf[:0], id)
	s.settle(out)
	if ok {
		s.h.counts.evicted.Add(1)
	}
	s.do(out)
	return ok
}

func (s *shard) drain() {
	var buf acts
	s.mu.Lock()
	s.draining = true
	s.pauseAlarms(true)
	out := s.t.Drain(buf[:0])
	s.settle(out)
	s.do(out)
}

func (s *shard) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Resume()
	s.draining = false
	s.pauseAlarms(false)
	if s.isQuiet {
		s.quiet, s.isQuiet = make(chan struct{}), false
	}
}

func (s *shard) waitQuiet(ctx context.Context) error {
	s.mu.Lock()
	quiet := s.quiet
	s.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isQuiet {
		return nil
	}
	return fmt.Errorf("shard %d: %d events still run and %d replies wait for their writes: %w", s.lease.Shard(), s.t.Running(), s.t.Held(), context.Cause(ctx))
}

// cut ends the shard from this side: what runs can no longer write or answer.
func (s *shard) cut() {
	var runs []*run
	s.mu.Lock()
	s.t.EachRunning(func(ev *Event) { runs = append(runs, ev.Data.(*run)) })
	s.mu.Unlock()
	s.lose(&store.MovedError{Shard: s.lease.Shard(), HeldToken: s.lease.Token(), HeldEpoch: s.lease.Epoch(), Reason: "the node stopped"})
	for _, r := range runs {
		r.cancel()
	}
}

// settle does what must be done under the lock.
func (s *shard) settle(out []Action) {
	for i := range out {
		switch out[i].Kind {
		case ActConfirm:
			s.lease.Confirm(out[i].Round)
			s.h.counts.confirms.Add(1)
		case ActDrop:
			s.dropped(out[i].Activation)
		}
	}
	if s.draining && !s.isQuiet && s.t.Quiet() {
		s.isQuiet = true
		close(s.quiet)
	}
}

// do unlocks and does the rest.
func (s *shard) do(out []Action) {
	if a, r := s.perform(out); r != nil {
		s.h.spawn(a, r)
	}
}

// perform unlocks and does the actions, but for one start, which is returned so that the caller's goroutine can go on with it.
func (s *shard) perform(out []Action) (next *Activation, nextRun *run) {
	why := s.why
	s.mu.Unlock()
	for i := range out {
		a := &out[i]
		switch a.Kind {
		case ActStart:
			r := a.Event.Data.(*run)
			if nextRun == nil {
				next, nextRun = a.Activation, r
			} else {
				s.h.spawn(a.Activation, r)
			}
		case ActRespond:
			a.Event.Data.(*run).respond(a.Reply.(*Result))
		case ActRefuse:
			a.Event.Data.(*run).refuse(a.Why, a.Outcome, why)
		case ActWake:
			switch w := a.Waiter.(type) {
			case chan Why: // has room for one
				w <- a.Why
			case *outCall:
				w.opened(a.Why)
			}
		}
	}
	return next, nextRun
}

// work runs events of an activation until its mailbox is empty. It is the goroutine of an activation that is not quiet.
func (s *shard) work(a *Activation, r *run) {
	for r != nil {
		r.a = a
		a, r = s.end(r, r.exec())
	}
}

// end tells the Tenure how the code of r ended, and returns what its goroutine goes on with.
func (s *shard) end(r *run, e ending) (*Activation, *run) {
	var buf acts
	writes := r.seal(e)
	for {
		s.mu.Lock()
		out, err := buf[:0], error(nil)
		if b := r.b; b != nil && e != skipped {
			if err := b.broken.Load(); err != nil {
				if e != unborn {
					e = resetting
				}
				r.fail(e, err.of(actor.Ran))
			}
		}
		ws := writes
		if e == returned && s.t.Broken(&r.Event) == 0 {
			if r.alarm != nil {
				ws = s.withAlarm(r, writes)
			}
			if len(ws) > 0 {
				out, err = s.commit(out, ws)
			}
			if r.alarm != nil && err == nil && !s.t.IsLost() {
				s.alarmEnded(r)
			}
		}
		if err == nil {
			out = s.ended(out, r, e, ws)
			r.attemptEnded()
			s.settle(out)
			return s.perform(out)
		}
		space := s.awaitSpace()
		s.mu.Unlock()
		r.waits()
		if err := s.waitSpace(nil, r.remaining(), space); err != nil {
			e = r.fail(resetting, err)
		}
	}
}

func (s *shard) ended(out []Action, r *run, e ending, writes []store.Write) []Action {
	end := End{Writes: writes, Unconfirmed: r.unconfirmed, Reply: &r.res, Bytes: len(r.res.Value) + callOverhead, Touched: r.touched.Load(), Denied: r.denied.Load(), Proved: r.proved}
	switch e {
	case returned:
		return s.t.Ended(out, &r.Event, end)
	case skipped:
		return s.t.Skip(out, &r.Event, &r.res)
	case unborn:
		out = s.alarmReset(out, r.a, r.res.Err)
		s.h.counts.resets.Add(1)
		shared := r.res // by all that waited for the constructor; each makes a copy of it
		end.Reply = &shared
		return s.t.Failed(out, &r.Event, end)
	default:
		s.h.counts.resets.Add(1)
		others := &Result{Err: fatal{err: r.res.Err}.of(actor.MayHaveRun)}
		var queued any
		if r.b != nil {
			r.b.broken.CompareAndSwap(nil, &fatal{err: others.Err})
			if f := r.b.broken.Load(); f.all {
				queued = &Result{Err: f.of(actor.DidNotRun)}
			}
		}
		s.cancelOthers(r)
		out = s.alarmReset(out, r.a, r.res.Err)
		return s.t.Reset(out, &r.Event, end, others, queued)
	}
}

// cancelOthers ends the contexts of the other events in progress on the activation of r, which is about to be reset. Called with the lock held.
func (s *shard) cancelOthers(r *run) {
	var others []*run
	for p := r.a.progress.first; p != nil; p = p.next {
		if o := p.value.Data.(*run); o != r {
			others = append(others, o)
		}
	}
	if len(others) > 0 {
		go func() { // their locks come before the shard's
			for _, o := range others {
				o.cancel()
			}
		}()
	}
}

// commit hands writes to the lease, just before the Tenure numbers them. Called with the lock held, on a Tenure that is not lost. The error is
// ErrBusy; when the token has ended the Tenure is lost on return.
func (s *shard) commit(out []Action, writes []store.Write) ([]Action, error) {
	pos, err := s.lease.Commit(writes)
	switch {
	case err == nil && pos == s.t.Submitted()+1:
		s.noteAlarms(writes, pos)
		s.h.counts.batches.Add(1)
		return out, nil
	case errors.Is(err, store.ErrBusy):
		return out, err
	case err == nil:
		s.h.log.Error("the lease numbered a batch out of order; its shard is given up under this token", "shard", s.lease.Shard(), "token", s.lease.Token(),
			"number", pos, "want", s.t.Submitted()+1)
	case !errors.Is(err, store.ErrTokenEnded):
		s.h.log.Error("the lease refused a batch; its shard is given up under this token", "shard", s.lease.Shard(), "token", s.lease.Token(), "cause", err)
	}
	return s.lost(out, nil), nil
}

func (s *shard) awaitSpace() chan struct{} {
	if s.space == nil {
		s.space = make(chan struct{})
	}
	return s.space
}

func (s *shard) wakeSpace() {
	if s.space != nil {
		close(s.space)
		s.space = nil
	}
}

// waitSpace waits until a batch that the lease was too busy for may be tried again, at most for limit and until done.
func (s *shard) waitSpace(done <-chan struct{}, limit time.Duration, space chan struct{}) *actor.Error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-space:
		return nil
	case <-done:
	case <-t.C:
	}
	return &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.Ran, Overloaded: true, Reset: true, Message: textTimeout}
}

func (s *shard) dropped(a *Activation) {
	if a.counted {
		a.counted = false
		s.h.live.Add(-1)
	}
}
