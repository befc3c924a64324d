//go:build linux

package nemesis

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// Of `--timing lan`, the default: the longest election timeout, and how long a promise holds on which `--lease clock` rests.
const (
	electionTimeout = 800 * time.Millisecond
	promise         = 400 * time.Millisecond
)

// silentLimit is how long a counter may be without an answer if its owner falls silent to clients, too: they notice after a second and a
// quarter, and the machine is busy.
const silentLimit = 2500 * time.Millisecond

func cutLengths() []time.Duration {
	if *long {
		return []time.Duration{10 * time.Second, 90 * time.Second, 5 * time.Minute}
	}
	return []time.Duration{10 * time.Second}
}

// TestCut cuts off the node that owns the most, in several ways, and heals the network again.
func TestCut(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64, "--replace-after", "15m") // by default a node that is gone for five minutes is given up
	for _, d := range cutLengths() {
		t.Run("nodes "+d.String(), func(t *testing.T) { cutFromNodes(t, c, d, promise) })
		t.Run("all "+d.String(), func(t *testing.T) {
			cutWith(t, c, "cut", d, func(others []string) rules {
				others = append(others, subnet+"100")
				return rules{in: others, out: others}
			})
		})
	}
	t.Run("deaf 10s", func(t *testing.T) {
		cutWith(t, c, "one-way cut", 10*time.Second, func(others []string) rules { return rules{in: others} })
	})
	t.Run("mute 10s", func(t *testing.T) {
		cutWith(t, c, "one-way cut", 10*time.Second, func(others []string) rules { return rules{out: others} })
	})
}

// TestReset has a node answer what the others send by TCP with resets, as a firewall does that refuses and does not drop. Gossip goes on, and says that all is well.
// And it has all its open connections, of nodes and clients, fall silent for good, as a firewall does that has lost its memory: new ones are taken.
func TestReset(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	t.Run("refused", func(t *testing.T) {
		cutWith(t, c, "reset", 10*time.Second, func(others []string) rules { return rules{in: others, refuse: true} })
	})
	t.Run("half-open", func(t *testing.T) {
		cutWith(t, c, "half-open connections", 10*time.Second, func(others []string) rules { return rules{in: append(others, subnet+"100"), open: true} })
	})
}

// TestCutQuorum is the cut that matters most, of owners that rely on no clock: not one read may be answered that begins after it.
func TestCutQuorum(t *testing.T) {
	needsNemesis(t)
	cutFromNodes(t, startCluster(t, 3, 64, "--lease", "quorum"), 10*time.Second, 0)
}

func (c *cluster) others(p *process) (ips []string) {
	for _, n := range c.nodes {
		if n != p {
			ips = append(ips, nodeIP(n.number))
		}
	}
	return ips
}

// cutFromNodes cuts a node off from the others, not from clients, and lets clients call that reach that node only. For as long as its lease
// it may still answer reads: nobody else answers writes meanwhile, which the history shows.
func cutFromNodes(t *testing.T, c *cluster, d, lease time.Duration) {
	u := startUser(t, c)
	victim, keys := u.busiest()
	outsider := u.startOutsider(victim, keys)
	prober := u.startProber(victim, keys)
	u.more(4 * counters)
	others := c.others(victim)
	changes := u.watchFailovers(victim)
	from := now()
	mustDrop(t, victim, rules{in: others, out: others})
	cut := now()
	pass(t, d)
	u.more(counters)
	changes.wantAtMostOne(t)
	healing := now()
	u.fault("cut", from, keys)
	mustDrop(t, victim, rules{})
	whole := c.waitWhole(t, 30*time.Second)
	u.more(2 * counters)
	u.judgeOutsider(u.endOutsider(outsider), cut, lease, healing)
	u.judgeProber(prober.end(t), cut, lease, healing)
	v := u.finish()
	remark(t, "whole %v after healing", ms(whole))
	v.wantOutages(t, 2*time.Second)
}

// judgeOutsider wants nothing answered by a node that is alone and whose lease is over, and what it refuses refused soon.
func (u *user) judgeOutsider(ops []op, cut, lease, healing time.Duration) {
	t := u.t
	t.Helper()
	before, failed := 0, 0
	var caught time.Duration // how long the last call that was under way at the cut took from then on
	for _, o := range ops {
		switch {
		case o.End < cut && o.ok():
			before++
		case o.Start < cut:
			caught = max(caught, o.End-cut)
		case o.ok() && (o.Start > cut+lease || !o.Get && o.Start > cut) && o.End < healing:
			u.violation("a node that is cut off answered %d to a call of counter %d that began %v after the cut", o.Value, o.Key, o.Start-cut)
		case !o.ok() && o.Start < healing:
			failed++
		}
	}
	if before == 0 || failed == 0 {
		t.Errorf("the client of the node that is cut off had %d calls answered before and %d refused after: nothing is shown", before, failed)
	}
	remark(t, "the client of the cut-off node: %d answered before, %d refused after; those under way at the cut ended within %v", before, failed, ms(caught))
}

// cutWith drops at the node that owns the most what its rules say of the other nodes.
func cutWith(t *testing.T, c *cluster, kind string, d time.Duration, f func(others []string) rules) {
	u := startUser(t, c)
	victim, keys := u.busiest()
	changes := u.watchFailovers(victim)
	from := now()
	mustDrop(t, victim, f(c.others(victim)))
	pass(t, d)
	u.more(counters)
	changes.wantAtMostOne(t)
	u.fault(kind, from, keys)
	mustDrop(t, victim, rules{})
	whole := c.waitWhole(t, 30*time.Second)
	u.more(2 * counters)
	v := u.finish()
	remark(t, "whole %v after healing", ms(whole))
	v.wantOutages(t, silentLimit)
}

