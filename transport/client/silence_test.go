package client

import (
	"bytes"
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
)

func TestSilence(t *testing.T) {
	const every = 250 * time.Millisecond
	type look struct {
		heard uint64
		waits bool
		sent  int
		want  sign
	}
	for name, looks := range map[string][]look{
		"nothing waits":    {{1, false, 0, signFine}, {1, false, 0, signFine}, {1, false, 0, signFine}, {1, false, 0, signFine}, {1, false, 0, signFine}, {1, false, 0, signFine}},
		"dead":             {{1, true, 0, signFine}, {1, true, 0, signFine}, {1, true, 0, signAsk}, {1, true, 0, signFine}, {1, true, 0, signDead}},
		"quiet before":     {{1, false, 0, signFine}, {1, false, 0, signFine}, {1, true, 0, signFine}, {1, true, 0, signFine}, {1, true, 0, signAsk}},
		"slow and alive":   {{1, true, 0, signFine}, {1, true, 0, signFine}, {1, true, 0, signAsk}, {9, true, 0, signFine}, {9, true, 0, signFine}, {9, true, 0, signAsk}, {9, true, 0, signFine}, {9, true, 0, signDead}},
		"answered between": {{1, true, 0, signFine}, {1, true, 0, signFine}, {2, false, 0, signFine}, {2, true, 0, signFine}, {2, true, 0, signFine}, {2, true, 0, signAsk}},
		"much to send":     {{1, true, 400 << 10, signFine}, {1, true, 400 << 10, signFine}, {1, true, 400 << 10, signAsk}, {1, true, 400 << 10, signFine}, {1, true, 400 << 10, signFine}, {1, true, 400 << 10, signDead}},
	} {
		var s silence
		for i, l := range looks {
			if got := s.look(every, l.heard, l.waits, l.sent); got != l.want {
				t.Errorf("%s: look %d says %d, want %d", name, i, got, l.want)
			}
		}
	}
	var s silence
	for n := 0; s.look(every, 1, true, 1<<40) != signDead; n++ {
		if n > 4*16+10 {
			t.Fatal("any amount of bytes buys time")
		}
	}
}

// fallSilent cuts a node off: nothing is answered, and dials hang.
func (f *fakeCluster) fallSilent(n *fakeNode) (recover func()) {
	heal := f.net.cut(n.addr)
	n.setDeaf(true)
	return func() { n.setDeaf(false); heal() }
}

// A node that falls silent holds up those who wait for it for about a second, and nobody after them. What was in flight is unknown.
func TestSilentOwnerIsLeft(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		dead, keys := f.busiest()
		r := c.Object("T", keys[0])
		adds(t, r, 0, 5)()
		time.Sleep(time.Minute) // a quiet connection is not suspected
		back := f.fallSilent(dead)
		for _, key := range keys {
			f.move(f.shard("T", key), dead.id%3+1)
		}
		start := time.Now()
		p, other := r.Start(t.Context(), "Add", 99), c.Object("T", keys[1]).Start(t.Context(), "Add", 99)
		wantError(t, p.Wait(t.Context(), nil), actor.ErrUnreachable, actor.MayHaveRun, "no sign of life")
		wantError(t, other.Wait(t.Context(), nil), actor.ErrUnreachable, actor.MayHaveRun, "no sign of life")
		if took := time.Since(start); took < time.Second || took > 1300*time.Millisecond {
			t.Errorf("the silence was noticed after %v", took)
		}
		within(t, "the next calls", 0, adds(t, r, 5, 10))
		for _, key := range keys[1:] {
			within(t, "calls of other objects", 0, adds(t, c.Object("T", key), 0, 3))
		}
		time.Sleep(5 * time.Second)
		within(t, "calls while it is tried again", 0, adds(t, r, 10, 12))
		back()
		synctest.Wait()
		f.move(f.shard("T", keys[0]), dead.id)
		within(t, "calls when it is back", 2*time.Second, adds(t, r, 12, 15))
		wantLog(t, f, keys[0], 15)
	})
}

// Calls behind a full send buffer have not left: they go to the next owner, in order, and no caller hears of it.
func TestSilentOwnerLeavesTheUnsent(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		s := f.shard("T", "k")
		owner := f.nodes[f.ring().Owner(s)]
		r := c.Object("T", "k")
		adds(t, r, 0, 1)()
		defer owner.block()()
		big := bytes.Repeat([]byte{7}, 1<<20)
		var stuck []*actor.Pending
		for range 12 {
			stuck = append(stuck, r.Start(t.Context(), "Size", big))
		}
		wait := adds(t, r, 1, 6)
		f.move(s, owner.id%3+1)
		unknown := 0
		for i, p := range stuck {
			if err := p.Wait(t.Context(), nil); err != nil {
				wantError(t, err, actor.ErrUnreachable, actor.MayHaveRun)
				if unknown++; unknown != i+1 {
					t.Errorf("call %d is unknown, an earlier one ran", i)
				}
			}
		}
		if unknown == 0 || unknown == len(stuck) {
			t.Errorf("%d of %d calls are unknown: nothing is shown", unknown, len(stuck))
		}
		wait()
		wantLog(t, f, "k", 6)
	})
}

// An event that runs long on a healthy node is not disturbed, however often the node is asked meanwhile.
func TestLongEventIsLeftAlone(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeCluster, c *Client) {
		owner := f.nodes[f.ring().Owner(f.shard("T", "k"))]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := c.Object("T", "k")
		p := r.Start(ctx, "Park", nil)
		release := <-f.parked
		dials := f.net.dialed(owner.addr)
		time.Sleep(30 * time.Second)
		within(t, "calls beside it", 0, adds(t, c.Object("T", "k"), 0, 3))
		release()
		if err := p.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
		if n := f.net.dialed(owner.addr); n != dials {
			t.Errorf("the node was dialed again: %d times, before it were %d", n, dials)
		}
	})
}

// slowConn takes and gives so many bytes a second.
type slowConn struct {
	net.Conn
	in, out int // 0: any number
}

func spend(n, rate int) {
	if rate > 0 {
		time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	}
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	spend(n, c.in)
	return n, err
}

func (c slowConn) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		piece := b[:min(len(b), 16<<10)]
		spend(len(piece), c.out)
		n, werr := c.Conn.Write(piece)
		written, b, err = written+n, b[n:], werr
	}
	return written, err
}

// Large arguments and results take their time on a slow network, in which no whole frame comes.
func TestSlowNetworkIsNoSilence(t *testing.T) {
	for name, slow := range map[string]slowConn{"answers": {in: 1 << 20}, "calls": {out: 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeClusterOn(t, 1, newPipeNet())
				c, err := Dial(t.Context(), f.addrs(), &Options{Net: func(ctx context.Context, addr string) (net.Conn, error) {
					nc, err := f.net.dial(ctx, addr)
					return slowConn{nc, slow.in, slow.out}, err
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer time.Sleep(time.Second) // what the network still has in hand
				defer c.Close()
				start := time.Now()
				got, err := actor.Call[[]byte](t.Context(), c.Object("T", "k"), "Echo", make([]byte, 7<<20))
				if err != nil || len(got) != 7<<20 {
					t.Error(len(got), err)
				}
				if took := time.Since(start); took < 5*time.Second {
					t.Errorf("7 MiB went through within %v: the network is not slow", took)
				}
			})
		})
	}
}
