package host

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// fake is a lease whose outcome the test decides: batches wait until apply, rounds until confirm, unless auto is set.
type fake struct {
	h     *Host
	token store.Token

	mu        sync.Mutex
	auto      bool
	data      map[string][]byte
	batches   [][]store.Write
	applied   int
	asked     uint64
	confirmed uint64
	proves    atomic.Bool   // Valid proves that the token is current
	unsure    chan struct{} // while not nil, Valid is false and Check waits for it
	why       *store.MovedError
	busy      bool
	diskError error
	reads     int
	work      chan func()
}

const fakeShard ring.ShardID = 3

func (l *fake) Shard() ring.ShardID { return fakeShard }
func (l *fake) Token() store.Token  { return l.token }
func (l *fake) Epoch() ring.Epoch   { return 5 }

func (l *fake) Proves() bool { return l.proves.Load() }

func (l *fake) Valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why == nil && l.unsure == nil
}

func (l *fake) Check(ctx context.Context) error {
	l.mu.Lock()
	unsure, why := l.unsure, l.why
	l.mu.Unlock()
	if why != nil {
		return why
	}
	if unsure == nil {
		return nil
	}
	select {
	case <-unsure:
		return l.Check(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *fake) Get(key []byte) ([]byte, bool, error) {
	runtime.Gosched() // as a disk would
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	v, ok := l.data[string(key)]
	return bytes.Clone(v), ok, l.diskError
}

func (l *fake) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := slices.Sorted(maps.Keys(l.data))
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if k < string(start) || end != nil && k >= string(end) {
			continue
		}
		buf := bytes.Clone(l.data[k])
		more := fn([]byte(k), buf)
		clear(buf) // valid only during the call
		if !more {
			break
		}
	}
	return l.diskError
}

func (l *fake) Commit(writes []store.Write) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return 0, store.ErrTokenEnded
	}
	if l.busy {
		return 0, store.ErrBusy
	}
	l.batches = append(l.batches, writes)
	pos := uint64(len(l.batches))
	if l.auto {
		l.work <- func() { l.apply(1) }
	}
	return pos, nil
}

func (l *fake) Confirm(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = n
	if l.auto {
		l.work <- func() { l.confirm() }
	}
}

// apply applies n more batches.
func (l *fake) apply(n int) { l.h.Applied(fakeShard, l.token, l.land(n)) }

// land applies n more batches, of which the host does not hear.
func (l *fake) land(n int) (pos uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		for _, w := range l.batches[l.applied] {
			switch {
			case w.IsRange():
				maps.DeleteFunc(l.data, func(k string, _ []byte) bool { return w.Removes([]byte(k)) })
			case w.Delete:
				delete(l.data, string(w.Key))
			default:
				l.data[string(w.Key)] = w.Value
			}
		}
		l.applied++
	}
	return uint64(l.applied)
}

func (l *fake) confirm() {
	l.mu.Lock()
	l.confirmed = l.asked
	n := l.confirmed
	l.mu.Unlock()
	l.h.Confirmed(fakeShard, l.token, n)
}

// end is what the node knows of the loss; lose also tells the host.
func (l *fake) end() {
	l.mu.Lock()
	l.why = &store.MovedError{Shard: fakeShard, HeldToken: l.token, HeldEpoch: 5, CurrentToken: l.token + 10, CurrentEpoch: 6, Reason: "test"}
	if l.unsure != nil {
		close(l.unsure)
		l.unsure = nil
	}
	l.mu.Unlock()
}

func (l *fake) lose() {
	l.end()
	l.h.Lost(fakeShard, l.token, l.why)
}

func (l *fake) count() (batches int, asked uint64, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.batches), l.asked, l.reads
}

// world is a host with one shard, inside a synctest bubble: wait waits until nothing can go on by itself.
type world struct {
	t     *testing.T
	h     *Host
	l     *fake
	hooks *hooks
}

// inWorld runs fn with a host of the class Probe and opens the shard.
func inWorld(t *testing.T, opts Options, fn func(t *testing.T, w *world), class ...actor.ClassOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, hooks: &hooks{do: map[string]func(context.Context, *probe) (string, error){}}}
		if opts.Logger == nil {
			opts.Logger = slog.New(slog.DiscardHandler)
		}
		h, err := New([]actor.Class{w.hooks.class(class...)}, opts)
		if err != nil {
			t.Fatal(err)
		}
		w.h = h
		w.open(1, false)
		w.wait() // the host looks for alarms; after that the lease's data is the test's to set
		defer w.close()
		fn(t, w)
	})
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.h.Close(ctx) // what the test has left behind at the gate is none of its business
	w.l.mu.Lock()
	if w.l.unsure != nil {
		close(w.l.unsure)
		w.l.unsure = nil
	}
	w.l.mu.Unlock()
	close(w.l.work)
}

