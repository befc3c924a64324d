package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// TestNewerRingWaitsForNoDeafNode: a member that does not answer costs a moment, and one with nothing newer costs nothing.
func TestNewerRingWaitsForNoDeafNode(t *testing.T) {
	old, err := ring.First(ring.ClusterID{1}, []ring.Member{{ID: 1, Addr: "a:1"}, {ID: 2, Addr: "b:1"}, {ID: 3, Addr: "c:1"}, {ID: 4, Addr: "d:1"}}, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := old.Admit(ring.Member{ID: 5, Addr: "e:1"})
	if err != nil {
		// Eight shards take four members: any other change will do.
		if newer, err = old.Leave(4); err != nil {
			t.Fatal(err)
		}
	}
	deaf := func(ctx context.Context) *ring.Ring { <-ctx.Done(); return nil }
	for _, c := range []struct {
		name string
		ask  map[ring.NodeID]func(context.Context) *ring.Ring
		took time.Duration
		none bool
	}{
		{"two deaf ones first", map[ring.NodeID]func(context.Context) *ring.Ring{1: deaf, 2: deaf, 3: func(context.Context) *ring.Ring { return newer }}, 2 * fetchPause, false},
		{"an old one first", map[ring.NodeID]func(context.Context) *ring.Ring{1: func(context.Context) *ring.Ring { return old }, 2: func(context.Context) *ring.Ring { return newer }}, 0, false},
		{"nobody", map[ring.NodeID]func(context.Context) *ring.Ring{}, 0, true},
		{"all deaf", map[ring.NodeID]func(context.Context) *ring.Ring{1: deaf, 2: deaf, 3: deaf, 4: deaf}, fetchTime, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			r := newerRing(t.Context(), old.Members(), old.Epoch(), func(ctx context.Context, m ring.Member) *ring.Ring {
				if f := c.ask[m.ID]; f != nil {
					return f(ctx)
				}
				return nil
			})
			if took := time.Since(began); (r == nil) != c.none || took != c.took {
				t.Errorf("%s: %v after %v, want it after %v", c.name, r, took, c.took)
			}
		})
	}
}
