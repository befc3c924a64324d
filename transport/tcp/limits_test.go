package tcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// pipeConn is a running connection whose peer is the test, in a bubble with a clock of its own.
func pipeConn(p transport.Purpose) (peer net.Conn, c *Conn, h *echo) {
	peer, nc := net.Pipe()
	h = &echo{closed: make(chan error, 1)}
	c = newConn(nc, bufio.NewReaderSize(nc, 64<<10), p, Peer{}, nil, h)
	return peer, c, h
}

// drip writes one byte a second until the other side hangs up.
func drip(peer net.Conn, b []byte) {
	for i := range b {
		if _, err := peer.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(time.Second) // of the bubble
	}
}

// TestByteASecondIsCutOff: who sends a frame a byte a second is gone when the frame's time is over, in the handshake and after it.
func TestByteASecondIsCutOff(t *testing.T) {
	t.Run("frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer, c, h := pipeConn(transport.PurposeCalls)
			go c.run()
			time.Sleep(time.Hour) // a connection on which no frame has begun may wait as long as it likes
			begin := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				drip(peer, transport.AppendFrame(nil, transport.Header{Kind: transport.KindCall}, make([]byte, 100)))
			})
			if err := <-h.closed; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			if d := time.Since(begin); d != defaultTimes.frame || h.frames.Load() != 0 {
				t.Errorf("cut off after %v, with %d frames", d, h.frames.Load())
			}
			wg.Wait()
		})
	})
	t.Run("handshake", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer, nc := net.Pipe()
			s := NewServer(ServerConfig{Logger: slog.New(slog.DiscardHandler)})
			hello := transport.Hello{MinVersion: 1, MaxVersion: 1, Purpose: 1}
			begin := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				drip(peer, transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello)))
			})
			s.serve(nc)
			d := time.Since(begin)
			_ = nc.Close()
			wg.Wait()
			if d != handshakeTime || s.Stats().Garbage != 1 {
				t.Errorf("cut off after %v, %+v", d, s.Stats())
			}
		})
	})
}

// TestNeverReadingPeerIsCutOff: the write deadline ends the connection, and senders that wait for room hear of it.
func TestNeverReadingPeerIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, c, h := pipeConn(transport.PurposeRaft)
		defer peer.Close()
		go c.run()
		begin := time.Now()
		body := make([]byte, 1<<20)
		var err error
		for sent := 0; err == nil && sent < 100; sent++ {
			err = c.Send(context.Background(), transport.Header{Kind: transport.KindRaft}, func(b []byte) []byte { return append(b, body...) })
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != defaultTimes.write {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		<-h.closed
	})
}

// TestSlowReaderStays: a peer that takes little, but takes it steadily, keeps its connection, its frames and their order, and what
// waits for it stays within the buffer's bound.
func TestSlowReaderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, c, h := pipeConn(transport.PurposeRaft)
		go c.run()
		const frames, size = 200, 64 << 10
		go func() {
			body := make([]byte, size)
			for i := range frames {
				if err := c.Send(context.Background(), transport.Header{Kind: transport.KindRaft, ID: uint64(i)},
					func(b []byte) []byte { return append(b, body...) }); err != nil {
					t.Error(err)
					return
				}
				c.mu.Lock()
				if len(c.buf) > sendBuffer+size+transport.HeaderSize {
					t.Errorf("%d bytes wait", len(c.buf))
				}
				c.mu.Unlock()
			}
		}()
		begin := time.Now()
		br := bufio.NewReaderSize(peer, size)
		for i := range frames {
			time.Sleep(time.Second)
			hd, _, err := transport.ReadFrame(br, func(transport.Kind) int { return size }, nil)
			if err != nil || hd.ID != uint64(i) {
				t.Fatalf("frame %d: %+v, %v", i, hd, err)
			}
		}
		if d := time.Since(begin); d < 10*defaultTimes.write || c.Err() != nil {
			t.Errorf("after %v: %v", d, c.Err())
		}
		c.Close()
		<-h.closed
	})
}

