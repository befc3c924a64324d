package cmd

import (
	"syscall"
	"testing"
	"time"
)

// terminate asks the process to stop, and waits until it has, by itself and without complaint.
func (p *nodeProcess) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("node %d was gone before it was stopped: %v; stderr:\n%s", p.number, err, p.err)
	}
	select {
	case <-p.ended:
	case <-time.After(40 * time.Second):
		t.Fatalf("node %d does not stop; stderr:\n%s", p.number, p.err)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("node %d ended with exit code %d; stderr:\n%s", p.number, code, p.err)
	}
}

// TestRollingRestart stops one node process after the other with SIGTERM and starts it again, under load: no call may fail.
func TestRollingRestart(t *testing.T) {
	nodes := startNodes(t, 3)
	h := newHistory(t, nodes)
	h.waitForMore(t, 3*killCounters, "with all nodes there") // most objects are in memory somewhere
	for _, n := range nodes {
		stopped := time.Since(h.began)
		n.terminate(t)
		took := time.Since(h.began) - stopped
		h.waitForMore(t, killCounters, "with one node of three stopped")
		n.start(t)
		n.waitServing(t)
		h.waitForMore(t, killCounters, "with the node back")
		t.Logf("node %d stopped in %v; the longest that a caller waited around it: %v", n.number, took.Round(time.Millisecond), h.longest(stopped).Round(time.Millisecond))
	}
	h.finish(t)
	if n := h.failed.Load(); n > 0 {
		t.Errorf("%d calls failed, the last one: %v", n, *h.lastErr.Load())
	}
	for _, n := range nodes {
		if n.err.String() != "" {
			t.Logf("node %d, stderr:\n%s", n.number, n.err)
		}
	}
}
