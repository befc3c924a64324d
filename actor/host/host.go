package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// Options of a Host. Zero fields mean the defaults.
type Options struct {
	Logger *slog.Logger // default slog.Default()
	// Objects makes references for objects that call others; the context of a call leads to its Chain. nil: such calls are refused.
	Objects func(actor.ID) actor.Ref
	// Skim looks at the bytes of an argument before they are decoded into a value of a type, and refuses what a decoder must not see. nil: nothing is refused.
	Skim func(actor.Encoding, reflect.Type, []byte) error

	IdleTimeout    time.Duration // of classes that set none; default 1 min
	MailboxLimit   int           // of classes that set none: calls of one object delivered and not yet answered; default 4,096
	MailboxBytes   int           // their bytes, held replies included; default 64 MiB. One call is always let in.
	MailboxAge     time.Duration // how long the first call of a mailbox may have waited when one more is taken; default 30 s
	MailboxRate    int           // calls taken per object in ten Ticks; default 1,000,000
	HeldBytes      int           // bytes of an object's held replies above which its next event waits; default 16 MiB
	CacheBytes     int           // bytes of stored values remembered per activation; default 64 KiB
	MaxBytes       int64         // bytes of all calls of the node not yet answered; default 512 MiB
	MaxActivations int           // beyond it idle activations are evicted before their time; default 200,000
	Tick           time.Duration // how often idle activations are looked for; default 1 s
	CommitTimeout  time.Duration // how long a batch waits for room among those being committed; default 30 s
	SectionTimeout time.Duration // how long a critical section may take; default 30 s
	AlarmTimeout   time.Duration // of an alarm's handler; default 15 min
}

func (o *Options) fill() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	def(&o.IdleTimeout, time.Minute)
	def(&o.MailboxLimit, 4096)
	def(&o.MailboxBytes, 64<<20)
	def(&o.MailboxAge, 30*time.Second)
	def(&o.MailboxRate, 1_000_000)
	def(&o.HeldBytes, 16<<20)
	def(&o.CacheBytes, 64<<10)
	def(&o.MaxBytes, 512<<20)
	def(&o.MaxActivations, 200_000)
	def(&o.Tick, time.Second)
	def(&o.CommitTimeout, 30*time.Second)
	def(&o.SectionTimeout, 30*time.Second)
	def(&o.AlarmTimeout, 15*time.Minute)
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Host runs the activations of a node. It is the store.Owner of the node's shards. Safe for concurrent use.
type Host struct {
	opts    Options
	log     *slog.Logger
	classes map[string]*class
	names   string // of the classes, for errors
	counts  counters

	shards [ring.MaxShards]atomic.Pointer[shard]

	watch watch        // of lanes
	jobs  chan job     // taken by workers that have nothing to do
	free  atomic.Int64 // how many those are

	bytes atomic.Int64 // of calls not yet answered
	live  atomic.Int64 // activations
	crowd chan struct{}

	alarmMu    sync.Mutex // taken under a shard's lock, never the other way round
	alarms     *alarms
	alarmKick  chan struct{}
	alarmsDone chan struct{}

	mu     sync.Mutex // orders Opened and Close
	closed atomic.Bool
	stop   chan struct{}
	done   chan struct{}
}

var _ store.Owner = (*Host)(nil)

type class struct {
	actor.Class
	policy  Policy
	methods map[string]*method
}

type method struct {
	*actor.Method
	pace pace
}

func newClass(c actor.Class, p Policy) *class {
	cl := &class{Class: c, policy: p, methods: make(map[string]*method)}
	for _, name := range c.Methods() {
		if m, ok := c.Method(name); ok {
			cl.methods[name] = &method{Method: m}
		}
	}
	return cl
}

// New makes a host of the classes. The error names every class that is wrongly defined. Close ends its goroutine.
func New(classes []actor.Class, opts Options) (*Host, error) {
	opts.fill()
	h := &Host{opts: opts, log: opts.Logger, classes: map[string]*class{}, jobs: make(chan job), crowd: make(chan struct{}, 1),
		alarms: newAlarms(defaultAlarmLimits), alarmKick: make(chan struct{}, 1), alarmsDone: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{})}
	h.watch.init()
	var errs []error
	var names []string
	for _, c := range classes {
		if err := c.Err(); err != nil {
			errs = append(errs, err)
			continue
		}
		if h.classes[c.Name()] != nil {
			errs = append(errs, fmt.Errorf("class %s is given twice: give each class once, under a name of its own", c.Name()))
			continue
		}
		h.classes[c.Name()] = newClass(c, h.policy(c.Options()))
		names = append(names, c.Name())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.Sort(names)
	if h.names = "it has no classes"; len(names) > 0 {
		h.names = "it has " + strings.Join(names, ", ")
	}
	go h.janitor()
	go h.watch.keep(h.stop)
	go h.alarmLoop()
	return h, nil
}

