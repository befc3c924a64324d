package bench

import (
	"fmt"
	"math"
	"time"
)

// Load says what is asked of a target, and how fast. Zero values mean the defaults named here.
type Load struct {
	Callers int           // most operations at a time, 1 to 65,536. Default 256.
	Objects int           // chosen from at random, 1 to 10,000,000. Default 1,000.
	Fresh   bool          // instead: every operation goes to an object of its own, numbered from 0 on
	Pinned  bool          // instead: caller i keeps to object i mod Objects
	Reads   float64       // share of the operations that read, 0 to 1
	Payload int           // bytes that an operation carries, 0 to 1 MiB; what that means is the target's
	Rate    float64       // open loop: operations a second, begun when they are due. 0: closed loop, each caller waits for its reply.
	Window  time.Duration // measured time. Default 10 s.
	Limit   int           // if not 0, the window ends when so many operations have been begun; there is no warm-up then
	Warmup  time.Duration // time before it that does not count
	Timeout time.Duration // of one operation, which may have a tenth more. Default 30 s.
}

const (
	maxCallers = 1 << 16
	maxObjects = 10_000_000
	maxPayload = 1 << 20
	maxRate    = 10_000_000
)

// Check reports what of l cannot be measured, nil if Drive would accept it.
func (l Load) Check() error { return l.fill() }

// fill puts in the defaults and refuses what cannot be measured.
func (l *Load) fill() error {
	setDefault(&l.Callers, 256)
	setDefault(&l.Objects, 1000)
	setDefault(&l.Window, 10*time.Second)
	setDefault(&l.Timeout, 30*time.Second)
	switch {
	case l.Callers < 1 || l.Callers > maxCallers:
		return fmt.Errorf("%d callers: want 1 to %d", l.Callers, maxCallers)
	case l.Objects < 1 || l.Objects > maxObjects:
		return fmt.Errorf("%d objects: want 1 to %d", l.Objects, maxObjects)
	case l.Fresh && l.Pinned:
		return fmt.Errorf("callers cannot keep to their objects when every operation has a new one")
	case !(l.Reads >= 0 && l.Reads <= 1):
		return fmt.Errorf("a share of reads of %v: want 0 to 1", l.Reads)
	case l.Window < 0 || l.Warmup < 0 || l.Timeout < 0:
		return fmt.Errorf("duration %v, warm-up %v, timeout %v: none may be negative", l.Window, l.Warmup, l.Timeout)
	case l.Limit < 0 || l.Limit > maxObjects || l.Limit > 0 && l.Warmup > 0:
		return fmt.Errorf("at most %d operations, warm-up %v: want 0 (no limit) to %d, and no warm-up with a limit", l.Limit, l.Warmup, maxObjects)
	case l.Payload < 0 || l.Payload > maxPayload:
		return fmt.Errorf("payload of %d bytes: want 0 to %d", l.Payload, maxPayload)
	case l.Rate < 0 || l.Rate > maxRate || math.IsNaN(l.Rate):
		return fmt.Errorf("a rate of %v operations a second: want 0 (as fast as replies come) to %d", l.Rate, maxRate)
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
