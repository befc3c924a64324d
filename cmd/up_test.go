package cmd

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/freeport"
)

// eventually polls cond until it holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not come to pass within 30 s: %s", what)
		}
	}
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// The lines that `up` prints work as printed, and so does a call through every node.
func TestUpPrintsWhatWorks(t *testing.T) {
	c := sharedCluster.get(t)
	if len(c.pids) != 3 || len(c.calls) != 3 {
		t.Fatalf("want three nodes and three lines to try:\n%s", c.out)
	}
	for _, line := range c.calls {
		f := strings.Fields(line)
		if i := slices.IndexFunc(f, func(s string) bool { return s == "call" || s == "status" }); i < 1 {
			t.Errorf("%q: no command in it", line)
		} else {
			runProgram(t, f[i:]...).want(t, 0)
		}
	}
	var got int64
	object := c.unused("Counter")
	for i, s := range c.servers {
		runProgram(t, "call", object, "Increment", "1", "--server", s).result(t, &got)
		if got != int64(i+1) {
			t.Errorf("through node %d: %d, want %d", i+1, got, i+1)
		}
	}
}

func TestFlagsAnywhereAndNegativeNumbers(t *testing.T) {
	c := sharedCluster.get(t)
	var got int64
	object := c.unused("Counter")
	for i, args := range [][]string{
		{"call", "--server", c.server(), object, "Increment", "-5"},
		{"call", object, "--server", c.server(), "Increment", "-5"},
		{"--log-level", "error", "call", object, "Increment", "-5", "--timeout=20s", "--server=" + c.server()},
	} {
		runProgram(t, args...).result(t, &got)
		if want := int64(-5 * (i + 1)); got != want {
			t.Errorf("%q: %d, want %d", args, got, want)
		}
	}
}

func TestCallErrors(t *testing.T) {
	c := sharedCluster.get(t)
	call := func(args ...string) outcome {
		return runProgram(t, append([]string{"call", "--server", c.server()}, args...)...)
	}
	call("Nothing/a", "Get").want(t, 1, "Nothing")
	call("Counter/a", "Explode").want(t, 1, "Explode")
	call("Counter/a", "Increment", `"one"`).want(t, 1, "Counter/a")
	call("Counter/a", "Increment", `{"by":1}`).want(t, 1, "Counter/a")
	call("Counter/a", "Get", "1").want(t, 1, "Counter/a")
	call("Stuck/a", "Wait", "--timeout", "500ms").want(t, 3, "Stuck/a")
}

// What cannot be called is refused with a reason: here (2) where no node is needed to see it, else by the owner (1). The object is as it was.
func TestCallBadInput(t *testing.T) {
	c := sharedCluster.get(t)
	object := c.unused("Counter")
	call := func(args ...string) outcome {
		return runProgram(t, append([]string{"call", "--server", c.server()}, args...)...)
	}
	call(object, "Increment", "7").want(t, 0)
	for _, r := range []struct {
		code int
		text string
		args []string
	}{
		{2, "the key is empty: want 1 to 1024 bytes", []string{"Counter/", "Get"}},
		{2, "want a letter", []string{"/x", "Get"}},
		{2, "want a letter", []string{"Coun ter/x", "Get"}},
		{2, "want CLASS/KEY", []string{"Counter", "Get"}},
		{2, "the key has 100000 bytes: want at most 1024", []string{"Counter/" + strings.Repeat("k", 100_000), "Get"}},
		{2, "the key is not UTF-8", []string{"Counter/\xff\xfe", "Get"}},
		{2, "is not JSON", []string{object, "Increment", "{bad"}},
		{2, "is not JSON", []string{object, "Increment", ""}},
		{1, "want a name of 1 to 128 bytes", []string{object, ""}},
		{1, "want a name of 1 to 128 bytes", []string{object, strings.Repeat("m", 100_000)}},
		{1, "is not UTF-8", []string{object, "\xff"}},
		{1, "none was sent", []string{object, "Increment"}},
		{1, "takes no argument", []string{object, "Get", "1"}},
		{1, "cannot read its argument of type int64", []string{object, "Increment", "1.5"}},
		{1, "cannot read its argument of type int64", []string{object, "Increment", "9223372036854775808"}},
		{1, "cannot read its argument of type int64", []string{object, "Increment", "[1]"}},
		{1, "is more than the counter can hold", []string{object, "Increment", "9223372036854775807"}},
	} {
		o := call(r.args...)
		o.commandLineAsRun = fmt.Sprintf("%.100s", o.commandLineAsRun)
		o.want(t, r.code, r.text)
		if len(o.stderr) > 1000 {
			t.Errorf("%s: %d bytes on stderr", o.commandLineAsRun, len(o.stderr))
		}
	}
	var n int64
	if call(object, "Get").result(t, &n); n != 7 {
		t.Errorf("the counter is %d", n)
	}
}

