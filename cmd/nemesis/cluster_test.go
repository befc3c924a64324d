//go:build linux

package nemesis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	nodes  []*process
}

// process is one node, which can be ended and started again. Its log has all its lives.
type process struct {
	number int // from 1
	args   []string
	log    string
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

// startCluster starts n nodes that form one cluster, and waits until it is whole.
func startCluster(t *testing.T, n, shards int) *cluster {
	t.Helper()
	d, err := os.MkdirTemp(dir, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{dir: d, shards: shards}
	t.Cleanup(func() { c.clean(t) })
	for i := range n {
		var seeds []string
		for j := range n {
			if j != i {
				seeds = append(seeds, nodeIP(j+1)+":7421")
			}
		}
		name := strconv.Itoa(i + 1)
		p := &process{number: i + 1, log: filepath.Join(d, "node"+name+".log"), args: []string{"node", "--data", filepath.Join(d, name),
			"--listen", listenAddr(i + 1), "--join", strings.Join(seeds, ","), "--bootstrap-expect", strconv.Itoa(n), "--shards", strconv.Itoa(shards), "--log-level", "info"}}
		c.nodes = append(c.nodes, p)
		p.start(t)
	}
	c.waitWhole(t, 40*time.Second)
	return c
}

// clean ends the processes, and keeps data and logs if the test failed.
func (c *cluster) clean(t *testing.T) {
	for _, p := range c.nodes {
		if err := drop(net.node(p.number), rules{}); err != nil {
			t.Error(err)
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
	cmd, ended := in(net.node(p.number), binary, p.args...), make(chan struct{})
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
	began := time.Now()
	for {
		var errs []error
		for _, p := range c.nodes {
			p.running(t)
			errs = append(errs, c.whole(listenAddr(p.number)))
		}
		err := errors.Join(errs...)
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("the cluster is not whole after %v:\n%v", limit, err)
		}
		pass(t, 200*time.Millisecond)
	}
}

// pass lets time pass, which is what a fault of a given length takes.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
