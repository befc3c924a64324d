package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
)

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"frobnicate", []string{`no command "frobnicate"`, "--help"}},
		{"bench frobnicate", []string{`no command "frobnicate"`}},
		{"call", []string{"0 arguments", "CLASS/KEY METHOD [JSON]"}},
		{"call Counter/a", []string{"1 arguments"}},
		{"call Counter/a Increment 1 2", []string{"4 arguments"}},
		{"call Counter Increment", []string{"want CLASS/KEY"}},
		{"call 9/a Increment", []string{"9"}},
		{"call Counter/ Increment", []string{"key is empty"}},
		{"call Map/a Get text", []string{"not JSON", `'"text"'`}},
		{"call Counter/a Get --server nowhere", []string{`"nowhere"`, "HOST:PORT"}},
		{"call Counter/a Get --timeout 0s", []string{"--timeout", "above 0"}},
		{"call Counter/a Get --timeout soon", []string{"--timeout"}},
		{"call Counter/a Get --colour red", []string{"--colour"}},
		{"gen now", []string{"1 arguments"}},
		{"gen --type", []string{"--type"}},
		{"status now", []string{"1 arguments"}},
		{"where", []string{"CLASS/KEY"}},
		{"where nonsense", []string{"want CLASS/KEY"}},
		{"verify now", []string{"1 arguments"}},
		{"verify --data x --server 127.0.0.1:1", []string{"--data and --server"}},
		{"verify --data x,,y", []string{"--data", "empty"}},
		{"up --nodes 0", []string{"0 nodes", "want 1 to"}},
		{"up --nodes three", []string{"--nodes"}},
		{"up --base-port 65530", []string{"--base-port 65530"}},
		{"up --log-level loud", []string{"--log-level loud", "debug, info, warn or error"}},
		{"node", []string{"--data is missing"}},
		{"bench counter --mode write", []string{"increment, get or echo"}},
		{"bench counter --callers 0", []string{"--callers 0"}},
		{"bench counter --runs 0", []string{"--runs 0"}},
		{"bench counter --start 3 --server 127.0.0.1:1", []string{"not both"}},
		{"bench counter --start 0", []string{"0 nodes"}},
		{"bench counter --rate=-1", []string{"a rate of -1"}},
		{"bench frobnicate", []string{"hot, spread", "counter or all"}},
		{"bench hot now", []string{"1 arguments"}},
		{"bench hot --plot latency.gif", []string{"--plot latency.gif", ".svg or .png"}},
		{"bench hot --shards 8 --server 127.0.0.1:1", []string{"--shards 8"}},
		{"bench hot --shards 0", []string{"--shards 0"}},
		{"bench hot --conns 65", []string{"--conns 65"}},
		{"bench hot --pause 1s", []string{"--pause"}},
		{"bench pause --pause=-1s", []string{"--pause -1s"}},
		{"bench twin --reads 2", []string{"a share of reads of 2"}},
		{"bench kill --server 127.0.0.1:1", []string{"out of reach", "--fault-cmd"}},
		{"bench kill --fault-cmd true", []string{"--start and --fault-cmd"}},
		{"bench all --only hot,cold", []string{"--only", `"cold"`}},
		{"bench all --start 99", []string{"99 nodes"}},
	} {
		runProgram(t, strings.Fields(c.args)...).want(t, 2, c.want...)
	}
}

// Without a command there is a mistake and a wish to be helped: the help comes too, and leaves stdout alone.
func TestNoCommand(t *testing.T) {
	for _, args := range [][]string{nil, {"bench"}} {
		o := runProgram(t, args...)
		if o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, "Available Commands:") || !strings.Contains(o.stderr, "\nringfence: a command is missing") {
			t.Errorf("%q: exit code %d, stdout %q, stderr\n%s", args, o.code, o.stdout, o.stderr)
		}
	}
	if o := runProgram(t, "call", "--help"); o.code != 0 || !strings.Contains(o.stdout, "CLASS/KEY METHOD [JSON]") || o.stderr != "" {
		t.Errorf("call --help: %+v", o)
	}
}

