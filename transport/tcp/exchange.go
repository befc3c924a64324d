package tcp

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/transport"
)

// Roundtrip asks a question and waits for its answer.
func (c *Conn) Roundtrip(ctx context.Context, q transport.Request) (transport.Response, error) {
	return c.exchange(ctx, transport.KindRequest, func(b []byte) []byte { return transport.AppendRequest(b, &q) })
}

// SendChunk sends a piece of bulk data and waits until it is taken.
func (c *Conn) SendChunk(ctx context.Context, body []byte) error {
	resp, err := c.exchange(ctx, transport.KindChunk, func(b []byte) []byte { return append(b, body...) })
	if err == nil && resp.Error != "" {
		err = errors.New(resp.Error)
	}
	return err
}

func (c *Conn) exchange(ctx context.Context, k transport.Kind, encode func([]byte) []byte) (transport.Response, error) {
	id := c.NextID()
	ch := make(chan roundtrip, 1)
	c.waiting.Lock()
	if c.pending == nil {
		c.waiting.Unlock()
		return transport.Response{}, c.Err()
	}
	c.pending[id] = ch
	c.waiting.Unlock()
	defer func() {
		c.waiting.Lock()
		delete(c.pending, id)
		c.waiting.Unlock()
	}()
	if err := c.Send(ctx, transport.Header{Kind: k, ID: id}, encode); err != nil {
		return transport.Response{}, err
	}
	select {
	case r := <-ch:
		return r.resp, r.err
	case <-ctx.Done():
		return transport.Response{}, context.Cause(ctx)
	}
}

// answered gives a response to who waits for it, and reports false if it is not one of ours.
func (c *Conn) answered(h transport.Header, body []byte) bool {
	c.waiting.Lock()
	ch := c.pending[h.ID]
	c.waiting.Unlock()
	if ch == nil {
		return h.Kind == transport.KindResponse // who asked has given up
	}
	var r roundtrip
	if h.Kind == transport.KindError {
		var e transport.ErrorBody
		if r.err = transport.DecodeError(body, &e); r.err == nil {
			r.err = fmt.Errorf("tcp: the peer refused the frame: %s", e.Message)
		}
	} else if r.err = transport.DecodeResponse(body, &r.resp); r.err == nil && c.purpose != transport.PurposeCalls {
		r.resp.Body = append([]byte(nil), r.resp.Body...)
	}
	select {
	case ch <- r:
	default: // a second answer
	}
	return true
}

func (c *Conn) failPending() {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	err := c.Err()
	for _, ch := range c.pending {
		select {
		case ch <- roundtrip{err: err}:
		default:
		}
	}
	c.pending = nil
}

// Respond answers a Request or a chunk.
func (c *Conn) Respond(id uint64, resp transport.Response) bool {
	resp.Error = transport.Clip(resp.Error)
	return c.TrySend(transport.Header{Kind: transport.KindResponse, ID: id}, func(b []byte) []byte { return transport.AppendResponse(b, &resp) })
}

// Refuse tells the peer that a frame was not understood. A KindError must never be refused: two sides would do it for ever.
func (c *Conn) Refuse(id uint64, why string) {
	e := transport.ErrorBody{Message: transport.Clip(why)}
	c.TrySend(transport.Header{Kind: transport.KindError, ID: id}, func(b []byte) []byte { return transport.AppendError(b, &e) })
}
