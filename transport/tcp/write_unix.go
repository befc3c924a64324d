//go:build unix

package tcp

import "syscall"

// socketWriter writes to a socket without waiting.
type socketWriter struct {
	raw  syscall.RawConn
	b    []byte
	n    int
	once func(fd uintptr) bool
}

func newSocketWriter(raw syscall.RawConn) *socketWriter {
	w := &socketWriter{raw: raw}
	w.once = func(fd uintptr) bool {
		w.n, _ = syscall.Write(int(fd), w.b)
		return true // also if it would have to wait
	}
	return w
}

// write writes what the socket takes now, with one system call, and says how much that was. An error is met by who writes the rest.
func (w *socketWriter) write(b []byte) int {
	w.b, w.n = b, 0
	_ = w.raw.Write(w.once)
	w.b = nil
	return max(w.n, 0)
}
