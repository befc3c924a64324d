// Package nemesis drives the shipped binary as processes in Linux network namespaces, breaks the network and the processes under load,
// and checks what the callers were told. It holds tests only:
//
//	go test ./cmd/nemesis -nemesis -timeout 60m -v
//
// It needs root, ip (iproute2) and nft (nftables), and fails without them; without -nemesis only the checker's own tests run.
// -nemesis.long adds the long cuts and stops and more kills. NEMESIS_BINARY names a binary to drive instead of building one, NEMESIS_DIR a
// directory for data and logs, which are kept there when a test fails.
//
// The scenarios: owners are cut off in several ways (Cut, CutQuorum, Moved), halted (Stop), killed (Kill) and restarted (Rolling); nodes join
// and leave (Join), die for good and come back too late (Replace), move, lose their disks and are copied (Identity), or have nothing to do
// (Idle). A table at the end has the calls of each, what failed, and the longest waits.
//
// The test binary makes a bridge in a namespace of its own, one namespace per node and two for clients, and starts itself again inside
// the first client's: nothing in the root namespace is touched. Node processes are bound to the inner one and that to the outer, so none
// outlives it. The outer one removes the namespaces when it ends; what a killed one left, the next run removes.
package nemesis
