package replica

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clock is CLOCK_BOOTTIME: monotonic, and it goes on while the machine is suspended, unlike the clock of package time. A lease must not
// survive a sleep that its promises do not survive.
func clock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("replica: this system has no CLOCK_BOOTTIME, which clock leases need: %v", err))
	}
	return time.Duration(ts.Nano())
}
