//go:build linux

package nemesis

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

func rounds(usual, many int) int {
	if *long {
		return many
	}
	return usual
}

// TestStop halts owners for a while, as a long garbage collection or a paused machine would: no stale reply, no lost write.
func TestStop(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	longest := 3 * time.Second
	if *long {
		longest = 30 * time.Second
	}
	for range 30 {
		victim := c.nodes[rand.IntN(len(c.nodes))]
		keys := u.ownedBy(victim)
		victim.running(t)
		from := now()
		victim.signal(syscall.SIGSTOP)
		pass(t, 500*time.Millisecond+rand.N(longest-500*time.Millisecond))
		victim.signal(syscall.SIGCONT)
		u.more(2 * counters)
		u.fault("stop", from, keys)
		c.waitWhole(t, 30*time.Second)
	}
	u.finish()
}

// TestKill kills owners and starts them again.
func TestKill(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	for range rounds(10, 50) {
		victim, keys := u.busiest()
		from := now()
		victim.kill(t)
		u.more(4 * counters)
		pass(t, time.Second)
		u.fault("kill", from, keys)
		victim.start(t)
		victim.waitServing(t)
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
	}
	v := u.finish()
	if p99 := quantile(v.sortedOutages(), 0.99); p99 >= 2*time.Second {
		late(t, "time to the next success of a killed owner's objects: p99 is %v, want less than 2 s", ms(p99))
	}
}

// TestRolling restarts one node after another, as an upgrade does: nobody may notice.
func TestRolling(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	for range rounds(2, 10) {
		for _, p := range c.nodes {
			keys := u.ownedBy(p)
			from := now()
			p.stop(t)
			p.start(t)
			p.waitServing(t)
			c.waitWhole(t, 30*time.Second)
			u.more(2 * counters)
			u.fault("restart", from, keys)
		}
	}
	u.finish().wantNoFailure(t, 500*time.Millisecond)
}
