//go:build unix

package host

import (
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// benchHost is a host whose batches are applied and whose rounds are answered as soon as a driver's goroutine comes to it.
func benchHost(b *testing.B) (*Host, func()) {
	h, err := New([]actor.Class{(&hooks{}).class()}, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	l := &instant{fake: fake{h: h, token: 1, data: map[string][]byte{}}, wake: make(chan struct{}, 1)}
	var driver sync.WaitGroup
	driver.Go(l.drive)
	h.Opened(l)
	return h, func() {
		if err := h.Close(b.Context()); err != nil {
			b.Error(err)
		}
		close(l.wake)
		driver.Wait()
	}
}

// instant answers what has come since it last looked, all in one, as the driver does.
type instant struct {
	fake
	submitted uint64
	waiting   []store.Write
	wake      chan struct{}
}

func (l *instant) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *instant) Commit(writes []store.Write) (uint64, error) {
	l.mu.Lock()
	l.submitted++
	pos := l.submitted
	l.waiting = append(l.waiting, writes...)
	l.mu.Unlock()
	l.poke()
	return pos, nil
}

func (l *instant) Confirm(n uint64) { l.fake.Confirm(n); l.poke() }

func (l *instant) drive() {
	for range l.wake {
		l.mu.Lock()
		for _, w := range l.waiting {
			l.data[string(w.Key)] = w.Value
		}
		l.waiting = l.waiting[:0]
		pos, asked := l.submitted, l.asked > l.confirmed
		l.mu.Unlock()
		l.h.Applied(fakeShard, l.token, pos)
		if asked {
			l.confirm()
		}
	}
}

func benchCalls(b *testing.B, method string, objects, ahead int) {
	h, stop := benchHost(b)
	defer stop()
	calls := make([]Call, objects)
	room := make(chan struct{}, ahead)
	var failed atomic.Int64
	one, err := actor.Marshal(int64(1))
	if err != nil {
		b.Fatal(err)
	}
	for i := range calls {
		calls[i] = Call{Object: actor.ID{Class: "Probe", Key: strconv.Itoa(i)}, Method: method, Respond: func(r *Result) {
			if r.Err != nil {
				failed.Add(1)
			}
			<-room
		}}
		if method == "Add" {
			calls[i].Encoding, calls[i].Arg = uint8(actor.EncodingMsgpack), one
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime()
	for i := range b.N {
		room <- struct{}{}
		h.Deliver(fakeShard, &calls[i%objects])
	}
	for range ahead {
		room <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
	if failed.Load() > 0 {
		b.Fatalf("%d calls failed", failed.Load())
	}
}

// What one event costs the node, less network, Raft and disk: from Deliver to Respond, 64 calls at a time.
func BenchmarkIncrement(b *testing.B)       { benchCalls(b, "Add", 64, 64) }
func BenchmarkIncrementOne(b *testing.B)    { benchCalls(b, "Add", 1, 64) }
func BenchmarkRead(b *testing.B)            { benchCalls(b, "Read", 64, 64) }
func BenchmarkMemory(b *testing.B)          { benchCalls(b, "Memory", 64, 64) }
func BenchmarkIncrementSerial(b *testing.B) { benchCalls(b, "Add", 1, 1) }

// cpuTime is what the process has used, in ns: the wall clock says little on a machine that others use too.
func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
