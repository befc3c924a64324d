package client

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// Options of a client. The zero value of a field means its default.
type Options struct {
	// Timeout of a call whose context has no deadline, and of a Dial without one. Default 30 s.
	Timeout time.Duration
	// MaxInflight is the number of calls of one connection that may wait for their answers; a call beyond it fails at once
	// with actor.ErrOverloaded and did not run. Default 16,384.
	MaxInflight int
	// MaxCalls is the number of calls of the whole client that may be underway, waiting to be sent included. Default 65,536.
	MaxCalls int
	// MaxPerRef is the same for one Ref. Default 1,024.
	MaxPerRef int
	// ConnsPerNode is the number of connections to each node over which the Refs are spread. Default 1.
	ConnsPerNode int
	// DialTimeout bounds one attempt to reach one node. Default 2 s. Calls wait for it only if there is nobody else to ask; otherwise they
	// go on to the next node after 250 ms.
	DialTimeout time.Duration
	// KeepAlive: a connection on which calls wait and nothing came for this long is asked for a sign of life, and given up after the
	// same time again without one: the node is dead, or cut off, or its whole process has stopped. A node whose objects are slow gives
	// it. Calls in flight there may have run; what had not left, and new calls, go to other nodes. While much is on its way to the node
	// it is given longer, a second for each MiB. Default 500 ms; raise it where a node may be a second away.
	KeepAlive time.Duration
	// Cluster, if not zero, refuses seeds of any other cluster. A client never mixes clusters in any case.
	Cluster ring.ClusterID
	// Logger gets connection events at debug level and ring news at info level. Default: nothing is logged.
	Logger *slog.Logger
	// Local, if set, is the node in this process: its calls take no socket.
	Local Local
	// Chain, if set, tells which objects wait for the call that is entered with ctx, outermost first.
	Chain func(ctx context.Context) []string

	// Net, if set, connects instead of TCP.
	Net func(ctx context.Context, addr string) (net.Conn, error)
}

func (o *Options) withDefaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{
		{"MaxInflight", &d.MaxInflight, 16_384},
		{"MaxCalls", &d.MaxCalls, 65_536},
		{"MaxPerRef", &d.MaxPerRef, 1_024},
		{"ConnsPerNode", &d.ConnsPerNode, 1},
	} {
		if *f.value < 0 {
			return d, fmt.Errorf("client: Options.%s is %d: want a positive number, or 0 for the default %d", f.name, *f.value, f.def)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	for _, f := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"Timeout", &d.Timeout, 30 * time.Second},
		{"DialTimeout", &d.DialTimeout, 2 * time.Second},
		{"KeepAlive", &d.KeepAlive, 500 * time.Millisecond},
	} {
		if *f.value < 0 {
			return d, fmt.Errorf("client: Options.%s is %v: want a positive time, or 0 for the default %v", f.name, *f.value, f.def)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d, nil
}
