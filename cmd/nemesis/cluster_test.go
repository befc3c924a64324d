//go:build linux

package nemesis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
)

// cluster is the binary's node processes, each in its namespace.
type cluster struct {
	dir    string
	shards int
	binary string
	env    []string   // of the nodes, beside this process's
	extra  []string   // flags of all nodes
	nodes  []*process // that are to be members
	all    []*process // that were ever started
}

// process is one node, which can be ended and started again. Its log has all its lives.
type process struct {
	c      *cluster
	number int // of its namespace and address, from 1
	args   []string
	log    string
	disk   *disk // nil: its directory is on the machine's own
	cmd    *exec.Cmd
	out    *watched
	ended  chan struct{} // closed when cmd has ended; its state is set then
}

// starter is the one thread that starts processes: the kernel ends a process when the thread that it is bound to ends.
var starter = sync.OnceValue(func() chan func() {
	todo := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range todo {
			f()
		}
	}()
	return todo
})

func startBound(c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := make(chan error)
	starter() <- func() { err <- c.Start() }
	return <-err
}

// in is a command within a namespace. It becomes that command, so its process ID is the command's.
func in(ns, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
}

func listenAddr(i int) string { return nodeIP(i) + ":7420" }

// startCluster starts n nodes that form one cluster, and waits until it is whole. extra are flags of all nodes, those too that join later.
func startCluster(t *testing.T, n, shards int, extra ...string) *cluster {
	t.Helper()
	c := newCluster(t, shards, extra...)
	c.form(t, n)
	return c
}

func newCluster(t *testing.T, shards int, extra ...string) *cluster {
	t.Helper()
	d, err := os.MkdirTemp(dir, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{dir: d, shards: shards, extra: extra, binary: binary}
	t.Cleanup(func() { c.clean(t) })
	return c
}

func (c *cluster) form(t *testing.T, n int) {
	t.Helper()
	c.founders(n)
	for _, p := range c.nodes {
		p.start(t)
	}
	c.waitWhole(t, 40*time.Second)
}

// founders are n nodes that will form a cluster, not started yet.
func (c *cluster) founders(n int) {
	for i := range n {
		var seeds []string
		for j := range n {
			if j != i {
				seeds = append(seeds, gossipAddr(j+1))
			}
		}
		c.nodes = append(c.nodes, c.process(i+1, c.data(i+1), seeds, "--bootstrap-expect", strconv.Itoa(n), "--shards", strconv.Itoa(c.shards)))
	}
}

func gossipAddr(i int) string { return nodeIP(i) + ":7421" }

// data is the directory of the node that first runs in a namespace.
func (c *cluster) data(number int) string { return filepath.Join(c.dir, strconv.Itoa(number)) }

// process is a node in a namespace, not started yet.
func (c *cluster) process(number int, data string, seeds []string, flags ...string) *process {
	p := &process{c: c, number: number, log: filepath.Join(c.dir, fmt.Sprintf("node%d.log", number)), args: append([]string{"node", "--data", data,
		"--listen", listenAddr(number), "--join", strings.Join(seeds, ","), "--log-level", "info"}, flags...)}
	p.args = append(p.args, c.extra...)
	c.all = append(c.all, p)
	return p
}

// join starts a node that joins the cluster.
func (c *cluster) join(t *testing.T, number int, data string) *process {
	t.Helper()
	p := c.joiner(number, data)
	p.start(t)
	p.waitServing(t)
	c.nodes = append(c.nodes, p)
	return p
}

// joiner is a node that knows all members, not started yet.
func (c *cluster) joiner(number int, data string) *process {
	var seeds []string
	for _, n := range c.nodes {
		seeds = append(seeds, gossipAddr(n.number))
	}
	return c.process(number, data, seeds)
}

// forget takes a node off those that are to be members.
func (c *cluster) forget(p *process) {
	c.nodes = slices.DeleteFunc(c.nodes, func(n *process) bool { return n == p })
}

// command runs a client command of the binary.
func (c *cluster) command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := c.run(t, args...); err != nil {
		t.Fatalf("ringfence %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (c *cluster) run(t *testing.T, args ...string) (string, error) {
	out, err := exec.CommandContext(t.Context(), c.binary, args...).CombinedOutput()
	return string(out), err
}

// clean ends the processes, and keeps data and logs if the test failed.
func (c *cluster) clean(t *testing.T) {
	for _, p := range c.all {
		if err := drop(net.node(p.number), rules{}); err != nil {
			t.Error(err)
		}
		if p.cmd == nil {
			continue
		}
		p.signal(syscall.SIGKILL)
		<-p.ended
		b, err := os.ReadFile(p.log)
		if err != nil {
			t.Error(err)
		}
		if bytes.Contains(b, []byte("panic:")) || bytes.Contains(b, []byte("DATA RACE")) {
			t.Errorf("node %d: see %s", p.number, p.log)
		}
		if t.Failed() {
			t.Logf("the log is kept: %s", p.log)
		}
	}
	if t.Failed() {
		return
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Error(err)
	}
}

func (c *cluster) servers() (all []string) {
	for _, p := range c.nodes {
		all = append(all, listenAddr(p.number))
	}
	return all
}

func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fmt.Fprintf(log, "--- started at %s\n", time.Now().Format(time.StampMilli))
	name, args := p.c.binary, p.args
	if p.disk != nil {
		name, args = p.disk.mounted(name, args)
	}
	cmd, ended := in(net.node(p.number), name, args...), make(chan struct{})
	cmd.Env = append(os.Environ(), p.c.env...)
	p.out = newWatched()
	cmd.Stdout, cmd.Stderr = p.out, log
	if err := startBound(cmd); err != nil {
		t.Fatalf("node %d: %v", p.number, err)
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // its state tells
		close(ended)
	}()
}

// signal reaches the process that was started, or nobody.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill(t *testing.T) {
	t.Helper()
	p.running(t)
	p.signal(syscall.SIGKILL)
	<-p.ended
}

