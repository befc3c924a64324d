package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ringfence/ringfence/ring"
)

func start(t *testing.T, id ring.NodeID, change func(*Config), seeds ...string) *Gossip {
	t.Helper()
	cfg := Config{Node: id, Bind: "127.0.0.1:0", Seeds: seeds, Fast: true, Rejoin: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		Meta: Meta{Boot: ring.BootID(id * 10), Listen: fmt.Sprintf("10.0.0.%d:7420", id), Version: "test"}}
	if change != nil {
		change(&cfg)
	}
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// see waits until g's view is as ok wants it.
func see(t *testing.T, g *Gossip, what string, ok func(v View) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok(g.View()) {
		select {
		case <-g.Changed():
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s; the view is %+v", what, g.View())
		}
	}
}

func ids(v View) (out []ring.NodeID) {
	for _, m := range v.Members {
		out = append(out, m.ID)
	}
	return out
}

func has(want ...ring.NodeID) func(View) bool {
	return func(v View) bool { return reflect.DeepEqual(ids(v), want) }
}

func TestThreeFindEachOtherAndNewsTravels(t *testing.T) {
	a := start(t, 1, nil)
	b := start(t, 2, nil, a.Addr())
	c := start(t, 3, nil, a.Addr())
	for _, g := range []*Gossip{a, b, c} {
		see(t, g, "three members", has(1, 2, 3))
	}
	b.SetCluster(ring.ClusterID{5})
	b.SetEpoch(9)
	see(t, c, "b's epoch", func(v View) bool {
		return v.Members[1].Meta.Epoch == 9 && v.Members[1].Meta.Cluster == ring.ClusterID{5}
	})
	if m := c.View().Members[1]; m.Meta.Listen != "10.0.0.2:7420" || m.Meta.Boot != 20 || m.Gossip != b.Addr() {
		t.Fatalf("%+v", m)
	}
}

func TestForeignClusterIsRefusedBothWays(t *testing.T) {
	mine := func(c *Config) { c.Meta.Cluster = ring.ClusterID{1} }
	a := start(t, 1, mine)
	b := start(t, 2, mine, a.Addr())
	x := start(t, 3, func(c *Config) { c.Meta.Cluster = ring.ClusterID{2} }, a.Addr())
	fresh := start(t, 4, nil, b.Addr())
	see(t, a, "the fresh node", has(1, 2, 4))
	see(t, fresh, "the cluster", has(1, 2, 4))
	see(t, x, "nobody else", func(v View) bool { return x.JoinError() != nil })
	if got := ids(x.View()); len(got) != 1 {
		t.Fatalf("the foreign node sees %v", got)
	}
	if !has(1, 2, 4)(a.View()) {
		t.Fatalf("the cluster sees %v", ids(a.View()))
	}
}

func TestFastRestartShowsItsBoot(t *testing.T) {
	a := start(t, 1, nil)
	b := start(t, 2, nil, a.Addr())
	see(t, a, "b", has(1, 2))
	addr := b.Addr()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, 2, func(c *Config) { c.Bind, c.Meta.Boot = addr, 21 }, a.Addr())
	see(t, a, "the new boot", func(v View) bool { return len(v.Members) == 2 && v.Members[1].Meta.Boot == 21 })
}

// TestComesBackElsewhere: a node that was away for longer than memberlist remembers, and has another address now, is found again,
// by the others' loop too: the one that comes back knows no seed.
func TestComesBackElsewhere(t *testing.T) {
	a := start(t, 1, nil)
	b := start(t, 2, nil, a.Addr())
	see(t, a, "b", has(1, 2))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	see(t, a, "b's death", has(1))
	start(t, 2, func(c *Config) { c.Meta.Boot = 22 }, a.Addr())
	see(t, a, "b elsewhere", func(v View) bool { return len(v.Members) == 2 && v.Members[1].Meta.Boot == 22 })
}

func TestLostPeerIsTriedForEver(t *testing.T) {
	a := start(t, 1, nil)
	b := start(t, 2, nil, a.Addr())
	see(t, a, "b", has(1, 2))
	addr := b.Addr()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	see(t, a, "b's death", has(1))
	start(t, 2, func(c *Config) { c.Bind = addr }) // no seeds: only a's memory of the address brings them together
	see(t, a, "b again", has(1, 2))
}

func TestGarbageOnTheGossipPort(t *testing.T) {
	a := start(t, 1, nil)
	b := start(t, 2, nil, a.Addr())
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		for _, network := range []string{"udp", "tcp"} {
			nc, err := net.Dial(network, a.Addr())
			if err != nil {
				t.Fatal(err)
			}
			g := make([]byte, 1+rng.IntN(300))
			for i := range g {
				g[i] = byte(rng.Uint32())
			}
			_, _ = nc.Write(g)
			_ = nc.Close()
		}
	}
	b.SetEpoch(3)
	see(t, a, "news after garbage", func(v View) bool { return len(v.Members) == 2 && v.Members[1].Meta.Epoch == 3 })
}

func TestPortInUseAndSeedsThatNeverAnswer(t *testing.T) {
	a := start(t, 1, nil)
	_, err := Start(Config{Node: 2, Bind: a.Addr(), Meta: Meta{Listen: "x:1"}, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "in use by another process: stop it, or give another address with --gossip") {
		t.Fatal(err)
	}
	var log lockedBuffer
	b := start(t, 3, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, "127.0.0.1:1")
	see(t, b, "word of the seed that does not answer", func(View) bool {
		return b.JoinError() != nil && strings.Contains(log.String(), "no seed answers; waiting, and trying again")
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func FuzzDecodeMeta(f *testing.F) {
	b, err := Meta{Boot: 5, Cluster: ring.ClusterID{1}, Epoch: 300, Listen: "127.0.0.1:7420", Version: "1.0", Expect: 3, Shards: 64, Replicas: 3, Timing: "lan"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := decodeMeta(b)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 { // its three strings; the rest is the fuzzer's own
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil && len(b) <= memberlist.MetaMaxSize {
			t.Fatal(err)
		}
		if m2, err2 := decodeMeta(again); err == nil && (err2 != nil || m2 != m) {
			t.Fatalf("%+v became %+v: %v", m, m2, err2)
		}
	})
}

// TestMetaWithTheLongestString: a length byte of 255 once wrapped around and ended the process.
func TestMetaWithTheLongestString(t *testing.T) {
	m := Meta{Listen: strings.Repeat("l", 255), Version: "v"}
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeMeta(b); err != nil || got != m {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestMetaIsBounded(t *testing.T) {
	m := Meta{Listen: strings.Repeat("l", 255), Version: strings.Repeat("v", 255)}
	if _, err := m.encode(); err == nil || !strings.Contains(err.Error(), "--advertise-listen") {
		t.Fatal(err)
	}
}

// shut is a transport that counts how often it is shut down.
type shut struct {
	memberlist.NodeAwareTransport
	times int
}

func (s *shut) Shutdown() error {
	s.times++
	return nil
}

func TestFailedStartShutsTransport(t *testing.T) {
	s := &shut{}
	if _, err := Start(Config{Node: 1, Bind: "nonsense", Transport: s}); err == nil || s.times == 0 {
		t.Errorf("%v; shut down %d times", err, s.times)
	}
}
