package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test binary is what the program is: it runs the nodes too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == ringfenceCommand || os.Args[1] == childCommand) {
		main()
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		`no system "redis"; there are ringfence, etcd, nats, protoactor, workerd`: {"--systems", "etcd,redis"},
		`no workload "cold"`:      {"--workloads", "cold"},
		`unknown argument "etcd"`: {"etcd"},
		"--runs 0":                {"--runs", "0"},
		"want a duration above 0": {"--duration", "0s"},
		"--shards 5: want 6":      {"--shards", "5"},
		"unknown flag":            {"--what"},
	} {
		_, err := parse(args)
		if !errors.As(err, &usageError{}) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
	o, err := parse([]string{"--short", "--warmup", "2s", "--systems", "nats,etcd"})
	if err != nil || o.runs != 1 || o.workloads[0].load.Window != time.Second || o.workloads[0].load.Warmup != 2*time.Second || len(o.systems) != 2 {
		t.Errorf("--short: %+v, %v", o, err)
	}
	o, err = parse([]string{"--shards", "16", "--systems", "ringfence"})
	if err != nil || o.shards != 16 || !strings.Contains(o.systems[0].settings, " 16 shards ") {
		t.Errorf("--shards: %+v, %v", o, err)
	}
}

// Every workload that a system does is one that there is, and each system and workload has something to do.
func TestSystemsAndWorkloads(t *testing.T) {
	done := map[string]bool{}
	for _, s := range systems() {
		for name := range s.does {
			done[name] = true
		}
	}
	for _, w := range workloads() {
		if !done[w.name] {
			t.Errorf("nobody does %s", w.name)
		}
		delete(done, w.name)
		if err := w.load.Check(); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
	if len(done) > 0 {
		t.Errorf("not workloads: %v", done)
	}
}

// TestRun starts every system, lets it do each workload for a moment and believes it only if its counts add up. It installs nothing: where workerd is not in the cache it has
// to be left out, with the reason.
func TestRun(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	o, err := parse([]string{"--runs", "1", "--duration", "200ms", "--warmup", "0s", "--no-install", "--quiet", "--dir", t.TempDir(),
		"--log", log})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range o.workloads { // enough for callers to meet at an object
		w.load.Callers, w.load.Objects = min(w.load.Callers, 16), min(w.load.Objects, 20)
	}
	r, err := run(t.Context(), o)
	if err != nil {
		said, _ := os.ReadFile(log)
		t.Fatalf("%v\n%s", err, said)
	}
	rows := map[string]row{}
	for _, w := range r.Rows {
		rows[w.System+" "+w.Workload+" "+w.Way] = w
	}
	for i, s := range o.systems {
		skipped := r.Systems[i].Skipped
		if skipped != "" && (s.name != "workerd" || !strings.Contains(skipped, workerdVersion)) {
			t.Errorf("%s was left out: %s", s.name, skipped)
		}
		if s.version == "" || s.settings == "" {
			t.Errorf("%s: version %q, settings %q", s.name, s.version, s.settings)
		}
		for workload, ways := range s.does {
			for _, way := range ways {
				w, ok := rows[s.name+" "+workload+" "+way]
				if skipped == "" && (!ok || w.Checked != "ok" || w.Errors > 0) {
					t.Errorf("%s %s %s: %+v", s.name, workload, way, w)
				}
			}
		}
	}
	var back report
	if b, err := json.Marshal(r); err != nil || json.Unmarshal(b, &back) != nil || len(back.Rows) != len(r.Rows) || len(back.Results) != len(r.Results) {
		t.Errorf("the JSON does not read back: %v", err)
	}
	var b bytes.Buffer
	if err := r.write(&b); err != nil || !strings.Contains(b.String(), "compare-and-set") {
		t.Errorf("the table: %v\n%s", err, b.String())
	}
	left, err := filepath.Glob(filepath.Join(o.dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// A node that ends before it serves is an error that says what it said last; one that the parent lets go of ends.
func TestProcess(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	f := newFamily()
	p, err := f.start("bad", readyLine, log, sh, "-c", "echo first; echo cannot listen >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.waitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cannot listen") {
		t.Errorf("got %v", err)
	}
	p, err = f.start("good", readyLine, log, sh, "-c", "echo ready and more; while :; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	ps := processes{p}
	if detail, err := p.waitReady(t.Context()); err != nil || detail != "and more" {
		t.Errorf("got %q, %v", detail, err)
	}
	if used, err := ps.cpu(); err != nil || used < 0 {
		t.Errorf("it used %v, %v", used, err)
	}
	ps.end()
	select {
	case <-p.ended:
	default:
		t.Error("it still runs")
	}
}
