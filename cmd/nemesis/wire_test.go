package nemesis

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// wireFaults says what a switch does to frames. Parts are of 1.
type wireFaults struct {
	Delay   time.Duration // of each
	Jitter  time.Duration // up to so much more; frames stay in order
	Late    float64       // part that comes Delay and two Jitters later still, so that later ones overtake it
	Loss    float64
	Doubles float64
	Flips   float64 // part with one bit wrong
	Rate    float64 // bytes that each port may send in a second; 0: as many as come
}

// wire decides from a seed what becomes of each frame, and when. It has no clock, no lock and no goroutine.
type wire struct {
	faults wireFaults
	count  map[string]int // frames, by what became of them

	rng   *rand.Rand
	queue frames
	bytes int
	seq   int
	last  map[link]time.Duration // when the newest frame of a link that kept its place arrives
	busy  map[int]time.Duration  // by port that sends: until when its line is busy with what it was given
}

type link struct{ from, to int }

// delivery is a frame that arrives at a port.
type delivery struct {
	to    int
	frame []byte
	at    time.Duration
	seq   int // breaks ties
}

// wireMost is how much is on its way at once, and wireQueue how long a frame waits for a line that is busy; a switch drops what it has no room for.
const (
	wireMost  = 32 << 20
	wireQueue = 400 * time.Millisecond
)

func newWire(seed uint64) *wire {
	return &wire{count: map[string]int{}, rng: rand.New(rand.NewPCG(seed, 0)), last: map[link]time.Duration{}, busy: map[int]time.Duration{}}
}

// send takes a frame, which nobody may change afterwards.
func (w *wire) send(now time.Duration, from, to int, frame []byte) {
	w.count["sent"]++
	if w.drawn(w.faults.Loss) {
		w.count["lost"]++
		return
	}
	begins := max(now, w.busy[from])
	if w.bytes+len(frame) > wireMost || w.faults.Rate > 0 && begins-now > wireQueue {
		w.count["without room"]++
		return
	}
	if w.faults.Rate > 0 {
		now = begins + time.Duration(float64(len(frame))/w.faults.Rate*float64(time.Second))
		w.busy[from] = now
	}
	if w.drawn(w.faults.Flips) && len(frame) > 14 {
		w.count["flipped"]++
		frame = append([]byte(nil), frame...)
		bit := w.rng.IntN(8 * (len(frame) - 14)) // not of the Ethernet header, which has a checksum of its own
		frame[14+bit/8] ^= 1 << (bit % 8)
	}
	w.put(now, link{from, to}, frame)
	if w.drawn(w.faults.Doubles) {
		w.count["doubled"]++
		w.put(now, link{from, to}, frame)
	}
}

func (w *wire) put(now time.Duration, l link, frame []byte) {
	at := now + w.faults.Delay
	if w.faults.Jitter > 0 {
		at += time.Duration(w.rng.Int64N(int64(w.faults.Jitter)))
	}
	if w.drawn(w.faults.Late) {
		w.count["late"]++
		at += 2*w.faults.Jitter + w.faults.Delay
	} else {
		at = max(at, w.last[l])
		w.last[l] = at
	}
	w.seq++
	w.bytes += len(frame)
	heap.Push(&w.queue, delivery{l.to, frame, at, w.seq})
}

func (w *wire) drawn(part float64) bool { return part > 0 && w.rng.Float64() < part }

// due gives the next frame that has arrived, if any.
func (w *wire) due(now time.Duration) (d delivery, ok bool) {
	if len(w.queue) == 0 || w.queue[0].at > now {
		return d, false
	}
	d = heap.Pop(&w.queue).(delivery)
	w.bytes -= len(d.frame)
	return d, true
}

// next is when the next frame arrives, if any is on its way.
func (w *wire) next() (at time.Duration, ok bool) {
	if len(w.queue) == 0 {
		return 0, false
	}
	return w.queue[0].at, true
}

// frames is a heap, the earliest first.
type frames []delivery

func (f frames) Len() int      { return len(f) }
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)   { *f = append(*f, x.(delivery)) }
func (f frames) Less(i, j int) bool {
	return f[i].at < f[j].at || f[i].at == f[j].at && f[i].seq < f[j].seq
}

func (f *frames) Pop() any {
	last := (*f)[len(*f)-1]
	(*f)[len(*f)-1] = delivery{} // its frame is garbage
	*f = (*f)[:len(*f)-1]
	return last
}
