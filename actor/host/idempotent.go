package host

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// attempt is an event with an idempotency key whose method runs.
type attempt struct {
	key   string
	arg   []byte        // hash of the argument
	noted bool          // a batch was submitted that says that it has begun; under the run's lock
	ended chan struct{} // closed when it has ended, and what it left is to be seen
}

// recall answers r with what an earlier event with its idempotency key came to. ok is false if there is none: then r is the attempt with that
// key, and its method is to run. Whatever it answers, the constructor may have written: so the event has returned and was not skipped.
func (r *run) recall() (e ending, ok bool) {
	b, key := r.b, r.call.Idempotent
	for {
		other := b.ledger().attempt(key)
		if other == nil {
			break
		}
		if err := r.awaitAttempt(other); err != nil {
			return r.fail(returned, err), true
		}
	}
	rec, found, err := b.remembered(r, key)
	if err != nil {
		return r.fail(returned, notRun(err)), true
	}
	if found {
		return r.replay(&rec), true
	}
	r.mu.Lock()
	r.attempt = &attempt{key: key, arg: hashArg(r.call), ended: make(chan struct{})}
	r.mu.Unlock()
	b.ledger().begin(r.attempt)
	return 0, false
}

// awaitAttempt waits outside until the other event with r's key has ended. r has written nothing: an activation on which there is another is not
// new, so its constructor was another event's.
func (r *run) awaitAttempt(other *attempt) *actor.Error {
	if r.Inner {
		return r.call.cycle()
	}
	r.b.leave(r)
	select {
	case <-other.ended:
	case <-r.Done():
	}
	if err := r.b.comeBack(r); err != nil {
		return notRun(err)
	}
	if r.expired() {
		return r.late()
	}
	return nil
}

// notRun is an error of the host's as that of an event whose method was not entered.
func notRun(err error) *actor.Error {
	e := *actor.Returned(err)
	if own, ok := err.(*actor.Error); ok {
		e = *own
	}
	e.Outcome, e.Remote = actor.DidNotRun, false
	return &e
}

func hashArg(c *Call) []byte {
	h := sha256.New()
	h.Write([]byte{c.Encoding})
	h.Write(c.Arg)
	return h.Sum(nil)
}

// remembered reads the record of a key.
func (b *instance) remembered(r *run, key string) (rec record, ok bool, err error) {
	if _, err := b.enter(r); err != nil {
		return rec, false, err
	}
	if err := b.loadLedger(); err != nil {
		return rec, false, err
	}
	value, ok, err := b.read(r, b.recordKey(key))
	if err != nil || !ok {
		return rec, false, err
	}
	if err := rec.decode(value); err != nil {
		return rec, false, b.failed("reading a stored reply", err)
	}
	return rec, true, nil
}

func (b *instance) recordKey(key string) []byte {
	return append(store.MetaKey(b.id().Class, b.id().Key, store.MetaReply), key...)
}

// loadLedger reads which keys the object remembers, once per activation.
func (b *instance) loadLedger() error {
	if b.ledger().isLoaded() {
		return nil
	}
	start := b.recordKey("")
	end := store.PrefixEnd(start)
	b.s.mu.Lock()
	mem, all := b.s.t.Unapplied(b.a, start, end)
	b.s.mu.Unlock()
	m := merger{mem: mem, prefix: len(start), maxBytes: math.MaxInt, less: -1}
	if !all {
		if err := b.s.lease.Scan(start, end, false, m.next); err != nil {
			return b.failed("reading the stored replies", err)
		}
	}
	m.rest()
	keys := make([]keptKey, len(m.out))
	for i := range m.out {
		var rec record
		value := actor.SharedBytes(m.out[i].Value)
		if err := rec.decode(value); err != nil {
			return b.failed("reading a stored reply", err)
		}
		keys[i] = keptKey{key: m.out[i].Key, seq: rec.Seq, at: rec.At, bytes: len(m.out[i].Key) + len(value)}
	}
	b.ledger().load(keys)
	return nil
}

