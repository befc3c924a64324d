package tcp

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/transport"
)

// TestSocketsGiveUp: both ends of a connection give up what is not acknowledged, and notice a peer that is gone; Raft's sooner.
func TestSocketsGiveUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for p, unacked := range map[transport.Purpose]int{transport.PurposeRaft: 3000, transport.PurposeCalls: 10000, transport.PurposeBulk: 10000} {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		tune(nc, p)
		for opt, want := range map[int]int{unix.TCP_USER_TIMEOUT: unacked, unix.TCP_NODELAY: 1, unix.TCP_KEEPIDLE: 15, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 3} {
			if got := option(t, nc, opt); got != want {
				t.Errorf("purpose %d: option %d is %d, want %d", p, opt, got, want)
			}
		}
		_ = nc.Close()
	}
	accepted := make(chan *Conn, 1)
	addr, _, _ := serveWith(t, ServerConfig{Handler: func(c *Conn) Handler {
		accepted <- c
		return &echo{}
	}})
	c := dial(t, addr, transport.PurposeRaft, &echo{})
	for end, c := range map[string]*Conn{"dialed": c, "accepted": <-accepted} {
		if got := option(t, c.nc, unix.TCP_USER_TIMEOUT); got != int(unackedRaft.Milliseconds()) {
			t.Errorf("%s: %d", end, got)
		}
	}
}

func option(t *testing.T, nc net.Conn, opt int) (v int) {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return v
}
