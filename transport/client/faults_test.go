package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

func TestConnectionCutMidFlight(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	e := wantError(t, r.Call(t.Context(), "Cut", nil, nil), actor.ErrUnreachable, actor.MayHaveRun, "lost before the answer", "node 00000000")
	if !e.Retryable {
		t.Errorf("%+v", e)
	}
	if got, err := actor.Call[int](t.Context(), r, "Echo", 4); err != nil || got != 4 {
		t.Fatal(got, err)
	}
	// Many connections die under pipelined calls: each call fails as may-have-run or is ok, and what is ok ran in order.
	var ps []*actor.Pending
	owner := f.nodes[f.ring().Owner(f.shard("T", "k"))]
	for i := range 1000 {
		ps = append(ps, r.Start(t.Context(), "Add", i))
		if i%100 == 99 {
			owner.cut()
		}
	}
	ran := map[int]bool{}
	last := -1
	for _, v := range f.waitLog(t, ps, r) {
		if ran[v] || v <= last {
			t.Fatalf("call %d ran twice or late", v)
		}
		ran[v], last = true, v
	}
	for i, p := range ps {
		if err := p.Wait(t.Context(), nil); err == nil && !ran[i] {
			t.Fatalf("call %d reported ok did not run", i)
		} else if err != nil {
			wantError(t, err, actor.ErrUnreachable, actor.MayHaveRun)
		}
	}
}

// waitLog is the object's log after all calls have come to an end.
func (f *fakeCluster) waitLog(t *testing.T, ps []*actor.Pending, r actor.Ref) []int {
	for _, p := range ps {
		_ = p.Wait(t.Context(), nil)
	}
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	return f.log(r.ID().Key)
}

func TestNodeDiesAndAnotherTakesOver(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	owner := f.ring().Owner(s)
	r := c.Object("T", "k")
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	f.nodes[owner].stop()
	eventually(t, "the client notices", func() bool { return !c.links[linkKey{owner, 0}].usable() })
	f.mu.Lock()
	f.silent = true
	f.mu.Unlock()
	f.move(s, 0)
	p := r.Start(t.Context(), "Add", 1)
	seen := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }
	before := seen()
	eventually(t, "the others are asked in turn", func() bool { return seen() > before+3 })
	f.move(s, owner%3+1)
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.log("k"); len(got) != 1 {
		t.Fatal(got)
	}
}

// A connection that swallows everything is noticed, and its calls end, without any deadline.
func TestSilentNode(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, &Options{KeepAlive: 200 * time.Millisecond})
	s := f.shard("T", "k")
	owner := f.ring().Owner(s)
	r := c.Object("T", "k")
	// Alive but slow: a call may take longer than KeepAlive.
	p := r.Start(t.Context(), "Park", nil)
	slow := <-f.parked
	ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer cancel()
	wantError(t, p.Wait(ctx, nil), actor.ErrDeadline, actor.MayHaveRun, "goes on")
	slow()
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	f.nodes[owner].setDeaf(true)
	wantError(t, r.Call(t.Context(), "Echo", nil, nil), actor.ErrUnreachable, actor.MayHaveRun, "no sign of life")
	f.move(s, owner%3+1)
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestGoAway(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	owner := f.nodes[f.ring().Owner(s)]
	r := c.Object("T", "k")
	p := r.Start(t.Context(), "Park", nil)
	park := <-f.parked
	owner.srv.GoAway()
	eventually(t, "the client has heard it", func() bool { return !c.links[linkKey{owner.id, 0}].usable() })
	f.move(s, owner.id%3+1)
	q := r.Start(t.Context(), "Add", 1)
	park()
	if err := p.Wait(t.Context(), nil); err != nil {
		t.Fatal("a call in flight is still answered:", err)
	}
	if err := q.Wait(t.Context(), nil); err != nil {
		t.Fatal("a call behind it goes elsewhere:", err)
	}
	if err := owner.srv.Quiesce(t.Context()); err != nil {
		t.Fatal("the client closes its connection:", err)
	}
}

