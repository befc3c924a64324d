package inmem_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/transport/inmem"
)

const addr = "10.0.0.2:80"

// world is two hosts, the second of which listens.
type world struct {
	t    testing.TB
	n    *inmem.Network
	a, b *inmem.Host
	ln   net.Listener
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, n: inmem.New(1)}
	var err, err2, err3 error
	w.a, err = w.n.Host("10.0.0.1")
	w.b, err2 = w.n.Host("10.0.0.2")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if w.ln, err3 = w.b.Listen(addr); err3 != nil {
		t.Fatal(err3)
	}
	return w
}

// pair is a stream from a to b.
func (w *world) pair() (near, far net.Conn) {
	w.t.Helper()
	near, err := w.a.Dial(context.Background(), addr)
	if err != nil {
		w.t.Fatal(err)
	}
	if far, err = w.ln.Accept(); err != nil {
		w.t.Fatal(err)
	}
	return near, far
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); err != nil || n != len(s) {
		t.Fatalf("Write: %d, %v", n, err)
	}
}

func read(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("Read: %q, %v; want %q", b, err, want)
	}
}

// silent checks that nothing comes for a second.
func silent(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read: %d, %v; want silence", n, err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

// virtual runs a test on two hosts in virtual time.
func virtual(t *testing.T, name string, f func(t *testing.T, w *world)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
	})
}

func TestAddresses(t *testing.T) {
	virtual(t, "of both ends", func(t *testing.T, w *world) {
		c, d := w.pair()
		if c.RemoteAddr().String() != addr || d.LocalAddr().String() != addr || c.LocalAddr().String() != d.RemoteAddr().String() {
			t.Errorf("%v → %v, %v → %v", c.LocalAddr(), c.RemoteAddr(), d.LocalAddr(), d.RemoteAddr())
		}
		if _, ok := d.RemoteAddr().(*net.TCPAddr); !ok || w.a.IP() != "10.0.0.1" {
			t.Errorf("%T, %s", d.RemoteAddr(), w.a.IP())
		}
	})
	virtual(t, "listening", func(t *testing.T, w *world) {
		one, err := w.b.Listen("10.0.0.2:0")
		two, err2 := w.b.Listen("0.0.0.0:0")
		if err := errors.Join(err, err2); err != nil || one.Addr().String() == two.Addr().String() {
			t.Fatalf("%v, %v, %v", one, two, err)
		}
		for bad, want := range map[string]error{addr: syscall.EADDRINUSE, "10.0.0.1:80": syscall.EADDRNOTAVAIL} {
			if _, err := w.b.Listen(bad); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", bad, err, want)
			}
		}
		for _, bad := range []string{"", "x", "10.0.0.2", "10.0.0.2:x", "10.0.0.2:70000", "name:80"} {
			if _, err := w.b.Listen(bad); err == nil {
				t.Errorf("%q is an address", bad)
			}
			if _, err := w.a.Dial(t.Context(), bad); err == nil {
				t.Errorf("%q is an address to connect to", bad)
			}
			if _, err := w.a.ListenPacket(bad); err == nil {
				t.Errorf("%q is an address for packets", bad)
			}
		}
		if err := errors.Join(w.ln.Close(), one.Close()); err != nil {
			t.Error(err)
		}
		if err := w.ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the second Close: %v", err)
		}
		if _, err := w.b.Listen(addr); err != nil {
			t.Errorf("the port of a closed listener: %v", err)
		}
	})
	virtual(t, "hosts", func(t *testing.T, w *world) {
		for _, bad := range []string{"", "0.0.0.0", "host", "10.0.0.1"} {
			if _, err := w.n.Host(bad); err == nil {
				t.Errorf("host %q", bad)
			}
		}
	})
}

