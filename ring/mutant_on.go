//go:build mutant

package ring

// Mutant switches one weakening on. Only tests set it, from one goroutine.
var Mutant struct {
	ArrivalOrder bool // members are placed in the order in which they came
	PlainNames   bool // members go by decimal numbers, to which the library appends another
	ReusedID     bool // a new replica gets the lowest ID that no replica of the ring has
}

func mutArrivalOrder() bool { return Mutant.ArrivalOrder }
func mutPlainNames() bool   { return Mutant.PlainNames }
func mutReusedID() bool     { return Mutant.ReusedID }

func (r *Ring) has(id ReplicaID) bool {
	for g := range GroupID(len(r.shards) + 1) {
		for _, rep := range r.groupRef(g).Replicas {
			if rep.ID == id {
				return true
			}
		}
	}
	return false
}
