//go:build mutant

package replica

import "testing"

// TestScriptedMutants: what the simulation meets too rarely, the scripts must notice.
func TestScriptedMutants(t *testing.T) {
	defer ForgetMutants()
	for name, m := range map[string]struct {
		flag  *bool
		wrong func(*testing.T) []string
	}{
		"promises as a candidate":                       {&Mutant.PromiseAsCandidate, promisesOfOthers},
		"promises without term":                         {&Mutant.PromiseWithoutTerm, promisesOfOthers},
		"lease not lowered on a configuration's change": {&Mutant.LeaseNotLowered, leasesOfConfigurations},
	} {
		if wrong := m.wrong(t); wrong != nil {
			t.Fatalf("%s: noticed without the mutant: %v", name, wrong)
		}
		*m.flag = true
		if m.wrong(t) == nil {
			t.Errorf("%s: not noticed", name)
		}
		*m.flag = false
	}
}
