package client

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// looksPerKeepAlive is how often the monitor looks at every connection within Options.KeepAlive.
const looksPerKeepAlive = 2

// Bytes on their way to a node take time, and it answers nothing meanwhile, not even a ping that waits behind them: so long as a slow
// network needs for what it has not answered yet, a node may be silent beyond the usual. More than the buffers hold is not on its way.
const (
	slowestBytes = 1 << 20 // a second
	mostUnderWay = 16 << 20
)

type sign uint8

const (
	signFine sign = iota // nothing waits, something came, or it is too early to tell
	signAsk              // ask the node for a sign of life
	signDead             // it was asked in time and gave none
)

// silence decides when a connection on which calls wait is given up. It counts looks and not time: a process that was itself held up for
// seconds, and then has a socket full of answers, must not take its own absence for the node's.
type silence struct {
	heard  uint64 // bytes received by the last look
	waited bool   // calls waited then
	looks  int    // in a row without a byte although calls waited
}

// look is one of the monitor's, which come every so often: heard are the bytes received ever, waits whether calls wait for an answer,
// sent their bytes.
func (s *silence) look(every time.Duration, heard uint64, waits bool, sent int) sign {
	if !waits || !s.waited || heard != s.heard {
		*s = silence{heard: heard, waited: waits}
		return signFine
	}
	s.looks++
	patience := time.Duration(min(sent, mostUnderWay)) * time.Second / slowestBytes
	switch {
	case s.looks >= 2*looksPerKeepAlive+int(patience/every):
		return signDead
	case s.looks == looksPerKeepAlive:
		return signAsk
	}
	return signFine
}

// countedConn counts what it receives: a large answer that comes slowly is a sign of life long before it is a frame.
type countedConn struct {
	net.Conn
	heard *atomic.Uint64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.heard.Add(uint64(n))
	return n, err
}

// WritesTo implements tcp.WriteThrough.
func (c countedConn) WritesTo() net.Conn { return c.Conn }

// quiet is for a connection on which nothing waits: whether its peer is still there is the kernel's to find out, within 30 s.
var quiet = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: quiet}
	return d.DialContext(ctx, "tcp", addr)
}

// counted is the client's way to make connections, for one that is counted.
func (c *Client) counted(heard *atomic.Uint64) func(ctx context.Context, addr string) (net.Conn, error) {
	connect := c.opts.Net
	if connect == nil {
		connect = dialTCP
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		nc, err := connect(ctx, addr)
		if err != nil {
			return nil, err
		}
		return countedConn{nc, heard}, nil
	}
}
