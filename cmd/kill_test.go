package cmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// killCounters is how many objects are counted on; they are spread over all shards, so any node owns about a third of them.
const killCounters = 1000

// roundsOf is the number that an environment variable gives, or else def.
func roundsOf(t *testing.T, variable string, def int) int {
	s := os.Getenv(variable)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number above 0", variable, s)
	}
	return n
}

// TestKill kills node processes while callers increment counters, first one at a time, three times or as often as RINGFENCE_KILL_ROUNDS says, at last all at once, and checks that what the
// callers were told is linearizable and that nothing acknowledged is lost.
func TestKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	choose := rand.New(rand.NewPCG(seed, 0))
	nodes := startNodes(t, 3)
	h := newHistory(t, nodes)
	h.waitForMore(t, killCounters, "with all nodes there")
	for round := range roundsOf(t, "RINGFENCE_KILL_ROUNDS", 3) {
		victim := nodes[choose.IntN(len(nodes))]
		t.Logf("round %d: node %d, %d acknowledged so far", round+1, victim.number, h.acknowledged())
		killed := time.Since(h.began)
		victim.kill(t)
		h.waitForMore(t, 2*killCounters, "with one node of three gone")
		victim.start(t)
		victim.waitServing(t)
		h.waitForMore(t, 2*killCounters, "with the node back")
		t.Logf("the longest that a caller waited around the kill: %v", h.longest(killed).Round(time.Millisecond))
	}
	for _, n := range nodes {
		n.kill(t)
	}
	for _, n := range nodes {
		n.start(t)
	}
	for _, n := range nodes {
		n.waitServing(t)
	}
	h.waitForMore(t, 2*killCounters, "after all nodes were killed at once")
	h.finish(t)
	for _, n := range nodes {
		if strings.Contains(n.err.String(), "panic") {
			t.Errorf("node %d: stderr:\n%s", n.number, n.err)
		}
	}
}

// nodeProcess is one `node`, which can be killed and started again.
type nodeProcess struct {
	number int
	binary string // empty: this program
	args   []string
	listen string
	err    *lines // of all its lives

	cmd   *exec.Cmd
	out   *lines
	ended chan struct{}
}

func startNodes(t *testing.T, n int) []*nodeProcess {
	t.Helper()
	return startNodesOf(t, "", n)
}

// startNodesOf starts nodes of a program that is not this one.
func startNodesOf(t *testing.T, binary string, n int) []*nodeProcess {
	t.Helper()
	addrs, err := localAddrs(n, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var nodes []*nodeProcess
	for i, a := range addrs {
		var seeds []string
		for j, other := range addrs {
			if j != i {
				seeds = append(seeds, other.gossip)
			}
		}
		p := &nodeProcess{number: i + 1, binary: binary, listen: a.listen, err: newLines(), args: []string{"node", "--data", filepath.Join(dir, strconv.Itoa(i+1)),
			"--listen", a.listen, "--gossip", a.gossip, "--http", a.http, "--join", strings.Join(seeds, ","), "--bootstrap-expect", strconv.Itoa(n)}}
		p.start(t)
		nodes = append(nodes, p)
	}
	for _, p := range nodes {
		p.waitServing(t)
	}
	return nodes
}

func (p *nodeProcess) start(t *testing.T) {
	t.Helper()
	p.cmd, p.out, p.ended = program(context.Background(), p.args...), newLines(), make(chan struct{})
	if p.binary != "" {
		p.cmd = exec.Command(p.binary, p.args...)
		p.cmd.SysProcAttr = boundToParent()
	}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := p.cmd, p.ended
	go func() {
		_ = cmd.Wait() // these processes are killed
		close(ended)
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
}

func (p *nodeProcess) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatalf("node %d was gone before it was killed: %v; stderr:\n%s", p.number, err, p.err)
	}
	<-p.ended
}

func (p *nodeProcess) waitServing(t *testing.T) {
	t.Helper()
	if !p.out.wait(time.After(40*time.Second), p.ended, "serving at ") {
		t.Fatalf("node %d does not serve; stderr:\n%s", p.number, p.err)
	}
}

// increment is one call as its caller saw it. value is what it returned; 0 if it failed and may have run.
type increment struct {
	began, ended time.Duration
	value        int64
}

// history lets callers increment counters, again and again, and keeps what they were told.
type history struct {
	cl      *client.Client
	began   time.Time
	stop    chan struct{}
	callers sync.WaitGroup
	acked   atomic.Int64
	failed  atomic.Int64 // whatever the outcome
	lastErr atomic.Pointer[error]

	mu  sync.Mutex
	ops map[string][]increment // by object; calls that certainly did not run are left out
}

func newHistory(t *testing.T, nodes []*nodeProcess) *history {
	t.Helper()
	var servers []string
	for _, n := range nodes {
		servers = append(servers, n.listen)
	}
	cl, err := client.Dial(t.Context(), servers, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{cl: cl, began: time.Now(), stop: make(chan struct{}), ops: map[string][]increment{}}
	for range 32 {
		h.callers.Go(func() { h.caller(t) })
	}
	t.Cleanup(func() { h.end(); cl.Close() })
	return h
}

func (h *history) end() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	h.callers.Wait()
}

