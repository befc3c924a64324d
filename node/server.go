package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// alreadyRuns is how a node recognizes that another process has its identity.
const alreadyRuns = "is already running here"

// handshake decides who may connect. Who does not belong to this cluster is refused by name.
func (n *Node) handshake(h transport.Hello) transport.HelloReply {
	mine := n.cluster()
	r := transport.HelloReply{Cluster: mine, Node: n.id, Boot: n.boot}
	switch {
	case !h.Cluster.IsZero() && h.Cluster != mine && !mine.IsZero():
		r.Error = fmt.Sprintf("node %s at %s belongs to cluster %s, not to %s: check the addresses in --join, --server or the client's seeds", n.id, n.addr, mine, h.Cluster)
	case h.WantNode != 0 && h.WantNode != n.id:
		r.Error = fmt.Sprintf("node %s listens at %s, not node %s: the address has changed hands", n.id, n.addr, h.WantNode)
	case h.Purpose != transport.PurposeCalls && (h.Node == 0 || mine.IsZero() || h.Cluster != mine):
		r.Error = fmt.Sprintf("only members of cluster %s connect for that purpose", mine)
	case h.Node == n.id && h.Boot != n.boot && h.Node != 0:
		r.Error = fmt.Sprintf("node %s %s: is a copy of its data directory in use?", n.id, alreadyRuns)
	}
	return r
}

func (n *Node) handler(c *tcp.Conn) tcp.Handler {
	return &session{n: n, c: c, refused: make(map[uint64]uint64)}
}

// session is one accepted connection.
type session struct {
	n *Node
	c *tcp.Conn

	mu sync.Mutex
	// refused holds, per stream, the generation of which a call did not run: the later ones of that generation must not run either, or
	// a Ref's calls would overtake one another. The client goes on with a higher generation once it has heard all answers.
	refused map[uint64]uint64
}

// refusedMax bounds what one connection makes a node remember; a connection beyond it is closed, and its calls are sent again.
const refusedMax = 1 << 16

func (s *session) Closed(*tcp.Conn, error) {}

// Frame runs on the connection's reading goroutine and does not block.
func (s *session) Frame(c *tcp.Conn, h transport.Header, body []byte) {
	s.n.heard(h.Epoch)
	switch h.Kind {
	case transport.KindCall:
		s.call(h.ID, body)
	case transport.KindRaft:
		if d := s.n.driver.Load(); d != nil {
			if err := d.Receive(c.Peer().Node, body); err != nil {
				s.n.log.Warn("a Raft frame cannot be read; its connection is closed", "from", c.Peer().Node.String(), "cause", err)
				c.Close()
			}
		}
	case transport.KindChunk:
		s.respond(h.ID, nil, s.chunk(body))
	case transport.KindRequest:
		s.request(h.ID, body)
	case transport.KindGoAway, transport.KindError:
	default:
		c.Refuse(h.ID, fmt.Sprintf("frames of kind %d are not known here: this node runs version %s", h.Kind, Version))
	}
}

func (s *session) chunk(body []byte) error {
	d := s.n.driver.Load()
	if d == nil {
		return errors.New("the node is starting")
	}
	return d.ReceiveChunk(s.c.Peer().Node, body)
}

func (s *session) respond(id uint64, body []byte, err error) {
	resp := transport.Response{Body: body}
	if err != nil {
		resp = transport.Response{Error: err.Error()}
	}
	s.c.Respond(id, resp)
}

// request answers a question. Some ask other nodes, so each has a goroutine of its own, a bounded number of them.
func (s *session) request(id uint64, body []byte) {
	var q transport.Request
	if err := transport.DecodeRequest(body, &q); err != nil {
		s.c.Refuse(id, err.Error())
		return
	}
	q.Body = append([]byte(nil), q.Body...)
	select {
	case s.n.asking <- struct{}{}:
	default:
		s.respond(id, nil, errors.New("this node is answering too many questions; ask again"))
		return
	}
	go func() {
		defer func() { <-s.n.asking }()
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		b, err := s.n.answer(ctx, q)
		s.respond(id, b, err)
	}()
}