// A mistake in what gen is to read is an error, not one of usage; a package whose stubs are right is left alone, and nothing is said.
func TestGen(t *testing.T) {
	runProgram(t, "gen", "--package", "nowhere").want(t, 1, "--package nowhere", "directory of a Go package")
	runProgram(t, "gen", "--type", "Nothing").want(t, 1, "package cmd has no type Nothing")
	dir := t.TempDir()
	for name, src := range map[string]string{
		"go.mod": "module example.com/app\n\ngo 1.26\n",
		"a.go":   "package app\n\nimport \"context\"\n\ntype Cart struct{}\n\nfunc (*Cart) Add(context.Context, int) error { return nil }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "basket_ref.go")
	for _, want := range []string{file + "\n", ""} {
		o := runProgram(t, "gen", "--package", dir, "--type", "Cart", "--class", "Basket")
		if o.code != 0 || o.stdout != want || o.stderr != "" {
			t.Errorf("got %+v, want %q on stdout", o, want)
		}
	}
	if src, err := os.ReadFile(file); err != nil || !strings.Contains(string(src), "func (r BasketRef) Add(ctx context.Context, arg int, opts ...actor.CallOption) error {") {
		t.Errorf("%v\n%s", err, src)
	}
}

func TestVersion(t *testing.T) {
	var v versionInfo
	runProgram(t, "version", "--json").result(t, &v)
	if v.Version != node.Version || v.Go == "" || v.Platform == "" {
		t.Errorf("got %+v", v)
	}
	if o := runProgram(t, "version"); !strings.HasPrefix(o.stdout, "ringfence "+node.Version+" ") {
		t.Errorf("got %q", o.stdout)
	}
}

// An address at which nobody listens, and one at which somebody does who says nothing: both are named.
func TestNoClusterThere(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, args := range [][]string{{"call", "Counter/a", "Get"}, {"status"}, {"where", "Counter/a"}, {"bench", "counter"}} {
		args = append(args, "--timeout", "600ms", "--server", silent.Addr().String()+","+closed.Addr().String())
		o := runProgram(t, args...)
		o.want(t, 1, silent.Addr().String(), closed.Addr().String(), "--server", "refused")
		if o.took > 10*time.Second {
			t.Errorf("%q took %v", args, o.took)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("some error"), 1},
		{&usageError{"wrong"}, 2},
		{fmt.Errorf("wrapped: %w", &usageError{"wrong"}), 2},
		{&actor.Error{Code: actor.CodeApp, Outcome: actor.Ran}, 1},
		{&actor.Error{Code: actor.CodeUnreachable, Outcome: actor.DidNotRun}, 1},
		{&actor.Error{Code: actor.CodeUnreachable, Outcome: actor.MayHaveRun}, 3},
		{fmt.Errorf("wrapped: %w", &actor.Error{Code: actor.CodeDeadline}), 3}, // an outcome that is not known is not "did not run"
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain",
		"no cluster\nnone answered:\n  a: x\n  b: y": "no cluster; none answered: a: x; b: y",
		"none answered:\n a\n\n b\r\n":               "none answered: a; b",
		"":                                           "",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestGuardNumbers(t *testing.T) {
	got := guardNumbers([]string{"call", "-5", "-0.5e3", "-x", "--y", "-", "5"})
	want := []string{"call", " -5", " -0.5e3", "-x", "--y", "-", "5"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
	if !json.Valid([]byte(got[1])) {
		t.Errorf("%q is no JSON", got[1])
	}
}

func TestFreeAddrs(t *testing.T) {
	addrs, err := localAddrs(5, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range addrs {
		for _, s := range []string{a.listen, a.gossip} {
			if seen[s] {
				t.Errorf("%s is given twice", s)
			}
			seen[s] = true
		}
		if err := tryPorts(1, a); err != nil {
			t.Errorf("not free: %v", err)
		}
	}
}

func TestBuiltByGoRun(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	for exe, want := range map[string]bool{
		"/scratch/go-build123/b001/exe/ringfence":     true,
		"/home/u/.cache/go-build/16/" + hash + "-d/x": true,
		"/scratch/go-build123/b001/cmd.test":          false,
		"/usr/local/bin/ringfence":                    false,
		"/home/u/exe/ringfence":                       false,
	} {
		if got := builtByGoRun(exe); got != want {
			t.Errorf("%s: %v, want %v", exe, got, want)
		}
	}
}
