package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
)

// memory is a cluster of counters in memory, each call of which takes a millisecond of virtual time. fault, if set, sees every increment before it is counted.
type memory struct {
	mu     sync.Mutex
	counts map[string]int64
	calls  int
	fault  func(call int) (run bool, err error)
	free   bool        // calls take no time
	status node.Status // the answer to "status"
}

func newMemory() *memory { return &memory{counts: map[string]int64{}} }

func (m *memory) Object(class, key string) actor.Ref {
	return &memoryRef{m, actor.ID{Class: class, Key: key}}
}

func (m *memory) Request(_ context.Context, _, name string, _ []byte) ([]byte, error) {
	if name != "status" {
		return nil, errors.New("not known")
	}
	return msgpack.Marshal(m.status)
}

type memoryRef struct {
	m  *memory
	id actor.ID
}

func (r *memoryRef) ID() actor.ID { return r.id }

func (r *memoryRef) Call(ctx context.Context, method string, arg, reply any, _ ...actor.CallOption) error {
	if !r.m.free {
		time.Sleep(time.Millisecond)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	switch method {
	case "Touch":
		return nil
	case "Echo":
		*reply.(*[]byte) = arg.([]byte)
		return nil
	case "Get":
		*reply.(*int64) = r.m.counts[r.id.Key]
		return nil
	case "Increment":
		return r.increment(arg.(int64), reply.(*int64))
	}
	return &actor.Error{Code: actor.CodeUnknownMethod, Outcome: actor.DidNotRun}
}

func (r *memoryRef) increment(by int64, reply *int64) error {
	run, err := true, error(nil)
	if r.m.fault != nil {
		r.m.calls++
		run, err = r.m.fault(r.m.calls)
	}
	if run {
		r.m.counts[r.id.Key] += by
	}
	*reply = r.m.counts[r.id.Key]
	return err
}

func (r *memoryRef) Start(ctx context.Context, method string, arg any, _ ...actor.CallOption) *actor.Pending {
	panic("the workloads wait for every call")
}
