package cmd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// onceCounters is how many counters the callers share: few enough that each is under way when its owner dies, so many that none sees 1,024
// other keys while a call is repeated.
const onceCounters = 16

// TestConformanceIdempotent kills owners, twice or as often as RINGFENCE_ONCE_ROUNDS says, while callers increment counters, each call with a key of its own that is repeated until it is answered: by the
// client within a short deadline, and then by the caller. Each key counts once, and its answer stays the same.
func TestConformanceIdempotent(t *testing.T) {
	nodes := startNodes(t, 3)
	o := newOnce(t, nodes)
	o.waitForMore(t, 500)
	for round := range roundsOf(t, "RINGFENCE_ONCE_ROUNDS", 2) {
		victim := o.owner(t, fmt.Sprintf("once-%d", rand.IntN(onceCounters)))
		victim.kill(t)
		o.waitForMore(t, 500)
		victim.start(t)
		victim.waitServing(t)
		o.waitForMore(t, 500)
		t.Logf("round %d: node %d was killed; %d calls answered, %d tries failed and may have run, %d answers asked for again", round+1, victim.number,
			o.answered.Load(), o.unsure.Load(), o.replayed.Load())
	}
	o.finish(t)
}

// once is callers that repeat their calls.
type once struct {
	cl       *client.Client
	nodes    []*nodeProcess
	stop     chan struct{}
	end      func()
	callers  sync.WaitGroup
	answered atomic.Int64
	unsure   atomic.Int64
	replayed atomic.Int64

	mu     sync.Mutex
	values map[string][]int64 // by counter, what its calls were answered
}

func newOnce(t *testing.T, nodes []*nodeProcess) *once {
	t.Helper()
	var servers []string
	for _, n := range nodes {
		servers = append(servers, n.listen)
	}
	cl, err := client.Dial(t.Context(), servers, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &once{cl: cl, nodes: nodes, stop: make(chan struct{}), values: map[string][]int64{}}
	o.end = sync.OnceFunc(func() { close(o.stop); o.callers.Wait() })
	for i := range 16 {
		o.callers.Go(func() { o.caller(t, i) })
	}
	t.Cleanup(func() { o.end(); cl.Close() })
	return o
}

// said is what a caller was answered.
type said struct {
	counter, key string
	value        int64
}

func (o *once) caller(t *testing.T, number int) {
	var recent []said
	for i := 0; ; i++ {
		select {
		case <-o.stop:
			return
		default:
		}
		s := said{counter: fmt.Sprintf("once-%d", rand.IntN(onceCounters)), key: fmt.Sprintf("caller %d, call %d", number, i)}
		var ok bool
		if s.value, ok = o.increment(t, s); !ok {
			return
		}
		o.mu.Lock()
		o.values[s.counter] = append(o.values[s.counter], s.value)
		o.mu.Unlock()
		o.answered.Add(1)
		if recent = append(recent, s); len(recent) > 8 {
			recent = recent[1:]
		}
		if rand.IntN(4) > 0 {
			continue
		}
		old := recent[rand.IntN(len(recent))]
		again, ok := o.increment(t, old)
		if !ok {
			return
		}
		if o.replayed.Add(1); again != old.value {
			t.Errorf("%s, %s: answered %d, and later %d", old.counter, old.key, old.value, again)
			return
		}
	}
}

// increment repeats one call until it is answered. Each try has a time that ends while an owner is replaced.
func (o *once) increment(t *testing.T, s said) (int64, bool) {
	giveUp := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		v, err := actor.Call[int64](ctx, o.cl.Object("Counter", s.counter), "Increment", 1, actor.Idempotent(s.key))
		cancel()
		e := (*actor.Error)(nil)
		switch {
		case err == nil:
			return v, true
		case !errors.As(err, &e) || e.Outcome == actor.Ran:
			t.Errorf("%s, %s: %v", s.counter, s.key, err)
			return 0, false
		case time.Now().After(giveUp):
			t.Errorf("%s, %s: no answer for 30 s, last %v", s.counter, s.key, err)
			return 0, false
		case e.Outcome == actor.MayHaveRun:
			o.unsure.Add(1)
		}
	}
}

func (o *once) waitForMore(t *testing.T, n int64) {
	t.Helper()
	goal := o.answered.Load() + n
	eventually(t, fmt.Sprintf("%d more calls answered", n), func() bool { return t.Failed() || o.answered.Load() >= goal })
}

// owner is the process that owns a counter.
func (o *once) owner(t *testing.T, key string) (owner *nodeProcess) {
	t.Helper()
	question, err := msgpack.Marshal(node.WhereRequest{Class: "Counter", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var servers []string
	for _, n := range o.nodes {
		servers = append(servers, n.listen)
	}
	eventually(t, "the owner of "+key+" is known", func() bool {
		b, err := ask(t.Context(), o.cl, servers, "where", question)
		if err != nil {
			return false
		}
		where, err := node.DecodeWhere(b)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(o.nodes, func(n *nodeProcess) bool { return n.listen == where.Owner.Addr })
		if i >= 0 {
			owner = o.nodes[i]
		}
		return i >= 0
	})
	return owner
}

// finish checks that the answers of a counter's calls, each of which has one, are the numbers from 1 to what it counts.
func (o *once) finish(t *testing.T) {
	t.Helper()
	o.end()
	for counter, values := range o.values {
		final, err := actor.Call[int64](t.Context(), o.cl.Object("Counter", counter), "Get", nil)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(values)
		for i, v := range values {
			if v != int64(i+1) {
				t.Errorf("%s: of %d keys the answer %d in order is %d", counter, len(values), i+1, v)
				break
			}
		}
		if final != int64(len(values)) {
			t.Errorf("%s counts %d after %d keys", counter, final, len(values))
		}
	}
	if o.replayed.Load() == 0 {
		t.Error("no answer was asked for again")
	}
}

func TestCallWithIdempotencyKey(t *testing.T) {
	c := sharedCluster.get(t)
	object := c.unused("Counter")
	for range 2 {
		o := runProgram(t, "call", object, "Increment", "1", "--idempotency-key", "first", "--server", c.server())
		if o.stdout != "1\n" {
			t.Errorf("printed %q, %q", o.stdout, o.stderr)
		}
	}
	call := func(args ...string) outcome {
		return runProgram(t, append(append([]string{"call"}, args...), "--server", c.server())...)
	}
	call(object, "Increment", "2", "--idempotency-key", "first").want(t, 1, "belongs to an earlier call of Increment")
	call(object, "Increment", "2", "--idempotency-key", "").want(t, 2, "--idempotency-key")
}