func (p *process) running(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("node %d has ended by itself: %v; see %s", p.number, p.cmd.ProcessState, p.log)
	default:
	}
}

// stop asks the process to stop, and wants it to do so with exit code 0.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.running(t)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("node %d ended with code %d after SIGTERM; see %s", p.number, code, p.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("node %d runs on 30 s after SIGTERM; see %s", p.number, p.log)
	}
}

// wantEnd wants the process to end by itself with an exit code, and its log's last words to contain these.
func (p *process) wantEnd(t *testing.T, limit time.Duration, code int, words ...string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		t.Fatalf("node %d still runs after %v; see %s", p.number, limit, p.log)
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := lines[len(lines)-1]
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("node %d ended with code %d, want %d: %s", p.number, got, code, last)
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			t.Errorf("node %d ended with %q; it should say %q", p.number, last, w)
		}
	}
}

func (p *process) waitServing(t *testing.T) {
	t.Helper()
	select {
	case <-p.out.serving:
	case <-p.ended:
		t.Fatalf("node %d ended before it served: %v; see %s", p.number, p.cmd.ProcessState, p.log)
	case <-time.After(40 * time.Second):
		t.Fatalf("node %d does not serve; see %s", p.number, p.log)
	}
}

// watched closes serving when the node says that it serves.
type watched struct {
	serving chan struct{}
	said    []byte
	done    bool
}

func newWatched() *watched { return &watched{serving: make(chan struct{})} }

func (w *watched) Write(b []byte) (int, error) { // by one goroutine of exec
	if w.done {
		return len(b), nil
	}
	w.said = append(w.said, b...)
	if w.done = bytes.Contains(w.said, []byte("serving at ")); w.done {
		close(w.serving)
	}
	return len(b), nil
}

// status is what one server's `status --json` says.
func status(server string) (s node.Status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, binary, "status", "--json", "--server", server, "--timeout", "3s")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return s, fmt.Errorf("status of %s: %w: %s", server, err, stderr.Bytes())
	}
	return s, json.Unmarshal(out, &s)
}

