//go:build linux

package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fabric is a switch in user space: it has a TAP device in each of some namespaces, and passes frames from one to the other through a wire.
type fabric struct {
	taps    []*os.File
	arrived chan arrival
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	faults wireFaults
	counts map[string]int
}

type arrival struct {
	from  int
	frame []byte
}

// startFabric moves the addresses of these members from the bridge to a switch, until the test ends. What was connected before is cut off.
func startFabric(t *testing.T, members []end) *fabric {
	t.Helper()
	f := &fabric{arrived: make(chan arrival, 256), counts: map[string]int{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { f.close(t, members) })
	for _, m := range members {
		tap, err := openTap(m.ns, "tap0")
		if err != nil {
			t.Fatal(err)
		}
		f.taps = append(f.taps, tap)
		for _, c := range []string{"addr del %s/24 dev eth0", "addr add %s/24 dev tap0"} {
			if err := run("ip -n "+m.ns+" "+fmt.Sprintf(c, m.ip), ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := run("ip -n "+m.ns+" link set tap0 up", ""); err != nil {
			t.Fatal(err)
		}
	}
	for i := range f.taps {
		f.running.Go(func() { f.read(i) })
	}
	seed := rand.Uint64()
	t.Logf("the switch's seed is %d", seed)
	f.running.Go(func() { f.pass(newWire(seed)) })
	return f
}

// close takes the devices away, addresses with them, and gives these back to the bridge.
func (f *fabric) close(t *testing.T, members []end) {
	f.cancel()
	for _, tap := range f.taps {
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	}
	f.running.Wait()
	for _, m := range members[:len(f.taps)] {
		if err := run(fmt.Sprintf("ip -n %s addr replace %s/24 dev eth0", m.ns, m.ip), ""); err != nil {
			t.Error(err)
		}
	}
}

// set has the switch do this to every frame from now on.
func (f *fabric) set(faults wireFaults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// counted says what became of the frames since it was last asked.
func (f *fabric) counted() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := counted(f.counts, ", ")
	clear(f.counts)
	return s
}

func (f *fabric) read(port int) {
	for {
		b := make([]byte, 2048)
		n, err := f.taps[port].Read(b)
		if err != nil {
			return // closed
		}
		select {
		case f.arrived <- arrival{port, b[:n]}:
		case <-f.ctx.Done():
			return
		}
	}
}

// pass learns where each Ethernet address is, and moves frames.
func (f *fabric) pass(w *wire) {
	type mac [6]byte
	const group = 1 // of the first byte: for all
	ports := map[mac]int{}
	for {
		f.mu.Lock()
		w.faults = f.faults
		for kind, n := range w.count {
			f.counts[kind] += n
		}
		clear(w.count)
		f.mu.Unlock()
		var alarm <-chan time.Time
		if at, ok := w.next(); ok {
			alarm = time.After(max(at-now(), 0))
		}
		select {
		case <-f.ctx.Done():
			return
		case <-alarm:
		case a := <-f.arrived:
			if len(a.frame) < 14 {
				continue
			}
			ports[mac(a.frame[6:12])] = a.from
			if to, ok := ports[mac(a.frame)]; ok && a.frame[0]&group == 0 {
				w.send(now(), a.from, to, a.frame)
				break
			}
			for to := range f.taps {
				if to != a.from {
					w.send(now(), a.from, to, a.frame)
				}
			}
		}
		for at := now(); ; {
			d, ok := w.due(at)
			if !ok {
				break
			}
			if _, err := f.taps[d.to].Write(d.frame); err != nil && !errors.Is(err, unix.EIO) { // EIO: it is down
				return // closed
			}
		}
	}
}

// openTap makes a TAP device in a namespace, which goes away when the file is closed.
func openTap(ns, name string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for ever: the thread, which has left its namespace, ends with this goroutine
		f, err := func() (*os.File, error) {
			home, err := os.Open("/run/netns/" + ns)
			if err != nil {
				return nil, err
			}
			defer home.Close()
			if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("entering %s: %w", ns, err)
			}
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, fmt.Errorf("/dev/net/tun: %w", err)
			}
			req, err := unix.NewIfreq(name)
			if err == nil {
				req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
				err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
			}
			if err != nil {
				_ = unix.Close(fd)
				return nil, fmt.Errorf("a TAP device in %s: %w", ns, err)
			}
			return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
		}()
		made <- result{f, err}
	}()
	r := <-made
	return r.f, r.err
}
