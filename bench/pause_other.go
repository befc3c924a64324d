//go:build !linux

package bench

import (
	"context"
	"time"
)

// pause waits for d.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
