//go:build mutant

package nodetest_test

import (
	"testing"

	"github.com/ringfence/ringfence/actor/host"
)

// TestLinearizableSeesMutants: what clients of whole clusters get shows that replies leave before their writes are durable.
func TestLinearizableSeesMutants(t *testing.T) {
	host.Mutant.ReplyAtPropose = true
	defer func() { host.Mutant.ReplyAtPropose = false }()
	for seed := range uint64(20) {
		var all []*history
		var faults string
		virtual(t, func(t *testing.T) { all, faults = recordHistories(t, seed) })
		for _, h := range all {
			if err := linearizable(h.calls, h.trace); err != nil {
				t.Logf("seed %d, %s: %v; faults: %s", seed, h.kind, err, faults)
				return
			}
		}
	}
	t.Error("not noticed in 20 seeds")
}
