package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
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
	s := &session{n: n, c: c}
	switch c.Purpose() {
	case transport.PurposeCalls:
		s.lane = n.host.NewLane(c.Yield)
	case transport.PurposeRaft:
		n.peers.kick(c.Peer().Node) // it is there again
	}
	s.inbox = newInbox(n, func() {
		n.log.Warn("a connection has too many streams with refused calls; it is closed", "from", c.RemoteAddr().String())
		c.Close()
	})
	return s
}

// session is one accepted connection.
type session struct {
	n     *Node
	c     *tcp.Conn
	inbox *inbox
	lane  *host.Lane // of a connection for calls
}

// Closed implements tcp.Handler.
func (s *session) Closed(*tcp.Conn, error) {
	if s.lane != nil {
		s.lane.End()
	}
}

// Frame implements tcp.Handler. It runs on the connection's reading goroutine and does not block, or lets another go on reading (host.Lane).
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

// call takes one call.
func (s *session) call(id uint64, body []byte) {
	var c transport.Call
	if err := transport.DecodeCall(body, &c); err != nil {
		s.reply(id, &transport.Reply{Code: uint16(actor.CodeBadArgument), Outcome: uint8(actor.DidNotRun), Message: err.Error()})
		return
	}
	s.inbox.call(&c, &delivery{from: s, id: id}, s.lane)
}

// reply sends an answer without blocking. A client that does not read its answers loses its connection.
func (s *session) reply(id uint64, p *transport.Reply) {
	ok := s.c.TrySend(transport.Header{Kind: transport.KindReply, ID: id}, func(b []byte) []byte { return transport.AppendReply(b, p) })
	if !ok && s.c.Err() == nil {
		s.n.log.Warn("a client does not read its answers, or an answer is too large; its connection is closed", "from", s.c.RemoteAddr().String())
		s.c.Close()
	}
}
