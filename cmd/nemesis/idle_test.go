//go:build linux

package nemesis

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestIdle measures nodes that have nothing to do.
func TestIdle(t *testing.T) {
	needsNemesis(t)
	t.Run("64 shards", func(t *testing.T) { measureIdle(t, 64, 2) })
	t.Run("256 shards", func(t *testing.T) { measureIdle(t, 256, 5) })
}

// usage is what the kernel says of a process.
type usage struct {
	cpu     time.Duration
	rss     int64 // bytes
	threads int
	files   int
}

// measureIdle wants less than limit percent of one core of each node, and memory that stays.
func measureIdle(t *testing.T, shards int, limit float64) {
	r := results(t)
	defer func() { report.add(r) }()
	c := startCluster(t, 3, shards)
	pass(t, 10*time.Second) // what starting costs is no idling
	s, err := status(listenAddr(1))
	if err != nil {
		t.Fatal(err)
	}
	var before []usage
	for _, p := range c.nodes {
		before = append(before, p.usage(t))
	}
	began := time.Now()
	pass(t, *idleTime)
	took := time.Since(began)
	for i, p := range c.nodes {
		b, a := before[i], p.usage(t)
		percent := 100 * float64(a.cpu-b.cpu) / float64(took)
		remark(t, "node %d: %.1f %% of a core over %v; RSS %.1f → %.1f MB, threads %d → %d, files %d → %d", p.number, percent, ms(took), mb(b.rss), mb(a.rss), b.threads, a.threads, b.files, a.files)
		if percent >= limit {
			t.Errorf("node %d idles at %.1f %% of a core, want less than %v %%", p.number, percent, limit)
		}
		// A memtable fills and is flushed; more than that is a leak.
		if a.rss > b.rss+b.rss/4+(16<<20) {
			t.Errorf("node %d grew from %.1f to %.1f MB in %v", p.number, mb(b.rss), mb(a.rss), ms(took))
		}
		if a.files > b.files+8 {
			t.Errorf("node %d had %d files open and has %d", p.number, b.files, a.files)
		}
	}
	after, err := status(listenAddr(1))
	if err != nil || after.Epoch != s.Epoch {
		t.Errorf("an idle cluster went from epoch %d to %d: %v", s.Epoch, after.Epoch, err)
	}
	countGoroutines(t, c)
}

// countGoroutines ends the nodes with SIGQUIT, which makes a Go program print them.
func countGoroutines(t *testing.T, c *cluster) {
	for _, p := range c.nodes {
		p.running(t)
		p.signal(syscall.SIGQUIT)
		<-p.ended
		b, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		n := bytes.Count(b, []byte("\ngoroutine "))
		remark(t, "node %d: %d goroutines", p.number, n)
		if n == 0 || n > 1000 {
			t.Errorf("node %d had %d goroutines; see %s", p.number, n, p.log)
		}
	}
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (p *process) usage(t *testing.T) usage {
	t.Helper()
	p.running(t)
	proc := "/proc/" + strconv.Itoa(p.cmd.Process.Pid)
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(stat), ") ") // the name may hold anything
	f := strings.Fields(rest)
	if !ok || len(f) < 22 {
		t.Fatalf("%s/stat: %q", proc, stat)
	}
	number := func(i int) int64 { // the i-th field of proc(5), from 1
		n, err := strconv.ParseInt(f[i-3], 10, 64)
		if err != nil {
			t.Fatalf("%s/stat: %v", proc, err)
		}
		return n
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Linux runs Go
	return usage{cpu: time.Duration(number(14)+number(15)) * tick, rss: number(24) * int64(os.Getpagesize()), threads: int(number(20)), files: len(fds)}
}