// open gives the shard to the host under a new token; what the last lease applied is there.
func (w *world) open(token store.Token, auto bool) {
	l := &fake{h: w.h, token: token, auto: auto, data: map[string][]byte{}, work: make(chan func(), 10_000)}
	if w.l != nil {
		w.l.mu.Lock() // its driver may still be at work
		l.data = maps.Clone(w.l.data)
		w.l.mu.Unlock()
		close(w.l.work)
	}
	w.l = l
	go func() {
		for do := range l.work {
			do()
		}
	}()
	w.h.Opened(l)
}

func (w *world) wait() { synctest.Wait() }

// pendingCall is a call and, once it came, its answer.
type pendingCall struct {
	w      *world
	mu     sync.Mutex
	result *Result
	times  int
}

func (w *world) send(key, method string, arg any, with ...func(*Call)) *pendingCall {
	w.t.Helper()
	p := &pendingCall{w: w}
	c := &Call{Object: actor.ID{Class: "Probe", Key: key}, Method: method, Respond: func(r *Result) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.result = r
		p.times++
	}}
	if arg != nil {
		b, err := actor.Marshal(arg)
		if err != nil {
			w.t.Fatal(err)
		}
		c.Encoding, c.Arg = uint8(actor.EncodingMsgpack), b
	}
	for _, f := range with {
		f(c)
	}
	w.h.Deliver(fakeShard, c)
	return p
}

func (p *pendingCall) answered() bool {
	p.w.t.Helper()
	p.w.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.times > 1 {
		p.w.t.Fatalf("answered %d times", p.times)
	}
	return p.result != nil
}

// open fails the test if there is an answer already.
func (p *pendingCall) held() {
	p.w.t.Helper()
	if p.answered() {
		p.w.t.Fatalf("answered already: %+v", *p.result)
	}
}

func (p *pendingCall) want(want any) {
	p.w.t.Helper()
	if !p.answered() {
		p.w.t.Fatalf("no answer; %+v", p.w.h.Metrics())
	}
	if p.result.Err != nil {
		p.w.t.Fatalf("error %v (%v)", p.result.Err, p.result.Err.Code)
	}
	b, err := actor.Marshal(want)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if !bytes.Equal(p.result.Value, b) {
		p.w.t.Fatalf("got %x, want %x (%v)", p.result.Value, b, want)
	}
}

func (p *pendingCall) fails(target error, o actor.Outcome) *actor.Error {
	p.w.t.Helper()
	if !p.answered() {
		p.w.t.Fatalf("no answer; %+v", p.w.h.Metrics())
	}
	e := p.result.Err
	if e == nil || target != nil && !errors.Is(e, target) || e.Outcome != o {
		p.w.t.Fatalf("got %+v, want %v, %v", e, target, o)
	}
	return e
}

// hooks are what the class Probe does in one test.
type hooks struct {
	construct func(ctx context.Context, s *actor.State) error
	do        map[string]func(ctx context.Context, p *probe) (string, error)
	alarm     func(ctx context.Context, p *probe, info actor.AlarmInfo) error
	made      atomic.Int64
}

func (k *hooks) class(opts ...actor.ClassOption) actor.Class {
	return actor.Define("Probe", func(ctx context.Context, s *actor.State) (*probe, error) {
		k.made.Add(1)
		if k.construct != nil {
			if err := k.construct(ctx, s); err != nil {
				return nil, err
			}
		}
		return &probe{k: k, s: s, st: s.Storage()}, nil
	}, opts...)
}

type probe struct {
	k   *hooks
	s   *actor.State
	st  *actor.Storage
	mem int64
}

// Add adds to a stored number and to one in memory, and returns the stored one.
func (p *probe) Add(ctx context.Context, by int64) (int64, error) {
	n, _, err := actor.Get[int64](ctx, p.st, "n")
	if err != nil {
		return 0, err
	}
	p.mem += by
	return n + by, p.st.Put(ctx, "n", n+by)
}

// Read returns the stored number.
func (p *probe) Read(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, p.st, "n")
	return n, err
}

// Memory returns the number in memory.
func (p *probe) Memory(context.Context) (int64, error) { return p.mem, nil }

// Do does what the test says.
func (p *probe) Do(ctx context.Context, name string) (string, error) { return p.k.do[name](ctx, p) }

// Alarm does what the test says.
func (p *probe) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	if p.k.alarm == nil {
		return nil
	}
	return p.k.alarm(ctx, p, info)
}

// Struct wants a struct and returns one.
func (p *probe) Struct(_ context.Context, in point) (point, error) { return point{in.Y, in.X}, nil }

type point struct {
	X int `json:"x"`
	Y int `json:"y"`
}
