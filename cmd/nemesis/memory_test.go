//go:build linux

package nemesis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/actor"
)

// memoryRoom is how much more memory a node gets than it has.
const memoryRoom = 48 << 20

// TestMemory lets the node that owns the most run out of memory in the middle of its work.
func TestMemory(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	t.Run("ended by the kernel", func(t *testing.T) {
		g := newMemoryGroup(t)
		runOut(t, c, func(p *process) { g.hold(t, p) }, func(p *process) {
			if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
				t.Errorf("node %d ended with %v, want a kill by the kernel", p.number, p.cmd.ProcessState)
			}
			g.wantKill(t)
		})
	})
	t.Run("none to be had", func(t *testing.T) {
		runOut(t, c, func(p *process) {
			if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: p.addresses(t) + memoryRoom, Max: unix.RLIM_INFINITY}, nil); err != nil {
				t.Fatal(err)
			}
		}, func(p *process) {
			if code := p.cmd.ProcessState.ExitCode(); code == 0 || !outOfMemory.Match(p.lines(t)) {
				t.Errorf("node %d ended with %v, and its log should say that there was no memory; see %s", p.number, p.cmd.ProcessState, p.log)
			}
		})
	})
}

// outOfMemory is how a Go program says so.
var outOfMemory = regexp.MustCompile(`(?m)^(fatal error|runtime): .*(out of memory|cannot allocate memory|cannot reserve|mmap)`)

func runOut(t *testing.T, c *cluster, limit, judge func(p *process)) {
	u := startUser(t, c)
	for range rounds(3, 10) {
		victim, keys := u.busiest()
		victim.running(t)
		had := victim.usage(t).rss
		limit(victim)
		from := now()
		took := u.devour(victim, keys)
		u.more(2 * counters)
		u.fault("out of memory", from, keys)
		judge(victim)
		remark(t, "a node that had %.1f MB ended %v after large calls began", mb(had), ms(took))
		victim.start(t)
		victim.waitServing(t)
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
	}
	u.finish().wantOutages(t, silentLimit)
}

// devour sends large calls, which write nothing, to a node's counters until its process has ended.
func (u *user) devour(victim *process, keys []int) time.Duration {
	u.t.Helper()
	const size, atOnce = 1 << 20, 64
	ctx, cancel := context.WithCancel(u.t.Context())
	defer cancel()
	var eaters sync.WaitGroup
	began := time.Now()
	for i := range atOnce {
		eaters.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, size)
			for ctx.Err() == nil {
				got, err := actor.Call[[]byte](ctx, u.object(keys[i%len(keys)]), "Echo", data)
				if err == nil && !bytes.Equal(got, data) {
					u.violation("a counter echoed something else")
				}
			}
		})
	}
	select {
	case <-victim.ended:
	case <-time.After(30 * time.Second):
		u.t.Errorf("node %d goes on after 30 s, with %.1f MB", victim.number, mb(victim.usage(u.t).rss))
		victim.signal(syscall.SIGKILL)
		<-victim.ended
	}
	took := time.Since(began)
	cancel()
	eaters.Wait()
	return took
}

// addresses is how many bytes of addresses a process has.
func (p *process) addresses(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(b))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}

// memoryGroup is a control group, of version 1 or 2, whose processes the kernel ends when they have more memory than it allows.
type memoryGroup struct {
	dir           string
	limit, events string // files
	kills         int
}

// memoryRoots are where control groups that limit memory can be, of version 1 and of version 2, as a process sees them: within a namespace for
// networks there is another /sys, without them.
func memoryRoots(pid int) []string {
	root := fmt.Sprintf("/proc/%d/root/sys/fs/cgroup", pid)
	return []string{filepath.Join(root, "memory"), root}
}

func newMemoryGroup(t *testing.T) *memoryGroup {
	t.Helper()
	var errs []error
	for _, g := range []*memoryGroup{{limit: "memory.limit_in_bytes", events: "memory.oom_control"}, {limit: "memory.max", events: "memory.events"}} {
		root := memoryRoots(os.Getppid())[len(errs)]
		if len(errs) == 1 {
			_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0) // if this fails there is no limit below
		}
		g.dir = filepath.Join(root, net.prefix+"memory")
		err := os.Mkdir(g.dir, 0o755)
		if err == nil {
			t.Cleanup(func() {
				if err := os.Remove(g.dir); err != nil {
					t.Error(err)
				}
			})
			_, err = os.Stat(filepath.Join(g.dir, g.limit))
		}
		if err == nil {
			return g
		}
		errs = append(errs, err)
	}
	notRun(t, "this machine gives no control group that limits memory: %v", errors.Join(errs...))
	return nil
}

func (g *memoryGroup) write(t *testing.T, file, what string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(what), 0); err != nil {
		t.Fatal(err)
	}
}

// hold puts a process into the group. What it has already is not counted.
func (g *memoryGroup) hold(t *testing.T, p *process) {
	t.Helper()
	g.write(t, g.limit, strconv.Itoa(memoryRoom))
	g.write(t, "cgroup.procs", strconv.Itoa(p.cmd.Process.Pid))
}

// wantKill wants the kernel to have ended one more process of the group.
func (g *memoryGroup) wantKill(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, g.events))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			if n, err := strconv.Atoi(n); err != nil || n != g.kills+1 {
				t.Errorf("the kernel ended %d processes of the group, want %d: %v", n, g.kills+1, err)
			}
			g.kills++
			return
		}
	}
	t.Errorf("%s says nothing of kills:\n%s", g.events, b)
}
