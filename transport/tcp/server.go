package tcp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// Versions of the protocol that this build speaks. In version 2 Raft's messages have a form of their own (store/replica); all else is as in 1.
const (
	MinVersion = 1
	MaxVersion = 2
)

// Defaults of ServerConfig.
const (
	MaxConns      = 16384
	MaxConnsPerIP = 4096
)

// ServerConfig says how connections are accepted.
type ServerConfig struct {
	// Handshake decides about a peer: a reply with an Error refuses it. It fills in who answers; the server fills in the version.
	Handshake func(h transport.Hello) transport.HelloReply
	// Handler makes what hears an accepted connection's frames.
	Handler func(c *Conn) Handler
	Epoch   func() ring.Epoch // for headers; may be nil
	Logger  *slog.Logger
	// MaxConns and MaxConnsPerIP bound the connections at one time, all and those from one address; 0: the defaults.
	MaxConns, MaxConnsPerIP int
	// IdleTimeout ends a connection for calls on which no frame comes for so long; 0: never. Clients that wait for an answer ask
	// for a sign of life now and then (client.Options.KeepAlive); it must be longer than that.
	IdleTimeout time.Duration
}

// Stats counts what a server has done since it was made.
type Stats struct {
	Open     int    // connections now, those in the handshake included
	Accepted uint64 // handshakes that succeeded
	Refused  uint64 // peers that were refused by name: another cluster, version, purpose
	Garbage  uint64 // what was no handshake: other protocols, broken frames, silence
	Full     uint64 // connections beyond MaxConns or MaxConnsPerIP
}

// Server accepts connections.
type Server struct {
	cfg   ServerConfig
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	perIP map[netip.Addr]int
	stats Stats
	warn  time.Time // when a warning about strangers was last logged
	wg    sync.WaitGroup

	calls    map[*Conn]struct{} // connections for calls, after their handshake
	arriving int                // connections for calls whose handshake is being answered
	leaving  bool               // GoAway was called
	shut     bool               // Quiesce is over: no more connections for calls
	quiet    chan struct{}      // of Quiesce; closed when the last connection for calls has gone
}

// NewServer makes a server; Serve runs it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = MaxConns
	}
	if cfg.MaxConnsPerIP == 0 {
		cfg.MaxConnsPerIP = MaxConnsPerIP
	}
	return &Server{cfg: cfg, conns: make(map[net.Conn]struct{}), perIP: make(map[netip.Addr]int), calls: make(map[*Conn]struct{})}
}

// Stats may be called at any time.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Open = len(s.conns)
	return st
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
	ip := ipOf(nc)
	if full := s.admit(nc, ip); full != "" {
		s.warnOf("too many connections; one is refused", nc, full)
		// Nothing was read yet; the reply fits into an empty socket buffer, so this does not wait.
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write(helloReply(0, transport.HelloReply{Error: full}))
		_ = nc.Close()
		return
	}
	s.wg.Go(func() {
		defer s.forget(nc, ip)
		s.serve(nc)
	})
}

// admit notes a connection, or says why there is no room for it.
func (s *Server) admit(nc net.Conn, ip netip.Addr) (full string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.conns) >= s.cfg.MaxConns:
		full = fmt.Sprintf("this node has %d connections, as many as it takes: close some, or ask another node", s.cfg.MaxConns)
	case s.perIP[ip] >= s.cfg.MaxConnsPerIP:
		full = fmt.Sprintf("this node has %d connections from %s, as many as it takes from one address: share them within a process", s.cfg.MaxConnsPerIP, ip)
	default:
		s.conns[nc] = struct{}{}
		s.perIP[ip]++
		return ""
	}
	s.stats.Full++
	return full
}

func (s *Server) forget(nc net.Conn, ip netip.Addr) {
	_ = nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, nc)
	if s.perIP[ip]--; s.perIP[ip] == 0 {
		delete(s.perIP, ip)
	}
}

