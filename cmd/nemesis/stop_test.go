//go:build linux

package nemesis

import (
	"math"
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

// TestStop halts nodes for half a second to half a minute, as a long garbage collection or a paused machine would: no stale reply, no lost write.
func TestStop(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	const shortest, longest = 500 * time.Millisecond, 30 * time.Second
	n := rounds(12, 40)
	for _, i := range rand.Perm(n) { // each as much longer than the one before as the next
		length := time.Duration(float64(shortest) * math.Pow(float64(longest)/float64(shortest), float64(i)/float64(n-1)))
		victim := c.nodes[rand.IntN(len(c.nodes))]
		keys := u.ownedBy(victim)
		victim.running(t)
		from := now()
		victim.signal(syscall.SIGSTOP)
		pass(t, length)
		victim.signal(syscall.SIGCONT)
		u.more(2 * counters)
		u.fault("stop", from, keys)
		c.waitWhole(t, 30*time.Second)
	}
	u.finish().wantOutages(t, silentLimit)
}

// TestKill kills owners, one after the other, most of the nodes and all of them at once, and starts them again.
func TestKill(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	t.Run("one", func(t *testing.T) { killOne(t, c) })
	for _, many := range []struct {
		name string
		n    int
	}{{"most", 2}, {"all", 3}} {
		t.Run(many.name, func(t *testing.T) {
			u := startUser(t, c)
			for range rounds(3, 30) {
				from := now()
				victims := rand.Perm(len(c.nodes))[:many.n]
				for _, i := range victims {
					c.nodes[i].running(t)
					c.nodes[i].signal(syscall.SIGKILL)
				}
				for _, i := range victims {
					<-c.nodes[i].ended
					c.nodes[i].start(t)
				}
				whole := c.waitWhole(t, 30*time.Second)
				u.more(2 * counters)
				u.fault("kill of "+many.name, from, everything())
				remark(t, "whole %v after the start", ms(whole))
			}
			u.finish()
		})
	}
}

func killOne(t *testing.T, c *cluster) {
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
