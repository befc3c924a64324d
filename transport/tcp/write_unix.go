//go:build unix

package tcp

import "syscall"

// writeSome writes what a socket takes now, with one system call, and says how much that was.
func writeSome(raw syscall.RawConn, b []byte) (n int) {
	_ = raw.Write(func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), b)
		return true // also if it would have to wait
	})
	return max(n, 0)
}
