package client

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// How long calls wait around failures and moves, measured on a clock of their own: the network itself takes no time here.

// adds starts calls that append lo … hi-1 to the object's log.
func adds(t *testing.T, r actor.Ref, lo, hi int) (wait func()) {
	t.Helper()
	var ps []*actor.Pending
	for i := lo; i < hi; i++ {
		ps = append(ps, r.Start(t.Context(), "Add", i))
	}
	return func() {
		t.Helper()
		for i, p := range ps {
			if err := p.Wait(t.Context(), nil); err != nil {
				t.Errorf("call %d: %v", lo+i, err)
			}
		}
	}
}

// wantLog fails unless the calls 0 … n-1 ran once each and in order.
func wantLog(t *testing.T, f *fakeCluster, key string, n int) {
	t.Helper()
	got := f.log(key)
	for i, v := range got {
		if v != i {
			t.Fatalf("%s: call %d ran as number %d", key, v, i)
		}
	}
	if len(got) != n {
		t.Fatalf("%s: %d calls ran, not %d", key, len(got), n)
	}
}

// others are the voters of a shard but one, in the ring's order.
func others(f *fakeCluster, s ring.ShardID, but ring.NodeID) (list []ring.NodeID) {
	for _, r := range f.ring().Shard(s).Voters() {
		if r.Node != but {
			list = append(list, r.Node)
		}
	}
	return list
}

// The owner's process is gone: its address refuses, and the next node is asked in the same moment, whether it knows who owns the shard or
// owns it itself.
func TestRefusedConnectionMovesOnAtOnce(t *testing.T) {
	for k := range 2 {
		bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
			s := f.shard("T", "k")
			owner := f.ring().Owner(s)
			f.nodes[owner].stop()
			f.move(s, others(f, s, owner)[k])
			within(t, "finding the new owner", 0, adds(t, c.Object("T", "k"), 0, 10))
			wantLog(t, f, "k", 10)
			if n := f.net.dialed(f.nodes[owner].addr); n > 2 { // one may be for the ring
				t.Errorf("the dead node was dialed %d times", n)
			}
		})
	}
}

// The same when there was a connection, which ends with the process.
func TestLostConnectionMovesOnAtOnce(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		owner := f.ring().Owner(s)
		r := c.Object("T", "k")
		adds(t, r, 0, 1)()
		f.nodes[owner].stop()
		synctest.Wait()
		f.move(s, others(f, s, owner)[1])
		within(t, "finding the new owner", 0, adds(t, r, 1, 10))
		wantLog(t, f, "k", 10)
	})
}

// A host that does not answer at all holds up the calls that find out, once; the next ones know. When it is back it is asked again.
func TestHangingHostHoldsUpOnce(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		dead, keys := f.busiest()
		heal := f.net.cut(dead.addr)
		for _, key := range keys {
			f.move(f.shard("T", key), dead.id%3+1)
		}
		r := c.Object("T", keys[0])
		within(t, "giving the dead host up", 300*time.Millisecond, adds(t, r, 0, 10))
		within(t, "the next calls", 0, adds(t, r, 10, 20))
		within(t, "calls of another shard", 0, adds(t, c.Object("T", keys[1]), 0, 3))
		time.Sleep(5 * time.Second) // the dial has failed, and the rest is over: the node is dialed again, and no call waits for that
		dials := f.net.dialed(dead.addr)
		for _, key := range keys[2:] {
			within(t, "calls after a while", 0, adds(t, c.Object("T", key), 0, 3))
		}
		synctest.Wait()
		if f.net.dialed(dead.addr) == dials {
			t.Error("the dead host is not tried again")
		}
		f.move(f.shard("T", keys[0]), dead.id)
		wait := adds(t, r, 20, 30)
		synctest.Wait()
		heal()
		within(t, "finding the host that is back", 100*time.Millisecond, wait)
		wantLog(t, f, keys[0], 30)
	})
}

// An open connection does not die of a slow dial of another one, and a dial that is slow but succeeds is used.
func TestSlowDialIsUsed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakeCluster, c *Client) {
		heal := f.net.cut(f.nodes[1].addr)
		time.AfterFunc(time.Second, heal)
		within(t, "the only node, after a second", 1100*time.Millisecond, adds(t, c.Object("T", "k"), 0, 10))
		wantLog(t, f, "k", 10)
		if n := f.net.dialed(f.nodes[1].addr); n > 4 {
			t.Errorf("the node was dialed %d times", n)
		}
		if len(c.rests.load()) != 0 {
			t.Errorf("it rests: %v", c.rests.load())
		}
	})
}

