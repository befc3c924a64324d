package tcp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// RefusedError is a peer's refusal in the handshake; the text is the peer's and names the remedy.
type RefusedError struct {
	Addr string
	Text string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refused the connection: %s", e.Addr, e.Text)
}

// DialOptions are what a connection needs besides its Hello.
type DialOptions struct {
	Handler Handler           // required
	Epoch   func() ring.Epoch // for headers; may be nil
	// ConnectTimeout is for the connection alone, before the handshake; 0: the 5 s of both together.
	ConnectTimeout time.Duration
	// Net makes the connection below the handshake; nil: TCP.
	Net func(ctx context.Context, addr string) (net.Conn, error)
}

// Dial connects to addr, shakes hands and starts the connection. hello's versions are filled in.
func Dial(ctx context.Context, addr string, hello transport.Hello, opts DialOptions) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	connect := opts.Net
	if connect == nil {
		connect = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	connecting, connected := ctx, func() {}
	if opts.ConnectTimeout > 0 {
		connecting, connected = context.WithTimeout(ctx, opts.ConnectTimeout)
	}
	nc, err := connect(connecting, addr)
	connected()
	if err != nil {
		return nil, err
	}
	tune(nc, hello.Purpose)
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	c, err := greet(nc, addr, hello, opts)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%s did not answer the handshake: %w", addr, context.Cause(ctx))
		}
		return nil, err
	}
	go c.run()
	return c, nil
}

func greet(nc net.Conn, addr string, hello transport.Hello, opts DialOptions) (*Conn, error) {
	hello.MinVersion, hello.MaxVersion = MinVersion, MaxVersion
	_ = nc.SetDeadline(time.Now().Add(handshakeTime))
	if _, err := nc.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello))); err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(nc, 64<<10)
	_, body, err := transport.ReadFrame(br, helloOnly(transport.KindHelloReply), nil)
	if err != nil {
		return nil, fmt.Errorf("%s does not speak Ringfence's protocol, or closed at once: %w", addr, err)
	}
	var r transport.HelloReply
	if err := transport.DecodeHelloReply(body, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	if r.Error != "" {
		return nil, &RefusedError{Addr: addr, Text: r.Error}
	}
	if r.Version < MinVersion || r.Version > MaxVersion {
		return nil, fmt.Errorf("%s chose protocol version %d; this side speaks %d to %d", addr, r.Version, MinVersion, MaxVersion)
	}
	_ = nc.SetDeadline(time.Time{})
	return newConn(nc, br, hello.Purpose, Peer{Cluster: r.Cluster, Node: r.Node, Boot: r.Boot, Version: r.Version}, opts.Epoch, opts.Handler), nil
}
