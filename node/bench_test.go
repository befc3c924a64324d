//go:build unix

package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport/client"
)

// BenchmarkCluster is a closed loop against three nodes in one process, fsync on: for profiles of the whole path
// (-cpuprofile). `ringfence bench counter` measures with processes of their own.
func BenchmarkCluster(b *testing.B) {
	for _, c := range []struct {
		method           string
		callers, objects int
	}{{"Increment", 1, 1000}, {"Increment", 256, 1}, {"Increment", 256, 1000}, {"Get", 256, 1000}, {"Echo", 256, 1000}} {
		b.Run(fmt.Sprintf("%s/callers=%d/objects=%d", c.method, c.callers, c.objects), func(b *testing.B) {
			benchmarkCluster(b, c.method, c.callers, c.objects)
		})
	}
}

func benchmarkCluster(b *testing.B, method string, callers, objects int) {
	var nodes []*Node
	var gossips []string
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range 3 {
		gossips = append(gossips, freeAddr(b))
	}
	for i := range 3 {
		n, err := New(Config{Data: b.TempDir(), Listen: "127.0.0.1:0", Gossip: gossips[i], Join: gossips, BootstrapExpect: 3,
			Logger: slog.New(slog.DiscardHandler)}, stock.Counter())
		if err != nil {
			b.Fatal(err)
		}
		nodes = append(nodes, n)
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	defer running.Wait()
	defer cancel()
	for _, n := range nodes {
		<-n.Serving()
	}
	cl, err := client.Dial(ctx, []string{nodes[0].Addr()}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	call := func(ref actor.Ref) error {
		switch method {
		case "Increment":
			_, err := actor.Call[int64](ctx, ref, method, int64(1))
			return err
		case "Echo":
			_, err := actor.Call[[]byte](ctx, ref, method, []byte("0123456789abcdef"))
			return err
		}
		_, err := actor.Call[int64](ctx, ref, method, nil)
		return err
	}
	refs := make([]actor.Ref, objects)
	for i := range refs {
		refs[i] = cl.Object("Counter", fmt.Sprint(i))
		if err := call(refs[i]); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	before := totals(nodes)
	b.ReportAllocs()
	b.ResetTimer()
	spent := cpuTime()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := call(refs[int(i)%objects]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-spent)/float64(b.N), "cpu-ns/call")
	after := totals(nodes)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(after.Entries-before.Entries)/float64(b.N), "entries/call")
	b.ReportMetric(float64(after.Syncs-before.Syncs)/float64(b.N), "fsyncs/call")
	b.ReportMetric((after.SyncTime-before.SyncTime).Seconds()*1000/float64(after.Syncs-before.Syncs), "ms/fsync")
	b.ReportMetric(float64(after.Frames-before.Frames)/float64(b.N), "raftframes/call")
	b.ReportMetric(float64(after.Appended-before.Appended)/float64(b.N), "appends/call")
	b.ReportMetric(float64(after.Rounds-before.Rounds)/float64(b.N), "rounds/call")
}

// cpuTime is what the process has used, in ns: client and nodes. The wall clock says little on a machine that others use too.
func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func totals(nodes []*Node) (t replica.Stats) {
	for _, n := range nodes {
		s := n.driver.Load().Stats()
		t.Entries += s.Entries
		t.Syncs += s.Syncs
		t.Frames += s.Frames
		t.Appended += s.Appended
		t.Rounds += s.Rounds
		t.SyncTime += s.SyncTime
	}
	return t
}
