package nodetest

import (
	"math/rand/v2"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// KillAt takes the power from the machine of node i just before the n-th change of its disk from now on, 1 being the next: a write, a sync, the
// creation, renaming or removal of a file, in the midst of whatever the node does. So ends a process, too, whose disk refuses that change. Of what was not synced
// the disk keeps, from one KillAt to the next, nothing, some blocks and names of files, all. Node(i) is nil when it has happened.
func (c *Cluster) KillAt(i, n int) {
	c.t.Helper()
	if n < 1 {
		c.t.Fatalf("nodetest: there is no change %d of a disk: want 1 or more", n)
	}
	c.running(i).fuse.arm(n)
}

// fuse takes a machine's power at a change of its disk.
type fuse struct {
	mu   sync.Mutex
	left int // changes until then; 0: it does not
	used uint64
}

func (f *fuse) arm(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = n
}

// blows is asked before each change, and says once what the disk keeps.
func (f *fuse) blows() (cfg vfs.CrashCloneCfg, yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return cfg, false
	}
	if f.left--; f.left > 0 {
		return cfg, false
	}
	rng := rand.New(rand.NewPCG(f.used, 0))
	cfg = vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 1 + rng.IntN(99), 100}[f.used%3], RNG: rng}
	f.used++
	return cfg, true
}

// fs is the disk as a node sees it for one run. A node whose machine has lost its power may go on for a moment, but changes nothing that
// the next run finds.
func (m *machine) fs() vfs.FS {
	off := m.off
	return errorfs.Wrap(plainFS{m.disk}, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if o.Kind.ReadOrWrite() != errorfs.OpIsWrite || o.Kind == errorfs.OpFileClose || o.Kind == errorfs.OpLock {
			return nil
		}
		select {
		case <-off:
		default:
			if cfg, yes := m.fuse.blows(); yes {
				m.lose(cfg)
			}
		}
		return nil
	}))
}

// plainFS is fs without the reuse of old files: MemFS's locks twice there, and hangs if the power is lost just then.
type plainFS struct{ vfs.FS }

func (p plainFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := p.Remove(oldname); err != nil {
		return nil, err
	}
	return p.Create(newname, category)
}
