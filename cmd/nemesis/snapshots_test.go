//go:build linux

package nemesis

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// What TestSnapshots writes while a node is halted: half as much again as the logs of so few shards keep.
const (
	snapshotShards  = 16
	snapshotObjects = 512
	snapshotWrites  = snapshotShards * (12 << 20) / ballastBytes
)

// TestSnapshots halts a node for so long that the others' logs no longer reach back to what it has: it is sent most shards as a whole, under load.
func TestSnapshots(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, snapshotShards)
	u := startUser(t, c)
	for range rounds(2, 10) {
		victim, keys := u.busiest()
		installed := victim.mustMetric(t, "ringfence_snapshots_installed_total")
		victim.running(t)
		from := now()
		victim.signal(syscall.SIGSTOP)
		u.more(2 * counters) // others own what it owned
		u.overwrite(snapshotWrites)
		victim.signal(syscall.SIGCONT)
		took := u.waitInstalled(victim, installed+snapshotShards/2)
		u.fault("halt beyond the logs", from, keys)
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
		remark(t, "node %d stored %v snapshots, of %d shards, and had all again %v after it went on", victim.number,
			victim.mustMetric(t, "ringfence_snapshots_installed_total")-installed, snapshotShards, ms(took))
	}
	u.finish().wantOutages(t, silentLimit)
}

// overwrite makes so many large writes, those of unknown outcome again.
func (u *user) overwrite(n int) {
	u.t.Helper()
	const callers = 8
	limit := time.Now().Add(time.Minute)
	var writers sync.WaitGroup
	for i := range callers {
		writers.Go(func() {
			for o := i; o < n; o += callers {
				ref := u.cl.Object("Map", fmt.Sprintf("%s-ballast-%d", u.cfg.Prefix, o%snapshotObjects))
				for {
					_, err := actor.Call[int](u.t.Context(), ref, "Put", map[string]any{"junk": junk(o)})
					if err == nil {
						break
					}
					if time.Now().After(limit) {
						u.t.Errorf("large write %d of %d: %v", o, n, err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
}

// waitInstalled waits until a node has stored so many snapshots since it was started, and none is under way.
func (u *user) waitInstalled(p *process, n float64) time.Duration {
	u.t.Helper()
	for began := time.Now(); ; pass(u.t, 100*time.Millisecond) {
		under := p.mustMetric(u.t, "ringfence_snapshots_receiving")
		for _, o := range u.c.nodes {
			under += o.mustMetric(u.t, "ringfence_snapshots_sending")
		}
		got := p.mustMetric(u.t, "ringfence_snapshots_installed_total")
		if got >= n && under == 0 {
			return time.Since(began)
		}
		if time.Since(began) > 40*time.Second {
			u.t.Fatalf("node %d has stored %v snapshots after 40 s, want %v; %v are under way", p.number, got, n, under)
		}
	}
}

func (p *process) mustMetric(t *testing.T, name string) float64 {
	t.Helper()
	n, err := p.metric(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
