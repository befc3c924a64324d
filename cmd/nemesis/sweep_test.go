//go:build linux

package nemesis

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestLeftovers(t *testing.T) {
	const list = "rf1f-n1 (id: 3)\nrf1f-hub\nrf2a-c2 (id: 1)\nrf2a-n12\nblue\nrfzz-n1\nrf2a-x\nmy-rf2a-n1\nrf-n1\nrffffffffffff-n1\nrf2a-memory\n"
	got := leftovers(list, func(pid int) bool { return pid == 0x1f })
	if want := []string{"rf2a-c2", "rf2a-n12", "rf2a-memory"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !isNemesis(os.Getpid()) {
		t.Error("this program does not know itself")
	}
	if isNemesis(1 << 30) {
		t.Error("a number of no process is taken for this program")
	}
}

// TestSweep leaves a namespace behind as a killed run would, and another as a run that goes on.
func TestSweep(t *testing.T) {
	needsNemesis(t)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	stale, mine := network{fmt.Sprintf("rf%x-", ended.Process.Pid)}.hub(), network{fmt.Sprintf("rf%x-", os.Getpid())}.hub()
	for _, ns := range []string{stale, mine} {
		if err := run("ip netns add "+ns, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = run("ip netns del "+mine, "") })
	n, err := sweep()
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(list), stale) || !strings.Contains(string(list), mine) {
		t.Errorf("after the sweep there are\n%s", list)
	}
}
