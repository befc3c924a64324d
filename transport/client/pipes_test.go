package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipeNet is a network in memory, for bubbles with a clock of their own. An address where nobody listens refuses at once, one that is
// cut lets dials hang.
type pipeNet struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
	names     map[string]string        // names that stand for addresses
	cuts      map[string]chan struct{} // closed when healed
	dials     map[string]int
}

func newPipeNet() *pipeNet {
	return &pipeNet{listeners: map[string]*pipeListener{}, names: map[string]string{}, cuts: map[string]chan struct{}{}, dials: map[string]int{}}
}

func (p *pipeNet) listen(addr string) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr == "127.0.0.1:0" {
		addr = fmt.Sprintf("10.0.0.%d:7420", len(p.listeners)+1)
	}
	if l := p.listeners[addr]; l != nil && !l.isClosed() {
		return nil, errors.New("in use: " + addr)
	}
	l := &pipeListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.listeners[addr] = l
	return l, nil
}

func (p *pipeNet) dial(ctx context.Context, addr string) (net.Conn, error) {
	p.mu.Lock()
	if a := p.names[addr]; a != "" {
		addr = a
	}
	p.dials[addr]++
	cut := p.cuts[addr]
	p.mu.Unlock()
	if cut != nil {
		select {
		case <-cut:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	p.mu.Lock()
	l := p.listeners[addr]
	p.mu.Unlock()
	if l == nil || l.isClosed() {
		return nil, errors.New("connection refused by " + addr)
	}
	mine, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return mine, nil
	case <-l.closed:
		return nil, errors.New("connection refused by " + addr)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// cut makes dials of the address hang until heal.
func (p *pipeNet) cut(addr string) (heal func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := make(chan struct{})
	p.cuts[addr] = ch
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.cuts, addr)
		close(ch)
	}
}

func (p *pipeNet) name(name, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[name] = addr
}

// dialed is how often an address was dialed.
func (p *pipeNet) dialed(addr string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials[addr]
}

type pipeListener struct {
	addr   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

// bubble runs a test with a fake cluster of n nodes, and a client that has its ring and no connection yet, in virtual time.
func bubble(t *testing.T, n int, body func(t *testing.T, f *fakeCluster, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeClusterOn(t, n, newPipeNet())
		body(t, f, dial(t, f, nil))
	})
}

// within fails unless do takes at most so long of the bubble's time.
func within(t *testing.T, what string, most time.Duration, do func()) {
	t.Helper()
	start := time.Now()
	do()
	if took := time.Since(start); took > most {
		t.Errorf("%s took %v, more than %v", what, took, most)
	}
}