func (h *history) caller(t *testing.T) {
	for {
		key := fmt.Sprintf("kill-%d", rand.IntN(killCounters))
		select {
		case <-h.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		op := increment{began: time.Since(h.began)}
		// A new reference for each call: the order of one reference must not hide a fault.
		v, err := actor.Call[int64](ctx, h.cl.Object("Counter", key), "Increment", 1)
		cancel()
		op.ended, op.value = time.Since(h.began), v
		if err != nil {
			h.failed.Add(1)
			h.lastErr.Store(&err)
		}
		if e := (*actor.Error)(nil); err != nil && errors.As(err, &e) {
			switch e.Outcome {
			case actor.DidNotRun:
				continue
			case actor.Ran:
				t.Errorf("increment of %s: %v", key, err)
				return
			}
			op.value = 0
		} else if err != nil {
			t.Errorf("increment of %s: an error of no kind: %v", key, err)
			return
		} else {
			h.acked.Add(1)
		}
		h.mu.Lock()
		h.ops[key] = append(h.ops[key], op)
		h.mu.Unlock()
	}
}

func (h *history) acknowledged() int64 { return h.acked.Load() }

func (h *history) waitForMore(t *testing.T, n int64, when string) {
	t.Helper()
	goal := h.acked.Load() + n
	eventually(t, fmt.Sprintf("%d more increments %s", n, when), func() bool { return h.acked.Load() >= goal })
}

// longest is the longest call that was under way at the given moment, or began within the second after it, and succeeded.
func (h *history) longest(at time.Duration) (d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ops := range h.ops {
		for _, op := range ops {
			if op.value != 0 && op.ended > at && op.began < at+time.Second {
				d = max(d, op.ended-max(op.began, at))
			}
		}
	}
	return d
}

// finish ends the callers, reads the counters and checks the history.
func (h *history) finish(t *testing.T) {
	t.Helper()
	h.end()
	var calls, counted atomic.Int64
	var readers sync.WaitGroup
	keys := slices.Sorted(maps.Keys(h.ops))
	for i := range 8 {
		readers.Go(func() {
			for _, key := range keys[len(keys)*i/8 : len(keys)*(i+1)/8] {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				final, err := actor.Call[int64](ctx, h.cl.Object("Counter", key), "Get", nil)
				cancel()
				if err != nil {
					t.Errorf("reading %s: %v", key, err)
					return
				}
				if err := checkIncrements(h.ops[key], final); err != nil {
					t.Errorf("%s: %v", key, err)
				}
				calls.Add(int64(len(h.ops[key])))
				counted.Add(final)
			}
		})
	}
	readers.Wait()
	t.Logf("%d objects, %d increments, of which %d acknowledged; %d counted", len(keys), calls.Load(), h.acknowledged(), counted.Load())
}

// checkIncrements reports why a history of increments by one, with the counter read after all of them, is not linearizable. Every
// returned value names the call's place in the one order there can be: so values are unique, follow real time, and all
// places between are taken by calls that may have run.
func checkIncrements(ops []increment, final int64) error {
	var known []increment
	for _, op := range ops {
		if op.value != 0 {
			known = append(known, op)
		}
	}
	if final < int64(len(known)) || final > int64(len(ops)) {
		return fmt.Errorf("the counter is %d after %d acknowledged increments and %d that may have run", final, len(known), len(ops)-len(known))
	}
	slices.SortFunc(known, func(a, b increment) int { return int(a.value - b.value) })
	latestBegin := time.Duration(-1)
	for i, op := range known {
		switch {
		case op.value < 1 || op.value > final:
			return fmt.Errorf("an increment returned %d; the counter is %d", op.value, final)
		case i > 0 && op.value == known[i-1].value:
			return fmt.Errorf("two increments returned %d", op.value)
		case op.ended < latestBegin:
			return fmt.Errorf("the increment that returned %d had ended before one began that returned less", op.value)
		}
		latestBegin = max(latestBegin, op.began)
	}
	return nil
}

func TestCheckIncrements(t *testing.T) {
	for _, c := range []struct {
		name  string
		ops   []increment
		final int64
		ok    bool
	}{
		{"in order", []increment{{0, 1, 1}, {2, 3, 2}}, 2, true},
		{"overlapping, reversed", []increment{{0, 5, 2}, {1, 6, 1}}, 2, true},
		{"unknown, ran", []increment{{0, 1, 1}, {2, 3, 0}, {4, 5, 3}}, 3, true},
		{"unknown, did not run", []increment{{0, 1, 1}, {2, 3, 0}, {4, 5, 2}}, 2, true},
		{"acknowledged, lost", []increment{{0, 1, 1}, {2, 3, 2}}, 1, false},
		{"ran twice", []increment{{0, 1, 1}, {2, 3, 3}}, 3, false},
		{"the same value twice", []increment{{0, 9, 1}, {0, 9, 1}}, 2, false},
		{"stale", []increment{{0, 1, 2}, {2, 3, 1}}, 2, false},
		{"beyond the end", []increment{{0, 1, 5}, {2, 3, 1}}, 2, false},
	} {
		if err := checkIncrements(c.ops, c.final); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
