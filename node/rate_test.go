package node

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestBucketAgainstTheRule: over every stretch of time no more passes than the burst, the rate, and one piece that went into debt; and who
// is made to wait waits no longer than the rate asks for.
func TestBucketAgainstTheRule(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 9))
		rate, burst := 1000+rng.IntN(100000), 1+rng.IntN(5000)
		b := bucket{rate: float64(rate), burst: float64(burst), level: float64(burst)}
		type passed struct {
			at time.Duration
			n  int
		}
		var all []passed
		now, most := time.Duration(0), 0
		for range 100 {
			if rng.IntN(3) == 0 {
				now += time.Duration(rng.IntN(500)) * time.Millisecond
			}
			n := 1 + rng.IntN(4000)
			most = max(most, n)
			wait := b.take(now, n)
			if limit := time.Duration(float64(time.Second) * float64(100*4000) / float64(rate)); wait < 0 || wait > limit {
				t.Fatalf("seed %d: a wait of %v", seed, wait)
			}
			now += wait
			all = append(all, passed{now, n})
		}
		for i := range all {
			sum := 0
			for _, p := range all[i:] {
				sum += p.n
				if allowed := float64(burst+most) + float64(rate)*(p.at-all[i].at).Seconds() + 2; float64(sum) > allowed {
					t.Fatalf("seed %d: %d bytes in %v at %d a second with a burst of %d", seed, sum, p.at-all[i].at, rate, burst)
				}
			}
		}
	}
}

func TestThrottleWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(1000, 500)
		began := time.Now()
		for range 5 {
			if err := th.pass(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d < 3400*time.Millisecond || d > 3600*time.Millisecond {
			t.Errorf("5,000 bytes at 1,000 a second with a burst of 500: %v before the last", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := th.pass(ctx, 1); err == nil {
			t.Error("a wait that outlived its context")
		}
	})
}
