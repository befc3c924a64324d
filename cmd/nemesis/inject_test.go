//go:build linux

package nemesis

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// injected is a strace that changes the system calls of a running process.
type injected struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

const syncs = "fsync,fdatasync,sync_file_range"

// inject has strace do this to the fsyncs of a process from now on: what strace(1) says of --inject.
func (p *process) inject(t *testing.T, what string) *injected {
	t.Helper()
	p.running(t)
	c := exec.Command("strace", "-f", "-o", "/dev/null", "-e", "trace="+syncs, "-e", "inject="+syncs+":"+what, "-p", fmt.Sprint(p.cmd.Process.Pid))
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startBound(c); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, " attached"); {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatalf("strace is not attached: %q: %v: %v", line, err, c.Wait())
		}
	}
	i := &injected{c, make(chan struct{})}
	go func() {
		_, _ = said.WriteTo(nothing{})
		_ = c.Wait() // it ends with what it traces, or by a signal
		close(i.ended)
	}()
	t.Cleanup(i.end)
	return i
}

type nothing struct{}

func (nothing) Write(b []byte) (int, error) { return len(b), nil }

// end lets the process go on as it was.
func (i *injected) end() {
	_ = i.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-i.ended
}

// needsTracing ends a test on a machine where no process may trace another.
func needsTracing(t *testing.T) {
	t.Helper()
	needsTools(t, "strace")
	if out, err := exec.Command("strace", "-f", "-e", "trace=fsync", "true").CombinedOutput(); err != nil {
		notRun(t, "this machine lets no process trace another: %v: %s", err, out)
	}
}

// TestSync has an fsync of the node that owns the most fail: its process ends at once, since nobody knows what its disk holds.
func TestSync(t *testing.T) {
	needsNemesis(t)
	needsTracing(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	for range rounds(2, 10) {
		victim, keys := u.busiest()
		from := now()
		victim.inject(t, "error=EIO")
		began := time.Now()
		victim.wantEnd(t, 10*time.Second, 1, "cannot be trusted any more", "input/output error")
		remark(t, "the process ended %v after fsync began to fail", ms(time.Since(began)))
		u.more(2 * counters)
		u.fault("fsync error", from, keys)
		victim.start(t)
		victim.waitServing(t)
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
	}
	u.finish().wantOutages(t, silentLimit)
}

// TestSlowDisk has every fsync of one node take a third of a second: of the one that owns the most, and then of another.
func TestSlowDisk(t *testing.T) {
	needsNemesis(t)
	needsTracing(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	u.more(8 * counters)
	quiet := now()
	for i := range 2 {
		victim, keys := u.busiest()
		if i == 1 {
			victim = c.nodes[0]
			if owner, _ := u.busiest(); owner == victim {
				victim = c.nodes[1]
			}
			keys = u.ownedBy(victim)
		}
		strace := (*injected)(nil)
		d := u.disturb("slow disk", func() { strace = victim.inject(t, "delay_enter=300000") }, func() { strace.end() })
		u.judges = append(u.judges, func(ops []op) {
			d.judge(verdict{ops: ops})
			before, during := othersP99(ops, keys, u.warm, quiet), othersP99(ops, keys, d.from, d.to)
			remark(t, "99 of 100 calls of objects that other nodes owned took less than %v before, and %v while node %d's disk was slow", ms(before), ms(during), victim.number)
			if during > 2*before+slowElsewhere {
				late(t, "99 of 100 calls of objects that other nodes owned took %v, and %v before", ms(during), ms(before))
			}
		})
	}
	u.finish()
}

// slowElsewhere is what two busy cores add to calls of objects on other nodes.
const slowElsewhere = 50 * time.Millisecond

// othersP99 is what 99 of 100 calls took, within a time, of counters that are not these.
func othersP99(ops []op, keys []int, from, to time.Duration) time.Duration {
	var all []time.Duration
	for _, o := range ops {
		if o.Start >= from && o.End <= to && !slices.Contains(keys, o.Key) {
			all = append(all, o.End-o.Start)
		}
	}
	slices.Sort(all)
	return quantile(all, 0.99)
}

// TestStarved gives one node a fifth of the processor time that it wants, in turns of a tenth of a second, as a container's quota does.
func TestStarved(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	victim, _ := u.busiest()
	stop, stopped := make(chan struct{}), make(chan struct{})
	d := u.disturb("starved of processor time", func() {
		go func() {
			defer close(stopped)
			for turn := time.NewTicker(100 * time.Millisecond); ; {
				victim.signal(syscall.SIGCONT)
				pass(t, 20*time.Millisecond)
				select {
				case <-stop:
					turn.Stop()
					return
				default:
				}
				victim.signal(syscall.SIGSTOP)
				<-turn.C
			}
		}()
	}, func() {
		close(stop)
		<-stopped
	})
	u.judges = append(u.judges, func(ops []op) { d.judge(verdict{ops: ops}) })
	u.finish()
}

// TestFiles takes a node's leave to open files: it goes on with those it has, or ends; nobody is told what is not so.
func TestFiles(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	victim, keys := u.busiest()
	var before unix.Rlimit
	victim.running(t)
	pid, open := victim.cmd.Process.Pid, victim.usage(t).files
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	from := now()
	// The limit is on the numbers of new files: those that are closed while it holds have higher ones, most likely.
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 5 { // connections that it cannot take
		if _, err := status(listenAddr(victim.number)); err != nil {
			refused++
		}
		u.more(counters / 4)
	}
	u.fault("no more files", from, keys)
	if refused == 0 {
		t.Error("every new connection was taken: nothing is shown")
	}
	remark(t, "with %d files open and no more to be had, %d of 5 new connections got no answer", open, refused)
	select {
	case <-victim.ended: // it needed a file of its own
		victim.wantEnd(t, time.Second, 1, "too many open files")
		remark(t, "the process ended: %s", victim.lastWords(t))
		victim.start(t)
		victim.waitServing(t)
	default:
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	remark(t, "whole %v after", ms(c.waitWhole(t, 30*time.Second)))
	u.more(2 * counters)
	u.finish().wantOutages(t, silentLimit)
}