// An election: nobody owns the shard and nobody knows who will. When there is an owner the call is there within a tenth of a second,
// and until then the nodes are not stormed.
func TestElectionIsWaitedForBriefly(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		owner := f.ring().Owner(s)
		f.setSilent(true)
		f.nodes[owner].stop()
		f.move(s, 0)
		var waits []func()
		for range 20 {
			waits = append(waits, adds(t, c.Object("T", "k"), 0, 5))
		}
		time.Sleep(700 * time.Millisecond)
		asked := f.count() / 20 / 5
		if asked < 8 || asked > 40 {
			t.Errorf("each stream asked about %d times in 0.7 s", asked)
		}
		f.move(s, others(f, s, owner)[1])
		within(t, "finding the new owner", 200*time.Millisecond, func() {
			for _, wait := range waits {
				wait()
			}
		})
		if got := f.log("k"); len(got) != 100 {
			t.Fatalf("%d calls ran", len(got))
		}
	})
}

// A hint is followed in the same moment.
func TestHintIsFollowedAtOnce(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		r := c.Object("T", "k")
		for k := range 9 {
			f.move(s, ring.NodeID(k%3+1))
			within(t, "following the hint", 0, adds(t, r, k*10, k*10+10))
		}
		wantLog(t, f, "k", 90)
	})
}

// The others go on naming the owner that died, until they notice. Its address is not tried again for each of these answers, and when
// they notice, the calls go on soon.
func TestDeadOwnersNameIsNotUsedAgainAndAgain(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		owner := f.ring().Owner(s)
		f.nodes[owner].stop()
		before := f.net.dialed(f.nodes[owner].addr)
		var waits []func()
		for range 50 {
			waits = append(waits, adds(t, c.Object("T", "k"), 0, 1))
		}
		time.Sleep(1200 * time.Millisecond)
		if n := f.net.dialed(f.nodes[owner].addr) - before; n < 2 || n > 12 { // rests of 50, 100, 200, 400, 400 ms, and the ring is asked for
			t.Errorf("the dead owner was dialed %d times in 1.2 s", n)
		}
		if n := f.count() / 50; n > 40 {
			t.Errorf("each stream asked the others %d times", n)
		}
		f.move(s, others(f, s, owner)[0])
		within(t, "finding the new owner", 100*time.Millisecond, func() {
			for _, wait := range waits {
				wait()
			}
		})
		if got := f.log("k"); len(got) != 50 {
			t.Fatalf("%d calls ran", len(got))
		}
	})
}

// A node says go-away: its connection is closed as soon as nothing is in flight, in the order of the calls the rest goes on elsewhere,
// and the node is not dialed for a while, until there is news that it owns something.
func TestGoAwayNodeIsLeftAlone(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		owner, keys := f.busiest()
		key := keys[0]
		s := f.shard("T", key)
		r := c.Object("T", key)
		adds(t, r, 0, 5)()
		p := r.Start(t.Context(), "Park", nil)
		park := <-f.parked
		gone := make(chan time.Time, 1)
		go func() {
			if err := owner.depart(t.Context()); err != nil {
				t.Error(err)
			}
			gone <- time.Now()
		}()
		synctest.Wait()
		wait := adds(t, r, 5, 10) // behind the one that is parked
		within(t, "another Ref", 0, adds(t, c.Object("T", keys[1]), 0, 5))
		time.Sleep(500 * time.Millisecond)
		select {
		case <-gone:
			t.Fatal("the connection was closed with a call in flight")
		default:
		}
		released := time.Now()
		park()
		if err := p.Wait(t.Context(), nil); err != nil {
			t.Error(err)
		}
		within(t, "going on elsewhere", 0, wait)
		wantLog(t, f, key, 10)
		if at := <-gone; at != released {
			t.Errorf("the client closed its connection %v after the last answer", at.Sub(released))
		}
		owner.stop()
		dials := f.net.dialed(owner.addr)
		for i := range 4 {
			within(t, "calls meanwhile", 0, adds(t, r, 10+i, 11+i))
			within(t, "calls of others", 0, adds(t, c.Object("T", keys[1]), 5+i, 6+i))
			time.Sleep(100 * time.Millisecond)
		}
		for _, key := range keys[2:] { // who owns these now was not known before
			within(t, "calls of shards that are new", 0, adds(t, c.Object("T", key), 0, 5))
		}
		if n := f.net.dialed(owner.addr) - dials; n != 0 {
			t.Errorf("a node that stops was dialed %d times", n)
		}
		f.start(owner.id, owner.addr)
		f.move(s, owner.id)
		within(t, "following news to a node that is back", 0, adds(t, r, 14, 20))
		wantLog(t, f, key, 20)
	})
}

