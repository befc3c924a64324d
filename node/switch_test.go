package node

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// switched is a connection over loopback whose near end is behind a switch.
func switched(t *testing.T) (s *Switch, near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s = new(Switch)
	if near, err = s.Dial(t.Context(), ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return s, near, far
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("read %q, %v; want %q", b, err, text)
	}
}

func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := c.Read(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want silence", n, err)
	}
}

// TestSwitchHoldsWhatArrives: bytes that come in during a cut are read after it, in order, also by a read that was under way.
func TestSwitchHoldsWhatArrives(t *testing.T) {
	s, near, far := switched(t)
	send(t, far, "one")
	expect(t, near, "one")
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 3)
		_, _ = io.ReadFull(near, b)
		got <- string(b)
	}()
	s.Cut()
	send(t, far, "twothree")
	select {
	case b := <-got:
		t.Fatalf("%q came through the cut", b)
	case <-time.After(20 * time.Millisecond):
	}
	s.Heal()
	if b := <-got; b != "two" {
		t.Fatalf("read %q after the cut, want two", b)
	}
	expect(t, near, "three")
	send(t, near, "four")
	expect(t, far, "four")
}

// TestSwitchLosesWhatIsWritten: what is written during a cut never arrives, and neither does anything after the hole.
func TestSwitchLosesWhatIsWritten(t *testing.T) {
	s, near, far := switched(t)
	s.Cut()
	send(t, near, "lost")
	expectSilence(t, far)
	send(t, far, "x")
	expectSilence(t, near)
	s.Heal()
	_ = far.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := far.Read(make([]byte, 9)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the cut: %d bytes, %v; want the connection's end", n, err)
	}
	if _, err := near.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("write after the cut: %v", err)
	}
}

// TestSwitchDial: a cut node reaches nobody until its patience ends, and connects as soon as the cut is over.
func TestSwitchDial(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var s Switch
	s.Cut()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Dial(short, ln.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("dial of a cut node: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		nc, err := s.Dial(t.Context(), ln.Addr().String())
		if err == nil {
			err = nc.Close()
		}
		done <- err
	}()
	s.Heal()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestSwitchListener: who connects during a cut hears nothing, and a reader that is cut off is freed by Close.
func TestSwitchListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var s Switch
	sl := s.Listener(ln)
	defer sl.Close()
	s.Cut()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := sl.Accept()
	if err != nil {
		t.Fatal(err)
	}
	send(t, far, "hello")
	expectSilence(t, near)
	_ = near.SetReadDeadline(time.Time{})
	ended := make(chan error, 1)
	go func() {
		_, err := near.Read(make([]byte, 9))
		ended <- err
	}()
	_ = near.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the reader of a closed connection: %v", err)
	}
	if len(s.conns) != 0 {
		t.Fatalf("%d connections are remembered after their end", len(s.conns))
	}
}
