package inmem_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// TestConn holds streams to what package net promises of a net.Conn.
func TestConn(t *testing.T) {
	for name, delay := range map[string]time.Duration{"direct": 0, "delayed": 100 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				w := newWorld(t)
				w.n.Delay(w.a, w.b, 0, delay)
				c1, c2 = w.pair()
				return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
			})
		})
	}
}
