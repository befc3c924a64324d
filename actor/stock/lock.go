package stock

import (
	"context"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// Lock is the class "Lock": a lease on a name, for one holder at a time, with fencing tokens.
//
//	Acquire(LockRequest) LockGrant   gives the lock if it is free, has expired, or is held by the same holder, which renews it
//	Release(LockRequest) bool        gives it back; false if the holder did not hold it, or no longer
//	Check(token uint64) bool         whether the token is that of the present holder, whose time is not over
//	Get() LockGrant                  the present grant; a zero one if nobody holds the lock
//
// Each grant to another holder than the last, and each after an expiry, has a higher token than all before it, for ever. That is what a lock
// in a distributed system is good for: the holder sends its token with what it does, and who is written to refuses a token lower than one it
// has seen (https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html). The lock alone cannot stop a holder that was paused
// beyond its time.
//
// Time is the owner's clock when the call runs. A clock that jumps forward ends grants early, one that jumps back, also on a move to a node
// whose clock is behind, makes them last longer; tokens do not depend on it.
func Lock() actor.Class { return actor.Define("Lock", newLock) }

// LockRequest says who asks.
type LockRequest struct {
	Holder string `json:"holder"`           // 1 to 256 bytes, the caller's choice
	Millis int64  `json:"millis,omitempty"` // of Acquire: how long the grant lasts; 1 to 86,400,000 (a day); 0 stands for 30,000
	Token  uint64 `json:"token,omitempty"`  // of Release: if not 0, only this grant is given back
}

// LockGrant is who holds a lock.
type LockGrant struct {
	Granted bool   `json:"granted"` // of Acquire: the caller holds the lock
	Holder  string `json:"holder"`  // who does
	Token   uint64 `json:"token"`
	Expires int64  `json:"expires"` // milliseconds since 1970, by the owner's clock
}

const (
	lockDefault   = 30_000
	lockMost      = 86_400_000
	lockMaxHolder = 256
)

type lock struct{ s *actor.Storage }

func newLock(_ context.Context, s *actor.State) (*lock, error) { return &lock{s.Storage()}, nil }

// load returns the last grant, and whether it still holds.
func (l *lock) load(ctx context.Context) (g LockGrant, held bool, err error) {
	g, _, err = actor.Get[LockGrant](ctx, l.s, "grant")
	return g, g.Holder != "" && time.Now().UnixMilli() < g.Expires, err
}

func (r *LockRequest) check() error {
	if r.Holder == "" || len(r.Holder) > lockMaxHolder {
		return actor.Fail("bad-holder", "the holder has %d bytes: want 1 to %d", len(r.Holder), lockMaxHolder)
	}
	if r.Millis < 0 || r.Millis > lockMost {
		return actor.Fail("bad-time", "millis is %d: want 1 to %d, or 0 for %d", r.Millis, lockMost, lockDefault)
	}
	return nil
}

// Acquire gives the lock to the holder if it is free or its last grant is over, with a token higher than all before; to who holds it already it
// gives the same token again, for longer. Otherwise Granted is false, and the rest says who holds it.
func (l *lock) Acquire(ctx context.Context, r LockRequest) (LockGrant, error) {
	if err := r.check(); err != nil {
		return LockGrant{}, err
	}
	g, held, err := l.load(ctx)
	if err != nil {
		return LockGrant{}, err
	}
	if held && g.Holder != r.Holder {
		g.Granted = false
		return g, nil
	}
	if !held {
		g.Token++
	}
	if r.Millis == 0 {
		r.Millis = lockDefault
	}
	g.Granted, g.Holder, g.Expires = true, r.Holder, time.Now().UnixMilli()+r.Millis
	return g, l.s.Put(ctx, "grant", g)
}

// Release gives the lock back, and reports whether the holder held it, under the request's token if that is not 0.
func (l *lock) Release(ctx context.Context, r LockRequest) (bool, error) {
	if err := r.check(); err != nil {
		return false, err
	}
	g, held, err := l.load(ctx)
	if err != nil || !held || g.Holder != r.Holder || r.Token != 0 && r.Token != g.Token {
		return false, err
	}
	return true, l.s.Put(ctx, "grant", LockGrant{Token: g.Token})
}

// Check reports whether token is that of the present grant.
func (l *lock) Check(ctx context.Context, token uint64) (bool, error) {
	g, held, err := l.load(ctx)
	return held && g.Token == token, err
}

// Get returns the present grant, a zero one if nobody holds the lock. Granted is false.
func (l *lock) Get(ctx context.Context) (LockGrant, error) {
	g, held, err := l.load(ctx)
	if !held {
		return LockGrant{}, err
	}
	g.Granted = false
	return g, err
}
