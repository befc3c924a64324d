package nemesis

import (
	"bytes"
	be "encoding/binary" // binary is what is driven here
	"math/bits"
	"slices"
	"testing"
	"time"
)

// through sends n numbered frames over one link, one each millisecond, and returns what arrives, in order.
func through(t *testing.T, seed uint64, f wireFaults, n int) (w *wire, numbers []int, late time.Duration) {
	t.Helper()
	w = newWire(seed)
	w.faults = f
	take := func(now time.Duration) {
		for d, ok := w.due(now); ok; d, ok = w.due(now) {
			number := int(be.BigEndian.Uint32(d.frame[14:]))
			numbers = append(numbers, number)
			if d.to != 2 || d.at > now {
				t.Fatalf("frame %d arrived at port %d at %v, and it is %v", number, d.to, d.at, now)
			}
			late = max(late, d.at-time.Duration(number)*time.Millisecond)
		}
	}
	for i := range n {
		now := time.Duration(i) * time.Millisecond
		take(now)
		w.send(now, 1, 2, be.BigEndian.AppendUint32(make([]byte, 14), uint32(i)))
	}
	take(time.Hour)
	if _, more := w.next(); more || w.bytes != 0 {
		t.Errorf("%d bytes are left on the wire", w.bytes)
	}
	return w, numbers, late
}

func TestWire(t *testing.T) {
	const n = 20_000
	part := func(name string, got int, want float64) {
		if p := float64(got) / n; p < want*0.8 || p > want*1.2 {
			t.Errorf("%s: %.4f of all frames, want %.4f", name, p, want)
		}
	}
	_, all, late := through(t, 1, wireFaults{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}, n)
	if len(all) != n || !slices.IsSorted(all) || late < 14*time.Millisecond || late > 16*time.Millisecond {
		t.Errorf("%d of %d frames came, in order: %v, %v late at most", len(all), n, slices.IsSorted(all), late)
	}
	w, all, _ := through(t, 2, wireFaults{Delay: time.Millisecond, Loss: 0.05, Doubles: 0.05}, n)
	part("lost", w.count["lost"], 0.05)
	part("doubled", w.count["doubled"], 0.05)
	if want := n - w.count["lost"] + w.count["doubled"]; len(all) != want || !slices.IsSorted(all) {
		t.Errorf("%d frames came, want %d; in order: %v", len(all), want, slices.IsSorted(all))
	}
	w, all, _ = through(t, 3, wireFaults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Late: 0.03}, n)
	part("late", w.count["late"], 0.03)
	overtaken := 0
	for i, number := range all {
		if i > 0 && number < all[i-1] {
			overtaken++
		}
	}
	part("overtaken", overtaken, 0.03)
	if _, again, _ := through(t, 3, wireFaults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Late: 0.03}, n); !slices.Equal(again, all) {
		t.Error("the same seed made something else")
	}
	if slices.Sort(all); len(slices.Compact(all)) != n {
		t.Error("frames were lost or doubled")
	}
}

// TestWireRate sends twice of what a line can carry, and then lets it rest.
func TestWireRate(t *testing.T) {
	w := newWire(1)
	w.faults = wireFaults{Rate: 100_000, Delay: 10 * time.Millisecond}
	arrived, last := 0, time.Duration(0)
	send := func(now time.Duration, from int) {
		for d, ok := w.due(now); ok; d, ok = w.due(now) {
			if d.at < last {
				t.Fatalf("a frame arrives at %v, after one at %v", d.at, last)
			}
			if last = d.at; d.to == 2 {
				arrived += len(d.frame)
			}
		}
		if from > 0 {
			w.send(now, from, 2, make([]byte, 1000))
		}
	}
	for i := range 2000 { // 200,000 bytes in each of ten seconds
		send(time.Duration(i)*5*time.Millisecond, 1)
	}
	send(10*time.Second, 0)
	if arrived < 990_000 || arrived > 1_000_000 {
		t.Errorf("%d bytes arrived in 10 s at 100,000 in a second", arrived)
	}
	if got := w.count["without room"]; got < 900 || got > 1000 {
		t.Errorf("%d of 2000 frames found no room, want half, less what waits", got)
	}
	w.send(10*time.Second, 3, 2, make([]byte, 1000)) // another port's line is its own
	if at, _ := w.next(); at > 10*time.Second+20*time.Millisecond {
		t.Errorf("the first frame of a free line arrives at %v", at)
	}
	send(20*time.Second, 0)
	if longest := last - 10*time.Second; longest > wireQueue+30*time.Millisecond {
		t.Errorf("the last frame waited for %v", longest)
	}
	w.faults.Rate = 0
	w.send(20*time.Second, 1, 2, make([]byte, 1000))
	if at, _ := w.next(); at != 20*time.Second+10*time.Millisecond {
		t.Errorf("on a line without a limit a frame arrives at %v", at)
	}
}

func TestWireFlips(t *testing.T) {
	w := newWire(1)
	w.faults.Flips = 1
	sent := bytes.Repeat([]byte{0xa5}, 64)
	for range 100 {
		w.send(0, 1, 2, sent)
	}
	for range 100 {
		d, _ := w.due(0)
		wrong := 0
		for i := range d.frame {
			if wrong += bits.OnesCount8(d.frame[i] ^ 0xa5); i < 14 && wrong > 0 {
				t.Fatal("the Ethernet header was changed")
			}
		}
		if wrong != 1 {
			t.Fatalf("%d bits are wrong", wrong)
		}
	}
	if !bytes.Equal(sent, bytes.Repeat([]byte{0xa5}, 64)) {
		t.Error("the sender's frame was changed")
	}
}

func TestWireIsBounded(t *testing.T) {
	w := newWire(1)
	w.faults.Delay = time.Second
	frame := make([]byte, 1<<20)
	for range 40 {
		w.send(0, 1, 2, frame)
	}
	if w.bytes > wireMost || w.count["without room"] != 8 {
		t.Errorf("%d bytes on the wire, %v", w.bytes, w.count)
	}
}
