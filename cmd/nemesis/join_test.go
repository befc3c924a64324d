//go:build linux

package nemesis

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// plannedLimit is the longest that a call may wait while nodes come and go as planned.
const plannedLimit = 500 * time.Millisecond

// change does planned work under load, and notes how long it took and which calls overlapped it.
func (u *user) change(what string, do func()) {
	u.t.Helper()
	from, began := now(), time.Now()
	do()
	took := time.Since(began)
	u.more(2 * counters)
	u.fault("planned change", from, everything())
	u.changes = append(u.changes, named{what, from, now()})
	remark(u.t, "%s: settled after %v, shards owned: %s", what, ms(took), u.c.shares(u.t))
}

// named is the time of planned work.
type named struct {
	what     string
	from, to time.Duration
}

// finishPlanned ends the load and wants nobody to have noticed anything.
func (u *user) finishPlanned() {
	u.t.Helper()
	v := u.finish()
	for _, c := range u.changes {
		remark(u.t, "%s: the longest wait of a call was %v", c.what, ms(longestIn(u.ops, c.from, c.to)))
	}
	v.wantNoFailure(u.t, plannedLimit)
}

// TestJoin lets a cluster of three grow to five, shrink by one that leaves and restart node by node, under load: nobody may notice.
func TestJoin(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	u.change("the fourth joins", func() { c.join(t, 4, c.data(4)); c.waitSettled(t, 2*time.Minute) })
	u.change("the fifth joins", func() { c.join(t, 5, c.data(5)); c.waitSettled(t, 2*time.Minute) })
	u.change("one leaves", func() { c.leave(t, c.nodes[1]); c.waitSettled(t, 2*time.Minute) })
	u.change("all restart in turn", func() {
		for _, p := range c.nodes {
			p.stop(t)
			p.start(t)
			p.waitServing(t)
			c.waitWhole(t, 30*time.Second)
		}
	})
	u.finishPlanned()
}

// leave lets a node leave, which ends its process.
func (c *cluster) leave(t *testing.T, p *process) {
	t.Helper()
	p.running(t)
	c.forget(p)
	c.command(t, "leave", "--server", listenAddr(p.number), "--timeout", "2m")
	select {
	case <-p.ended:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("node %d ended with code %d after it had left; see %s", p.number, code, p.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("node %d runs on 30 s after it has left; see %s", p.number, p.log)
	}
}

// TestReplace lets two nodes of five die, one after the other, and stay dead: what they held is made anew on others, nothing is lost, and
// who comes back too late is told so.
func TestReplace(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 5, 64, "--replace-after", "5s")
	u := startUser(t, c)
	var dead []*process
	for range 2 {
		victim, keys := u.busiest()
		from := now()
		victim.kill(t)
		c.forget(victim)
		dead = append(dead, victim)
		took := c.waitSettled(t, 2*time.Minute)
		u.more(2 * counters)
		u.fault("death", from, keys)
		remark(t, "node %d died: replaced and settled after %v, shards owned: %s", victim.number, ms(took), c.shares(t))
	}
	for _, p := range dead {
		p.start(t)
		p.wantEnd(t, 30*time.Second, 1, "is no member of this cluster any more", "wipe its data directory")
	}
	c.waitSettled(t, 30*time.Second)
	v := u.finish()
	v.wantOutages(t, 2*time.Second)
}

// TestIdentity: a node is its data directory, wherever it runs.
func TestIdentity(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	moved := c.nodes[2]
	for _, what := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"new address", func(t *testing.T) { moved = c.restartElsewhere(t, moved, 6) }},
		{"copy", func(t *testing.T) { c.startCopy(t, moved, 7) }},
		{"directory in use", func(t *testing.T) { c.startTwice(t, moved, 5) }},
	} {
		from := now()
		t.Run(what.name, what.do)
		u.fault(what.name, from, nil)
	}
	u.more(2 * counters)
	u.finish()
}

// TestWiped takes a node's disk away. The cluster is its own: a shard that has moved to and fro stays where it is for half a minute, then for one and for two.
func TestWiped(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	for range rounds(1, 3) {
		victim, keys := u.busiest()
		from := now()
		c.restartWiped(t, victim)
		u.more(2 * counters)
		u.fault("wiped disk", from, keys)
	}
	u.finish().wantOutages(t, silentLimit)
}

// restartElsewhere stops a node and starts it with its directory at another address: the same node.
func (c *cluster) restartElsewhere(t *testing.T, p *process, number int) *process {
	id := c.idOf(t, listenAddr(1), listenAddr(p.number))
	p.stop(t)
	c.forget(p)
	n := c.joiner(number, c.data(p.number))
	c.nodes = append(c.nodes, n)
	began := time.Now()
	n.start(t)
	n.waitServing(t)
	c.waitWhole(t, 10*time.Second)
	found := time.Since(began)
	c.waitSettled(t, time.Minute) // shards that moved a moment ago stay where they are for half a minute
	remark(t, "found again after %v, and owns its share after %v", ms(found), ms(time.Since(began)))
	if got := c.idOf(t, listenAddr(1), listenAddr(number)); got != id {
		t.Errorf("node %s came back at another address as %s", id, got)
	}
	return n
}

// startCopy starts a copy of a running node's directory.
func (c *cluster) startCopy(t *testing.T, p *process, number int) {
	data := p.args[2]
	p.stop(t)
	c.copyDir(t, data, c.data(number))
	p.start(t)
	p.waitServing(t)
	c.waitWhole(t, 30*time.Second)
	second := c.joiner(number, c.data(number))
	began := time.Now()
	second.start(t)
	second.wantEnd(t, 30*time.Second, 1, "is a copy", "remove the copy")
	remark(t, "the copy's process ended after %v", ms(time.Since(began)))
	c.waitWhole(t, 10*time.Second)
}

// startTwice starts a second process with a directory that is in use.
func (c *cluster) startTwice(t *testing.T, p *process, number int) {
	second := c.joiner(number, p.args[2])
	second.start(t)
	second.wantEnd(t, 30*time.Second, 1, p.args[2], "in use")
	c.waitWhole(t, 10*time.Second)
}

// restartWiped takes a node's disk away: who starts there is another node, and the old one is dead until it is given up.
func (c *cluster) restartWiped(t *testing.T, p *process) {
	id := c.idOf(t, listenAddr(1), listenAddr(p.number))
	p.signal(syscall.SIGKILL)
	<-p.ended
	c.removeDir(t, p.args[2])
	c.forget(p)
	n := c.joiner(p.number, p.args[2])
	n.start(t)
	n.waitServing(t)
	c.nodes = append(c.nodes, n)
	fresh := ""
	c.waitUntil(t, 30*time.Second, func(server string) (err error) {
		fresh, err = c.successor(server, id, listenAddr(p.number))
		return err
	})
	remark(t, "a wiped %s came back as %s", id, fresh)
	// A group whose owner has just changed has nobody who vouches for its voters: then the removal is refused, for a moment.
	refusals := 0
	for began := time.Now(); ; pass(t, 200*time.Millisecond) {
		out, err := c.run(t, "remove", id, "--server", listenAddr(1), "--timeout", "1m")
		if err == nil {
			break
		}
		if refusals++; !strings.Contains(out, "which is no majority") || time.Since(began) > 10*time.Second {
			t.Fatalf("ringfence remove: %v\n%s", err, out)
		}
	}
	if refusals > 0 {
		remark(t, "the removal was refused %d times", refusals)
	}
	remark(t, "settled %v after the removal", ms(c.waitSettled(t, 2*time.Minute)))
}