func (h *Host) policy(o actor.ClassOptions) Policy {
	idle := h.opts.IdleTimeout
	if o.IdleTimeout > 0 {
		idle = o.IdleTimeout
	}
	p := Policy{Mailbox: h.opts.MailboxLimit, MailboxBytes: h.opts.MailboxBytes, HeldBytes: h.opts.HeldBytes, CacheBytes: h.opts.CacheBytes,
		IdleTicks: h.ticks(idle), MaxAge: h.ticks(h.opts.MailboxAge), Window: h.opts.MailboxRate,
		StorageLimit: o.StorageLimit, AllowStaleReplies: o.AllowStaleReplies, Interleaved: o.Interleaved, Reentrant: o.Reentrant}
	if o.MailboxLimit > 0 {
		p.Mailbox = o.MailboxLimit
	}
	return p
}

func (h *Host) ticks(d time.Duration) uint64 { return uint64((d + h.opts.Tick - 1) / h.opts.Tick) }

// Deliver gives a call to its object's mailbox, or answers it with an error at once. It does not block; c.Respond may be called before it
// returns. Calls of one object are run in the order in which Deliver, of the Host or of a Lane, was called.
func (h *Host) Deliver(s ring.ShardID, c *Call) {
	if a, r := h.accept(s, c); r != nil {
		h.spawn(a, r)
	}
}

// accept delivers a call. The event to be run now, if there is one, is for the caller to run.
func (h *Host) accept(s ring.ShardID, c *Call) (*Activation, *run) {
	var sh *shard
	if int(s) < len(h.shards) {
		sh = h.shards[s].Load()
	}
	if sh == nil {
		h.refuse(c, h.elsewhere(c.Object, "this node does not own the object"))
		return nil, nil
	}
	r, err := h.newRun(sh, c)
	if err != nil {
		err.Epoch, err.Token = uint64(sh.lease.Epoch()), uint64(sh.lease.Token())
		h.refuse(c, err)
		return nil, nil
	}
	return sh.deliver(r)
}

// newRun checks what can be checked without the object.
func (h *Host) newRun(sh *shard, c *Call) (*run, *actor.Error) {
	cl := h.classes[c.Object.Class]
	if cl == nil {
		return nil, refused(actor.CodeUnknownClass, c.Object, "no class %.100q: this node does not know it, %s", c.Object.Class, h.names)
	}
	m := cl.methods[c.Method]
	if m == nil && c.Visit == nil {
		return nil, cl.NoMethod(c.Method)
	}
	if c.Idempotent != "" {
		if err := actor.CheckIdempotencyKey(c.Idempotent); err != nil {
			err.Object = c.Object
			return nil, err
		}
	}
	inner := c.comesBack()
	if inner && !cl.policy.Reentrant && !cl.policy.Interleaved {
		return nil, c.cycle()
	}
	r := &run{call: c, class: cl, method: m, s: sh}
	r.Event = Event{Object: c.Object, Bytes: c.weight(), Inner: inner, Data: r}
	if n := h.bytes.Add(int64(r.Bytes)); n > h.opts.MaxBytes {
		h.bytes.Add(-int64(r.Bytes))
		return nil, overloaded(c.Object, textBytes)
	}
	return r, nil
}

func (h *Host) refuse(c *Call, err *actor.Error) {
	h.counts.refused.Add(1)
	c.Respond(&Result{Err: err, Epoch: err.Epoch, Token: err.Token})
}

// elsewhere is the error for a call that another node may run.
func (h *Host) elsewhere(id actor.ID, text string) *actor.Error {
	if h.closed.Load() {
		return &actor.Error{Code: actor.CodeStopping, Outcome: actor.DidNotRun, Retryable: true, Object: id}
	}
	return &actor.Error{Code: actor.CodeNotOwner, Outcome: actor.DidNotRun, Retryable: true, Object: id, Message: text}
}

// Opened begins to run the objects of a shard under a new lease.
func (h *Host) Opened(l store.Lease) {
	sh := &shard{h: h, lease: l, t: NewTenure(l.Token()), ringing: map[actor.ID]*run{}, quiet: make(chan struct{})}
	h.mu.Lock()
	if h.closed.Load() {
		sh.t.Drain(nil)
		sh.draining = true
	}
	old := h.shards[l.Shard()].Swap(sh)
	h.mu.Unlock()
	if old != nil {
		old.lose(nil)
	}
	h.openAlarms(sh)
}

// Applied is of store.Owner.
func (h *Host) Applied(s ring.ShardID, t store.Token, pos uint64) {
	if sh := h.shard(s, t); sh != nil {
		sh.applied(pos)
	}
}

// Confirmed is of store.Owner.
func (h *Host) Confirmed(s ring.ShardID, t store.Token, n uint64) {
	if sh := h.shard(s, t); sh != nil {
		sh.confirmed(n)
	}
}