// Calls that are sent at the very moment of the go-away are answered or refused, and go on elsewhere: none is lost, none runs twice,
// and each Ref keeps its order.
func TestGoAwayRace(t *testing.T) {
	f := newFakeCluster(t, 3)
	for round := range 5 {
		c := dial(t, f, nil)
		owner := f.nodes[ring.NodeID(round%3+1)]
		for s := range f.ring().Shards() {
			f.move(ring.ShardID(s), owner.id)
		}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 8)
		for k := range 8 {
			key := fmt.Sprintf("%d/%d", round, k)
			wg.Go(func() {
				r := c.Object("T", key)
				var ps []*actor.Pending
				for i := range 300 {
					method := "Add"
					if i%7 == 0 {
						method = "Later"
					}
					ps = append(ps, r.Start(t.Context(), method, i))
					if i == 20*k {
						begun <- struct{}{}
					}
				}
				for i, p := range ps {
					if err := p.Wait(t.Context(), nil); err != nil {
						t.Errorf("%s: call %d: %v", key, i, err)
					}
				}
			})
		}
		for range 1 + round {
			<-begun
		}
		if err := owner.depart(t.Context()); err != nil {
			t.Error(err)
		}
		owner.stop()
		wg.Wait()
		for k := range 8 {
			wantLog(t, f, fmt.Sprintf("%d/%d", round, k), 300)
		}
		f.start(owner.id, owner.addr)
		c.Close()
	}
}

// A rolling restart: every node in turn hands over, says go-away, stops and comes back, twice, under callers that never pause. No call
// fails.
func TestRollingRestart(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, &Options{ConnsPerNode: 2})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var counts [8]int
	for k := range counts {
		wg.Go(func() {
			r := c.Object("T", fmt.Sprint(k))
			for more := true; more; {
				select {
				case <-stop:
					more = false
				default:
				}
				var ps []*actor.Pending
				for range 16 {
					ps = append(ps, r.Start(t.Context(), "Later", counts[k]))
					counts[k]++
				}
				for _, p := range ps {
					if err := p.Wait(t.Context(), nil); err != nil {
						t.Errorf("ref %d: %v", k, err)
						return
					}
				}
			}
		})
	}
	for round := range 6 {
		n := f.nodes[ring.NodeID(round%3+1)]
		before := f.count()
		eventually(t, "calls go on", func() bool { return f.count() > before+200 || t.Failed() })
		if err := n.depart(t.Context()); err != nil {
			t.Error(err)
		}
		n.stop()
		f.start(n.id, n.addr)
		for s := range f.ring().Shards() { // it gets back what the ring prefers it for
			if f.ring().Owner(ring.ShardID(s)) == n.id {
				f.move(ring.ShardID(s), n.id)
			}
		}
	}
	close(stop)
	wg.Wait()
	for k, n := range counts {
		wantLog(t, f, fmt.Sprint(k), n)
	}
}

func (n *fakeNode) conns() map[*tcp.Conn]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.open)
}

// listen opens a port and gives each connection to serve.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				go func() { <-stop; nc.Close() }()
				serve(nc)
			})
		}
	})
	t.Cleanup(func() { close(stop); ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestSeeds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var asked atomic.Int32
	mute := listen(t, func(nc net.Conn) {
		if asked.Add(1) == 2 {
			cancel() // the round before has ended, and found something at each seed
		}
		_, _ = io.Copy(io.Discard, nc)
	})
	garbage := listen(t, func(nc net.Conn) { _, _ = nc.Write(bytes.Repeat([]byte("HTTP/1.1 400 Bad Request\r\n"), 10)) })
	closed := listen(t, func(net.Conn) {})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	f := newFakeCluster(t, 1)
	bad := []string{mute, garbage, closed, nobody}

	_, err = Dial(ctx, append(bad, f.addrs()...), &Options{Cluster: ring.ClusterID{9}, DialTimeout: time.Second})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		mute + ": " + mute + " did not answer the handshake",
		garbage + ": " + garbage + " does not speak Ringfence's protocol",
		closed + ": " + closed + " does not speak Ringfence's protocol, or closed at once",
		nobody + ": dial tcp",
		f.nodes[1].addr + ": " + f.nodes[1].addr + " refused the connection: this is cluster " + f.id.String(),
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}

	// The same seeds are no obstacle to who belongs to the cluster.
	c, err := Dial(t.Context(), append(bad, f.addrs()...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Object("T", "k").Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), nil, nil); err == nil {
		t.Error("no seeds, no error")
	}
	if _, err := Dial(t.Context(), bad, &Options{MaxCalls: -1}); err == nil || !strings.Contains(err.Error(), "MaxCalls") {
		t.Error(err)
	}
}

