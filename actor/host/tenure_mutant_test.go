//go:build mutant

package host

import "testing"

// TestOracleSeesMutants: the oracle is worth something only if it notices each weakening of the machine.
func TestOracleSeesMutants(t *testing.T) {
	for name, flag := range map[string]*bool{
		"reply at propose": &Mutant.ReplyAtPropose, "memory reads not held": &Mutant.MemoryReadsNotHeld, "no confirm": &Mutant.NoConfirm,
		"join older round": &Mutant.JoinEarlierRound, "stale release": &Mutant.StaleRelease,
	} {
		*flag = true
		caught := 0
		for seed := range uint64(100) {
			if history(seed) != "" {
				caught++
			}
		}
		*flag = false
		if caught == 0 {
			t.Errorf("%s: not noticed in 100 histories", name)
		}
		t.Logf("%s: noticed in %d of 100 histories", name, caught)
	}
}
