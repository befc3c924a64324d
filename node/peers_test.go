package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/store/replica"
)

// A peer that is busy is asked again, ever more slowly, until it takes the chunk, fails, or the snapshot is of no use any more.
func TestWhenTaken(t *testing.T) {
	busy := errors.New("peer: " + replica.ErrBusy.Error()) // as it comes over the wire
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		began := time.Now()
		if err := whenTaken(t.Context(), func() error {
			if asked++; asked < 10 {
				return busy
			}
			return nil
		}); err != nil || asked != 10 {
			t.Error(asked, err)
		}
		// 0.1, 0.2, 0.4, 0.8, 1.6 and four times 2 s, each from half to one and a half.
		if took := time.Since(began); took < 11100*time.Millisecond/2 || took > 11100*time.Millisecond*3/2 {
			t.Errorf("asked %d times in %v", asked, took)
		}
		broken := errors.New("broken")
		if err := whenTaken(t.Context(), func() error { return broken }); err != broken {
			t.Error(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(broken) })
		if err := whenTaken(ctx, func() error { return busy }); err != broken {
			t.Error(err)
		}
	})
}
