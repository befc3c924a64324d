//go:build !linux

package tcp

import (
	"net"
	"time"
)

// limitUnacked does nothing here: only the write deadline ends a connection whose bytes are not acknowledged.
func limitUnacked(*net.TCPConn, time.Duration) error { return nil }
