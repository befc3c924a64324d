package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/client"
	"github.com/ringfence/ringfence/transport/freeport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// running is a node that a test runs.
type running struct {
	*Node
	cancel context.CancelFunc
	done   chan error
}

func quietConfig(t testing.TB, dir string) Config {
	t.Helper()
	port, err := freeport.Run(2) // the second is for gossip
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Data: dir, Listen: fmt.Sprint("127.0.0.1:", port), Logger: slog.New(slog.DiscardHandler)}
	c.plan.Damp = time.Second
	return c
}

func launch(t *testing.T, cfg Config, more ...actor.Class) *running {
	t.Helper()
	n, err := New(cfg, append([]actor.Class{stock.Counter(), stock.Map()}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Node: n, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends the node cleanly; twice does nothing.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if r.done == nil {
		return
	}
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("node %s: %v", r.ID(), err)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("node %s does not stop", r.ID())
	}
	r.done = nil
}

// freeAddr is a free port, for TCP and UDP.
func freeAddr(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// trio starts three nodes that list each other.
func trio(t *testing.T, change func(i int, c *Config), more ...actor.Class) []*running {
	t.Helper()
	gossips := []string{freeAddr(t), freeAddr(t), freeAddr(t)}
	var nodes []*running
	for i := range gossips {
		cfg := quietConfig(t, t.TempDir())
		cfg.Gossip, cfg.Join, cfg.BootstrapExpect, cfg.Shards = gossips[i], gossips, 3, 16
		if change != nil {
			change(i, &cfg)
		}
		nodes = append(nodes, launch(t, cfg, more...))
	}
	return nodes
}

func waitServing(t *testing.T, nodes ...*running) {
	t.Helper()
	for _, n := range nodes {
		select {
		case <-n.Serving():
		case err := <-n.done:
			t.Fatalf("node %s ended: %v", n.ID(), err)
		case <-time.After(30 * time.Second):
			t.Fatalf("node %s does not serve after 30 s", n.ID())
		}
	}
}

func dialTo(t *testing.T, nodes ...*running) *client.Client {
	t.Helper()
	var seeds []string
	for _, n := range nodes {
		seeds = append(seeds, n.Addr())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, seeds, &client.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func increment(t *testing.T, c *client.Client, key string) int64 {
	t.Helper()
	n, err := actor.Call[int64](context.Background(), c.Object("Counter", key), "Increment", int64(1))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOneNodeFormsAlone(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, quietConfig(t, dir))
	waitServing(t, n)
	c := dialTo(t, n)
	for i := range int64(5) {
		if got := increment(t, c, "a"); got != i+1 {
			t.Fatalf("increment %d answered %d", i+1, got)
		}
	}
	cluster := n.cluster()
	n.stop(t)
	cfg := quietConfig(t, dir)
	cfg.Listen, cfg.Gossip = n.Addr(), "127.0.0.1:0" // the ring remembers the one; the port after it may be anybody's
	again := launch(t, cfg)
	waitServing(t, again)
	if again.cluster() != cluster {
		t.Fatal("the node came back to another cluster")
	}
	if got := increment(t, dialTo(t, again), "a"); got != 6 {
		t.Fatalf("after a restart the sixth increment answered %d", got)
	}
}

func TestThreeNodesServeThroughAnyOfThem(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	for i, n := range nodes {
		if n.cluster() != nodes[0].cluster() || n.Ring().Hash() != nodes[0].Ring().Hash() {
			t.Fatalf("node %d is in another cluster, or has another ring", i)
		}
	}
	want := make(map[string]int64)
	for _, n := range nodes {
		c := dialTo(t, n)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				key := fmt.Sprint(i)
				got, err := actor.Call[int64](context.Background(), c.Object("Counter", key), "Increment", int64(1))
				mu.Lock()
				defer mu.Unlock()
				if want[key]++; err != nil || got != want[key] {
					t.Errorf("counter %s answered %d, %v; want %d", key, got, err, want[key])
				}
			})
		}
		wg.Wait()
	}
	st := status(t, nodes[1])
	if len(st.Nodes) != 3 || st.Tolerates != 1 || st.Unowned != 0 || st.Shards != 16 || st.Epoch != 1 {
		t.Fatalf("status %+v", st)
	}
	for _, n := range st.Nodes {
		if n.State != "up" {
			t.Fatalf("status %+v", st)
		}
	}
}

func question(t *testing.T, n *running, name string, body any, into any) error {
	t.Helper()
	b, err := msgpack.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tcp.Dial(context.Background(), n.Addr(), transport.Hello{Purpose: transport.PurposeCalls}, tcp.DialOptions{Handler: linkHandler{n.Node}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := c.Roundtrip(context.Background(), transport.Request{Name: name, Body: b})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Error != "" {
		return fmt.Errorf("%s", resp.Error)
	}
	return decode(resp.Body, into)
}

func status(t *testing.T, n *running) (st Status) {
	t.Helper()
	if err := question(t, n, "status", nil, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestWhereNamesTheOwner(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	increment(t, dialTo(t, nodes...), "a")
	var w Where
	if err := question(t, nodes[2], "where", WhereRequest{"Counter", "a"}, &w); err != nil {
		t.Fatal(err)
	}
	if w.Object != "Counter/a" || w.Token == 0 || w.Owner.Addr == "" || len(w.Replicas) != 3 || w.Epoch != 1 {
		t.Fatalf("%+v", w)
	}
	if err := question(t, nodes[2], "where", WhereRequest{"9bad", "a"}, &w); err == nil || !strings.Contains(err.Error(), "9bad") {
		t.Fatal(err)
	}
	if err := question(t, nodes[2], "nonsense", nil, &w); err == nil || !strings.Contains(err.Error(), `"nonsense" is not known here`) {
		t.Fatal(err)
	}
}

func TestANodeStopsAndItsObjectsGoOn(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	c := dialTo(t, nodes...)
	for i := range 30 {
		increment(t, c, fmt.Sprint(i))
	}
	nodes[0].stop(t)
	if st := status(t, nodes[1]); st.Tolerates != 0 {
		t.Fatalf("with one of three gone, status says %+v", st)
	}
	for i := range 30 {
		if got := increment(t, c, fmt.Sprint(i)); got != 2 {
			t.Fatalf("counter %d answered %d after a node stopped, want 2", i, got)
		}
	}
}

func TestNodesThatDoNotAgreeSayWhy(t *testing.T) {
	var log strings.Builder
	var mu sync.Mutex
	w := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	})
	trio(t, func(i int, c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
		c.Shards = 16 + 16*i
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		mu.Lock()
		s := log.String()
		mu.Unlock()
		if strings.Contains(s, "cannot form a cluster: --shards is ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody says why they do not form a cluster:\n%s", s)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestDirectoryOfAnotherClusterIsRefused(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	dir := t.TempDir()
	own := launch(t, quietConfig(t, dir))
	waitServing(t, own)
	mine := own.cluster()
	own.stop(t)
	cfg := quietConfig(t, dir)
	cfg.Join = []string{nodes[0].GossipAddr()}
	n, err := New(cfg, stock.Counter())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.Run(ctx); err == nil || !strings.Contains(err.Error(), "makes this node a cluster of its own, and --join names another") ||
		!strings.Contains(err.Error(), mine.String()) {
		t.Fatal(err)
	}
}

func TestConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Data = "" }, "--data DIR"},
		{func(c *Config) { c.Listen = "nonsense" }, `--listen "nonsense": want HOST:PORT`},
		{func(c *Config) { c.Listen = "127.0.0.1:99999" }, `"99999" is not a port`},
		{func(c *Config) { c.Shards, c.ShardsSet = 0, true }, "--shards 0: want 1 to 4096"},
		{func(c *Config) { c.Replicas, c.ReplicasSet = 9, true }, "--replicas 9: want 1 to 7"},
		{func(c *Config) { c.BootstrapExpect, c.Shards = 5, 8 }, "--bootstrap-expect 5: with --shards 8 at most 4"},
		{func(c *Config) { c.SnapshotRate = 100 }, "--snapshot-rate 100: want at least 1048576"},
		{func(c *Config) { c.MaxActivations = -1 }, "--max-activations -1: want at least 1"},
		{func(c *Config) { c.Lease = "hope" }, "--lease hope: want clock or quorum"},
		{func(c *Config) { c.Lease = "x" }, "--lease x"},
		{func(c *Config) { c.Timing = "x" }, "--timing x: want lan or slow"},
		{func(c *Config) { c.Machine, c.HTTP = new(Machine), "127.0.0.1:0" }, "has no HTTP port and no Switch"},
		{func(c *Config) { c.Machine, c.Switch = new(Machine), new(Switch) }, "has no HTTP port and no Switch"},
		{func(c *Config) { c.Join = []string{"host"} }, `--join "host"`},
		{func(c *Config) { c.Join = []string{"host:0"} }, "a seed needs its port"},
	} {
		cfg := quietConfig(t, dir)
		c.change(&cfg)
		n, err := New(cfg, stock.Counter())
		if err == nil {
			_ = n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestDirectoryIsRefusedByName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n := launch(t, quietConfig(t, dir))
	waitServing(t, n)
	if _, err := New(quietConfig(t, dir), stock.Counter()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("a directory in use: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(quietConfig(t, foreign), stock.Counter()); err == nil || !strings.Contains(err.Error(), `holds no Ringfence data ("thesis.txt" is in it)`) {
		t.Fatalf("a directory of something else: %v", err)
	}
	cfg := quietConfig(t, t.TempDir())
	cfg.Listen = n.Addr()
	if _, err := New(cfg, stock.Counter()); err == nil || !strings.Contains(err.Error(), "--listen "+n.Addr()+": the port is in use") {
		t.Fatalf("a port in use: %v", err)
	}
	n.stop(t)
	cfg = quietConfig(t, dir)
	cfg.Shards, cfg.ShardsSet = 32, true
	if _, err := New(cfg, stock.Counter()); err == nil || !strings.Contains(err.Error(), "has 64 shards; the number is fixed for a cluster's life") {
		t.Fatalf("another shard count: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	n := launch(t, quietConfig(t, t.TempDir()))
	waitServing(t, n)
	for _, c := range []struct {
		hello transport.Hello
		want  string
	}{
		{transport.Hello{Purpose: transport.PurposeCalls, Cluster: ring.ClusterID{9}}, "belongs to cluster " + n.cluster().String()},
		{transport.Hello{Purpose: transport.PurposeCalls, WantNode: 5}, "the address has changed hands"},
		{transport.Hello{Purpose: transport.PurposeRaft}, "only members of cluster"},
		{transport.Hello{Purpose: transport.PurposeBulk, Cluster: n.cluster()}, "only members of cluster"},
		{transport.Hello{Purpose: transport.PurposeRaft, Cluster: n.cluster(), Node: n.ID(), Boot: 1}, "is a copy of its data directory in use?"},
	} {
		_, err := tcp.Dial(context.Background(), n.Addr(), c.hello, tcp.DialOptions{Handler: linkHandler{n.Node}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x01\x02", strings.Repeat("\xff", 100)} {
		for _, addr := range []string{n.Addr(), n.GossipAddr()} {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(nc, garbage)
			_ = nc.Close()
		}
	}
	if got := increment(t, dialTo(t, n), "x"); got != 1 {
		t.Fatal(got)
	}
}
