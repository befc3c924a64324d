package node

import (
	"context"
	"sync"
	"time"
)

// bucket bounds how many bytes a second may pass: a token bucket that goes into debt. It is a machine; time is told.
type bucket struct {
	rate  float64 // bytes a second
	burst float64 // bytes that may pass at once after a rest
	level float64 // what may pass now; below zero, what has passed too early
	at    time.Duration
}

// take lets n bytes pass and says how long to wait before: so whoever comes next pays for what has passed.
func (b *bucket) take(now time.Duration, n int) (wait time.Duration) {
	b.level = min(b.burst, b.level+b.rate*(now-b.at).Seconds())
	b.at = now
	if b.level < 0 {
		wait = time.Duration(-b.level / b.rate * float64(time.Second))
	}
	b.level -= float64(n)
	return wait
}

// throttle is a bucket and the wait beside it. Safe from any goroutine.
type throttle struct {
	start  time.Time
	mu     sync.Mutex
	bucket bucket
}

func newThrottle(rate, burst int) *throttle {
	return &throttle{start: time.Now(), bucket: bucket{rate: float64(rate), burst: float64(burst), level: float64(burst)}}
}

// pass waits until n bytes may pass; the error is that of ctx.
func (t *throttle) pass(ctx context.Context, n int) error {
	t.mu.Lock()
	wait := t.bucket.take(time.Since(t.start), n)
	t.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
