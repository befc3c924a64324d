//go:build linux

package nemesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// loadEnv makes the test binary a load process: it calls as the JSON of a loadConfig says until its stdin ends, and then writes its ops,
// as JSON, to stdout.
const loadEnv = "NEMESIS_LOAD"

// loadConfig says who calls what. Each counter has a caller of its own, so that its outages are seen, and roamers go from counter to
// counter, so that calls of one counter overlap.
type loadConfig struct {
	Servers []string
	Prefix  string // of the objects' keys
	Keys    int
	Roamers int
	Only    []int         // if any: the roamers call these counters, and none has a caller of its own
	Think   time.Duration // of an own caller between two calls; a roamer's is a fifth
	Timeout time.Duration // of a call
}

// load calls counters and keeps what its callers were told.
type load struct {
	cfg     loadConfig
	cl      *client.Client
	ctx     context.Context
	cancel  context.CancelFunc // ends thinking, not the calls under way
	callers sync.WaitGroup
	acked   atomic.Int64

	mu  sync.Mutex
	ops []op
}

// now is CLOCK_MONOTONIC.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the kernel has had it for ever
	}
	return time.Duration(ts.Nano())
}

func startLoad(cfg loadConfig) (*load, error) {
	cl, err := client.Dial(context.Background(), cfg.Servers, nil)
	if err != nil {
		return nil, err
	}
	l := &load{cfg: cfg, cl: cl}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if len(cfg.Only) == 0 {
		for key := range cfg.Keys {
			l.callers.Go(func() { l.caller(cfg.Think, func() (int, bool) { return key, false }) })
		}
	}
	for range cfg.Roamers {
		l.callers.Go(func() { l.caller(cfg.Think/5, func() (int, bool) { return cfg.roam(), rand.IntN(4) > 0 }) })
	}
	return l, nil
}

func (c loadConfig) roam() int {
	if len(c.Only) > 0 {
		return c.Only[rand.IntN(len(c.Only))]
	}
	return rand.IntN(c.Keys)
}

// caller calls what next says, a key and whether to read it, until the load ends.
func (l *load) caller(think time.Duration, next func() (key int, get bool)) {
	var ops []op
	for l.think(think) {
		key, get := next()
		o := l.call(key, get)
		if o.ok() {
			l.acked.Add(1)
		}
		ops = append(ops, o)
	}
	l.mu.Lock()
	l.ops = append(l.ops, ops...)
	l.mu.Unlock()
}

// think waits for d, give or take a third.
func (l *load) think(d time.Duration) bool {
	select {
	case <-l.ctx.Done():
		return false
	case <-time.After(d*2/3 + rand.N(d*2/3+1)):
		return true
	}
}

func (l *load) object(key int) actor.Ref {
	return l.cl.Object("Counter", fmt.Sprintf("%s-%d", l.cfg.Prefix, key))
}

// call makes one call on a new reference: the order of one reference must not hide a fault.
func (l *load) call(key int, get bool) op {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Timeout)
	defer cancel()
	o := op{Key: key, Get: get, Start: now()}
	var err error
	if get {
		o.Value, err = actor.Call[int64](ctx, l.object(key), "Get", nil)
	} else {
		o.Value, err = actor.Call[int64](ctx, l.object(key), "Increment", 1)
	}
	o.End = now()
	if err == nil {
		return o
	}
	e := (*actor.Error)(nil)
	if !errors.As(err, &e) {
		o.Fail, o.Outcome = "an error of no kind: "+err.Error(), actor.MayHaveRun
		return o
	}
	o.Fail, o.Outcome = fmt.Sprintf("%s, %s", e.Code, e.Outcome), e.Outcome
	return o
}

// end lets the calls under way end and returns all of them.
func (l *load) end() []op {
	l.cancel()
	l.callers.Wait()
	return l.ops
}

// loadMain is a load process.
func loadMain(config string) error {
	var cfg loadConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return fmt.Errorf("%s: %w", loadEnv, err)
	}
	l, err := startLoad(cfg)
	if err != nil {
		return err
	}
	defer l.cl.Close()
	fmt.Fprintln(os.Stderr, loadReady)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(l.end())
}

const loadReady = "calling"
