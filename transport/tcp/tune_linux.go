package tcp

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacked sets how long sent bytes may stay unacknowledged.
func limitUnacked(t *net.TCPConn, d time.Duration) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	}); err != nil {
		return err
	}
	return set
}
