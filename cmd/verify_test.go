package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// verify runs the command and reads its verdict, whether it is good or bad.
func verify(t *testing.T, code int, args ...string) *node.Verification {
	t.Helper()
	o := runProgram(t, append([]string{"verify", "--json"}, args...)...)
	if o.code != code {
		t.Fatalf("%s: exit code %d, want %d\n%s%s", o.commandLineAsRun, o.code, code, o.stdout, o.stderr)
	}
	v := new(node.Verification)
	o.code, o.stderr = 0, ""
	o.result(t, v)
	if v.OK != (code == 0) || v.OK != (len(v.Violations) == 0) || len(v.Groups) == 0 {
		t.Fatalf("%s: %+v", o.commandLineAsRun, v)
	}
	return v
}

// damage changes a node's directory through the store's own API.
func damage(t *testing.T, dir string, f func(e *store.Engine, b *store.Batch)) {
	t.Helper()
	e, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := e.NewBatch()
	f(e, b)
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(dir))
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A cluster is killed in the middle of its work and verified, running and stopped; a copy in which a value was changed, and a running node whose record says
// something else, are found.
func TestVerify(t *testing.T) {
	nodes := startNodes(t, 3)
	var dirs, servers []string
	for _, n := range nodes {
		dirs, servers = append(dirs, n.args[2]), append(servers, n.listen)
	}
	server := strings.Join(servers, ",")
	call := func(n int) {
		t.Helper()
		for i := range n {
			runProgram(t, "call", fmt.Sprintf("Counter/c%d", i%4), "Increment", "1", "--server", server).want(t, 0)
		}
	}
	call(4)
	nodes[0].kill(t)
	call(4)
	v := verify(t, 0, "--server", server)
	if len(v.Unchecked) == 0 || !strings.Contains(strings.Join(v.Unchecked, "\n"), nodes[0].listen) {
		t.Errorf("a node is dead, and that is not said: %q", v.Unchecked)
	}
	nodes[0].start(t)
	nodes[0].waitServing(t)
	call(4)
	v = verify(t, 0, "--server", server)
	batches := uint64(0)
	for _, g := range v.Groups {
		batches += g.Batches
		if g.Copies != 3 || g.Expected != 3 {
			t.Errorf("%+v", g)
		}
	}
	if batches < 12 {
		t.Errorf("%d batches, and there were 12 calls", batches)
	}
	if o := runProgram(t, "verify", "--server", server); o.code != 0 || !strings.Contains(o.stdout, "kept: in all that was checked") || strings.Count(o.stdout, "3/3") != len(v.Groups) {
		t.Errorf("%d\n%s%s", o.code, o.stdout, o.stderr)
	}

	runProgram(t, "verify", "--data", dirs[0]).want(t, 1, dirs[0], "in use", "--server")
	for _, n := range nodes {
		n.kill(t)
	}
	data := strings.Join(dirs, ",")
	v = verify(t, 0, "--data", data)
	keys := uint64(0)
	for _, g := range v.Groups {
		keys += g.Keys
	}
	if keys == 0 || len(v.Groups) != 65 || len(v.Nodes) != 3 {
		t.Errorf("%d keys in %d groups on %v", keys, len(v.Groups), v.Nodes)
	}
	if v = verify(t, 0, "--data", strings.Join(dirs[:2], ",")); !strings.Contains(strings.Join(v.Unchecked, "\n"), "was not given") {
		t.Errorf("%q", v.Unchecked)
	}
	runProgram(t, "verify", "--data", dirs[0]+","+copyDir(t, dirs[0])).want(t, 1, "one is a copy")

	// A value is changed in a copy of a directory. Nodes that were killed store what followers had decided last when they replay their logs, and that
	// would put the value right: so they stop cleanly here, when all copies have all.
	for _, n := range nodes {
		n.start(t)
	}
	for _, n := range nodes {
		n.waitServing(t)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		v = verify(t, 0, "--server", server)
		if !strings.Contains(strings.Join(v.Unchecked, "\n"), "at one index") {
			break
		}
		if time.Now().After(deadline) {
			for _, n := range nodes {
				t.Logf("node %d:\n%s", n.number, n.err)
			}
			t.Fatalf("copies still differ in how far they are: %q", v.Unchecked)
		}
	}
	for _, n := range nodes {
		n.terminate(t)
	}
	var bent string
	var shard ring.ShardID
	bentDir := copyDir(t, dirs[1])
	damage(t, bentDir, func(e *store.Engine, b *store.Batch) {
		bent = e.Identity().Node.String()
		prefix := store.ObjectPrefix("Counter", "c1")
		for s := range ring.ShardID(64) {
			err := e.StateReader(s.Group()).Scan(prefix, store.PrefixEnd(prefix), false, func(key, value []byte) bool {
				shard = s
				b.ApplyWrites(s.Group(), []store.Write{{Key: append([]byte(nil), key...), Value: append(append([]byte(nil), value...), 1)}})
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	v = verify(t, 1, "--data", strings.Join([]string{dirs[0], bentDir, dirs[2]}, ","))
	if text := strings.Join(v.Violations, "\n"); len(v.Violations) != 1 || !strings.Contains(text, bent) || !strings.Contains(text, "Counter/c1") ||
		!strings.HasPrefix(text, fmt.Sprintf("shard-%d: ", shard)) {
		t.Errorf("%q", v.Violations)
	}
	if o := runProgram(t, "verify", "--data", strings.Join([]string{dirs[0], bentDir, dirs[2]}, ",")); o.code != 1 ||
		!strings.Contains(o.stdout, "1 VIOLATIONS") || !strings.Contains(o.stderr, "the guarantee was not kept") {
		t.Errorf("%d\n%s%s", o.code, o.stdout, o.stderr)
	}

	// A node's record says that something else took effect than the others' do; it runs on.
	g := shard.Group()
	damage(t, dirs[2], func(e *store.Engine, b *store.Batch) {
		head, ok, err := e.HistoryHead(g)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		head.Now.Hash++
		head.Tenure.At.Hash++
		b.SetHistory(g, &store.HistoryChange{Head: head})
	})
	for _, n := range nodes {
		n.start(t)
	}
	for _, n := range nodes {
		n.waitServing(t)
	}
	call(4)
	v = verify(t, 1, "--server", server)
	if text := strings.Join(v.Violations, "\n"); !strings.Contains(text, g.String()+": ") || !strings.Contains(text, "differ in what took effect") {
		t.Errorf("%q", v.Violations)
	}
}
