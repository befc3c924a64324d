package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// BenchmarkCall: callers in a closed loop over 1,000 objects, against a fake node in this process over a loopback socket. The
// figure contains both sides.
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := dial(b, newFakeCluster(b, 1), nil)
			benchCalls(b, c, callers)
		})
	}
}

// BenchmarkOverhead is the same without a socket: what a call costs the client alone.
func BenchmarkOverhead(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			f := newFakeCluster(b, 1)
			c, err := New(&Options{Local: echo{}})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if err := c.SetRing(f.ring()); err != nil {
				b.Fatal(err)
			}
			benchCalls(b, c, callers)
		})
	}
}

func benchCalls(b *testing.B, c *Client, callers int) {
	refs := make([]actor.Ref, 1000)
	for i := range refs {
		refs[i] = c.Object("T", fmt.Sprint(i))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				var out int
				if err := refs[n%1000].Call(ctx, "Echo", 1, &out); err != nil || out != 1 {
					b.Error(out, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// echo is a node in this process that answers at once.
type echo struct{}

func (echo) Node() ring.NodeID { return 1 }

func (echo) Call(c transport.Call, done func(transport.Reply)) {
	done(transport.Reply{Outcome: uint8(actor.Ran), Encoding: c.Encoding, Result: c.Arg, Token: 1, Epoch: 1})
}

func (echo) Request(context.Context, transport.Request) (transport.Response, error) {
	return transport.Response{}, nil
}
