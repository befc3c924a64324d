package bench

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
)

// twins is the target whose objects have a state of Load.Payload bytes, of which Load.Reads of the operations are reads.
type twins struct {
	cluster Objects
	keys    keys
	load    Load
	other   atomic.Int64 // replies that were not what they had to be
}

// newTwins writes every object once, so that there is something to read.
func newTwins(ctx context.Context, c Objects, load Load) (*twins, error) {
	t := &twins{cluster: c, keys: newKeys(), load: load}
	err := each(ctx, load.Callers, load.Objects, func(ctx context.Context, i int) error {
		_, err := call[int64](ctx, t.ref(i), load, "Write", t.data(i, 1))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing what is to be read: %w", err)
	}
	return t, nil
}

func (t *twins) ref(i int) actor.Ref { return t.cluster.Object(twinClass, t.keys.of(i)) }

func (*twins) Close() error { return nil }

// data tells the object and, more or less, the write.
func (t *twins) data(object, write int) []byte {
	return bytes.Repeat([]byte{byte(object), byte(object >> 8), byte(write)}, t.load.Payload/3+1)[:t.load.Payload]
}

// right reports whether the state can be one that was written to an object.
func (t *twins) right(object int, s twinState) bool {
	if len(s.Data) != t.load.Payload || s.Version < 1 {
		return false
	}
	return len(s.Data) < 3 || bytes.Equal(s.Data, t.data(object, int(s.Data[2])))
}

func (t *twins) Do(ctx context.Context, op Op) error {
	if op.Read {
		s, err := actor.Call[twinState](ctx, t.ref(op.Object), "Read", nil)
		if err == nil && !t.right(op.Object, s) {
			t.other.Add(1)
		}
		return err
	}
	n, err := actor.Call[int64](ctx, t.ref(op.Object), "Write", t.data(op.Object, op.Worker))
	if err == nil && n < 2 {
		t.other.Add(1)
	}
	return err
}

// Verify compares the versions with what was told, and looks at what is stored.
func (t *twins) Verify(ctx context.Context, told *Tally) (*Check, error) {
	c, err := checkCounts(ctx, t.load, told, func(ctx context.Context, i int) (int64, error) {
		s, err := call[twinState](ctx, t.ref(i), t.load, "Read", nil)
		if err == nil && !t.right(i, s) {
			t.other.Add(1)
		}
		return s.Version - 1, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the states back: %w", err)
	}
	c.What = "each state has been written as often as was acknowledged"
	if n := t.other.Load(); n > 0 {
		c.Fail("%d replies were not what had been written", n)
	}
	return c, nil
}
