package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

type linkState uint8

const (
	linkDialing linkState = iota
	linkOpen
	linkDead
)

var (
	errSilent = errors.New("the node sent no sign of life")
	errClosed = errors.New("the client was closed")
	errGoAway = errors.New("the node is stopping")
	errSlow   = errors.New("still connecting")
	errLeft   = errors.New("the node has left the cluster")
	errMoved  = errors.New("the node has another address now")
)

// redialPause is the least time between two dials of a node, however many streams want it: many do when it is the only one to ask.
const redialPause = 20 * time.Millisecond

// link is one connection to a node, from before it is dialed until it ended; then another takes its place.
type link struct {
	client *Client
	node   ring.NodeID
	addr   string

	mu      sync.Mutex
	state   linkState
	leaving error     // why nothing new is sent here; nil if it is
	slow    bool      // while dialing: it takes too long to wait for
	retryAt time.Time // when dead or leaving: not dialed again before
	err     error     // when dead: why
	conn    *tcp.Conn
	backlog []*call          // while dialing, or while the send buffer is full: in order
	drains  bool             // a goroutine sends the backlog as there is room
	pending map[uint64]*call // by frame ID
	asks    int              // requests that use the connection
	unheard int              // bytes of the calls in pending
	silence silence
	heard   atomic.Uint64 // bytes received

	wire   transport.Call // of the call that encode appends
	encode func([]byte) []byte
}

func newLink(c *Client, node ring.NodeID, addr string) *link {
	l := &link{client: c, node: node, addr: addr, slow: c.rests.hung(node), pending: make(map[uint64]*call)}
	l.encode = func(b []byte) []byte { return transport.AppendCall(b, &l.wire) }
	return l
}

// dial connects; the calls that gathered meanwhile leave in order, or are answered as unsent.
func (l *link) dial(ctx context.Context) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.client.opts.DialTimeout)
	defer cancel()
	hang := time.AfterFunc(hangTime, l.hangs)
	opts := l.client.dialOptions(l)
	opts.Net = l.client.counted(&l.heard)
	conn, err := tcp.Dial(ctx, l.addr, l.client.hello(l.node), opts)
	hang.Stop()
	if err != nil {
		l.unreachable(err, start)
		return
	}
	l.mu.Lock()
	if l.state == linkDead || l.leaving != nil { // ended meanwhile
		why := l.leaving
		l.mu.Unlock()
		conn.Close()
		l.end(why, time.Time{})
		return
	}
	l.conn, l.state, l.drains = conn, linkOpen, true
	l.client.rests.reached(l.node)
	l.mu.Unlock()
	l.drain(l.client.ctx)
}

func (l *link) unreachable(err error, start time.Time) {
	l.client.log.Debug("a node could not be reached", "node", l.node, "addr", l.addr, "error", err)
	now := time.Now()
	l.client.rests.failed(l.node, now)
	if refused := (*tcp.RefusedError)(nil); errors.As(err, &refused) {
		l.client.fetchRing() // another node listens there now: somebody else knows where ours is
	}
	// A node whose address swallows everything costs each try a long time: leave it alone for as long.
	l.end(err, now.Add(max(redialPause, min(now.Sub(start), time.Second))))
}

// hangs: the dial takes too long to wait for. It goes on, and what waits for it asks another node, if there is one.
func (l *link) hangs() {
	l.mu.Lock()
	if l.state != linkDialing {
		l.mu.Unlock()
		return
	}
	l.slow = true
	l.client.rests.hangs(l.node, time.Now(), l.client.opts.DialTimeout)
	backlog := l.backlog
	l.backlog = nil
	l.mu.Unlock()
	giveBack(backlog, errSlow)
}

// giveBack answers calls that have not left.
func giveBack(calls []*call, why error) {
	for _, c := range calls {
		c.ref.answered(c, answer{kind: answerUnsent, text: why.Error()})
	}
}

// drain sends the backlog, waiting for room in the send buffer.
func (l *link) drain(ctx context.Context) {
	for {
		l.mu.Lock()
		if l.state == linkDead || len(l.backlog) == 0 {
			l.drains = false
			l.mu.Unlock()
			return
		}
		c := l.backlog[0]
		l.backlog = slices.Delete(l.backlog, 0, 1)
		id, w := l.conn.NextID(), c.wire()
		l.expect(id, c)
		l.mu.Unlock()
		err := l.conn.Send(ctx, transport.Header{Kind: transport.KindCall, ID: id}, func(b []byte) []byte { return transport.AppendCall(b, &w) })
		if err == nil {
			continue
		}
		if c := l.take(l.conn, id); c != nil {
			c.ref.answered(c, answer{kind: answerUnsent, text: err.Error()})
		}
		l.end(err, time.Time{})
	}
}