// A node's address swallows everything: what waits for the connection did not run, and says so at its deadline.
func TestDialHangs(t *testing.T) {
	mute := listen(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	r, err := ring.First(ring.ClusterID{1}, []ring.Member{{ID: 1, Addr: mute, GossipAddr: mute}}, 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetRing(r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ref := c.Object("T", "k")
	p, q := ref.Start(ctx, "Echo", nil), ref.Start(t.Context(), "Echo", nil)
	wantError(t, p.Wait(t.Context(), nil), actor.ErrDeadline, actor.DidNotRun, "still connecting")
	c.Close()
	wantError(t, q.Wait(t.Context(), nil), actor.ErrStopping, actor.DidNotRun, "before the call could run")
}

// A cluster that starts after its client is found.
func TestSeedComesLater(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	got := make(chan error, 1)
	go func() {
		c, err := Dial(t.Context(), []string{addr}, nil)
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	f := &fakeCluster{t: t, id: ring.ClusterID{1}, nodes: map[ring.NodeID]*fakeNode{}}
	f.mu.Lock() // nobody is served before the ring is there
	ms := []ring.Member{{ID: 1, Addr: addr, GossipAddr: addr}}
	if f.table, err = ring.First(f.id, ms, 8, 1); err != nil {
		t.Fatal(err)
	}
	f.mu.Unlock()
	f.start(1, addr)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// A node that turns into something else, and sends garbage where replies should be, costs its own calls and nothing more.
func TestGarbageFromANode(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	r := c.Object("T", "k")
	owner := f.nodes[f.ring().Owner(f.shard("T", "k"))]
	p := r.Start(t.Context(), "Park", nil)
	<-f.parked
	for conn := range owner.conns() {
		conn.TrySend(transport.Header{Kind: transport.KindReply, ID: 1 << 60}, func(b []byte) []byte {
			return transport.AppendReply(b, &transport.Reply{}) // to nothing that was asked: ignored
		})
		conn.TrySend(transport.Header{Kind: 77, ID: 5}, nil) // of a later version: ignored
		conn.TrySend(transport.Header{Kind: transport.KindReply, ID: 1}, func(b []byte) []byte { return append(b, 0xdd, 0xff, 0xff, 0xff, 0xff) })
	}
	wantError(t, p.Wait(t.Context(), nil), actor.ErrUnreachable, actor.MayHaveRun, "no reply")
	if err := r.Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// The ring says that a node listens where now another one does: that one is not called.
func TestAddressChangedHands(t *testing.T) {
	f := newFakeCluster(t, 2)
	addr := f.nodes[1].addr
	c := dial(t, f, nil)
	s := f.shard("T", "k")
	f.nodes[1].stop()
	delete(f.nodes, 1)
	impostor := f.start(3, addr)
	f.move(s, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := c.Object("T", "k").Call(ctx, "Echo", nil, nil)
	var e *actor.Error
	if !errors.As(err, &e) || e.Code != actor.CodeDeadline {
		t.Fatal(err)
	}
	if n := impostor.served(); n != 0 { // it may be asked for the ring
		t.Errorf("node 3 was taken for node 1 by %d calls", n)
	}
	f.move(s, 2)
	if err := c.Object("T", "k").Call(t.Context(), "Echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}
