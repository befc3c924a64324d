// Package cmd is the whole command line as a library: [Main] gives a program, with the classes it defines, every command that the
// stock binary has.
//
//	func main() { cmd.Main(actor.Define("Counter", NewCounter)) }
//
// Results go to stdout. An error is one line on stderr that begins with "ringfence:". The exit code is 1 for an error, 2 for wrong
// usage and 3 when a call failed and may have run all the same: who repeats it may do twice what was meant once.
package cmd
