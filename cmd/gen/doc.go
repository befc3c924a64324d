// Package gen writes typed stubs: of a class, the Go source of a reference with one method for each callable method of the class. It is
// what the command `ringfence gen` does.
//
// The source of the class is read and type-checked, not run, so that it need not compile yet: errors count only where they hide the type of a
// class, of an argument or of a result. Stubs that were written before are not read at all. The packages that it imports must compile; their types
// come from the compiler's export data, which `go list -export` finds or makes.
package gen
