package host

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// reader delivers calls on a lane as a connection does: one goroutine at a time has the turn.
type reader struct {
	w    *world
	lane *Lane
	in   chan *Call
	turn atomic.Uint64 // lowest bit: in Deliver

	mu    sync.Mutex
	began []string // keys, in the order of delivery
}

func newReader(w *world) *reader {
	rd := &reader{w: w, in: make(chan *Call, 1000)}
	rd.lane = w.h.NewLane(rd.yield)
	go rd.read(0)
	return rd
}

func (rd *reader) yield() {
	if s := rd.turn.Load(); s&1 != 0 && rd.turn.CompareAndSwap(s, s+1) {
		go rd.read(s + 1)
	}
}

func (rd *reader) read(turn uint64) {
	over := false
	defer func() {
		if !over {
			rd.yield()
		}
	}()
	for c := range rd.in {
		rd.turn.Store(turn + 1)
		rd.mu.Lock()
		rd.began = append(rd.began, c.Object.Key)
		rd.mu.Unlock()
		rd.lane.Deliver(fakeShard, c)
		if !rd.turn.CompareAndSwap(turn+1, turn) {
			break
		}
	}
	over = true
}

func (rd *reader) delivered() []string {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return slices.Clone(rd.began)
}

func (rd *reader) close() {
	close(rd.in)
	rd.lane.End()
}

// send is world.send by way of the reader.
func (rd *reader) send(key, method string, arg any) *pendingCall {
	p := &pendingCall{w: rd.w}
	c := &Call{Object: actor.ID{Class: "Probe", Key: key}, Method: method, Respond: func(r *Result) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.result = r
		p.times++
	}}
	if arg != nil {
		b, err := actor.Marshal(arg)
		if err != nil {
			rd.w.t.Fatal(err)
		}
		c.Encoding, c.Arg = uint8(actor.EncodingMsgpack), b
	}
	rd.in <- c
	return p
}

// TestLaneRunsWhatIsQuick: an event is over when Deliver returns, on the same goroutine; and what follows it in its mailbox is somebody else's.
func TestLaneRunsWhatIsQuick(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.proves.Store(true)
		lane := w.h.NewLane(func() { t.Error("told to go on") })
		defer lane.End()
		for i := range 5 {
			var got *Result
			lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Probe", Key: "k"}, Method: "Memory", Respond: func(r *Result) { got = r }})
			if got == nil || got.Err != nil {
				t.Fatalf("call %d is not answered when Deliver returns: %+v", i, got)
			}
		}
		var order []string
		inner := make(chan struct{})
		w.hooks.do["first"] = func(context.Context, *probe) (string, error) {
			lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Probe", Key: "k"}, Method: "Memory", Respond: func(*Result) { order = append(order, "second"); close(inner) }})
			return "", nil
		}
		arg, _ := actor.Marshal("first")
		lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Probe", Key: "k"}, Method: "Do", Encoding: uint8(actor.EncodingMsgpack), Arg: arg,
			Respond: func(*Result) { order = append(order, "first") }})
		<-inner
		if !slices.Equal(order, []string{"first", "second"}) {
			t.Error(order)
		}
	})
}

// TestLaneGoesOn: calls behind an event that waits, computes, or ends its goroutine, are delivered in order and answered meanwhile.
func TestLaneGoesOn(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.proves.Store(true)
		free := make(chan struct{})
		waits := map[string]func(context.Context, *probe) (string, error){
			"await": func(ctx context.Context, p *probe) (string, error) {
				return "", p.s.Await(ctx, func(context.Context) error { <-free; return nil })
			},
			"sync": func(ctx context.Context, p *probe) (string, error) {
				if err := p.st.Put(ctx, "k", 1); err != nil {
					return "", err
				}
				return "", p.st.Sync(ctx)
			},
			"sleep": func(context.Context, *probe) (string, error) { <-free; return "", nil }, // says nothing: the watcher sees it
			"abort": func(_ context.Context, p *probe) (string, error) { p.s.Abort(nil); return "", nil },
			"panic": func(context.Context, *probe) (string, error) { panic("of the test") },
		}
		w.hooks.do = waits
		rd := newReader(w)
		defer rd.close()
		var keys []string
		var held []*pendingCall
		behind := map[string]*pendingCall{}
		for name := range waits {
			p := rd.send("waits "+name, "Do", name)
			behind[name] = rd.send("quick "+name, "Memory", nil)
			keys = append(keys, "waits "+name, "quick "+name)
			if name == "abort" || name == "panic" {
				defer func() { p.fails(map[string]error{"abort": actor.ErrAborted, "panic": actor.ErrPanic}[name], actor.Ran) }()
				continue
			}
			held = append(held, p)
		}
		began := time.Now()
		for len(rd.delivered()) < len(keys) && time.Since(began) < time.Second {
			time.Sleep(watchTick)
			w.wait()
		}
		for name, p := range behind {
			if !p.answered() {
				t.Errorf("what stands behind %s is not answered", name)
			}
		}
		for _, p := range held {
			p.held()
		}
		if got := rd.delivered(); !slices.Equal(got, keys) {
			t.Errorf("delivered %v, want %v", got, keys)
		}
		if took := time.Since(began); took > 4*watchTick {
			t.Errorf("it took %v", took)
		}
		close(free)
		w.l.apply(1)
		for _, p := range held {
			p.want("")
		}
	})
}

// TestLaneLearns: a method whose event has waited is not run on the lane, for a while.
func TestLaneLearns(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.proves.Store(true)
		slow, onLane := true, false
		var lane *Lane
		w.hooks.do = map[string]func(context.Context, *probe) (string, error){"do": func(context.Context, *probe) (string, error) {
			onLane = lane.running.Load() != nil
			if slow {
				time.Sleep(time.Second)
			}
			return "", nil
		}}
		yields := 0
		lane = w.h.NewLane(func() { yields++ })
		defer lane.End()
		arg, _ := actor.Marshal("do")
		once := func() bool {
			done := make(chan struct{})
			lane.Deliver(fakeShard, &Call{Object: actor.ID{Class: "Probe", Key: "k"}, Method: "Do", Encoding: uint8(actor.EncodingMsgpack), Arg: arg,
				Respond: func(*Result) { close(done) }})
			<-done
			w.wait()
			return onLane
		}
		if once(); yields != 1 {
			t.Fatalf("a second of sleep made the lane go on %d times", yields)
		}
		if once() {
			t.Error("a method that has waited was run on the lane at once")
		}
		slow = false
		for n := 0; !once(); n++ {
			if n > 1000 {
				t.Fatal("it is never tried again")
			}
		}
		if yields != 1 {
			t.Error(yields)
		}
		var p pace
		for range 1000 {
			p.took(time.Microsecond)
		}
		if p.took(time.Second); p.mean.Load() > 2*int64(paceQuick) {
			t.Errorf("one long event made the method one of %v", time.Duration(p.mean.Load()))
		}
		for range 100 {
			p.took(100 * time.Microsecond)
		}
		if p.quick() {
			t.Error("a method of 100 µs counts as quick")
		}
	})
}