func TestStatusAndWhere(t *testing.T) {
	c := sharedCluster.get(t)
	var s node.Status
	runProgram(t, "status", "--json", "--server", c.servers[1]).result(t, &s)
	if len(s.Nodes) != 3 || s.Shards != 64 || s.Epoch == 0 || len(s.Cluster) != 32 || s.Tolerates != 1 {
		t.Errorf("status %+v", s)
	}
	owned := 0
	for _, n := range s.Nodes {
		owned += n.Owned
		if n.State != "up" || !slices.Contains(c.servers, n.Addr) || n.Version != node.Version {
			t.Errorf("node %+v", n)
		}
	}
	if owned != 64 {
		t.Errorf("the nodes own %d shards, want 64", owned)
	}
	var w node.Where
	runProgram(t, "where", "Counter/hello", "--json", "--server", c.servers[2]).result(t, &w)
	if w.Object != "Counter/hello" || w.Shard >= 64 || w.Token == 0 || w.Epoch == 0 || len(w.Replicas) != 3 {
		t.Errorf("where %+v", w)
	}
	if !slices.Contains(w.Replicas, w.Owner) {
		t.Errorf("the owner %v is none of the replicas %v", w.Owner, w.Replicas)
	}
	table := runProgram(t, "status", "--server", c.server())
	for _, text := range append([]string{s.Cluster, "ADDR", "OWNED"}, c.servers...) {
		if !strings.Contains(table.stdout, text) {
			t.Errorf("the table lacks %q:\n%s", text, table.stdout)
		}
	}
	if o := runProgram(t, "where", "Counter/hello", "--server", c.server()); !strings.Contains(o.stdout, "owner") || !strings.Contains(o.stdout, w.Owner.Addr) {
		t.Errorf("where prints\n%s", o.stdout)
	}
}

// Bytes that mean nothing, on every port: the nodes live, and say nothing worse than that.
func TestGarbageOnEveryPort(t *testing.T) {
	c := sharedCluster.get(t)
	junk := make([]byte, 64<<10)
	rand.Read(junk)
	frames := [][]byte{junk, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), bytes.Repeat([]byte{0xff}, 4096), bytes.Repeat([]byte{0}, 4096), {0xdd, 0x7f, 0xff, 0xff, 0xff}}
	for _, addr := range slices.Concat(c.servers, c.gossip) {
		for _, f := range frames {
			send(t, "tcp", addr, f)
			send(t, "udp", addr, f[:min(len(f), 1400)])
		}
	}
	for i, s := range c.servers {
		runProgram(t, "call", "Counter/after-garbage", "Increment", "1", "--server", s).want(t, 0)
		if !alive(c.pids[i]) {
			t.Errorf("node %d is gone; stderr:\n%s", i+1, c.err)
		}
	}
	if strings.Contains(c.err.String(), "panic") {
		t.Errorf("stderr:\n%s", c.err)
	}
}

func send(t *testing.T, network, addr string, b []byte) {
	t.Helper()
	conn, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(b) // the other side may hang up at any time
}

// A node that is killed is reported, the others go on; Ctrl-C then ends all of it and removes the temporary directory.
func TestUpOutlivesANode(t *testing.T) {
	c, err := startUp()
	if err != nil {
		t.Fatal(err)
	}
	runProgram(t, "call", "Counter/x", "Increment", "1", "--server", c.server()).want(t, 0)
	if err := syscall.Kill(c.pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	if !c.err.wait(deadline, c.ended, fmt.Sprintf("node 2 (pid %d) ended", c.pids[1])) {
		t.Errorf("up did not say that node 2 ended:\n%s", c.err)
	}
	for i := range 10 {
		var n int64
		runProgram(t, "call", "Counter/x", "Increment", "1", "--server", c.server()).result(t, &n)
		if n != int64(i+2) {
			t.Errorf("after the loss of a node: %d, want %d", n, i+2)
		}
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range c.pids {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s is still there: %v", c.dir, err)
	}
}

// With --data the cluster comes back with what it had, also after it was killed with all its nodes at once.
func TestUpKeepsData(t *testing.T) {
	dir, port := t.TempDir(), strconv.Itoa(freeBase(t, 3))
	var n int64
	for want := int64(1); want <= 3; want++ {
		c, err := startUp("--data", dir, "--base-port", port)
		if err != nil {
			t.Fatal(err)
		}
		runProgram(t, "call", "Counter/kept", "Increment", "1", "--server", c.server()).result(t, &n)
		if n != want {
			t.Errorf("start %d: %d, want %d", want, n, want)
		}
		if want == 3 {
			if err := c.stop(); err != nil {
				t.Error(err)
			}
			break
		}
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-c.ended
		eventually(t, "the nodes end with the process that started them", func() bool { return !slices.ContainsFunc(c.pids, alive) })
	}
	runProgram(t, "up", "--base-port", "0", "--data", dir, "--nodes", "2").want(t, 1, "holds a cluster of 3 nodes", "--nodes 3")
}

// freeBase finds a --base-port from which on the ports of n nodes are free.
func freeBase(t *testing.T, n int) int {
	t.Helper()
	base, err := freeport.Run(n * portStep)
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func TestUpPortInUse(t *testing.T) {
	addrs, err := localAddrs(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addrs[0].listen)
	l, err := net.Listen("tcp", addrs[0].listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	runProgram(t, "up", "--nodes", "1", "--base-port", port).want(t, 1, addrs[0].listen, "node 1", "--base-port", "in use")
}

func TestNodeErrors(t *testing.T) {
	c := sharedCluster.get(t)
	free, err := localAddrs(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	node := func(args ...string) outcome {
		return runProgram(t, append([]string{"node", "--listen", free[0].listen, "--gossip", free[0].gossip}, args...)...)
	}
	empty := t.TempDir()
	node("--data", empty, "--shards", "0").want(t, 1, "--shards 0", "want 1 to")
	node("--data", empty, "--replicas", "99").want(t, 1, "--replicas 99")
	node("--data", empty, "--lease", "hope").want(t, 1, "--lease hope")
	node("--data", empty, "--timing", "never").want(t, 1, "--timing never")
	node("--data", empty, "--join", "nowhere").want(t, 1, "--join", "HOST:PORT")
	node("--data", c.dir).want(t, 1, c.dir)
	runProgram(t, "node", "--data", empty, "--listen", c.servers[0], "--gossip", free[0].gossip).want(t, 1, c.servers[0], "--listen", "in use")
	file := filepath.Join(empty, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	node("--data", file).want(t, 1, file)
}
