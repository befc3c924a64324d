package replica

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDriverRests: a driver wakes half as often once nothing has been written for a while and every group has a leader, and as often as ever when
// that changes.
func TestDriverRests(t *testing.T) {
	const tick = 50 * time.Millisecond
	d := &Driver{cfg: DriverConfig{Timing: Timing{Tick: tick}}, ticks: 100, busy: 100 - restTicks, led: true}
	want := func(what string, p time.Duration) {
		t.Helper()
		if got := d.period(); got != p {
			t.Errorf("%s: a period of %v, want %v", what, got, p)
		}
	}
	want("written just now", tick)
	d.ticks++
	want("nothing written for a while", 2*tick)
	d.led = false
	want("a group without a leader", tick)
	d.led, d.busy = true, d.ticks
	want("written again", tick)
}

// TestDriversRestAndServe: drivers that nobody writes to rest, keep their leaders, and write when somebody does.
func TestDriversRestAndServe(t *testing.T) {
	_, nodes := startDrivers(t, 0)
	at := owned(t, nodes...)
	for _, n := range nodes {
		rests := false
		for deadline := time.Now().Add(20 * time.Second); !rests; {
			if time.Now().After(deadline) {
				t.Fatalf("the driver of node %d does not rest", n.id)
			}
			got := make(chan bool, 1)
			n.d.inbox.call(func() { got <- n.d.period() > n.d.cfg.Timing.Tick })
			rests = <-got
		}
	}
	for g, n := range at {
		n.put(t, g, "a", 10)
	}
}

// TestLogsShareTheJournal: each log may have its limit, unless all together would not fit into half of the journal; an eighth it may have always.
func TestLogsShareTheJournal(t *testing.T) {
	for _, c := range []struct{ journal, limit, groups, want int }{
		{0, 0, 1, 8 << 20}, {0, 0, 32, 8 << 20}, {0, 0, 64, 4 << 20}, {0, 0, 1024, 1 << 20}, {1 << 20, 0, 4, 1 << 20}, {1 << 20, 64 << 10, 1, 64 << 10}, {1 << 20, 64 << 10, 16, 32 << 10},
	} {
		d := NewDriver(DriverConfig{Engine: openSmallJournal(t, vfs.NewMem(), c.journal), LogBytes: c.limit})
		d.order = make([]*member, c.groups)
		if got := d.logBytes(); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
