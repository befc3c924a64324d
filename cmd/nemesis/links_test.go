//go:build linux

package nemesis

import (
	"testing"
	"time"
)

// linkTime is how long links are bad.
func linkTime() time.Duration {
	if *long {
		return time.Minute
	}
	return 15 * time.Second
}

// TestLoss has the firewall of every node drop a part of all packets that come in, of TCP and UDP, of nodes and clients.
func TestLoss(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	for _, loss := range []struct {
		name string
		part float64
	}{{"1 %", 0.01}, {"5 %", 0.05}} {
		t.Run(loss.name, func(t *testing.T) {
			u := startUser(t, c)
			d := u.disturb("packets lost", func() {
				for _, p := range c.nodes {
					mustDrop(t, p, rules{loss: loss.part})
				}
			}, func() {
				for _, p := range c.nodes {
					mustDrop(t, p, rules{})
				}
			})
			d.judge(u.finish())
			if loss.part <= 0.01 && d.changed > counters/20 {
				late(t, "%d of %d counters changed owners or tokens", d.changed, counters)
			}
		})
	}
}

// badLink is what a switch does.
type badLink struct {
	name   string
	faults wireFaults
}

// TestLinks has everything between nodes and clients pass a switch that is slow and makes mistakes.
func TestLinks(t *testing.T) {
	needsNemesis(t)
	throughLinks(t, "bad links", []badLink{
		{"20 ms there and back", wireFaults{Delay: 10 * time.Millisecond}},
		{"and 1 % lost", wireFaults{Delay: 10 * time.Millisecond, Loss: 0.01}},
		{"jitter, reordered, doubled, flipped", wireFaults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Late: 0.02, Doubles: 0.05, Flips: 0.002}},
		{"5 % lost and all of that", wireFaults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Late: 0.02, Loss: 0.05, Doubles: 0.05, Flips: 0.002}},
	})
}

// TestBandwidth gives every node and the clients a line that carries less than they would send, and drops what waits too long for it.
func TestBandwidth(t *testing.T) {
	needsNemesis(t)
	throughLinks(t, "narrow lines", []badLink{
		{"10 Mbit in a second", wireFaults{Rate: 10e6 / 8}},
		{"1 Mbit in a second", wireFaults{Rate: 1e6 / 8}},
	})
}

// queueLimit is how much a node may grow while what it sends cannot leave: queues are bounded.
const queueLimit = 96 << 20

func throughLinks(t *testing.T, kind string, links []badLink) {
	members := net.members()
	f := startFabric(t, append(members[:3:3], end{net.client(), subnet + "100"}))
	c := startCluster(t, 3, 64)
	for _, link := range links {
		t.Run(link.name, func(t *testing.T) {
			u := startUser(t, c)
			f.counted()
			var before, after []int64
			d := u.disturb(kind, func() {
				for _, p := range c.nodes {
					before = append(before, p.usage(t).rss)
				}
				f.set(link.faults)
			}, func() {
				for _, p := range c.nodes {
					after = append(after, p.usage(t).rss)
				}
				f.set(wireFaults{})
			})
			remark(t, "frames: %s", f.counted())
			for i, p := range c.nodes {
				if after[i] > before[i]+queueLimit {
					t.Errorf("node %d grew from %.1f to %.1f MB", p.number, mb(before[i]), mb(after[i]))
				}
			}
			remark(t, "the first node had %.1f MB before and %.1f at the end of it", mb(before[0]), mb(after[0]))
			d.judge(u.finish())
		})
	}
}

// disturbed is a time in which calls are slow, and may fail, but go on.
type disturbed struct {
	u        *user
	from, to time.Duration
	changed  int // counters with another owner or token
	whole    time.Duration
}

// disturb makes something bad for a time, and then good again.
func (u *user) disturb(kind string, bad, good func()) disturbed {
	u.t.Helper()
	d := disturbed{u: u}
	before := u.tokens()
	d.from = now()
	bad()
	pass(u.t, linkTime())
	d.to = now()
	u.fault(kind, d.from, everything())
	good()
	after := u.tokens() // asked while all is well: a token that has changed never changes back
	for key := range before {
		if before[key] != after[key] {
			d.changed++
		}
	}
	d.whole = u.c.waitWhole(u.t, 30*time.Second)
	u.more(2 * counters)
	return d
}

// judge says what the time was like, and wants every counter to have been answered in it.
func (d disturbed) judge(v verdict) {
	t := d.u.t
	t.Helper()
	answered, failed := map[int]int{}, 0
	total, waited := 0, time.Duration(0)
	for _, o := range v.ops {
		switch {
		case o.Start < d.from || o.End > d.to:
		case o.ok():
			answered[o.Key]++
			total++
			waited += o.End - o.Start
		default:
			failed++
		}
	}
	if len(answered) < counters {
		t.Errorf("%d of %d counters were answered in %v", len(answered), counters, ms(d.to-d.from))
	}
	remark(t, "%d calls answered in %v, after %v on average, %d failed; %d of %d counters changed owners or tokens; whole %v after it",
		total, ms(d.to-d.from), ms(waited/time.Duration(max(total, 1))), failed, d.changed, counters, ms(d.whole))
}
