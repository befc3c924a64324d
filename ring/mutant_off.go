//go:build !mutant

package ring

// The mutants weaken placement and planner on purpose, to prove that tests notice. They exist only under the build tag "mutant".

func mutArrivalOrder() bool { return false }
func mutPlainNames() bool   { return false }
func mutReusedID() bool     { return false }

func (*Ring) has(ReplicaID) bool { return true }
