// Package nemesis drives the shipped binary as processes in Linux network namespaces, breaks network, disks and processes under load, and
// checks what the callers were told. It holds tests only:
//
//	go test ./cmd/nemesis -nemesis -timeout 60m -v
//
// It needs root, ip (iproute2) and nft (nftables), and fails without them; without -nemesis only the checkers' own tests run. Single scenarios
// need strace, xfsprogs or a control group: -nemesis.install installs programs from Debian packages, and what a machine cannot run is in the table, with
// the reason. All takes about fifteen minutes. -nemesis.long adds the long cuts and more rounds; it takes an hour and more, so give -timeout 120m.
// -nemesis.times=false prints a limit of time that is missed and does not fail. NEMESIS_BINARY names a binary to drive instead of building one,
// NEMESIS_DIR a directory for data and logs, which are kept there when a test fails.
//
//	Cut, CutQuorum, CutAll, CutPart, CutUDP  nodes are cut off: one, by both leases; each from each; in part (bridge, ring, one link, one way); from gossip
//	Reset                                    connections are refused, or those that are open fall silent; gossip goes on
//	Loss, Links, Bandwidth                   packets are lost, late, out of order, doubled, damaged; lines are narrow
//	Moved, Stale                             events run on in owners that are cut off
//	Stop, Snapshots, Starved, Kill           processes are halted, also for longer than logs reach back, starved, and killed: one, most, all
//	Memory, Files                            processes find no more memory, and may open no files
//	Power, Full, Sync, SlowDisk, Damage      disks lose their power, are full, fail, are slow, have rotted
//	Join, Bytes, Rolling, Replace            nodes come and go, and die for good
//	Identity, Wiped                          directories move, are copied, are used twice, are gone
//	Idle                                     nothing happens
//
// Every scenario has 200 counters that are called all the time, whose histories are checked exactly (checkCounter), and a few registers and queues,
// for whose calls porcupine looks for a legal order; only Bytes and Idle, which measure, are without. The table at the end has for each scenario whether it
// failed, the operations, the faults, the promises that were broken, the longest time that an object was without an answer, the longest call, and
// what failed, by kind.
//
// The test binary makes a bridge in a namespace of its own, one namespace per node and two for clients, and starts itself again inside
// the first client's: nothing in the root namespace is touched. Node processes are bound to the inner one and that to the outer, so none
// outlives it, and file systems are mounted for the process alone that uses them. The outer one removes the namespaces when it ends; what a killed
// one left, the next run removes.
package nemesis
