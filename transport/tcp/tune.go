package tcp

import (
	"net"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// keepAlive finds a peer that is gone without a word on a quiet connection, within 30 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Bytes that a peer has not acknowledged for so long end the connection. When packets vanish the kernel repeats them ever more rarely, so
// after a cut network heals, an old connection stays silent for about as long as the cut lasted; a new one works at once. Raft, whose
// elections take under a second, must not wait for that.
const (
	unackedRaft  = 3 * time.Second
	unackedOther = 10 * time.Second
)

// tune sets a socket's options. None is needed for correctness, so an error is no reason to refuse the connection.
func tune(nc net.Conn, p transport.Purpose) {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetNoDelay(true)
	_ = t.SetKeepAliveConfig(keepAlive)
	limit := unackedOther
	if p == transport.PurposeRaft {
		limit = unackedRaft
	}
	_ = limitUnacked(t, limit)
}
