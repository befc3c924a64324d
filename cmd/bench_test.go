package cmd

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/bench"
)

func TestBenchCounter(t *testing.T) {
	c := sharedCluster.get(t)
	var results []*bench.Result
	args := []string{"bench", "counter", "--callers", "16", "--objects", "50", "--duration", "500ms", "--warmup", "100ms", "--json"}
	for _, mode := range []string{"increment", "get", "echo"} {
		runProgram(t, append(args, "--server", c.server(), "--mode", mode)...).result(t, &results)
		if r := results[0]; r.Ops == 0 || r.Nodes != 0 || mode == "increment" && (r.Check == nil || !r.Check.OK) {
			t.Errorf("mode %s: %+v", mode, r)
		}
	}
	runProgram(t, append(args, "--start", "1", "--runs", "2")...).result(t, &results)
	if len(results) != 2 || results[1].Ops == 0 || results[1].Nodes != 1 {
		t.Errorf("its own cluster: %+v", results)
	}
}

// Workloads run on a cluster that is there, those among them that need none of their own.
func TestBenchWorkloads(t *testing.T) {
	c := sharedCluster.get(t)
	for _, args := range []string{"twin --rate 500", "storm", "alarms --objects 200", "read --objects 10"} {
		var results []*bench.Result
		args := append([]string{"bench"}, strings.Fields(args)...)
		args = append(args, "--callers", "8", "--duration", "300ms", "--json", "--server", c.server())
		if args[1] != "alarms" {
			args = append(args, "--warmup", "100ms")
		}
		runProgram(t, args...).result(t, &results)
		r := results[0]
		if r.Ops == 0 || r.Nodes != 0 || r.Check == nil || !r.Check.OK || r.Shards == 0 || r.CPUPerOp <= 0 || r.Workload != args[1] || !strings.Contains(r.Command, args[1]) {
			t.Errorf("%q: %+v, check %v", args, r, r.Check)
		}
	}
}

// A node of a cluster of its own is killed; the table and the picture show it.
func TestBenchKill(t *testing.T) {
	var results []*bench.Result
	picture := filepath.Join(t.TempDir(), "kill.svg")
	runProgram(t, "bench", "kill", "--callers", "32", "--objects", "16", "--rate", "400", "--warmup", "0s", "--duration", "900ms", "--json", "--plot", picture).result(t, &results)
	r := results[0]
	if r.Nodes != 3 || r.Check == nil || !r.Check.OK || r.CPUPerOp <= 0 || len(r.Phases) != 5 || len(r.Series.Events) != 2 {
		t.Errorf("%+v, check %v", r, r.Check)
	}
	i := slices.IndexFunc(r.Figures, func(f bench.Figure) bool { return f.Name == "outage, longest" })
	if i < 0 || r.Figures[i].Value < 50 {
		t.Errorf("nothing was away: %v", r.Figures)
	}
	file, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for d := xml.NewDecoder(file); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

// Of a cluster whose processes are out of reach, a command does what is to happen to a node.
func TestFaultCommand(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	n := &commandNodes{command: "echo $RINGFENCE_FAULT $RINGFENCE_NODE >> " + log + "; test $RINGFENCE_FAULT = add && echo h:4; test \"$RINGFENCE_NODE\" != h:3",
		addrs: []string{"h:1", "h:2", "h:3"}, log: io.Discard}
	for _, f := range []bench.Fault{bench.Kill, bench.Start, bench.Pause, bench.Resume} {
		if err := n.Fault(t.Context(), f, "h:1"); err != nil {
			t.Error(err)
		}
		if want := f != bench.Kill; slices.Contains(n.Addrs(), "h:1") != want {
			t.Errorf("after %s: nodes %v", f, n.Addrs())
		}
	}
	if err := n.Fault(t.Context(), bench.Stop, "h:3"); err == nil || !strings.Contains(err.Error(), "--fault-cmd, stop of h:3") {
		t.Errorf("a command that fails: %v", err)
	}
	if addr, err := n.Add(t.Context()); err != nil || addr != "h:4" || !slices.Equal(n.Addrs(), []string{"h:1", "h:2", "h:3", "h:4"}) {
		t.Errorf("added %q (%v): %v", addr, err, n.Addrs())
	}
	b, err := os.ReadFile(log)
	if want := "kill h:1\nstart h:1\npause h:1\nresume h:1\nstop h:3\nadd\n"; err != nil || string(b) != want {
		t.Errorf("got %q (%v), want %q", b, err, want)
	}
	n.command = "echo two words"
	if _, err := n.Add(t.Context()); err == nil || !strings.Contains(err.Error(), "two words") {
		t.Errorf("got %v", err)
	}
}

func TestProcessCPU(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; { // until it has used a tick more
		after, err := processCPU(os.Getpid())
		if err != nil || after < before || time.Since(began) > 20*time.Second {
			t.Fatalf("%v, then %v (%v)", before, after, err)
		}
		if after > before {
			break
		}
	}
	if _, err := processCPU(1 << 30); err == nil {
		t.Error("the processor time of no process")
	}
}

func TestFold(t *testing.T) {
	if got := fold("a bb  ccc dddd e", 6); got != "a bb\nccc\ndddd e" {
		t.Errorf("got %q", got)
	}
}
