package node

import (
	"math"
	"sync"
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
func (b *inbox) remember(c *transport.Call) {
	b.mu.Lock()
	b.refused[c.Stream] = refusal{max(b.refused[c.Stream].generation, c.Generation), time.Now()}
	full := len(b.refused) > refusedMax
	if full && b.full == nil {
		for stream, r := range b.refused {
			if time.Since(r.at) > refusedTime {
				delete(b.refused, stream)
			}
		}
	}
	b.mu.Unlock()
	if full && b.full != nil {
		b.full()
	}
}

// call delivers one call to its object, or refuses it. It does not block; reply is called once, from any goroutine, also before it returns.
func (b *inbox) call(c *transport.Call, reply func(*transport.Reply)) {
	object := actor.ID{Class: c.Class, Key: c.Key}
	if err := object.Validate(); err != nil {
		b.fail(c, reply, &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Message: err.Error()})
		return
	}
	if b.isRefused(c) {
		b.fail(c, reply, notOwner(object, "an earlier call of the same reference did not run"))
		return
	}
	r := b.n.ring.Load()
	if r == nil {
		b.fail(c, reply, notOwner(object, "the cluster is forming"))
		return
	}
	shard := r.ShardOf(c.Class, c.Key)
	event := &host.Call{Object: object, Method: c.Method, Encoding: uint8(c.Encoding), Arg: c.Arg, Chain: c.Chain, Idempotent: c.Idempotent}
	if c.TimeoutMillis > 0 {
		event.Deadline = time.Now().Add(time.Duration(min(c.TimeoutMillis, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond)
	}
	event.Respond = func(res *host.Result) {
		if res.Err != nil {
			b.failAt(c, reply, shard, res.Err)
			return
		}
		reply(&transport.Reply{Outcome: uint8(actor.Ran), Encoding: transport.Encoding(res.Encoding), Result: res.Value,
			Epoch: ring.Epoch(res.Epoch), Token: res.Token})
	}
	b.n.parking.deliver(shard, parked{inbox: b, reply: reply, call: c, event: event})
}

func notOwner(o actor.ID, why string) *actor.Error {
	return &actor.Error{Code: actor.CodeNotOwner, Outcome: actor.DidNotRun, Retryable: true, Object: o, Message: why}
}

// isRefused reports whether an earlier call of this call's generation did not run. A higher generation clears that.
func (b *inbox) isRefused(c *transport.Call) bool {
	if c.Stream == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.refused[c.Stream]
	if ok && c.Generation > r.generation {
		delete(b.refused, c.Stream)
		ok = false
	}
	return ok
}

func (b *inbox) failAt(c *transport.Call, reply func(*transport.Reply), shard ring.ShardID, err *actor.Error) {
	var hint ring.NodeID
	if err.Outcome == actor.DidNotRun {
		node, token, epoch := b.n.whose(shard)
		if to := b.n.mover.target(shard); to != 0 && node == b.n.id {
			// The next owner's token will be higher than this by more than one: the release lies between. So this is news to who
			// knows of the present owner, and that one's own words are news to who has read this.
			node, err.Token, err.Epoch = to, token+1, uint64(epoch)
		}
		if node != b.n.id {
			hint = node
			if err.Token == 0 {
				err.Token, err.Epoch = token, uint64(epoch)
			}
		}
	}
	b.failWith(c, reply, err, hint)
}

func (b *inbox) fail(c *transport.Call, reply func(*transport.Reply), err *actor.Error) {
	b.failWith(c, reply, err, 0)
}

// failWith answers with an error. That a call did not run is noted before anything else of its stream can be looked at. So is that one which
// will be sent again may not have run.
func (b *inbox) failWith(c *transport.Call, reply func(*transport.Reply), err *actor.Error, hint ring.NodeID) {
	again := c.Idempotent != "" && err.Code != actor.CodeApp
	if (err.Outcome == actor.DidNotRun || again) && c.Stream != 0 {
		b.remember(c)
	}
	p := transport.Reply{Code: uint16(err.Code), Outcome: uint8(err.Outcome), App: transport.Clip(err.App), Message: transport.Clip(err.Message),
		Epoch: ring.Epoch(err.Epoch), Token: err.Token, Hint: hint}
	for flag, set := range map[uint8]bool{transport.FlagRetryable: err.Retryable, transport.FlagOverloaded: err.Overloaded,
		transport.FlagRemote: err.Remote, transport.FlagReset: err.Reset} {
		if set {
			p.Flags |= flag
		}
	}
	reply(&p)
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
