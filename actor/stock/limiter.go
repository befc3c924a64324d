package stock

import (
	"context"
	"math"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// RateLimiter is the class "RateLimiter": a token bucket.
//
//	Take(TakeRequest) TakeReply   takes n tokens if so many are there, else none
//
// The bucket is full at first, and fills at the request's rate up to its burst: what a limiter allows is told with each call, so that a
// limit can be changed by changing the callers. Callers that give different limits share one bucket.
//
// The bucket lives in memory only: a call costs no write and no disk. When the object moves, is evicted or its node dies, the next call finds a
// full bucket, so that over any time at most one burst more than the limit is allowed for each such change. Time is the
// owner's monotonic clock.
func RateLimiter() actor.Class { return actor.Define("RateLimiter", newRateLimiter) }

// TakeRequest asks a RateLimiter for tokens.
type TakeRequest struct {
	N         int64   `json:"n,omitempty"` // tokens wanted; 0 stands for 1
	PerSecond float64 `json:"per_second"`  // at which the bucket fills; more than 0
	Burst     int64   `json:"burst"`       // that it holds; at least N
}

// TakeReply is what came of it.
type TakeReply struct {
	Allowed    bool  `json:"allowed"`
	Left       int64 `json:"left"`                  // tokens in the bucket after the call
	RetryAfter int64 `json:"retry_after,omitempty"` // milliseconds until so many will be there, if nobody else takes any; of a refusal
}

type rateLimiter struct {
	tokens float64
	at     time.Time // of tokens; zero: full
}

func newRateLimiter(context.Context, *actor.State) (*rateLimiter, error) { return &rateLimiter{}, nil }

// Take takes the tokens if so many are there, else none.
func (r *rateLimiter) Take(_ context.Context, q TakeRequest) (TakeReply, error) {
	if q.N == 0 {
		q.N = 1
	}
	switch {
	case q.N < 0:
		return TakeReply{}, actor.Fail("bad-n", "n is %d: want a positive number, or 0 for 1", q.N)
	case !(q.PerSecond > 0) || math.IsInf(q.PerSecond, 0):
		return TakeReply{}, actor.Fail("bad-rate", "per_second is %v: want a positive number", q.PerSecond)
	case q.Burst < q.N:
		return TakeReply{}, actor.Fail("bad-burst", "burst is %d: want at least n, which is %d", q.Burst, q.N)
	}
	now := time.Now()
	if r.at.IsZero() {
		r.tokens = float64(q.Burst)
	} else {
		r.tokens += now.Sub(r.at).Seconds() * q.PerSecond
	}
	r.tokens, r.at = min(r.tokens, float64(q.Burst)), now
	if missing := float64(q.N) - r.tokens; missing > 1e-9 {
		wait := math.Ceil(missing / q.PerSecond * 1000)
		return TakeReply{Left: int64(max(r.tokens, 0)), RetryAfter: int64(min(wait, math.MaxInt32))}, nil
	}
	r.tokens -= float64(q.N)
	return TakeReply{Allowed: true, Left: int64(r.tokens + 1e-9)}, nil
}