func ipOf(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// warnEvery keeps strangers, who may come a thousand times a second, from filling the log.
const warnEvery = 10 * time.Second

// warnOf logs about a stranger, as a warning now and then and else for debugging.
func (s *Server) warnOf(msg string, nc net.Conn, cause string) {
	s.mu.Lock()
	level := slog.LevelDebug
	if now := time.Now(); now.Sub(s.warn) >= warnEvery {
		level, s.warn = slog.LevelWarn, now
	}
	s.mu.Unlock()
	s.cfg.Logger.Log(context.Background(), level, msg, "from", nc.RemoteAddr().String(), "cause", cause)
}

func (s *Server) serve(nc net.Conn) {
	c, err := s.handshake(nc)
	s.count(err)
	var refused *refusal
	var stranger *strangerError
	switch {
	case err == nil:
	case errors.As(err, &refused):
		s.cfg.Logger.Info("a connection was refused", "from", nc.RemoteAddr().String(), "cause", err)
		return
	case errors.As(err, &stranger):
		s.warnOf("a connection speaks another protocol; it is closed", nc, err.Error())
		return
	default:
		s.cfg.Logger.Debug("a connection brought no handshake; it is closed", "from", nc.RemoteAddr().String(), "cause", err)
		return
	}
	c.run()
	if c.purpose == transport.PurposeCalls {
		s.depart(c)
	}
	if err := c.Err(); !ended(err) {
		s.cfg.Logger.Debug("a connection ended", "from", nc.RemoteAddr().String(), "cause", err)
	}
}

func (s *Server) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refused *refusal
	switch {
	case err == nil:
		s.stats.Accepted++
	case errors.As(err, &refused):
		s.stats.Refused++
	default:
		s.stats.Garbage++
	}
}

// refusal is an answered handshake that ended in a refusal.
type refusal struct{ text string }

func (e *refusal) Error() string { return e.text }

// strangerError is another protocol that was recognised.
type strangerError struct{ text string }

func (e *strangerError) Error() string { return e.text }

// handshake reads the Hello, decides and replies, within handshakeTime.
func (s *Server) handshake(nc net.Conn) (*Conn, error) {
	_ = nc.SetDeadline(time.Now().Add(handshakeTime))
	br := bufio.NewReaderSize(nc, 64<<10)
	if what := foreign(br); what != "" {
		return nil, &strangerError{what}
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
	calls := reply.Error == "" && hello.Purpose == transport.PurposeCalls
	if calls && !s.arrive() {
		reply.Error, calls = "this node is stopping: ask another", false
	}
	if _, err := nc.Write(helloReply(h.ID, reply)); err != nil {
		if calls {
			s.depart(nil)
		}
		return nil, err
	}
	if reply.Error != "" {
		return nil, &refusal{reply.Error}
	}
	_ = nc.SetDeadline(time.Time{})
	tune(nc, hello.Purpose)
	c := newConn(nc, br, hello.Purpose, Peer{Cluster: hello.Cluster, Node: hello.Node, Boot: hello.Boot, Version: reply.Version}, s.cfg.Epoch, nil)
	if hello.Purpose == transport.PurposeCalls {
		c.times.idle = s.cfg.IdleTimeout
	}
	c.handler = s.cfg.Handler(c)
	if calls {
		s.enter(c)
	}
	return c, nil
}

func helloReply(id uint64, r transport.HelloReply) []byte {
	return transport.AppendFrame(nil, transport.Header{Kind: transport.KindHelloReply, ID: id}, transport.AppendHelloReply(nil, &r))
}

// decide refuses what this build cannot speak to before it asks who the peer is: the rest of such a Hello may mean something else.
func (s *Server) decide(h transport.Hello) transport.HelloReply {
	var reply transport.HelloReply
	switch {
	case h.MinVersion > MaxVersion || h.MaxVersion < MinVersion:
		reply.Error = fmt.Sprintf("the peer speaks protocol versions %d to %d and this node %d to %d: run versions that overlap",
			h.MinVersion, h.MaxVersion, MinVersion, MaxVersion)
	case h.Purpose < transport.PurposeCalls || h.Purpose > transport.PurposeBulk:
		reply.Error = fmt.Sprintf("a connection for purpose %d, which this node does not know: run versions that overlap", h.Purpose)
	default:
		reply = s.cfg.Handshake(h)
	}
	reply.Version = min(h.MaxVersion, MaxVersion)
	reply.Error = transport.Clip(reply.Error)
	return reply
}

// foreign recognises what people send to the wrong port.
func foreign(br *bufio.Reader) string {
	b, err := br.Peek(4)
	if err != nil {
		return ""
	}
	for _, m := range [...]string{"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC", "CONN", "PRI "} {
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
