package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

const (
	host  = "127.0.0.1"
	first = 10240 // above what services use
	end   = 32768 // where Linux begins to choose; other systems do so later
	block = 512
)

// MaxRun is the longest run that Run gives.
const MaxRun = block - 1

var mine struct {
	sync.Mutex
	claim net.Listener // on the block's first port
	base  int          // that port
	next  int          // after base; round and round
}

// Run returns the first of n ports in a row that are free on 127.0.0.1 for TCP and for UDP, 1 to MaxRun. It gives no port twice before it has given all of the
// process's block. It may be called from any goroutine.
func Run(n int) (int, error) {
	if n < 1 || n > MaxRun {
		return 0, fmt.Errorf("%d ports in a row: want 1 to %d", n, MaxRun)
	}
	mine.Lock()
	defer mine.Unlock()
	if err := claim(); err != nil {
		return 0, err
	}
	var last error
	for tried := 0; tried < 2*block; {
		if mine.next+n > block {
			tried += block - mine.next
			mine.next = 1
		}
		port := mine.base + mine.next
		busy, err := free(port, n)
		if err == nil {
			mine.next += n
			return port, nil
		}
		last = err
		tried += busy + 1
		mine.next += busy + 1
	}
	return 0, fmt.Errorf("no %d ports in a row are free from %d to %d: %w", n, mine.base+1, mine.base+MaxRun, last)
}

// Addr returns an address of 127.0.0.1 whose port is free for TCP and for UDP.
func Addr() (string, error) {
	p, err := Run(1)
	return addr(p), err
}

func addr(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// claim takes a block that no other process has, from a random one on.
func claim() error {
	if mine.claim != nil {
		return nil
	}
	const blocks = (end - first) / block
	start := rand.IntN(blocks)
	var errs []error
	for i := range blocks {
		base := first + (start+i)%blocks*block
		l, err := net.Listen("tcp", addr(base))
		if err == nil {
			mine.claim, mine.base, mine.next = l, base, 1
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no block of ports is free from %d to %d: %w", first, end-1, errors.Join(errs...))
}

// free tries n ports from port on; busy is how far after port the one lies that is not free.
func free(port, n int) (busy int, err error) {
	for i := range n {
		l, err := net.Listen("tcp", addr(port+i))
		if err != nil {
			return i, err
		}
		p, err := net.ListenPacket("udp", addr(port+i))
		_ = l.Close()
		if err != nil {
			return i, err
		}
		_ = p.Close()
	}
	return 0, nil
}
