package tcp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// Version of the protocol that this build speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// MaxConns bounds a server's connections.
const MaxConns = 16384

// ServerConfig says how connections are accepted.
type ServerConfig struct {
	// Handshake decides about a peer: a reply with an Error refuses it. It fills in who answers; the server fills in the version.
	Handshake func(h transport.Hello) transport.HelloReply
	// Handler makes what hears an accepted connection's frames.
	Handler func(c *Conn) Handler
	Epoch   func() ring.Epoch // for headers; may be nil
	Logger  *slog.Logger
}

// Server accepts connections.
type Server struct {
	cfg   ServerConfig
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// NewServer makes a server; Serve runs it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{cfg: cfg, conns: make(map[net.Conn]struct{})}
}

// Listen opens addr. The error of a port in use names the flag that changes it.
func Listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: the port is in use by another process: stop it, or give another address with %s", flag, addr, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, addr, err)
	}
	return ln, nil
}

// Serve accepts until ctx ends; then it closes all connections and waits for their goroutines.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var err error
	for ctx.Err() == nil {
		var nc net.Conn
		if nc, err = ln.Accept(); err == nil {
			s.accept(nc)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			break
		}
		s.cfg.Logger.Warn("a connection could not be accepted", "error", err)
		select { // out of file descriptors, most likely
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.mu.Lock()
	for nc := range s.conns {
		_ = nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) accept(nc net.Conn) {
	s.mu.Lock()
	full := len(s.conns) >= MaxConns
	if !full {
		s.conns[nc] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		s.cfg.Logger.Warn("too many connections; one is refused", "limit", MaxConns, "from", nc.RemoteAddr())
		_ = nc.Close()
		return
	}
	s.wg.Go(func() {
		defer func() {
			_ = nc.Close()
			s.mu.Lock()
			delete(s.conns, nc)
			s.mu.Unlock()
		}()
		s.serve(nc)
	})
}

func (s *Server) serve(nc net.Conn) {
	tune(nc)
	c, err := s.handshake(nc)
	if err != nil {
		s.cfg.Logger.Info("a connection was refused", "from", nc.RemoteAddr().String(), "cause", err)
		return
	}
	c.run()
	if err := c.Err(); !ended(err) {
		s.cfg.Logger.Debug("a connection ended", "from", nc.RemoteAddr().String(), "cause", err)
	}
}

func tune(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
		_ = t.SetKeepAlivePeriod(keepAlive)
	}
}

// handshake reads the Hello, decides and replies, within handshakeTime.
func (s *Server) handshake(nc net.Conn) (*Conn, error) {
	_ = nc.SetDeadline(time.Now().Add(handshakeTime))
	br := bufio.NewReaderSize(nc, 64<<10)
	if what := foreign(br); what != "" {
		return nil, errors.New(what)
	}
	h, body, err := transport.ReadFrame(br, helloOnly(transport.KindHello), nil)
	if err != nil {
		return nil, err
	}
	var hello transport.Hello
	if err := transport.DecodeHello(body, &hello); err != nil {
		return nil, err
	}
	reply := s.decide(hello)
	out := transport.AppendFrame(nil, transport.Header{Kind: transport.KindHelloReply, ID: h.ID}, transport.AppendHelloReply(nil, &reply))
	if _, err := nc.Write(out); err != nil {
		return nil, err
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	_ = nc.SetDeadline(time.Time{})
	c := newConn(nc, br, hello.Purpose, Peer{Cluster: hello.Cluster, Node: hello.Node, Boot: hello.Boot}, s.cfg.Epoch, nil)
	c.handler = s.cfg.Handler(c)
	return c, nil
}

func (s *Server) decide(h transport.Hello) transport.HelloReply {
	reply := s.cfg.Handshake(h)
	reply.Version = min(h.MaxVersion, MaxVersion)
	switch {
	case reply.Error != "":
	case h.MinVersion > MaxVersion || h.MaxVersion < MinVersion:
		reply.Error = fmt.Sprintf("the peer speaks protocol versions %d to %d and this node %d to %d: run versions that overlap",
			h.MinVersion, h.MaxVersion, MinVersion, MaxVersion)
	case h.Purpose < transport.PurposeCalls || h.Purpose > transport.PurposeBulk:
		reply.Error = fmt.Sprintf("a connection for purpose %d, which this node does not know", h.Purpose)
	}
	reply.Error = transport.Clip(reply.Error)
	return reply
}

// foreign recognises what people send to the wrong port.
func foreign(br *bufio.Reader) string {
	b, err := br.Peek(4)
	if err != nil {
		return ""
	}
	for _, m := range [...]string{"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PRI "} {
		if string(b) == m {
			return "this is HTTP, and the port is for Ringfence calls"
		}
	}
	if bytes.HasPrefix(b, []byte{0x16, 0x03}) {
		return "this is TLS, and the port takes plain Ringfence frames"
	}
	return ""
}

func helloOnly(k transport.Kind) func(transport.Kind) int {
	return func(got transport.Kind) int {
		if got == k {
			return transport.MaxHelloBody
		}
		return 0
	}
}
