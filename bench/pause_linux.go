package bench

import (
	"context"
	"syscall"
	"time"
)

// pause waits for d, which is short, to some 50 µs. The runtime's timers are up to a millisecond late in a process that is idle, which an
// open loop would take for latency.
func pause(_ context.Context, d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // a signal may end it early: who waits looks at the clock
}