// send implements sender.
func (l *link) send(c *call) (answer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.state == linkDead:
		return answer{kind: answerUnsent, text: l.err.Error()}, false
	case l.leaving != nil:
		return answer{kind: answerUnsent, text: l.leaving.Error()}, false
	case l.state == linkDialing && l.slow:
		return answer{kind: answerUnsent, text: errSlow.Error()}, false
	case len(l.pending)+len(l.backlog) >= l.client.opts.MaxInflight:
		return answer{kind: answerFull, text: fmt.Sprintf("%d calls wait for their answers (Options.MaxInflight)", l.client.opts.MaxInflight)}, false
	case l.state == linkDialing || l.drains:
		l.backlog = append(l.backlog, c)
		return answer{}, true
	}
	return l.put(c)
}

// put appends the call's frame to the connection's buffer. Called with the lock, on an open link without backlog.
func (l *link) put(c *call) (answer, bool) {
	id := l.conn.NextID()
	l.wire = c.wire()
	l.expect(id, c)
	h, sent := transport.Header{Kind: transport.KindCall, ID: id}, false
	if len(l.pending) == 1 { // who is alone waits for nobody else's call to go with his
		sent = l.conn.TrySendNow(h, l.encode)
	} else {
		sent = l.conn.TrySend(h, l.encode)
	}
	l.wire = transport.Call{}
	if sent {
		return answer{}, true
	}
	l.unexpect(id)
	if err := l.conn.Err(); err != nil {
		return answer{kind: answerUnsent, text: err.Error()}, false
	}
	l.backlog, l.drains = append(l.backlog, c), true
	l.client.wg.Go(func() { l.drain(l.client.ctx) })
	return answer{}, true
}

// wire is the call as it travels. Called with its ref's lock, or while it is flying.
func (c *call) wire() transport.Call {
	left := time.Until(c.deadline)
	millis := uint64(1) // 0 would mean none
	if left > time.Millisecond {
		millis = uint64((left + time.Millisecond - 1) / time.Millisecond)
	}
	return transport.Call{Class: c.ref.id.Class, Key: c.ref.id.Key, Method: c.method, Encoding: c.encoding, Arg: c.arg,
		TimeoutMillis: millis, Stream: c.ref.stream, Generation: c.gen, Chain: c.chain, Idempotent: c.idempotent}
}

// withdraw implements sender.
func (l *link) withdraw(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.backlog, c)
	if i < 0 {
		return false
	}
	l.backlog = slices.Delete(l.backlog, i, i+1)
	return true
}

// usable implements sender.
func (l *link) usable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != linkDead && l.leaving == nil
}

// replaceable: another link should be dialed for the next call.
func (l *link) replaceable(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return (l.leaving != nil || l.state == linkDead) && !now.Before(l.retryAt)
}

// Frame implements tcp.Handler.
func (l *link) Frame(conn *tcp.Conn, h transport.Header, body []byte) {
	l.client.sawEpoch(h.Epoch)
	switch h.Kind {
	case transport.KindReply:
		var r reply
		if err := transport.DecodeReply(body, &r.Reply); err != nil {
			// What else it sends cannot be trusted either. The call may have run, like all others in flight here.
			l.end(fmt.Errorf("%s answered what is no reply: %w", l.addr, err), time.Time{})
			return
		}
		if c := l.take(conn, h.ID); c != nil {
			c.rep = r // nobody looks there before the call is complete
			c.ref.answered(c, classify(&c.rep))
		}
	case transport.KindError:
		var e transport.ErrorBody
		_ = transport.DecodeError(body, &e) // an unreadable text is an empty one
		if c := l.take(conn, h.ID); c != nil {
			c.ref.answered(c, classify(notUnderstood(e.Message)))
		}
	case transport.KindGoAway:
		l.goAway()
	case transport.KindRequest:
		conn.Refuse(h.ID, "this is a client: it answers no requests")
	default: // of a later version; the connection stays
		conn.Refuse(h.ID, fmt.Sprintf("a frame of kind %d, which this client does not know", h.Kind))
	}
}

