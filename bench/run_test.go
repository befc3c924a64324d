package bench

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// memory is a cluster of counters in memory. fault, if set, sees every increment before it is counted.
type memory struct {
	mu     sync.Mutex
	counts map[string]int64
	calls  int
	fault  func(call int) (run bool, err error)
}

func newMemory() *memory { return &memory{counts: map[string]int64{}} }

func (m *memory) Object(class, key string) actor.Ref {
	return &memoryRef{m, actor.ID{Class: class, Key: key}}
}

type memoryRef struct {
	m  *memory
	id actor.ID
}

func (r *memoryRef) ID() actor.ID { return r.id }

func (r *memoryRef) Call(ctx context.Context, method string, arg, reply any, _ ...actor.CallOption) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	switch method {
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

func short(m Mode) Config {
	return Config{Mode: m, Callers: 8, Objects: 20, Duration: 60 * time.Millisecond, Warmup: 20 * time.Millisecond, Timeout: time.Second, Payload: 10}
}

func TestRunModes(t *testing.T) {
	for _, mode := range []Mode{Increment, Get, Echo} {
		t.Run(string(mode), func(t *testing.T) {
			cfg := short(mode)
			cfg.Dir = t.TempDir()
			r, err := Run(t.Context(), newMemory(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if r.Ops == 0 || r.OpsPerSecond <= 0 || r.P50 < 1 || r.P50 > r.P90 || r.P90 > r.P99 || r.P99 > r.P999 || r.Max < 1 || len(r.Errors) != 0 {
				t.Errorf("implausible: %+v", r)
			}
			if want := float64(r.Ops) / time.Duration(r.Duration).Seconds(); r.OpsPerSecond != want {
				t.Errorf("%v ops/s, want %v", r.OpsPerSecond, want)
			}
			if time.Duration(r.Duration) < cfg.Duration || r.Version == "" || r.CPUs < 1 || r.Fsync.Dir != cfg.Dir {
				t.Errorf("what it was measured on is wrong: %+v", r)
			}
			if (r.Check != nil) != (mode == Increment) {
				t.Errorf("check %v for mode %s", r.Check, mode)
			}
		})
	}
}

func TestIncrementsAddUp(t *testing.T) {
	unknown := &actor.Error{Code: actor.CodeUnreachable, Outcome: actor.MayHaveRun}
	refused := &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.DidNotRun}
	for _, c := range []struct {
		name  string
		fault func(call int) (bool, error)
		ok    bool
		kinds string // of the errors
	}{
		{"no fault", nil, true, ""},
		{"refused", func(n int) (bool, error) { return n%10 != 0, when(n%10 == 0, refused) }, true, "overloaded, did not run"},
		{"unknown, ran", func(n int) (bool, error) { return true, when(n%10 == 0, unknown) }, true, "unreachable, may have run"},
		{"unknown, did not run", func(n int) (bool, error) { return n%10 != 0, when(n%10 == 0, unknown) }, true, "unreachable, may have run"},
		{"acknowledged and lost", func(n int) (bool, error) { return n != 10, nil }, false, ""},
		{"refused and ran", func(n int) (bool, error) { return true, when(n%10 == 0, refused) }, false, "overloaded, did not run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			m.fault = c.fault
			r, err := Run(t.Context(), m, short(Increment))
			if err != nil {
				t.Fatal(err)
			}
			if r.Check.OK() != c.ok {
				t.Errorf("check %+v is %v, want %v", *r.Check, r.Check.OK(), c.ok)
			}
			if n := r.Errors[c.kinds]; c.kinds != "" && n == 0 || len(r.Errors) > 1 {
				t.Errorf("errors %v, want some of %q", r.Errors, c.kinds)
			}
		})
	}
}

func when(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

func TestFirstCallFails(t *testing.T) {
	m := newMemory()
	unknown := &actor.Error{Code: actor.CodeUnknownClass, Outcome: actor.DidNotRun, Message: "no class Counter"}
	m.fault = func(int) (bool, error) { return false, unknown }
	began := time.Now()
	cfg := short(Increment)
	cfg.Duration = time.Hour
	if _, err := Run(t.Context(), m, cfg); !errors.Is(err, actor.ErrUnknownClass) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to see that nothing works", took)
	}
}

func TestCutShort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := short(Get)
	cfg.Duration = time.Hour
	cfg.OnProgress = func(p Progress) {
		if p.Rate <= 0 || p.Elapsed <= 0 || p.Warmup {
			t.Errorf("progress %+v", p)
		}
		cancel()
	}
	if _, err := Run(ctx, newMemory(), cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	for want, c := range map[string]Config{
		"want increment, get or echo": {Mode: "write"},
		"-1 callers":                  {Callers: -1},
		"-2 objects":                  {Objects: -2},
		"none may be negative":        {Warmup: -1},
		"payload of 9000000 bytes":    {Payload: 9000000},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	if err := (Config{}).Check(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}