func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, c, h := pipeConn(transport.PurposeCalls)
		c.times.idle = time.Minute
		go c.run()
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		one := transport.AppendFrame(nil, transport.Header{Kind: transport.KindCall}, []byte("x"))
		for range 5 { // each frame begins a new minute
			time.Sleep(59 * time.Second)
			if _, err := peer.Write(one); err != nil {
				t.Fatal(err)
			}
		}
		last := time.Now()
		if err := <-h.closed; !errors.Is(err, ErrIdle) || !strings.Contains(err.Error(), "1m0s") {
			t.Error(err)
		}
		if d := time.Since(last); d != time.Minute || h.frames.Load() != 5 {
			t.Errorf("closed %v after the last of %d frames", d, h.frames.Load())
		}
		_ = peer.Close()
	})
}

// TestIdleTimeoutIsForCalls: a server ends idle connections of clients, and never those on which nodes wait for each other.
func TestIdleTimeoutIsForCalls(t *testing.T) {
	conns := make(chan *Conn, 1)
	addr, _, _ := serveWith(t, ServerConfig{IdleTimeout: 50 * time.Millisecond, Handler: func(c *Conn) Handler {
		conns <- c
		return &echo{}
	}})
	for _, p := range []transport.Purpose{transport.PurposeRaft, transport.PurposeBulk} {
		dial(t, addr, p, &echo{})
		if c := <-conns; c.times.idle != 0 {
			t.Errorf("purpose %d: %v", p, c.times.idle)
		}
	}
	c := dial(t, addr, transport.PurposeCalls, &echo{})
	<-(<-conns).Done()
	<-c.Done()
}

func TestConnectionLimits(t *testing.T) {
	for what, c := range map[string]struct {
		cfg  ServerConfig
		text string
	}{
		"from one address": {ServerConfig{MaxConnsPerIP: 2}, "2 connections from 127.0.0.1, as many as it takes from one address"},
		"in all":           {ServerConfig{MaxConns: 2}, "2 connections, as many as it takes"},
	} {
		t.Run(what, func(t *testing.T) {
			addr, _, s := serveWith(t, c.cfg)
			first := dial(t, addr, transport.PurposeCalls, &echo{})
			dial(t, addr, transport.PurposeCalls, &echo{})
			_, err := Dial(context.Background(), addr, transport.Hello{Purpose: transport.PurposeCalls}, DialOptions{Handler: &echo{}})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(refused.Text, c.text) {
				t.Fatalf("a third connection: %v", err)
			}
			eventually(t, "the counts", func() bool {
				st := s.Stats()
				return st.Open == 2 && st.Full == 1 && st.Accepted == 2
			})
			first.Close()
			eventually(t, "room for another", func() bool { return s.Stats().Open == 1 })
			dial(t, addr, transport.PurposeCalls, &echo{})
		})
	}
}

// TestUnknownKind: a frame of a later version is answered, whatever the connection is for, and the connection goes on.
func TestUnknownKind(t *testing.T) {
	addr, _ := serve(t)
	for _, p := range []transport.Purpose{transport.PurposeCalls, transport.PurposeRaft, transport.PurposeBulk} {
		nc, br := shake(t, addr, p)
		for i := range 2 {
			if _, err := nc.Write(transport.AppendFrame(nil, transport.Header{Kind: 77, ID: uint64(i)}, []byte("from the future"))); err != nil {
				t.Fatal(err)
			}
			h, body, err := transport.ReadFrame(br, func(transport.Kind) int { return 1 << 10 }, nil)
			if err != nil || h.Kind != transport.KindError || h.ID != uint64(i) {
				t.Fatalf("purpose %d, frame %d: %+v, %v", p, i, h, err)
			}
			var e transport.ErrorBody
			if err := transport.DecodeError(body, &e); err != nil || e.Message != "unknown kind" {
				t.Fatalf("%+v, %v", e, err)
			}
		}
		_ = nc.Close()
	}
}

// shake is a bare socket with its handshake done.
func shake(t *testing.T, addr string, p transport.Purpose) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	hello := transport.Hello{MinVersion: 1, MaxVersion: 1, Purpose: p, Cluster: myCluster}
	if _, err := nc.Write(transport.AppendFrame(nil, transport.Header{Kind: transport.KindHello}, transport.AppendHello(nil, &hello))); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	if h, _, err := transport.ReadFrame(br, helloOnly(transport.KindHelloReply), nil); err != nil || h.Kind != transport.KindHelloReply {
		t.Fatal(h, err)
	}
	return nc, br
}

