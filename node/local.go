package node

import (
	"context"
	"errors"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/client"
)

// local is the node as its own client sees it: calls of objects here to objects here take no socket.
type local struct {
	n     *Node
	inbox *inbox
}

// Node is of client.Local.
func (l local) Node() ring.NodeID { return l.n.id }

// Call is of client.Local.
func (l local) Call(c transport.Call, done func(transport.Reply)) {
	l.inbox.call(&c, &delivery{done: done}, nil)
}

// Request is of client.Local.
func (l local) Request(ctx context.Context, q transport.Request) (transport.Response, error) {
	b, err := l.n.answer(ctx, q)
	if err != nil {
		return transport.Response{}, err
	}
	return transport.Response{Body: b}, nil
}

// newClient makes the client through which this node's objects, and the program that embeds it, call objects. It learns rings from the node.
func (n *Node) newClient() (*client.Client, error) {
	return client.New(&client.Options{Local: local{n, newInbox(n, nil)}, Chain: host.Chain, Logger: n.log, Net: n.cfg.dial()})
}

// Client calls objects of the cluster from within the node's process; calls of objects that are here take no socket. It belongs to the node, and ends
// with it; do not Close it. Calls made before the node knows a ring wait for one.
func (n *Node) Client() *client.Client { return n.client }

// With runs a node of the classes in this process for as long as fn runs, which is given a client of it, and then stops it as SIGTERM does. fn's
// context ends with ctx, or when the node cannot go on. The error is fn's and the node's.
func With(ctx context.Context, cfg Config, classes []actor.Class, fn func(context.Context, *client.Client) error) error {
	n, err := New(cfg, classes...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- n.Run(ctx)
	}()
	err = fn(ctx, n.client)
	cancel()
	return errors.Join(err, <-ended)
}

func (n *Node) object(id actor.ID) actor.Ref { return n.client.Object(id.Class, id.Key) }
