package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Machine is what a node stands on in place of the system's sockets, disk and clock, so that whole clusters run in one process, also in
// the virtual time of testing/synctest: package node/nodetest. All fields are required but Off; there is no HTTP port.
type Machine struct {
	Listen func(addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Gossip func(addr string) (memberlist.NodeAwareTransport, error)
	Store  store.Options        // with the file system; the Logger is the node's
	Now    func() time.Duration // a clock that never goes back, for leases
	// Off is closed when the machine loses its power: the node ends without good-byes, and Run returns ErrPowerLoss. Whoever closes it has
	// cut the network before.
	Off <-chan struct{}
}

// ErrPowerLoss is why a node ended whose Machine was switched off.
var ErrPowerLoss = errors.New("the machine has lost its power")

// listen opens the port for calls.
func (c *Config) listen() (net.Listener, error) {
	if c.Machine != nil {
		return c.Machine.Listen(c.Listen)
	}
	ln, err := tcp.Listen(context.Background(), "--listen", c.Listen)
	if err == nil && c.Switch != nil {
		ln = c.Switch.Listener(ln)
	}
	return ln, err
}

// dial connects to other nodes; nil is TCP.
func (c *Config) dial() func(ctx context.Context, addr string) (net.Conn, error) {
	switch {
	case c.Machine != nil:
		return c.Machine.Dial
	case c.Switch != nil:
		return c.Switch.Dial
	}
	return nil
}

// gossip carries gossip; nil is TCP and UDP.
func (c *Config) gossip() (memberlist.NodeAwareTransport, error) {
	if c.Machine == nil {
		return nil, nil
	}
	return c.Machine.Gossip(c.Gossip)
}

func (c *Config) store(log *slog.Logger) store.Options {
	var o store.Options
	if c.Machine != nil {
		o = c.Machine.Store
	}
	o.Logger = log
	return o
}

// clock is for leases; nil is the system's.
func (c *Config) clock() func() time.Duration {
	if c.Machine == nil {
		return nil
	}
	return c.Machine.Now
}

// lost reports whether the power is off.
func (m *Machine) lost() bool {
	if m == nil {
		return false
	}
	select {
	case <-m.Off:
		return true
	default:
		return false
	}
}

// awaitPowerLoss ends the node when its machine is switched off.
func (n *Node) awaitPowerLoss(ctx context.Context) {
	if n.cfg.Machine == nil {
		return
	}
	select {
	case <-n.cfg.Machine.Off:
		n.fail(ErrPowerLoss)
	case <-ctx.Done():
	}
}
