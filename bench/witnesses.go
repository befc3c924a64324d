package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// witnesses is the target that watches objects being activated: its callers compare what each reply says with what was said before.
type witnesses struct {
	cluster Objects
	keys    keys
	load    Load
	all     []*sightings
}

// sightings are what callers heard of one object.
type sightings struct {
	mu       sync.Mutex
	highest  sighting            // of the replies so far
	seen     []uint64            // a bit for each number that came
	twice    int                 // numbers that came twice
	stale    int                 // replies that were older than one which had come before the call was made
	fault    time.Time           // zero: nobody waits
	before   int64               // activation at that time
	restored time.Duration       // from the fault to the first reply of a later activation; 0: none yet
	ranges   map[int64]*[2]int64 // activation → its lowest and highest number
}

func newWitnesses(c Objects, load Load) *witnesses {
	w := &witnesses{cluster: c, keys: newKeys(), load: load}
	for range load.Objects {
		w.all = append(w.all, &sightings{ranges: map[int64]*[2]int64{}})
	}
	return w
}

func (w *witnesses) ref(i int) actor.Ref { return w.cluster.Object(witnessClass, w.keys.of(i)) }

func (*witnesses) Close() error { return nil }

func (w *witnesses) Do(ctx context.Context, op Op) error {
	o, method := w.all[op.Object], "Enter"
	if op.Read {
		method = "Peek"
	}
	before := o.latest()
	s, err := actor.Call[sighting](ctx, w.ref(op.Object), method, nil)
	if err == nil {
		o.see(s, before, op.Read)
	}
	return err
}

func (o *sightings) latest() sighting {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.highest
}

// see takes a reply to a call that was made when before was the highest reply.
func (o *sightings) see(s, before sighting, read bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.Activation < before.Activation || s.N < before.N || !read && s.N == before.N {
		o.stale++
	}
	if !read {
		if o.mark(s.N) {
			o.twice++
		}
		r, ok := o.ranges[s.Activation]
		if !ok {
			r = &[2]int64{s.N, s.N}
			o.ranges[s.Activation] = r
		}
		r[0], r[1] = min(r[0], s.N), max(r[1], s.N)
	}
	if s.N > o.highest.N || s.N == o.highest.N && s.Activation > o.highest.Activation {
		o.highest = s
	}
	if !o.fault.IsZero() && o.restored == 0 && s.Activation > o.before {
		o.restored = time.Since(o.fault)
	}
}

// mark notes that a number came, and reports whether it had come before.
func (o *sightings) mark(n int64) bool {
	word, bit := int(n/64), uint64(1)<<(n%64)
	for len(o.seen) <= word {
		o.seen = append(o.seen, make([]uint64, 1+len(o.seen))...)
	}
	was := o.seen[word]&bit != 0
	o.seen[word] |= bit
	return was
}

// doubles is how many pairs of activations gave numbers that mix: the second wrote before the first had written for the last time.
func (o *sightings) doubles() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var order []int64
	for a := range o.ranges {
		order = append(order, a)
	}
	slices.Sort(order)
	for i, a := range order[:max(0, len(order)-1)] {
		if o.ranges[a][1] >= o.ranges[order[i+1]][0] {
			n++
		}
	}
	return n
}

// expect begins to wait for an activation of each of the objects that is later than those seen so far.
func (w *witnesses) expect(objects []int) {
	now := time.Now()
	for _, i := range objects {
		o := w.all[i]
		o.mu.Lock()
		o.fault, o.before, o.restored = now, o.highest.Activation, 0
		o.mu.Unlock()
	}
}

// outages are how long each of the objects was away; missing says how many still are.
func (w *witnesses) outages(objects []int) (took []time.Duration, missing int) {
	for _, i := range objects {
		o := w.all[i]
		o.mu.Lock()
		if o.restored > 0 {
			took = append(took, o.restored)
		} else {
			missing++
		}
		o.mu.Unlock()
	}
	slices.Sort(took)
	return took, missing
}

// unique adds up what was wrong.
func (w *witnesses) unique() (doubles, stale int) {
	for _, o := range w.all {
		doubles += o.doubles()
		o.mu.Lock()
		doubles, stale = doubles+o.twice, stale+o.stale
		o.mu.Unlock()
	}
	return doubles, stale
}

// Verify compares the counts, and wants no activation beside another.
func (w *witnesses) Verify(ctx context.Context, told *Tally) (*Check, error) {
	c, err := checkCounts(ctx, w.load, told, func(ctx context.Context, i int) (int64, error) {
		s, err := call[sighting](ctx, w.ref(i), w.load, "Peek", nil)
		return s.N, err
	})
	if err != nil {
		return nil, fmt.Errorf("asking the witnesses: %w", err)
	}
	c.What = "one activation at a time, and every acknowledged event counted"
	if doubles, stale := w.unique(); doubles > 0 || stale > 0 {
		c.Fail("%d double activations, %d stale replies", doubles, stale)
	}
	return c, nil
}
