//go:build linux

package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/transport/client"
)

// What is sampled beside the counters, whose own checker is exact and quick: few objects at a time, few callers each, and a new object after so
// many calls or one of unknown outcome, since a search for a legal order takes exponential time in what overlaps and in what may have run.
const (
	sampleGroups  = 4 // of registers, and as many of queues
	sampleCallers = 3 // of a group
	sampleThink   = 200 * time.Millisecond
	sampleCalls   = 150              // of one object, about
	sampleSearch  = 30 * time.Second // for one object's order
)

// sample calls registers and queues, and keeps what its callers were told, by object.
type sample struct {
	cl      *client.Client
	prefix  string
	ctx     context.Context
	cancel  context.CancelFunc
	callers sync.WaitGroup

	mu     sync.Mutex
	groups []*sampleGroup
}

// sampleGroup is the objects that one group of callers calls, one after the other.
type sampleGroup struct {
	kind    sampleKind
	name    string
	objects [][]sampled
	begun   int // calls of the newest object
}

// sampleKind is a class with what is known of it.
type sampleKind struct {
	class string
	model porcupine.Model
	call  func(ctx context.Context, ref actor.Ref, o *sampled) error
	// rest ends an object's history with reads that show what it holds.
	rest func(ctx context.Context, ref actor.Ref) ([]sampled, error)
}

var sampleKinds = []sampleKind{
	{"Map", registerModel, callRegister, restRegister},
	{"Queue", queueModel, callQueue, restQueue},
}

func startSample(cl *client.Client, prefix string) *sample {
	s := &sample{cl: cl, prefix: prefix}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, kind := range sampleKinds {
		for i := range sampleGroups {
			g := &sampleGroup{kind: kind, name: fmt.Sprintf("%s-%d", prefix, i), objects: make([][]sampled, 1)}
			s.groups = append(s.groups, g)
			for caller := range sampleCallers {
				s.callers.Go(func() { s.caller(g, caller) })
			}
		}
	}
	return s
}

func (g *sampleGroup) ref(cl *client.Client, object int) actor.Ref {
	return cl.Object(g.kind.class, fmt.Sprintf("%s-%d", g.name, object))
}

func (s *sample) caller(g *sampleGroup, caller int) {
	for n := 0; ; n++ {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(sampleThink/2 + rand.N(sampleThink)):
		}
		s.mu.Lock()
		if g.begun++; g.begun > sampleCalls {
			g.begun, g.objects = 1, append(g.objects, nil)
		}
		object := len(g.objects) - 1
		s.mu.Unlock()
		o := sampled{Write: rand.IntN(2) == 0, Caller: caller}
		if o.Write {
			o.Value = fmt.Sprintf("%d.%d", caller, n) // never written twice
		}
		known := s.call(g, object, &o)
		s.mu.Lock()
		if known {
			g.objects[object] = append(g.objects[object], o)
		}
		if o.Unsure && object == len(g.objects)-1 {
			g.begun = sampleCalls // so at most one call of each caller, near the end, is of unknown outcome
		}
		s.mu.Unlock()
	}
}

// call reports whether the call is of the history: one that did not run is not, nor is a read that may have run.
func (s *sample) call(g *sampleGroup, object int, o *sampled) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	o.Start = now()
	err := g.kind.call(ctx, g.ref(s.cl, object), o)
	o.End = now()
	if err == nil {
		return true
	}
	var e *actor.Error
	o.Unsure = true
	return !(errors.As(err, &e) && e.Outcome == actor.DidNotRun) && (o.Write || g.kind.class != "Map")
}

func (s *sample) end() {
	s.cancel()
	s.callers.Wait()
}

// check reads what is left in each object, and wants a legal order of its calls.
func (s *sample) check(u *user) (calls, unsure int) {
	u.t.Helper()
	for _, g := range s.groups {
		for i, ops := range g.objects {
			ctx, cancel := context.WithTimeout(u.t.Context(), 15*time.Second)
			rest, err := g.kind.rest(ctx, g.ref(s.cl, i))
			cancel()
			if err != nil {
				u.t.Errorf("reading %s %s-%d at the end: %v", g.kind.class, g.name, i, err)
				continue
			}
			for _, o := range ops {
				if o.Unsure {
					unsure++
				}
			}
			ops = append(ops, rest...)
			calls += len(ops)
			switch searchOrder(g.kind.model, ops, sampleSearch) {
			case porcupine.Illegal:
				u.violation("%s %s-%d: its calls have no legal order: %+v", g.kind.class, g.name, i, ops)
			case porcupine.Unknown:
				u.t.Errorf("%s %s-%d: whether its %d calls have a legal order was not found out within %v", g.kind.class, g.name, i, len(ops), sampleSearch)
			}
		}
	}
	return calls, unsure
}

func callRegister(ctx context.Context, ref actor.Ref, o *sampled) error {
	if o.Write {
		_, err := actor.Call[int](ctx, ref, "Put", map[string]any{"v": o.Value})
		return err
	}
	m, err := actor.Call[map[string]string](ctx, ref, "Get", []string{"v"})
	if err == nil {
		o.Value, o.Found = m["v"]
	}
	return err
}

func restRegister(ctx context.Context, ref actor.Ref) ([]sampled, error) {
	o := sampled{Caller: sampleCallers, Start: now()}
	err := callRegister(ctx, ref, &o)
	o.End = now()
	return []sampled{o}, err
}

// pop takes messages for longer than any scenario lasts: none comes back.
func pop(ctx context.Context, ref actor.Ref, most int) ([]string, error) {
	got, err := actor.Call[[]stock.QueueMessage](ctx, ref, "Pop", stock.PopRequest{Max: most, Millis: (12 * time.Hour).Milliseconds()})
	values := make([]string, 0, len(got))
	for _, m := range got {
		s, ok := m.Message.(string)
		if !ok || m.Attempts != 1 {
			return nil, fmt.Errorf("a queue gave %+v", m)
		}
		values = append(values, s)
	}
	return values, err
}

func callQueue(ctx context.Context, ref actor.Ref, o *sampled) error {
	if o.Write {
		_, err := actor.Call[uint64](ctx, ref, "Push", o.Value)
		return err
	}
	got, err := pop(ctx, ref, 1)
	if len(got) > 0 {
		o.Value, o.Found = got[0], true
	}
	return err
}

// restQueue empties a queue.
func restQueue(ctx context.Context, ref actor.Ref) (all []sampled, err error) {
	for {
		start := now()
		got, err := pop(ctx, ref, 100)
		if err != nil {
			return nil, err
		}
		for i, v := range got { // one after the other, between start and now
			all = append(all, sampled{Value: v, Found: true, Caller: sampleCallers, Start: start + time.Duration(2*i), End: start + time.Duration(2*i+1)})
		}
		if len(got) == 0 {
			return append(all, sampled{Caller: sampleCallers, Start: now(), End: now()}), nil
		}
	}
}
