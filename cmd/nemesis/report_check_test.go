package nemesis

import (
	"strings"
	"testing"
	"time"
)

// TestReport wants every scenario in the table, and their sum below them.
func TestReport(t *testing.T) {
	var r table
	a, b := results(t), results(t)
	a.name, a.calls, a.violations, a.longest, a.unavailable, a.outages = "Cut/a", 10, 1, 2*time.Second, 3*time.Second, []time.Duration{5, 1e9, 3}
	a.faults["cut"], a.failed = 1, failures{"moved, may have run": 2}
	b.name, b.calls, b.longest = "Kill", 5, time.Second
	b.faults["cut"], b.faults["kill"] = 2, 3
	b.failed.add("moved, may have run", 1)
	r.add(a)
	r.add(b)
	r.add(row{name: "Cut/a", remark: "whole at once"})
	r.add(row{name: "Power", notRun: "no disks"})
	r.ended(b) // it has not failed
	var out strings.Builder
	r.print(&out)
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"SCENARIO RESULT", "Cut/a ok 0s 10 1 cut 1 3s 0s 1s 2s ", "Kill ok 0s 5 2 cut, 3 kill 0 - - - 1s ", "all 0 FAILED 0s 15 6 1 3s - - 2s 3 moved, may have run",
		"faults: 3 cut, 3 kill", "violations: 1", "Cut/a: whole at once", "not run: Power: no disks",
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &out)
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("line %d is %q, want %q", i, lines[i], w)
		}
	}
}