// Lost ends what runs under the token: nothing more is started, and what is held or runs is refused.
func (h *Host) Lost(s ring.ShardID, t store.Token, why *store.MovedError) {
	if sh := h.shard(s, t); sh != nil {
		h.shards[s].CompareAndSwap(sh, nil)
		sh.lose(why)
	}
}

func (h *Host) shard(s ring.ShardID, t store.Token) *shard {
	if int(s) >= len(h.shards) {
		return nil
	}
	if sh := h.shards[s].Load(); sh != nil && sh.lease.Token() == t {
		return sh
	}
	return nil
}

func (h *Host) each(fn func(*shard)) {
	for i := range h.shards {
		if sh := h.shards[i].Load(); sh != nil {
			fn(sh)
		}
	}
}

// DrainShard starts no more events of a shard, refuses those that wait (they did not run), and waits until those that run have ended
// and everything is applied and answered. The shard then is ready to be handed over. If ctx ends first the error says what is left. The shard
// starts events again after Resume, or when it is opened under a new token.
func (h *Host) DrainShard(ctx context.Context, s ring.ShardID) error {
	if int(s) >= len(h.shards) {
		return nil
	}
	sh := h.shards[s].Load()
	if sh == nil {
		return nil
	}
	sh.drain()
	return sh.waitQuiet(ctx)
}

// Resume takes DrainShard back.
func (h *Host) Resume(s ring.ShardID) {
	if int(s) < len(h.shards) {
		if sh := h.shards[s].Load(); sh != nil {
			sh.resume()
		}
	}
}

// CutShard ends a shard from this side: what runs can no longer write or answer, and its callers hear that it may have run.
func (h *Host) CutShard(s ring.ShardID) {
	if int(s) < len(h.shards) {
		if sh := h.shards[s].Load(); sh != nil {
			sh.cut()
		}
	}
}

// Evict drops the activation of an object as if it had been idle for long. It does nothing, and returns false, if there is none, or an event of
// it is in progress, or something of it is not yet applied or answered.
func (h *Host) Evict(s ring.ShardID, id actor.ID) bool {
	if int(s) >= len(h.shards) {
		return false
	}
	sh := h.shards[s].Load()
	return sh != nil && sh.evictObject(id)
}

// Active reports whether an object is in memory here.
func (h *Host) Active(s ring.ShardID, id actor.ID) bool {
	if int(s) >= len(h.shards) {
		return false
	}
	sh := h.shards[s].Load()
	if sh == nil {
		return false
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.t.Active(id)
}

// Owns reports whether a shard is open here.
func (h *Host) Owns(s ring.ShardID) bool { return int(s) < len(h.shards) && h.shards[s].Load() != nil }

// Drain is DrainShard for all shards at once.
func (h *Host) Drain(ctx context.Context) error {
	h.each((*shard).drain)
	var errs []error
	h.each(func(sh *shard) { errs = append(errs, sh.waitQuiet(ctx)) })
	return errors.Join(errs...)
}

// Close starts nothing any more, also on shards opened later, and waits for what runs. When ctx ends, what still runs is cut off: its
// context ends, its writes are not submitted, its callers hear that it may have run, and the error says how much it was.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	first := !h.closed.Swap(true)
	h.mu.Unlock()
	err := h.Drain(ctx)
	h.each(func(sh *shard) { sh.cut() })
	if first {
		close(h.stop)
	}
	<-h.done
	<-h.alarmsDone
	<-h.watch.done
	return err
}

// job is an activation with an event to run.
type job struct {
	a *Activation
	r *run
}

// freeWorkers is how many goroutines are kept for the next activation that wakes up: one that has run before has the stack it needs.
const freeWorkers = 128

func (h *Host) spawn(a *Activation, r *run) {
	select {
	case h.jobs <- job{a, r}:
	default:
		go h.worker(job{a, r})
	}
}

func (h *Host) worker(j job) {
	for {
		j.r.s.work(j.a, j.r)
		j = job{} // a goroutine that waits keeps nothing in memory
		if h.free.Add(1) > freeWorkers {
			h.free.Add(-1)
			return
		}
		select {
		case j = <-h.jobs:
			h.free.Add(-1)
		case <-h.stop:
			h.free.Add(-1)
			return
		}
	}
}

// janitor drops activations that nobody used for long, or that are too many.
func (h *Host) janitor() {
	defer close(h.done)
	tick := time.NewTicker(h.opts.Tick)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-h.crowd:
			h.thin()
		case <-tick.C:
			h.each((*shard).tick)
			h.thin()
		}
	}
}

// thin evicts idle activations, the oldest of each shard in turn, until there are no more than allowed or none that can go.
func (h *Host) thin() {
	for gone := true; gone && h.live.Load() > int64(h.opts.MaxActivations); {
		gone = false
		h.each(func(sh *shard) {
			if h.live.Load() > int64(h.opts.MaxActivations) && sh.evict() {
				gone = true
			}
		})
	}
}
