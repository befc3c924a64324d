package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/ringfence/ringfence/actor"
)

// Objects is where Ringfence's objects are; a *client.Client is one.
type Objects interface {
	Object(class, key string) actor.Ref
}

// Mode is what a caller asks of a counter.
type Mode string

const (
	Increment Mode = "increment" // a durable write of a few bytes, acknowledged by a majority
	Get       Mode = "get"       // a read of the object's storage
	Echo      Mode = "echo"      // a call that touches no storage
)

// keys are those of one target alone, so that its objects begin at nothing.
type keys string

func newKeys() keys {
	var id [6]byte
	rand.Read(id[:]) // never fails
	return keys("bench-" + hex.EncodeToString(id[:]) + "-")
}

func (k keys) of(object int) string { return string(k) + strconv.Itoa(object) }

// counters is the target whose objects are of a class with the methods Increment, Get and Echo.
type counters struct {
	cluster Objects
	class   string
	keys    keys
	mode    Mode
	load    Load
	payload []byte
	other   atomic.Int64 // replies that were not what they had to be
}

// NewCounters is the target of one mode on objects of a class, which has the methods of the stock class Counter. For Get each object that
// the load may choose is written once before. Nothing is freed by Close: the cluster stays the caller's.
func NewCounters(ctx context.Context, c Objects, class string, mode Mode, load Load) (Target, error) {
	if err := load.fill(); err != nil {
		return nil, err
	}
	t := &counters{cluster: c, class: class, keys: newKeys(), mode: mode, load: load}
	switch mode {
	case Increment:
	case Echo:
		t.payload = bytes.Repeat([]byte{'e'}, load.Payload)
	case Get:
		err := each(ctx, load.Callers, load.Objects, func(ctx context.Context, i int) error {
			_, err := call[int64](ctx, t.ref(i), load, "Increment", int64(i+1))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("writing what is to be read: %w", err)
		}
	default:
		return nil, fmt.Errorf("mode %q: want increment, get or echo", mode)
	}
	return t, nil
}

func (t *counters) ref(i int) actor.Ref { return t.cluster.Object(t.class, t.keys.of(i)) }

func (*counters) Close() error { return nil }

func (t *counters) Do(ctx context.Context, op Op) error {
	ref := t.ref(op.Object)
	right := true
	switch t.mode {
	case Increment:
		n, err := actor.Call[int64](ctx, ref, "Increment", int64(1))
		if err != nil {
			return err
		}
		right = n > 0 && (!t.load.Fresh || n == 1)
	case Get:
		n, err := actor.Call[int64](ctx, ref, "Get", nil)
		if err != nil {
			return err
		}
		right = n == int64(op.Object+1)
	case Echo:
		back, err := actor.Call[[]byte](ctx, ref, "Echo", t.payload)
		if err != nil {
			return err
		}
		right = bytes.Equal(back, t.payload)
	}
	if !right {
		t.other.Add(1)
	}
	return nil
}

// Verify reads every counter and compares it with what its callers were told. A measurement of a cluster that loses writes is worth nothing.
func (t *counters) Verify(ctx context.Context, told *Tally) (*Check, error) {
	if t.mode != Increment {
		c := &Check{OK: true, What: map[Mode]string{Get: "every read brought what was stored", Echo: "every echo was what had been sent"}[t.mode]}
		t.checkReplies(c)
		return c, nil
	}
	c, err := checkCounts(ctx, t.load, told, func(ctx context.Context, i int) (int64, error) { return call[int64](ctx, t.ref(i), t.load, "Get", nil) })
	if err != nil {
		return nil, fmt.Errorf("reading the counters back: %w", err)
	}
	t.checkReplies(c)
	return c, nil
}

func (t *counters) checkReplies(c *Check) {
	if n := t.other.Load(); n > 0 {
		c.Fail("%d replies were not what they had to be", n)
	}
}

// most is how many objects are read back; of more, as many are chosen, evenly spread.
const most = 100_000

// checkCounts compares what objects count with what their callers were told.
func checkCounts(ctx context.Context, load Load, told *Tally, read func(context.Context, int) (int64, error)) (*Check, error) {
	c := &Check{OK: true, What: "the counters add up"}
	all := told.Objects()
	looked := min(all, most)
	if looked < all {
		c.What = fmt.Sprintf("%d of the %d counters add up", looked, all)
	}
	counted := make([]int64, looked)
	at := func(i int) int { return int(int64(i) * int64(all) / int64(looked)) }
	err := each(ctx, load.Callers, looked, func(ctx context.Context, i int) (err error) {
		counted[i], err = read(ctx, at(i))
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, n := range counted {
		acked, doubt := told.Acked(at(i)), told.InDoubt(at(i))
		c.Counted += n
		c.Acknowledged, c.MayHaveRun = c.Acknowledged+acked, c.MayHaveRun+doubt
		if n < acked || n > acked+doubt {
			c.Fail("object %d counts %d: %d acknowledged, %d may have run", at(i), n, acked, doubt)
		}
	}
	return c, nil
}