// replay answers r with the record of its key.
func (r *run) replay(rec *record) ending {
	key := r.call.Idempotent
	switch {
	case rec.Method != r.call.Method || !bytes.Equal(rec.Arg, hashArg(r.call)):
		return r.fail(returned, refused(actor.CodeBadArgument, r.Object, "the idempotency key %.40q belongs to an earlier call of %s with other bytes as its argument, or of another method: "+
			"use a key for one call only, and repeat that with the same argument in the same encoding", key, rec.Method))
	case rec.State == recordBegun:
		return r.fail(returned, &actor.Error{Code: actor.CodeInterrupted, Outcome: actor.MayHaveRun,
			Message: fmt.Sprintf("an earlier call with the idempotency key %.40q was cut off after part of its effects; it is not run again: look at the object", key)})
	case rec.State == recordNotStored:
		return r.fail(returned, &actor.Error{Code: actor.CodeNotStored, Outcome: actor.Ran,
			Message: fmt.Sprintf("an earlier call with the idempotency key %.40q ran, but its reply of more than %d bytes was not stored", key, actor.IdempotentReplyBytes)})
	case rec.Code != 0:
		return r.fail(returned, rec.error())
	}
	r.res = Result{Encoding: rec.Encoding, Value: rec.Value}
	return returned
}

// begun adds to what r has written that its method has begun, if that is not noted yet. Called with r's lock, before what it has written is submitted.
func (r *run) begun() {
	a := r.attempt
	if a == nil || a.noted || r.pending.find(r.b.recordKey(a.key)) >= 0 {
		return
	}
	for _, w := range r.b.keep(r.record(recordBegun), a.key) {
		r.pending.add(w)
	}
}

// answered adds to ws, the event's last batch, what its method came to. An error of the system's is not worth keeping if nothing came of the
// event: then a later call may do better. Called with r's lock.
func (r *run) remember(ws []store.Write) []store.Write {
	a, err := r.attempt, r.res.Err
	if a == nil || err != nil && err.Code != actor.CodeApp && len(ws) == 0 && !a.noted {
		return ws
	}
	rec := r.record(recordAnswered)
	rec.Encoding, rec.Value = r.res.Encoding, r.res.Value
	if err != nil {
		rec.setError(err)
	}
	if len(rec.Value)+len(rec.App)+len(rec.Message) > actor.IdempotentReplyBytes {
		rec = r.record(recordNotStored)
	}
	for _, w := range r.b.keep(rec, a.key) {
		if i := findWrite(ws, w.Key); i >= 0 {
			ws[i] = w
		} else {
			ws = append(ws, w)
		}
	}
	return ws
}

func findWrite(ws []store.Write, key []byte) int {
	for i := range ws {
		if !ws[i].IsRange() && bytes.Equal(ws[i].Key, key) {
			return i
		}
	}
	return -1
}

func (r *run) record(state uint8) *record {
	return &record{State: state, At: time.Now().UnixMilli(), Method: r.call.Method, Arg: r.attempt.arg}
}

// keep is what stores rec under key, and forgets what there is no room for any more. The batch has room for it: see run.room.
func (b *instance) keep(rec *record, key string) []store.Write {
	value, forgotten := b.ledger().keep(rec, key)
	ws := make([]store.Write, 0, 1+len(forgotten))
	for _, old := range forgotten {
		ws = append(ws, store.Write{Key: b.recordKey(old), Delete: true})
	}
	return append(ws, store.Write{Key: b.recordKey(key), Value: value})
}

// room is how many keys and bytes the class's code may write in one batch of r.
func (r *run) room() (keys, size int) {
	if r.call.Idempotent != "" {
		return actor.IdempotentBatchKeys, actor.IdempotentBatchBytes
	}
	return actor.MaxBatchKeys, actor.MaxBatchBytes
}

// attemptEnded lets those go on that wait for the end of r's attempt: what it has submitted is to be seen.
func (r *run) attemptEnded() {
	if r.attempt != nil {
		r.b.ledger().end(r.attempt)
	}
}
