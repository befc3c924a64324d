//go:build linux

package nemesis

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
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
