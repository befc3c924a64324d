package node

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// inbox takes the calls of one connection, or of the objects of this node, and keeps the order of their streams.
type inbox struct {
	n    *Node
	full func() // refused has outgrown refusedMax; nil: what is old is forgotten

	mu sync.Mutex
	// refused holds, per stream, the generation of which a call did not run: the later ones of that generation must not run either, or
	// a Ref's calls would overtake one another. The client goes on with a higher generation once it has heard all answers.
	refused map[uint64]refusal
	any     atomic.Int64 // how many those are: for a look without the lock
}

type refusal struct {
	generation uint64
	at         time.Time
}

const (
	// refusedMax bounds what one connection makes a node remember; a connection beyond it is closed, and its calls are sent again.
	refusedMax = 1 << 16
	// refusedTime: within a process a generation's calls are delivered in one go, so nothing of it can come so long after its refusal.
	refusedTime = time.Minute
)

func newInbox(n *Node, full func()) *inbox {
	return &inbox{n: n, full: full, refused: make(map[uint64]refusal)}
}

// remember notes that a call of a generation did not run.
func (b *inbox) remember(d *delivery) {
	b.mu.Lock()
	b.refused[d.stream] = refusal{max(b.refused[d.stream].generation, d.gen), time.Now()}
	full := len(b.refused) > refusedMax
	if full && b.full == nil {
		for stream, r := range b.refused {
			if time.Since(r.at) > refusedTime {
				delete(b.refused, stream)
			}
		}
	}
	b.any.Store(int64(len(b.refused)))
	b.mu.Unlock()
	if full && b.full != nil {
		b.full()
	}
}

// delivery is one call on its way through the node.
type delivery struct {
	inbox  *inbox
	from   *session              // whose frame id was; else
	id     uint64                //
	done   func(transport.Reply) // takes the answer of a call within the node
	stream uint64
	gen    uint64 // the stream's generation
	event  host.Call
	shard  ring.ShardID
	until  time.Time // while parked: when it is refused
}

// call delivers one call to its object, or refuses it. It does not block, but may run the object's code if it is delivered on a lane; the answer is
// given once, from any goroutine, also before it returns.
func (b *inbox) call(c *transport.Call, d *delivery, lane *host.Lane) {
	object := actor.ID{Class: c.Class, Key: c.Key}
	d.inbox, d.stream, d.gen = b, c.Stream, c.Generation
	d.event = host.Call{Object: object, Method: c.Method, Encoding: uint8(c.Encoding), Arg: c.Arg, Chain: c.Chain, Idempotent: c.Idempotent}
	if err := object.Validate(); err != nil {
		d.fail(&actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Message: err.Error()}, 0)
		return
	}
	if b.isRefused(d) {
		d.fail(notOwner(object, "an earlier call of the same reference did not run"), 0)
		return
	}
	r := b.n.ring.Load()
	if r == nil {
		d.fail(notOwner(object, "the cluster is forming"), 0)
		return
	}
	d.shard = r.ShardOf(c.Class, c.Key)
	if c.TimeoutMillis > 0 {
		d.event.Deadline = time.Now().Add(time.Duration(min(c.TimeoutMillis, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond)
	}
	d.event.Respond = d.respond
	b.n.parking.deliver(d, lane)
}

// respond takes the host's answer.
func (d *delivery) respond(res *host.Result) {
	if res.Err != nil {
		d.failAt(res.Err)
		return
	}
	d.answer(&transport.Reply{Outcome: uint8(actor.Ran), Encoding: transport.Encoding(res.Encoding), Result: res.Value,
		Epoch: ring.Epoch(res.Epoch), Token: res.Token})
}

func (d *delivery) answer(p *transport.Reply) {
	if d.from != nil {
		d.from.reply(d.id, p)
		return
	}
	d.done(*p)
}

func notOwner(o actor.ID, why string) *actor.Error {
	return &actor.Error{Code: actor.CodeNotOwner, Outcome: actor.DidNotRun, Retryable: true, Object: o, Message: why}
}

// isRefused reports whether an earlier call of this call's generation did not run. A higher generation clears that.
func (b *inbox) isRefused(d *delivery) bool {
	if d.stream == 0 || b.any.Load() == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.refused[d.stream]
	if ok && d.gen > r.generation {
		delete(b.refused, d.stream)
		b.any.Store(int64(len(b.refused)))
		ok = false
	}
	return ok
}

// failAt answers with an error, and if the call did not run with the best that is known about who owns its shard.
func (d *delivery) failAt(err *actor.Error) {
	n := d.inbox.n
	var hint ring.NodeID
	if err.Outcome == actor.DidNotRun {
		node, token, epoch := n.whose(d.shard)
		if to := n.mover.target(d.shard); to != 0 && node == n.id {
			// The next owner's token will be higher than this by more than one: the release lies between. So this is news to who
			// knows of the present owner, and that one's own words are news to who has read this.
			node, err.Token, err.Epoch = to, token+1, uint64(epoch)
		}
		if node != n.id {
			hint = node
			if err.Token == 0 {
				err.Token, err.Epoch = token, uint64(epoch)
			}
		}
	}
	d.fail(err, hint)
}

// fail answers with an error. That a call did not run is noted before anything else of its stream can be looked at. So is that one which
// will be sent again may not have run.
func (d *delivery) fail(err *actor.Error, hint ring.NodeID) {
	again := d.event.Idempotent != "" && err.Code != actor.CodeApp
	if (err.Outcome == actor.DidNotRun || again) && d.stream != 0 {
		d.inbox.remember(d)
	}
	p := transport.Reply{Code: uint16(err.Code), Outcome: uint8(err.Outcome), App: transport.Clip(err.App), Message: transport.Clip(err.Message),
		Epoch: ring.Epoch(err.Epoch), Token: err.Token, Hint: hint}
	for _, f := range [...]struct {
		flag uint8
		set  bool
	}{{transport.FlagRetryable, err.Retryable}, {transport.FlagOverloaded, err.Overloaded}, {transport.FlagRemote, err.Remote}, {transport.FlagReset, err.Reset}} {
		if f.set {
			p.Flags |= f.flag
		}
	}
	d.answer(&p)
}

// whose is the best that this node knows about a shard's owner.
func (n *Node) whose(s ring.ShardID) (node ring.NodeID, token uint64, epoch ring.Epoch) {
	d := n.driver.Load()
	if d == nil {
		return 0, 0, 0
	}
	h, ok := d.Hint(s.Group())
	if !ok {
		if r := n.ring.Load(); r != nil {
			return r.Owner(s), 0, 0
		}
	}
	return h.Node, uint64(h.Token), h.Epoch
}