// TestCutUDP takes gossip's eyes: nothing may move, and nobody may notice. The cluster is its own: for minutes after other cuts, shards go back to the
// nodes that the ring prefers, and would be moved here too.
func TestCutUDP(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	c.waitSettled(t, time.Minute)
	u := startUser(t, c)
	victim, keys := u.busiest()
	before := u.tokens()
	from := now()
	others := c.others(victim)
	mustDrop(t, victim, rules{in: others, out: others, udpOnly: true})
	pass(t, 10*time.Second)
	u.fault("UDP cut", from, keys)
	after := u.tokens()
	mustDrop(t, victim, rules{})
	whole := c.waitWhole(t, 30*time.Second)
	u.more(2 * counters)
	v := u.finish()
	remark(t, "whole %v after healing", ms(whole))
	if !maps.Equal(before, after) {
		t.Errorf("owners changed while UDP was cut:\nbefore %v\nafter  %v", before, after)
	}
	v.wantNoFailure(t, electionTimeout)
}

// TestCutPart cuts some pairs of five nodes off from each other and leaves others, so that who sees whom differs from node to node. Every shard has
// two replicas that see each other, so each goes on.
func TestCutPart(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 5, 64)
	for _, shape := range []struct {
		name  string
		pairs [][2]int // of c.nodes: the second hears nothing from the first
	}{
		{"bridge", both([][2]int{{0, 3}, {0, 4}, {1, 3}, {1, 4}})}, // the third sees all
		{"ring", both([][2]int{{0, 2}, {0, 3}, {1, 3}, {1, 4}, {2, 4}})},
		{"one link", both([][2]int{{0, 1}})},
		{"one link, one way", [][2]int{{0, 1}}},
	} {
		t.Run(shape.name, func(t *testing.T) {
			u := startUser(t, c)
			before := u.tokens()
			from := now()
			deaf := map[int][]string{}
			for _, p := range shape.pairs {
				deaf[p[1]] = append(deaf[p[1]], nodeIP(c.nodes[p[0]].number))
			}
			for i, ips := range deaf {
				mustDrop(t, c.nodes[i], rules{in: ips})
			}
			pass(t, 10*time.Second)
			u.more(2 * counters)
			u.fault(shape.name, from, everything())
			for i := range deaf {
				mustDrop(t, c.nodes[i], rules{})
			}
			whole := c.waitWhole(t, 30*time.Second)
			after := u.tokens()
			u.more(2 * counters)
			v := u.finish()
			changed := 0
			for key := range before {
				if before[key] != after[key] {
					changed++
				}
			}
			remark(t, "whole %v after healing; %d of %d counters have another owner or token than before", ms(whole), changed, counters)
			v.wantOutages(t, partLimit)
		})
	}
}

// TestCutAll leaves every node alone: nobody may answer a write, and nothing is lost.
func TestCutAll(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	from := now()
	for _, p := range c.nodes {
		mustDrop(t, p, rules{in: c.others(p)})
	}
	cut := now()
	pass(t, 10*time.Second)
	healing := now()
	for _, p := range c.nodes {
		mustDrop(t, p, rules{})
	}
	whole := c.waitWhole(t, 30*time.Second)
	u.more(2 * counters)
	u.fault("every node cut off", from, everything())
	u.judges = append(u.judges, func(ops []op) {
		for _, o := range ops {
			if o.ok() && (o.Start > cut+promise || !o.Get && o.Start > cut) && o.End < healing {
				u.violation("a node that is alone answered %d to a call of counter %d that began %v after the cut", o.Value, o.Key, ms(o.Start-cut))
			}
		}
	})
	u.finish()
	remark(t, "whole %v after healing", ms(whole))
}

// partLimit is three election timeouts and what a busy machine adds: who does not see a majority may first have to find that out.
const partLimit = 3*electionTimeout + 600*time.Millisecond

// both is pairs in both directions.
func both(pairs [][2]int) [][2]int {
	for _, p := range pairs {
		pairs = append(pairs, [2]int{p[1], p[0]})
	}
	return pairs
}

// everything is all counters.
func everything() []int {
	keys := make([]int, counters)
	for i := range keys {
		keys[i] = i
	}
	return keys
}

func mustDrop(t *testing.T, p *process, r rules) {
	t.Helper()
	if err := drop(net.node(p.number), r); err != nil {
		t.Fatal(err)
	}
}

func (v verdict) wantOutages(t *testing.T, limit time.Duration) {
	t.Helper()
	if longest := quantile(v.sortedOutages(), 1); longest >= limit {
		late(t, "a counter was without an answer for %v, want less than %v", ms(longest), limit)
	}
}

// late is a limit of time that was missed.
func late(t *testing.T, format string, args ...any) {
	t.Helper()
	if *times {
		t.Errorf(format, args...)
	} else {
		t.Logf(format, args...)
	}
}

// remark adds a line to the table.
func remark(t *testing.T, format string, args ...any) {
	t.Helper()
	s := fmt.Sprintf(format, args...)
	t.Log(s)
	report.add(row{name: scenario(t), remark: s})
}