// whole says what a node still lacks to see the cluster whole: every node up, and every shard owned by exactly one.
func (c *cluster) whole(server string) error {
	s, err := status(server)
	if err != nil {
		return err
	}
	up, owned := 0, 0
	for _, n := range s.Nodes {
		if n.State == "up" {
			up++
		}
		owned += n.Owned
	}
	if up != len(c.nodes) || len(s.Nodes) != len(c.nodes) || s.Unowned != 0 || owned != c.shards || s.Shards != c.shards {
		return fmt.Errorf("as %s sees it, %d of %d nodes are up, and own %d of %d shards; %d unowned: %+v", server, up, len(c.nodes), owned, c.shards, s.Unowned, s.Nodes)
	}
	return nil
}

// waitWhole waits until every node sees the cluster whole, and says how long that took.
func (c *cluster) waitWhole(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	return c.waitUntil(t, limit, c.whole)
}

func (c *cluster) waitUntil(t *testing.T, limit time.Duration, check func(server string) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		var errs []error
		for _, p := range c.nodes {
			p.running(t)
			errs = append(errs, check(listenAddr(p.number)))
		}
		err := errors.Join(errs...)
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("the cluster is not as it should be after %v:\n%v", limit, err)
		}
		pass(t, 200*time.Millisecond)
	}
}

// settled says what is still to be done until nothing moves and every node has its share: half an even one at the least, and what the
// placement allows, 1.25 times an even one rounded up, at the most.
func (c *cluster) settled(server string) error {
	if err := c.whole(server); err != nil {
		return err
	}
	s, err := status(server)
	if err != nil {
		return err
	}
	if len(s.Moves) > 0 {
		return fmt.Errorf("as %s sees it, %d replicas move", server, len(s.Moves))
	}
	even := float64(c.shards) / float64(len(c.nodes))
	for _, n := range s.Nodes {
		if float64(n.Owned) < even/2 || n.Owned > int(math.Ceil(1.25*even)) {
			return fmt.Errorf("as %s sees it, the node at %s owns %d of %d shards, and an even share is %.1f", server, n.Addr, n.Owned, c.shards, even)
		}
	}
	return nil
}

// waitSettled waits until every node sees the cluster settled, and says how long that took.
func (c *cluster) waitSettled(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	return c.waitUntil(t, limit, c.settled)
}

// shares says how many shards each node owns.
func (c *cluster) shares(t *testing.T) string {
	t.Helper()
	s, err := status(listenAddr(c.nodes[0].number))
	if err != nil {
		t.Fatal(err)
	}
	var owned []string
	for _, n := range s.Nodes {
		owned = append(owned, strconv.Itoa(n.Owned))
	}
	return strings.Join(owned, " ")
}

func (c *cluster) copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) removeDir(t *testing.T, d string) {
	t.Helper()
	if err := os.RemoveAll(d); err != nil {
		t.Fatal(err)
	}
}

// successor is the ID of the node that is up at an address where an older one, of another ID, is known to be dead.
func (c *cluster) successor(server, old, addr string) (id string, err error) {
	s, err := status(server)
	if err != nil {
		return "", err
	}
	gone := false
	for _, n := range s.Nodes {
		switch {
		case n.ID == old && n.State != "dead":
			return "", fmt.Errorf("as %s sees it, the old node is %s", server, n.State)
		case n.ID == old:
			gone = true
		case n.Addr == addr && n.State == "up":
			id = n.ID
		}
	}
	if !gone || id == "" {
		return "", fmt.Errorf("as %s sees it, there are %+v", server, s.Nodes)
	}
	return id, nil
}

// idOf is the ID of the node at an address, as another node says.
func (c *cluster) idOf(t *testing.T, server, addr string) string {
	t.Helper()
	s, err := status(server)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Addr == addr {
			return n.ID
		}
	}
	t.Fatalf("%s knows no node at %s: %+v", server, addr, s.Nodes)
	return ""
}

// pass lets time pass, which is what a fault of a given length takes.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