// call delivers one call to its object, or refuses it.
func (s *session) call(id uint64, body []byte) {
	var c transport.Call
	if err := transport.DecodeCall(body, &c); err != nil {
		s.reply(id, &transport.Reply{Code: uint16(actor.CodeBadArgument), Outcome: uint8(actor.DidNotRun), Message: err.Error()})
		return
	}
	object := actor.ID{Class: c.Class, Key: c.Key}
	if err := object.Validate(); err != nil {
		s.fail(id, &c, &actor.Error{Code: actor.CodeBadArgument, Outcome: actor.DidNotRun, Message: err.Error()})
		return
	}
	if s.isRefused(&c) {
		s.fail(id, &c, notOwner(object, "an earlier call of the same reference did not run"))
		return
	}
	r := s.n.ring.Load()
	if r == nil {
		s.fail(id, &c, notOwner(object, "the cluster is forming"))
		return
	}
	shard := r.ShardOf(c.Class, c.Key)
	event := &host.Call{Object: object, Method: c.Method, Encoding: uint8(c.Encoding), Arg: c.Arg, Chain: c.Chain}
	if c.TimeoutMillis > 0 {
		event.Deadline = time.Now().Add(time.Duration(min(c.TimeoutMillis, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond)
	}
	event.Respond = func(res *host.Result) {
		if res.Err != nil {
			s.failAt(id, &c, shard, res.Err)
			return
		}
		s.reply(id, &transport.Reply{Outcome: uint8(actor.Ran), Encoding: transport.Encoding(res.Encoding), Result: res.Value,
			Epoch: ring.Epoch(res.Epoch), Token: res.Token})
	}
	s.n.parking.deliver(shard, parked{s: s, id: id, call: c, event: event})
}

func notOwner(o actor.ID, why string) *actor.Error {
	return &actor.Error{Code: actor.CodeNotOwner, Outcome: actor.DidNotRun, Retryable: true, Object: o, Message: why}
}

// isRefused reports whether an earlier call of this call's generation did not run. A higher generation clears that.
func (s *session) isRefused(c *transport.Call) bool {
	if c.Stream == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	gen, ok := s.refused[c.Stream]
	if ok && c.Generation > gen {
		delete(s.refused, c.Stream)
		ok = false
	}
	return ok
}

func (s *session) failAt(id uint64, c *transport.Call, shard ring.ShardID, err *actor.Error) {
	var hint ring.NodeID
	if err.Outcome == actor.DidNotRun {
		node, token, epoch := s.n.whose(shard)
		if to := s.n.mover.target(shard); to != 0 && node == s.n.id {
			// The next owner's token will be higher than this by more than one: the release lies between. So this is news to who
			// knows of the present owner, and that one's own words are news to who has read this.
			node, err.Token, err.Epoch = to, token+1, uint64(epoch)
		}
		if node != s.n.id {
			hint = node
			if err.Token == 0 {
				err.Token, err.Epoch = token, uint64(epoch)
			}
		}
	}
	s.failWith(id, c, err, hint)
}

func (s *session) fail(id uint64, c *transport.Call, err *actor.Error) { s.failWith(id, c, err, 0) }

// failWith answers with an error. That a call did not run is noted before anything else of its stream can be looked at.
func (s *session) failWith(id uint64, c *transport.Call, err *actor.Error, hint ring.NodeID) {
	if err.Outcome == actor.DidNotRun && c.Stream != 0 {
		s.mu.Lock()
		s.refused[c.Stream] = max(s.refused[c.Stream], c.Generation)
		full := len(s.refused) > refusedMax
		s.mu.Unlock()
		if full {
			s.n.log.Warn("a connection has too many streams with refused calls; it is closed", "from", s.c.RemoteAddr().String())
			s.c.Close()
		}
	}
	p := transport.Reply{Code: uint16(err.Code), Outcome: uint8(err.Outcome), App: transport.Clip(err.App), Message: transport.Clip(err.Message),
		Epoch: ring.Epoch(err.Epoch), Token: err.Token, Hint: hint}
	for flag, set := range map[uint8]bool{transport.FlagRetryable: err.Retryable, transport.FlagOverloaded: err.Overloaded,
		transport.FlagRemote: err.Remote, transport.FlagReset: err.Reset} {
		if set {
			p.Flags |= flag
		}
	}
	s.reply(id, &p)
}

// reply sends an answer without blocking. A client that does not read its answers loses its connection.
func (s *session) reply(id uint64, p *transport.Reply) {
	ok := s.c.TrySend(transport.Header{Kind: transport.KindReply, ID: id}, func(b []byte) []byte { return transport.AppendReply(b, p) })
	if !ok && s.c.Err() == nil {
		s.n.log.Warn("a client does not read its answers, or an answer is too large; its connection is closed", "from", s.c.RemoteAddr().String())
		s.c.Close()
	}
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