// take removes a call from the pending table; nil if there is none of that ID.
func (l *link) take(conn *tcp.Conn, id uint64) *call {
	l.mu.Lock()
	c := l.unexpect(id)
	last := l.leaving != nil && l.idle()
	l.mu.Unlock()
	if last {
		conn.Close()
	}
	return c
}

// expect and unexpect keep the table of calls that wait for an answer. Called with the lock.
func (l *link) expect(id uint64, c *call) {
	l.pending[id] = c
	l.unheard += c.size
}

func (l *link) unexpect(id uint64) *call {
	c := l.pending[id]
	if c != nil {
		delete(l.pending, id)
		l.unheard -= c.size
	}
	return c
}

// goAway: the node stops.
func (l *link) goAway() {
	now := time.Now()
	l.client.rests.left(l.node, now)
	l.mu.Lock()
	l.retryAt = now.Add(redialPause)
	l.mu.Unlock()
	l.retire(errGoAway)
}

// retire: what was sent is still answered, what was not goes elsewhere, and then the connection ends. It must not be called with a
// lock held.
func (l *link) retire(why error) {
	l.mu.Lock()
	l.leaving = why
	backlog, conn, last := l.backlog, l.conn, false
	if l.state != linkDead {
		l.backlog = nil
		last = l.idle()
	}
	l.mu.Unlock()
	giveBack(backlog, why)
	if last {
		conn.Close()
	}
}

// borrow is the connection for a request, nil if it takes nothing new; done gives it back.
func (l *link) borrow() (conn *tcp.Conn, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != linkOpen || l.leaving != nil {
		return nil, nil
	}
	l.asks++
	return l.conn, l.giveUpAsk
}

func (l *link) giveUpAsk() {
	l.mu.Lock()
	l.asks--
	conn, last := l.conn, l.leaving != nil && l.idle()
	l.mu.Unlock()
	if last {
		conn.Close()
	}
}

// Closed implements tcp.Handler.
func (l *link) Closed(_ *tcp.Conn, err error) { l.end(err, time.Time{}) }

// end: whatever waits here is answered: what did not leave may be sent elsewhere, the rest may have run.
func (l *link) end(err error, retryAt time.Time) {
	l.mu.Lock()
	if l.state == linkDead {
		l.mu.Unlock()
		return
	}
	l.state, l.err, l.retryAt = linkDead, err, later(l.retryAt, retryAt)
	backlog, pending, conn := l.backlog, l.pending, l.conn
	l.backlog, l.pending = nil, nil
	l.mu.Unlock()
	l.client.forget(l)
	if conn != nil {
		conn.Close()
	}
	ids := make([]uint64, 0, len(pending))
	for id := range pending {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		pending[id].ref.answered(pending[id], answer{kind: answerLost, text: err.Error()})
	}
	giveBack(backlog, err)
}

// look is the monitor's, every so often. A link on which calls wait and that has been silent is asked for a sign of life, and ended if it
// gives none: what has not left, and all that is new, goes to other nodes; what has left may have run, and only its caller can know whether
// it may be asked again. It reports whether the link is idle.
func (l *link) look(every time.Duration) (idle bool) {
	l.mu.Lock()
	what := l.silence.look(every, l.heard.Load(), l.state == linkOpen && len(l.pending) > 0, l.unheard)
	if what == signAsk {
		l.ping()
	}
	idle = l.idle()
	l.mu.Unlock()
	if what == signDead {
		l.client.rests.silent(l.node, time.Now())
		l.end(errSilent, time.Time{})
	}
	return idle
}

// ping asks for a sign of life, which any answer is, that the question is not known here included; nobody waits for it. If there is no
// room, there is enough that awaits an answer. Called with the lock, on an open link.
func (l *link) ping() {
	l.conn.TrySend(transport.Header{Kind: transport.KindRequest, ID: l.conn.NextID()}, func(b []byte) []byte {
		return transport.AppendRequest(b, &transport.Request{Name: "ping"})
	})
}

// idle: the connection stands and nothing waits on it. Called with the lock.
func (l *link) idle() bool { return l.state == linkOpen && len(l.pending)+len(l.backlog)+l.asks == 0 }
