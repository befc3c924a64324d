package tcp

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// TestLinkPausesBetweenShortLives: a peer that shakes hands and hangs up is not dialed again without a pause.
func TestLinkPausesBetweenShortLives(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tries := make(chan time.Time, 100)
	s := NewServer(ServerConfig{Logger: slog.New(slog.DiscardHandler),
		Handshake: func(transport.Hello) transport.HelloReply { return transport.HelloReply{Node: 1} },
		Handler: func(c *Conn) Handler {
			select {
			case tries <- time.Now():
			default:
			}
			c.Close()
			return &echo{}
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ln) }()
	l := NewLink(LinkConfig{Addr: ln.Addr().String, Hello: func() transport.Hello { return transport.Hello{Purpose: transport.PurposeRaft} },
		Dial: DialOptions{Handler: &echo{}}})
	first := <-tries
	for range 3 {
		<-tries
	}
	// The pauses before them are at least redialMin × 1, 2 and 4.
	if d := time.Since(first); d < 7*redialMin {
		t.Errorf("three more tries within %v", d)
	}
	l.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// heardEnd notes whether Closed was heard.
type heardEnd struct {
	echo
	ends atomic.Int64
}

func (h *heardEnd) Closed(*Conn, error) { h.ends.Add(1) }

func TestLinkCloseWaitsForTheHandler(t *testing.T) {
	addr, _ := serve(t)
	for range 50 {
		h, up := &heardEnd{}, make(chan bool, 2)
		l := NewLink(LinkConfig{Addr: func() string { return addr }, Hello: func() transport.Hello { return transport.Hello{Purpose: transport.PurposeRaft} },
			Dial: DialOptions{Handler: h}, Up: func(u bool) { up <- u }})
		<-up
		l.Close()
		if n := h.ends.Load(); n != 1 {
			t.Fatalf("the handler heard %d ends", n)
		}
	}
}

// TestLinkFollowsItsPeer: a link whose peer comes back at another address finds it there, and one without an address waits for it.
func TestLinkFollowsItsPeer(t *testing.T) {
	var addr atomic.Value
	addr.Store("")
	ups := make(chan bool, 10)
	l := NewLink(LinkConfig{Addr: func() string { return addr.Load().(string) }, Hello: func() transport.Hello { return transport.Hello{Purpose: transport.PurposeRaft} },
		Dial: DialOptions{Handler: &echo{}}, Up: func(up bool) { ups <- up }})
	defer l.Close()
	if l.TrySendNow(transport.Header{Kind: transport.KindRaft}, nil) {
		t.Fatal("sent to nowhere")
	}
	for range 3 {
		a, h := serve(t)
		addr.Store(a)
		l.Kick()
		if !<-ups {
			t.Fatal("down before it was up")
		}
		if l.Conn().RemoteAddr().String() != a || !l.TrySendNow(transport.Header{Kind: transport.KindRaft}, nil) {
			t.Fatalf("connected to %s, not to %s", l.Conn().RemoteAddr(), a)
		}
		eventually(t, "the frame", func() bool { return h.frames.Load() == 1 })
		addr.Store("") // or it would be back at once
		l.Conn().Close()
		if <-ups {
			t.Fatal("up twice")
		}
	}
}
