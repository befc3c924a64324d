package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Request asks a node one named question ("ring", "status", "where"; their bodies belong to the names) and returns the response's body.
// to is an address, a node's ID in 16 hex digits, or empty for any node that answers.
func (c *Client) Request(ctx context.Context, to, name string, body []byte) ([]byte, error) {
	q := transport.Request{Name: name, Body: body}
	if to == "" {
		var all []error
		addrs, _ := c.addrs()
		for _, addr := range addrs {
			b, err := c.askBriefly(ctx, addr, q)
			if err == nil || ctx.Err() != nil {
				return b, err
			}
			all = append(all, err)
		}
		return nil, fmt.Errorf("client: no node answered %q: %w", name, errors.Join(all...))
	}
	if id, err := ring.ParseNodeID(to); err == nil {
		t := c.table.Load().get()
		if !t.has(id) {
			return nil, fmt.Errorf("client: node %s is not in the ring of epoch %d", to, c.epoch())
		}
		return c.ask(ctx, t.addrs[id], id, q)
	}
	return c.ask(ctx, to, 0, q)
}

// briefly is how long one of several nodes is given for an answer, which it may itself collect from others.
const briefly = 5 * time.Second

// askBriefly does not wait for ever for one node where there are others.
func (c *Client) askBriefly(ctx context.Context, addr string, q transport.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	return c.ask(ctx, addr, 0, q)
}

// ask sends a request over an open connection to the address, or over one of its own.
func (c *Client) ask(ctx context.Context, addr string, node ring.NodeID, q transport.Request) ([]byte, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
	}
	conn, done := c.openTo(addr)
	if conn == nil {
		var err error
		if conn, err = c.dialAsker(ctx, addr, node); err != nil {
			return nil, err
		}
		done = conn.Close
	}
	defer done()
	resp, err := conn.Roundtrip(ctx, q)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer %q in time: %w", addr, q.Name, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", addr, err)
	case resp.Error != "":
		return nil, fmt.Errorf("%s: %s", addr, resp.Error)
	}
	return resp.Body, nil
}

func (c *Client) dialAsker(ctx context.Context, addr string, node ring.NodeID) (*tcp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	return tcp.Dial(ctx, addr, c.hello(node), c.dialOptions(asker{c}))
}

// openTo is an open connection to the address, nil if there is none; done gives it back.
func (c *Client) openTo(addr string) (conn *tcp.Conn, done func()) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for l := range c.live {
		if l.addr != addr {
			continue
		}
		if conn, done = l.borrow(); conn != nil {
			return conn, done
		}
	}
	return nil, nil
}

// asker hears what comes on a connection for one request.
type asker struct{ client *Client }

func (a asker) Frame(_ *tcp.Conn, h transport.Header, _ []byte) { a.client.sawEpoch(h.Epoch) }
func (a asker) Closed(*tcp.Conn, error)                         {}
