// Command peers runs the same workloads on Ringfence and on systems that one might use in its place, on one machine in one run, and prints one
// table. README.md says what each system is asked for an operation, and with which settings.
//
//	go run -C bench/peers . --short
//
// Every system is a cluster of child processes, mostly of this same program (see child.go), with its data on disk; the callers are in the parent, and the loop
// that drives them is package bench's, whatever the system.
package main