// What waits for room in the send buffer has not left: at a go-away it is not sent any more, and goes elsewhere in order.
func TestBacklogDoesNotFollowGoAway(t *testing.T) {
	bubble(t, 2, func(t *testing.T, f *fakeCluster, c *Client) {
		owner, _ := f.busiest()
		s := f.shard("T", "k")
		f.move(s, owner.id)
		r := c.Object("T", "k")
		adds(t, r, 0, 1)()
		open := owner.block()
		before := owner.served()
		big := make([]byte, 512<<10)
		var ps []*actor.Pending
		for range 20 {
			ps = append(ps, r.Start(t.Context(), "Size", big))
		}
		wait := adds(t, r, 1, 10)
		synctest.Wait()
		gone := make(chan error, 1)
		go func() { gone <- owner.depart(t.Context()) }()
		synctest.Wait()
		open()
		for _, p := range ps {
			if err := p.Wait(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		wait()
		if err := <-gone; err != nil {
			t.Error(err)
		}
		if n := owner.served() - before; n == 0 || n > 18 { // 4 MiB, and what the writer had taken before
			t.Errorf("%d of 29 calls came to the node that stops", n)
		}
		wantLog(t, f, "k", 10)
	})
}

// The only node restarts: it is tried all the time, gently, and its callers are there soon after it.
func TestOnlyNodeRestarts(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakeCluster, c *Client) {
		n := f.nodes[1]
		refs := make([]actor.Ref, 100)
		for i := range refs {
			refs[i] = c.Object("T", string(rune('a'+i)))
			adds(t, refs[i], 0, 1)()
		}
		if err := n.depart(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.stop()
		dials := f.net.dialed(n.addr)
		var waits []func()
		for _, r := range refs {
			waits = append(waits, adds(t, r, 1, 5))
		}
		time.Sleep(time.Second)
		if d := f.net.dialed(n.addr) - dials; d < 10 || d > 75 { // one in 20 ms at most for calls, one in 50 ms for the ring
			t.Errorf("%d dials in a second", d)
		}
		f.start(1, n.addr)
		within(t, "the node that is back", 150*time.Millisecond, func() {
			for _, wait := range waits {
				wait()
			}
		})
		for i := range refs {
			wantLog(t, f, string(rune('a'+i)), 5)
		}
	})
}

// A node that stops and still listens tells each new connection so: the streams that have nobody else to ask do not storm it.
func TestOnlyNodeSaysGoAway(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakeCluster, c *Client) {
		n := f.nodes[1]
		n.srv.GoAway()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { _ = c.Object("T", "k").Call(t.Context(), "Echo", nil, nil) })
		}
		time.Sleep(time.Second)
		if d := f.net.dialed(n.addr); d > 75 { // one in 20 ms for calls, one in 50 ms for the ring
			t.Errorf("%d dials in a second", d)
		}
		c.Close()
		wg.Wait()
	})
}

// A member's address changes: nothing new goes to the old one, although somebody still answers there.
func TestNewAddressIsUsed(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		old := f.nodes[f.ring().Owner(s)]
		r := c.Object("T", "k")
		p := r.Start(t.Context(), "Park", nil)
		park := <-f.parked
		calls := old.served()
		f.start(old.id, "10.0.1.1:7420")
		f.remake(3)
		if err := c.SetRing(f.ring()); err != nil {
			t.Fatal(err)
		}
		within(t, "calls of others", 0, adds(t, c.Object("T", "k"), 0, 5))
		wait := adds(t, r, 5, 10)
		park()
		if err := p.Wait(t.Context(), nil); err != nil {
			t.Error("what is in flight on the old connection is answered:", err)
		}
		within(t, "calls behind it", 0, wait)
		wantLog(t, f, "k", 10)
		if n := old.served() - calls; n != 0 {
			t.Errorf("%d calls went to the old address", n)
		}
		if err := old.srv.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for conn := range old.conns() {
			if conn.Err() == nil {
				t.Error("the connection to the old address stays open")
			}
		}
	})
}

// Where a node listened there is another one now: the ring is fetched, and the node is found at its new address.
func TestOldAddressIsAnothersNow(t *testing.T) {
	bubble(t, 2, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		was := f.nodes[f.ring().Owner(s)]
		was.stop()
		f.start(was.id, "10.0.1.1:7420")
		impostor := f.start(9, was.addr)
		delete(f.nodes, 9)
		f.remake(2)
		within(t, "finding the node", 200*time.Millisecond, adds(t, c.Object("T", "k"), 0, 5))
		wantLog(t, f, "k", 5)
		if c.epoch() != 2 {
			t.Error("the ring was not fetched:", c.epoch())
		}
		if n := impostor.served(); n != 0 {
			t.Errorf("%d calls went to another node", n)
		}
	})
}