// TestOversizeIsRefusedAtTheHeader: the header alone ends the connection, before any of the body has come or memory is taken for it.
func TestOversizeIsRefusedAtTheHeader(t *testing.T) {
	head := func(k transport.Kind, n int) []byte {
		b := transport.AppendHeader(nil, transport.Header{Kind: k})
		binary.LittleEndian.PutUint32(b, uint32(n))
		return b
	}
	for _, c := range []struct {
		p transport.Purpose
		k transport.Kind
		n int
	}{
		{transport.PurposeCalls, transport.KindCall, transport.MaxCallBody + 1},
		{transport.PurposeCalls, transport.KindRaft, 1},
		{transport.PurposeRaft, transport.KindRaft, transport.MaxRaftBody + 1},
		{transport.PurposeBulk, transport.KindChunk, transport.MaxBulkBody + 1},
		{transport.PurposeBulk, transport.KindError, transport.MaxHelloBody + 1},
	} {
		peer, conn, h := pipeConn(c.p)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		go conn.run()
		if _, err := peer.Write(head(c.k, c.n)); err != nil {
			t.Fatal(err)
		}
		err := <-h.closed
		runtime.ReadMemStats(&after)
		if !errors.Is(err, transport.ErrFrameTooLong) {
			t.Errorf("kind %d with %d bytes for purpose %d: %v", c.k, c.n, c.p, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
			t.Errorf("%d bytes allocated", n)
		}
	}
	peer, nc := net.Pipe()
	go func() { _, _ = peer.Write(head(transport.KindHello, transport.MaxHelloBody+1)) }()
	if _, err := NewServer(ServerConfig{}).handshake(nc); !errors.Is(err, transport.ErrFrameTooLong) {
		t.Errorf("in the handshake: %v", err)
	}
}

// TestStrangersAreNamed: other protocols get a warning that says what they are, but not one for each connection.
func TestStrangersAreNamed(t *testing.T) {
	var log bytes.Buffer
	s := NewServer(ServerConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}) // used by one goroutine
	for _, c := range []struct{ send, want string }{
		{"GET / HTTP/1.1\r\n\r\n", "this is HTTP"},
		{"\x16\x03\x01\x02\x00\x01", "this is TLS"},
		{"\x00\x01", ""}, // too little to say anything
	} {
		for i := range 3 {
			log.Reset()
			if i == 0 {
				s.warn = time.Time{}
			}
			peer, nc := net.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _ = io.WriteString(peer, c.send)
				_ = peer.Close()
			})
			s.serve(nc)
			_ = nc.Close()
			wg.Wait()
			if got := log.String(); (i == 0 && c.want != "") != strings.Contains(got, "level=WARN") || !strings.Contains(got, c.want) && i == 0 {
				t.Errorf("%q, time %d: %s", c.send, i, got)
			}
		}
	}
	if st := s.Stats(); st.Garbage != 9 {
		t.Errorf("%+v", st)
	}
}

// TestVersionOfBoth: two peers speak the highest version that both know.
func TestVersionOfBoth(t *testing.T) {
	s := NewServer(ServerConfig{Handshake: func(transport.Hello) transport.HelloReply { return transport.HelloReply{} }})
	for highest, want := range map[uint8]uint8{MinVersion: MinVersion, MaxVersion: MaxVersion, MaxVersion + 5: MaxVersion} {
		if r := s.decide(transport.Hello{MinVersion: MinVersion, MaxVersion: highest, Purpose: 1}); r.Error != "" || r.Version != want {
			t.Errorf("a peer that speaks up to %d: %+v", highest, r)
		}
	}
	addr, _ := serve(t)
	c, err := Dial(context.Background(), addr, transport.Hello{Purpose: transport.PurposeCalls}, DialOptions{Handler: &echo{}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v := c.Peer().Version; v != MaxVersion {
		t.Errorf("a connection of this build with itself has version %d", v)
	}
}

// TestVersionsBeforeTheHook: a peer of another version is refused before anybody looks at the rest of its Hello.
func TestVersionsBeforeTheHook(t *testing.T) {
	s := NewServer(ServerConfig{Handshake: func(transport.Hello) transport.HelloReply {
		t.Error("the hook was asked")
		return transport.HelloReply{}
	}})
	for _, h := range []transport.Hello{{MinVersion: MaxVersion + 1, MaxVersion: 9, Purpose: 1}, {MinVersion: 0, MaxVersion: 0, Purpose: 1}, {MinVersion: 1, MaxVersion: 1, Purpose: 4}} {
		if r := s.decide(h); !strings.Contains(r.Error, "run versions that overlap") {
			t.Errorf("%+v: %+v", h, r)
		}
	}
}
