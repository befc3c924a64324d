package freeport

import (
	"net"
	"strings"
	"testing"
)

// give gives the claim back, so that the next one is made anew.
func give(t *testing.T) {
	t.Helper()
	mine.Lock()
	defer mine.Unlock()
	if mine.claim != nil {
		_ = mine.claim.Close()
		mine.claim = nil
	}
}

func run(t *testing.T, n int) int {
	t.Helper()
	p, err := Run(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNoneTwice(t *testing.T) {
	give(t)
	seen := make(map[int]bool)
	for range MaxRun {
		p := run(t, 1)
		if seen[p] || p < first || p >= end {
			t.Fatalf("port %d; %d before it", p, len(seen))
		}
		seen[p] = true
	}
	if p := run(t, 1); !seen[p] {
		t.Errorf("port %d is not of the block", p)
	}
}

func TestBusyPortsAreSkipped(t *testing.T) {
	var held []net.Listener // blocks where somebody else has one of the two ports
	t.Cleanup(func() {
		for _, l := range held {
			_ = l.Close()
		}
	})
	for range 20 {
		give(t)
		p := run(t, 1)
		l, err := net.Listen("tcp", addr(p+3))
		if err == nil {
			defer l.Close()
			var c net.PacketConn
			if c, err = net.ListenPacket("udp", addr(p+8)); err == nil {
				defer c.Close()
			}
		}
		if err != nil {
			mine.Lock()
			held = append(held, mine.claim)
			mine.claim = nil
			mine.Unlock()
			continue
		}
		// Two are free before the first busy one, four between the two.
		if q := run(t, 3); q < p+4 || q > p+5 && q < p+9 {
			t.Errorf("three in a row from %d, and %d and %d are busy", q, p+3, p+8)
		}
		if q := run(t, 5); q < p+9 {
			t.Errorf("five in a row from %d, and %d is busy", q, p+8)
		}
		return
	}
	t.Fatal("somebody has a port in each of 20 blocks")
}

func TestBlocksAreApart(t *testing.T) {
	give(t)
	run(t, 1)
	mine.Lock()
	other, base := mine.claim, mine.base // as another process would hold it
	mine.claim = nil
	mine.Unlock()
	defer other.Close()
	run(t, 1)
	if mine.base == base {
		t.Errorf("block %d was taken twice", base)
	}
	give(t)
}

func TestRefuses(t *testing.T) {
	for _, n := range []int{0, -1, MaxRun + 1} {
		if _, err := Run(n); err == nil || !strings.Contains(err.Error(), "want 1 to 511") {
			t.Errorf("%d: %v", n, err)
		}
	}
}