// A refused handshake alone is reason enough to ask for the ring.
func TestRefusedHandshakeAsksForTheRing(t *testing.T) {
	bubble(t, 2, func(t *testing.T, f *fakeCluster, c *Client) {
		was, keys := f.busiest()
		was.stop()
		f.start(9, was.addr)
		delete(f.nodes, 9)
		f.move(f.shard("T", keys[0]), was.id%2+1)
		asked := f.asked.Load()
		within(t, "the other node", 0, adds(t, c.Object("T", keys[0]), 0, 5))
		synctest.Wait()
		if f.asked.Load() == asked {
			t.Error("nobody was asked for the ring")
		}
	})
}

// Seeds that do not answer hold up the others by a moment each.
func TestSilentSeedsHoldUpBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeClusterOn(t, 1, newPipeNet())
		seeds := []string{"10.9.0.1:1", "10.9.0.2:1", "10.9.0.3:1", "10.9.0.4:1"}
		for _, s := range seeds {
			f.net.cut(s)
		}
		within(t, "finding the seed that answers", 4*seedPause, func() {
			c, err := Dial(t.Context(), append(seeds, f.addrs()...), &Options{Net: f.net.dial})
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	})
}

// All nodes come back at other addresses: the seeds still find them.
func TestSeedsFindAClusterThatMoved(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, _ *Client) {
		f.net.name("cluster:7420", f.nodes[1].addr)
		c, err := Dial(t.Context(), []string{"cluster:7420"}, &Options{Net: f.net.dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r := c.Object("T", "k")
		adds(t, r, 0, 5)()
		for id := range ring.NodeID(3) {
			f.nodes[id+1].stop()
		}
		synctest.Wait()
		wait := adds(t, r, 5, 10)
		time.Sleep(3 * time.Second)
		for id, addr := range map[ring.NodeID]string{1: "10.0.1.1:7420", 2: "10.0.1.2:7420", 3: "10.0.1.3:7420"} {
			f.start(id, addr)
		}
		f.remake(3)
		f.net.name("cluster:7420", "10.0.1.2:7420")
		within(t, "finding the cluster", 600*time.Millisecond, wait)
		wantLog(t, f, "k", 10)
	})
}

// The same when the old addresses do not even refuse.
func TestSeedsFindAClusterBehindDeadHosts(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, _ *Client) {
		f.net.name("cluster:7420", f.nodes[1].addr)
		c, err := Dial(t.Context(), []string{"cluster:7420"}, &Options{Net: f.net.dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for id := range ring.NodeID(3) {
			f.nodes[id+1].stop()
			f.net.cut(f.nodes[id+1].addr)
		}
		for id, addr := range map[ring.NodeID]string{1: "10.0.1.1:7420", 2: "10.0.1.2:7420", 3: "10.0.1.3:7420"} {
			f.start(id, addr)
		}
		f.remake(3)
		f.net.name("cluster:7420", "10.0.1.2:7420")
		within(t, "finding the cluster", 2*time.Second, adds(t, c.Object("T", "k"), 0, 5))
		wantLog(t, f, "k", 5)
	})
}

// Learners and outgoing replicas are not asked: they never own the shard.
func TestRoutesAreVoters(t *testing.T) {
	f := newFakeCluster(t, 3)
	r := withRoles(t, f.ring(), 0, ring.Voter, ring.Learner, ring.Outgoing)
	rt := routesOf(r)
	if got := rt.of(0); len(got) != 1 || got[0] != r.Owner(0) {
		t.Errorf("shard 0 is routed to %v; its only voter is %v", got, r.Owner(0))
	}
	for s := 1; s < r.Shards(); s++ {
		if got := rt.of(ring.ShardID(s)); len(got) != 3 || got[0] != r.Owner(ring.ShardID(s)) {
			t.Errorf("shard %d is routed to %v", s, got)
		}
	}
}

// A request over a connection that is told to go away is still answered.
func TestRequestOutlivesGoAway(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fakeCluster, c *Client) {
		n := f.nodes[1]
		adds(t, c.Object("T", "k"), 0, 1)()
		l := c.links[linkKey{1, 0}]
		conn, done := l.borrow()
		if conn == nil {
			t.Fatal("the connection takes no requests")
		}
		n.srv.GoAway()
		synctest.Wait()
		if other, _ := l.borrow(); other != nil {
			t.Error("a connection that goes away takes new requests")
		}
		if resp, err := conn.Roundtrip(t.Context(), transport.Request{Name: "status"}); err != nil || len(resp.Body) == 0 {
			t.Error(err)
		}
		done()
		synctest.Wait()
		if conn.Err() == nil {
			t.Error("the connection stays open")
		}
	})
}

// What calls leave behind for others to use again stays with their client: a test's bubble ends with all that was made in it.
func TestClientsOfTwoBubbles(t *testing.T) {
	for range 2 {
		bubble(t, 1, func(t *testing.T, f *fakeCluster, c *Client) { adds(t, c.Object("T", "k"), 0, 20)() })
	}
}
