// Package sim runs the protocol core in virtual time: whole clusters, in one goroutine, from one seed.
//
// A seed draws a cluster of three to seven nodes with twice as many shards, which fault classes are on, and everything that happens. Real
// are the machines that decide: [github.com/ringfence/ringfence/store.Fence], replica.Group with Raft inside, host.Tenure, and ring.Sequencer with
// the planner, whose rings the system shard's log orders. Around them the package plays network, disks, processes, users' code and clients, and
// breaks them: see [Class]. [Run] returns the first violation of an invariant, or of linearizability of what the clients saw; the same seed
// gives the same run, event by event.
//
//	go test ./node/sim                                          a few seeds
//	go test ./node/sim -run TestSeeds -sim.seeds=2000           many
//	go test ./node/sim -run TestSeeds -sim.seed=17              one, every event printed
//	go test -tags mutant ./node/sim -run Mutants                weakened protocols: each must be caught
package sim