func TestDial(t *testing.T) {
	virtual(t, "refused", func(t *testing.T, w *world) {
		var op *net.OpError
		if _, err := w.a.Dial(t.Context(), "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("nobody listens: %v", err)
		}
		if _, err := w.a.Dial(t.Context(), "10.0.0.9:80"); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("no such host: %v", err)
		}
	})
	virtual(t, "takes as long as there and back", func(t *testing.T, w *world) {
		w.n.Delay(w.a, w.b, 30*time.Millisecond, 30*time.Millisecond)
		began := time.Now()
		w.pair()
		if d := time.Since(began); d != 60*time.Millisecond {
			t.Errorf("after %v", d)
		}
	})
	virtual(t, "waits for a cut to end", func(t *testing.T, w *world) {
		w.n.CutOneWay(w.b, w.a)
		time.AfterFunc(5*time.Second, func() { w.n.Heal(w.a, w.b) })
		began := time.Now()
		w.pair()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("after %v", d)
		}
	})
	virtual(t, "ends with its context, or after two minutes", func(t *testing.T, w *world) {
		w.n.Cut(w.a, w.b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var ne net.Error
		if _, err := w.a.Dial(ctx, addr); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("with a deadline: %v", err)
		}
		began := time.Now()
		if _, err := w.a.Dial(t.Context(), addr); !errors.Is(err, syscall.ETIMEDOUT) || time.Since(began) != 2*time.Minute {
			t.Errorf("without: %v after %v", err, time.Since(began))
		}
	})
	virtual(t, "waits for a place in the queue", func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		var err error
		for ; err == nil; n++ {
			_, err = w.a.Dial(ctx, addr)
		}
		if !errors.Is(err, context.DeadlineExceeded) || n != 129 {
			t.Fatalf("%d streams wait: %v", n, err)
		}
		done := make(chan error)
		go func() {
			_, err := w.a.Dial(t.Context(), addr)
			done <- err
		}()
		synctest.Wait()
		if _, err := w.ln.Accept(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	virtual(t, "to a listener that closes", func(t *testing.T, w *world) {
		c, err := w.a.Dial(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		other, _ := w.b.Listen("10.0.0.2:90")
		go func() { _, err := other.Accept(); accepted <- err }()
		synctest.Wait()
		_, _ = w.ln.Close(), other.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stream that was not accepted: %v", err)
		}
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	})
}

func TestEnds(t *testing.T) {
	virtual(t, "half", func(t *testing.T, w *world) {
		c, d := w.pair()
		write(t, c, "last words")
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(d); string(b) != "last words" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		write(t, d, "answer")
		read(t, c, "answer")
		if _, err := c.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
	})
	virtual(t, "whole", func(t *testing.T, w *world) {
		c, d := w.pair()
		write(t, c, "x")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		read(t, d, "x")
		if _, err := d.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read: %v", err)
		}
		write(t, d, "nobody reads it")
		if _, err := d.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the second Write to an end that is closed: %v", err)
		}
		for name, err := range map[string]error{"Close": c.Close(), "SetDeadline": c.SetDeadline(time.Time{})} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	virtual(t, "with something unread", func(t *testing.T, w *world) {
		c, d := w.pair()
		write(t, c, "x")
		_ = d.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
	})
	virtual(t, "a reader and a writer that wait", func(t *testing.T, w *world) {
		c, _ := w.pair()
		errs := make(chan error, 2)
		go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := c.Write(make([]byte, 1<<20)); errs <- err }()
		synctest.Wait()
		_ = c.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func TestBuffersAreBounded(t *testing.T) {
	virtual(t, "an unread stream", func(t *testing.T, w *world) {
		c, d := w.pair()
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(make([]byte, 1<<20))
		if n != 256<<10 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a Write after the deadline: %v", err)
		}
		_ = c.SetWriteDeadline(time.Time{})
		got := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, d)
			got <- n
		}()
		write(t, c, "more")
		_ = c.Close()
		if n := <-got; n != 256<<10+4 {
			t.Errorf("%d bytes came", n)
		}
	})
	virtual(t, "unread packets", func(t *testing.T, w *world) {
		p, q := packets(t, w)
		for i := range 2000 {
			if _, err := p.WriteTo([]byte{byte(i)}, q.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		_ = q.SetReadDeadline(time.Now().Add(time.Second))
		n := 0
		for ; ; n++ {
			if _, _, err := q.ReadFrom(make([]byte, 1)); err != nil {
				break
			}
		}
		if n != 1024 {
			t.Errorf("%d packets were kept", n)
		}
	})
}

func packets(t testing.TB, w *world) (p, q net.PacketConn) {
	t.Helper()
	p, err := w.a.ListenPacket("10.0.0.1:0")
	q, err2 := w.b.ListenPacket("10.0.0.2:53")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return p, q
}

func TestPackets(t *testing.T) {
	virtual(t, "come whole", func(t *testing.T, w *world) {
		p, q := packets(t, w)
		data := bytes.Repeat([]byte("x"), 65507)
		if n, err := p.WriteTo(data, q.LocalAddr()); n != len(data) || err != nil {
			t.Fatal(n, err)
		}
		_, _ = p.WriteTo([]byte("longer"), q.LocalAddr())
		b := make([]byte, 1<<16)
		if n, from, err := q.ReadFrom(b); n != len(data) || from.String() != p.LocalAddr().String() || err != nil {
			t.Errorf("%d from %v: %v", n, from, err)
		}
		if n, _, err := q.ReadFrom(b[:4]); string(b[:n]) != "long" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
		if _, err := p.WriteTo(append(data, 0), q.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("too large: %v", err)
		}
	})
	virtual(t, "are lost", func(t *testing.T, w *world) {
		p, q := packets(t, w)
		came := func(n int) (got int) {
			for range n {
				_, _ = p.WriteTo([]byte("x"), q.LocalAddr())
			}
			_ = q.SetReadDeadline(time.Now().Add(time.Second))
			for {
				if _, _, err := q.ReadFrom(make([]byte, 1)); err != nil {
					return got
				}
				got++
			}
		}
		w.n.Lose(w.a, w.b, 0.5)
		if n := came(1000); n < 400 || n > 600 {
			t.Errorf("%d of 1000 came, of which half should be lost", n)
		}
		w.n.Lose(w.a, w.b, 0)
		w.n.CutOneWay(w.a, w.b)
		if n := came(10); n != 0 {
			t.Errorf("%d came through a cut", n)
		}
		w.n.Heal(w.a, w.b)
		w.n.CutOneWay(w.b, w.a)
		if n := came(10); n != 10 {
			t.Errorf("%d of 10 came while the other direction was cut", n)
		}
	})
	virtual(t, "close", func(t *testing.T, w *world) {
		p, q := packets(t, w)
		got := make(chan error)
		go func() { _, _, err := q.ReadFrom(nil); got <- err }()
		synctest.Wait()
		_ = q.Close()
		if err := <-got; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrom: %v", err)
		}
		if _, err := p.WriteTo([]byte("x"), q.LocalAddr()); err != nil {
			t.Errorf("to a port that is closed: %v", err)
		}
		if err := q.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the second Close: %v", err)
		}
		if _, err := w.b.ListenPacket("10.0.0.2:53"); err != nil {
			t.Errorf("the port again: %v", err)
		}
	})
}
