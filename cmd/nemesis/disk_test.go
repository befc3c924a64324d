//go:build linux

package nemesis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// disk is a file system of a node's own, XFS in a file. It is mounted in the mount namespace of the node's process alone, so it goes away with the process.
type disk struct{ image, dir string }

const diskSize = 320 << 20 // XFS makes none that is smaller than 300 MiB

// needsDisks ends a test on a machine that does not let it mount file systems.
func needsDisks(t *testing.T) {
	t.Helper()
	needsTools(t, "mkfs.xfs", "xfs_io", "mount")
	d := newDisk(t, t.TempDir())
	probe := in(net.client(), "mount", "-t", "xfs", "-o", "loop", d.image, d.dir) // in a mount namespace that ends with it
	if out, err := probe.CombinedOutput(); err != nil {
		notRun(t, "this machine mounts no XFS in a file: %v: %s", err, out)
	}
}

func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	d := &disk{filepath.Join(dir, "xfs.img"), filepath.Join(dir, "mnt")}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(diskSize), f.Close())
	}
	if err == nil {
		err = run("mkfs.xfs -q "+d.image, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// mountThenRun mounts an image, frees what a test had filled, and becomes the command. While an earlier mount of the image still goes away, XFS refuses
// the same file system twice.
const mountThenRun = `for i in $(seq 100); do
	mount -t xfs -o loop "$1" "$2" 2>/dev/null && break
	sleep 0.1
done
mountpoint -q "$2" || { echo "$1 cannot be mounted" >&2; exit 70; }
rm -f "$2/ballast"; shift 2; exec "$@"`

func (d *disk) mounted(name string, args []string) (string, []string) {
	return "sh", append([]string{"-c", mountThenRun, "sh", d.image, d.dir, name}, args...)
}

// startOnDisks starts a cluster whose nodes have file systems of their own.
func startOnDisks(t *testing.T, n int) *cluster {
	t.Helper()
	c := newCluster(t, 64)
	c.founders(n)
	for _, p := range c.nodes {
		p.disk = newDisk(t, c.data(p.number))
		p.args[2] = filepath.Join(p.disk.dir, "data")
	}
	for _, p := range c.nodes {
		p.start(t)
	}
	c.waitWhole(t, 40*time.Second)
	return c
}

// seen is a node's file system as other processes reach it.
func (p *process) seen(name string) string {
	return fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, filepath.Join(p.disk.dir, name))
}

// powerOff takes the disk away as a power failure does, with all that it had not synced, and then the process.
func (p *process) powerOff(t *testing.T) {
	t.Helper()
	p.running(t)
	if err := run("xfs_io -x -c shutdown "+p.seen(""), ""); err != nil {
		t.Error(err)
	}
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// TestPower takes the power of one node, or of all at once, and gives it back: nothing that anybody was told is gone.
func TestPower(t *testing.T) {
	needsNemesis(t)
	needsDisks(t)
	c := startOnDisks(t, 3)
	t.Run("one", func(t *testing.T) {
		u := startUser(t, c)
		for range rounds(5, 30) {
			victim, keys := u.busiest()
			from := now()
			victim.powerOff(t)
			u.more(2 * counters)
			u.fault("power loss of one", from, keys)
			victim.start(t)
			victim.waitServing(t)
			c.waitWhole(t, 30*time.Second)
			u.more(2 * counters)
		}
		u.finish().wantOutages(t, silentLimit)
	})
	t.Run("all", func(t *testing.T) {
		u := startUser(t, c)
		for range rounds(5, 30) {
			from := now()
			for _, p := range c.nodes {
				if err := run("xfs_io -x -c shutdown "+p.seen(""), ""); err != nil {
					t.Error(err)
				}
			}
			for _, p := range c.nodes {
				p.signal(syscall.SIGKILL)
				<-p.ended
			}
			for _, p := range c.nodes {
				p.start(t)
			}
			whole := c.waitWhole(t, 30*time.Second)
			u.more(2 * counters)
			u.fault("power loss of all", from, everything())
			remark(t, "whole %v after the start", ms(whole))
		}
		u.finish()
	})
}

// fill takes all room of a node's file system, also what is freed meanwhile, until the process has ended or the time is over.
func (p *process) fill(t *testing.T, limit time.Duration) (full bool) {
	t.Helper()
	f, err := os.OpenFile(p.seen("ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := make([]byte, 1<<20)
	for began := time.Now(); time.Since(began) < limit; {
		for len(junk) >= 4096 {
			if _, err = f.Write(junk); err != nil {
				junk = junk[:len(junk)/2]
			}
		}
		full = full || errors.Is(err, syscall.ENOSPC)
		junk = junk[:1<<20]
		select {
		case <-p.ended:
			return full
		case <-time.After(50 * time.Millisecond):
		}
	}
	return full
}

// TestFull fills the disk of the node that owns the most while callers write.
func TestFull(t *testing.T) {
	needsNemesis(t)
	needsDisks(t)
	c := startOnDisks(t, 3)
	u := startUser(t, c)
	for range rounds(2, 10) {
		victim, keys := u.busiest()
		from := now()
		if !victim.fill(t, 20*time.Second) {
			t.Error("the disk was never full")
		}
		u.more(2 * counters)
		u.fault("full disk", from, keys)
		ended := false
		select {
		case <-victim.ended:
			ended = true
			victim.wantEnd(t, time.Second, 1, "no space left on device")
		default:
			victim.signal(syscall.SIGKILL)
			<-victim.ended
		}
		remark(t, "with a full disk the process ended by itself: %v", ended)
		victim.start(t)
		victim.waitServing(t)
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
	}
	u.finish().wantOutages(t, silentLimit)
}
