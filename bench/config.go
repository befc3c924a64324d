package bench

import (
	"fmt"
	"time"
)

// Mode is what a caller asks of its object.
type Mode string

const (
	Increment Mode = "increment" // a durable write of a few bytes, acknowledged by a majority
	Get       Mode = "get"       // a read of the object's storage
	Echo      Mode = "echo"      // a call that touches no storage
)

// Config says what to measure. Zero values mean the defaults named here.
type Config struct {
	Mode     Mode          // default Increment
	Callers  int           // closed-loop callers, 1 to 65,536. Default 256.
	Objects  int           // objects they choose from, at random, 1 to 10,000,000. Default 1,000.
	Duration time.Duration // measured time. Default 10 s.
	Warmup   time.Duration // time before it that does not count. 0 means none.
	Timeout  time.Duration // of one call. Default 30 s.
	Payload  int           // bytes that Echo carries, 0 to 1 MiB
	Dir      string        // where the disk's fsync time is measured. Default: the directory for temporary files.

	// OnProgress, if set, is called about once a second, from one goroutine.
	OnProgress func(Progress)
}

// Progress is the state of a running measurement.
type Progress struct {
	Elapsed time.Duration // since the first call, warm-up included
	Warmup  bool          // still warming up
	Rate    float64       // calls per second that succeeded since the last report
	Errors  int           // so far, warm-up included
}

const (
	maxCallers = 1 << 16
	maxObjects = 10_000_000
	maxPayload = 1 << 20
)

// Check reports what of c cannot be measured, nil if Run would accept it.
func (c Config) Check() error { return c.fill() }

// fill puts in the defaults and refuses what cannot be measured.
func (c *Config) fill() error {
	setDefault(&c.Mode, Increment)
	setDefault(&c.Callers, 256)
	setDefault(&c.Objects, 1000)
	setDefault(&c.Duration, 10*time.Second)
	setDefault(&c.Timeout, 30*time.Second)
	switch c.Mode {
	case Increment, Get, Echo:
	default:
		return fmt.Errorf("mode %q: want increment, get or echo", c.Mode)
	}
	switch {
	case c.Callers < 1 || c.Callers > maxCallers:
		return fmt.Errorf("%d callers: want 1 to %d", c.Callers, maxCallers)
	case c.Objects < 1 || c.Objects > maxObjects:
		return fmt.Errorf("%d objects: want 1 to %d", c.Objects, maxObjects)
	case c.Duration < 0 || c.Warmup < 0 || c.Timeout < 0:
		return fmt.Errorf("duration %v, warm-up %v, timeout %v: none may be negative", c.Duration, c.Warmup, c.Timeout)
	case c.Payload < 0 || c.Payload > maxPayload:
		return fmt.Errorf("payload of %d bytes: want 0 to %d", c.Payload, maxPayload)
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
