package store

import "sync/atomic"

// gate counts the uses of a thing that can be closed. Pebble panics when used after its Close; behind a gate a late user gets
// ErrClosed and Close waits for those inside. Unlike a RWMutex it may be entered again by who is inside.
type gate struct {
	state atomic.Int64 // users, plus gateClosed once closed
	done  chan struct{}
}

const gateClosed int64 = 1 << 62

func newGate() *gate { return &gate{done: make(chan struct{})} }

func (g *gate) enter() bool {
	for {
		s := g.state.Load()
		if s >= gateClosed {
			return false
		}
		if g.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateClosed {
		close(g.done)
	}
}

// close lets nobody in any more and waits for those inside. It reports false if the gate was closed before.
func (g *gate) close() bool {
	for {
		s := g.state.Load()
		if s >= gateClosed {
			return false
		}
		if g.state.CompareAndSwap(s, s+gateClosed) {
			if s > 0 {
				<-g.done
			}
			return true
		}
	}
}
