package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// fakeCluster is nodes that speak the protocol over real sockets and share one idea of who owns what. Methods of its objects:
// Echo returns its argument, Add appends it to the object's log, Later does so too and answers after a while, Park answers when released, Cut ends the connection, Flaky does so
// once for each idempotency key, Unsure says once that it may have run,
// Fail and Busy are refused for good or for load, Ghost is refused as an unknown owner without a hint.
type fakeCluster struct {
	t      testing.TB
	id     ring.ClusterID
	nodes  map[ring.NodeID]*fakeNode
	mu     sync.Mutex
	table  *ring.Ring
	owners map[ring.ShardID]ring.NodeID // absent: nobody
	tokens map[ring.ShardID]uint64
	silent bool // owners name nobody when they refuse
	logs   map[string][]int
	keys   map[string][]uint64 // by idempotency key, the generations of the calls of Flaky and Unsure
	calls  int                 // seen by any node
	asked  atomic.Int64        // for the ring
	parked chan func()
	net    *pipeNet // nil: sockets
}

type fakeNode struct {
	c    *fakeCluster
	id   ring.NodeID
	addr string
	srv  *tcp.Server
	stop context.CancelFunc
	done chan struct{}
	mu   sync.Mutex
	open map[*tcp.Conn]bool
	deaf bool          // reads and does not answer
	seen int           // calls
	gate chan struct{} // if set, nothing is read until it is closed
}

func newFakeCluster(t testing.TB, n int) *fakeCluster { return newFakeClusterOn(t, n, nil) }

func newFakeClusterOn(t testing.TB, n int, net *pipeNet) *fakeCluster {
	t.Helper()
	f := &fakeCluster{t: t, net: net, id: ring.ClusterID{1}, nodes: map[ring.NodeID]*fakeNode{}, owners: map[ring.ShardID]ring.NodeID{},
		tokens: map[ring.ShardID]uint64{}, logs: map[string][]int{}, keys: map[string][]uint64{}, parked: make(chan func(), 10_000)}
	for i := range n {
		f.start(ring.NodeID(i+1), "127.0.0.1:0")
	}
	f.remake(n)
	for s := range f.table.Shards() {
		f.move(ring.ShardID(s), f.table.Owner(ring.ShardID(s)))
	}
	return f
}

// atEpoch is the same table under another epoch below 128, which only the sequencer hands out: the epoch's byte follows format and
// cluster, a checksum ends the bytes.
func atEpoch(t testing.TB, r *ring.Ring, e byte) *ring.Ring {
	b := r.Encode()
	b[17] = e
	b = b[:len(b)-4]
	r, err := ring.Decode(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
	if err != nil || r.Epoch() != ring.Epoch(e) {
		t.Fatal(r, err)
	}
	return r
}

// withRoles is the same table with other roles for the three replicas of a shard, which only the sequencer gives. In a ring of few
// replicas each takes three bytes, the last of which is its role; the shards are at the end, before the checksum.
func withRoles(t testing.TB, r *ring.Ring, s ring.ShardID, roles ...ring.Role) *ring.Ring {
	b := r.Encode()
	b = b[:len(b)-4]
	at := len(b) - (r.Shards()-int(s))*(1+3*3)
	for i, role := range roles {
		b[at+3*(i+1)] = byte(role)
	}
	r, err := ring.Decode(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
	if err != nil {
		t.Fatal(err)
	}
	for i, role := range roles {
		if got := r.Shard(s).Replicas[i].Role; got != role {
			t.Fatalf("replica %d is a %s", i, got)
		}
	}
	return r
}

// remake makes the ring of the first n nodes, of the next epoch.
func (f *fakeCluster) remake(n int) {
	f.t.Helper()
	var ms []ring.Member
	for i := range n {
		node := f.nodes[ring.NodeID(i+1)]
		ms = append(ms, ring.Member{ID: node.id, Addr: node.addr, GossipAddr: node.addr})
	}
	r, err := ring.First(f.id, ms, 8, min(3, n))
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.table != nil {
		r = atEpoch(f.t, r, byte(f.table.Epoch()+1))
	}
	f.table = r
}

func (f *fakeCluster) start(id ring.NodeID, addr string) *fakeNode {
	f.t.Helper()
	var ln net.Listener
	var err error
	if f.net != nil {
		ln, err = f.net.listen(addr)
	} else {
		ln, err = net.Listen("tcp", addr)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	n := &fakeNode{c: f, id: id, addr: ln.Addr().String(), open: map[*tcp.Conn]bool{}, done: make(chan struct{})}
	n.srv = tcp.NewServer(tcp.ServerConfig{Logger: discard, Epoch: func() ring.Epoch { return f.ring().Epoch() },
		Handshake: func(h transport.Hello) transport.HelloReply {
			r := transport.HelloReply{Cluster: f.id, Node: id, Boot: 1}
			switch {
			case !h.Cluster.IsZero() && h.Cluster != f.id:
				r.Error = fmt.Sprintf("this is cluster %s: check the seeds", f.id)
			case h.WantNode != 0 && h.WantNode != id:
				r.Error = fmt.Sprintf("this is node %s", id)
			}
			return r
		},
		Handler: func(c *tcp.Conn) tcp.Handler {
			n.mu.Lock()
			n.open[c] = true
			n.mu.Unlock()
			return &fakeSession{node: n, refused: map[uint64]uint64{}}
		}})
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = func() { cancel(); <-n.done }
	go func() { defer close(n.done); _ = n.srv.Serve(ctx, ln) }()
	f.t.Cleanup(n.stop)
	f.nodes[id] = n
	return n
}

// cut ends every connection of the node, which goes on listening.
func (n *fakeNode) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.open {
		c.Close()
	}
	clear(n.open)
}

func (n *fakeNode) setDeaf(deaf bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = deaf
}

func (f *fakeCluster) ring() *ring.Ring {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table
}

func (f *fakeCluster) addrs() (list []string) {
	for i := range len(f.nodes) {
		list = append(list, f.nodes[ring.NodeID(i+1)].addr)
	}
	return list
}

// depart stops a node as the real one does: what it owned goes to the other nodes, then its callers are told and waited for.
func (n *fakeNode) depart(ctx context.Context) error {
	n.c.t.Helper()
	for s := range n.c.ring().Shards() {
		n.c.mu.Lock()
		mine := n.c.owners[ring.ShardID(s)] == n.id
		n.c.mu.Unlock()
		if mine && len(n.c.nodes) > 1 {
			n.c.move(ring.ShardID(s), n.id%ring.NodeID(len(n.c.nodes))+1)
		}
	}
	return n.srv.Quiesce(ctx)
}

// block keeps the node from reading until open is called.
func (n *fakeNode) block() (open func()) {
	gate := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = gate
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gate = nil
		close(gate)
	}
}

// busiest is the node that the ring prefers for the most shards, and a key for each of these.
func (f *fakeCluster) busiest() (n *fakeNode, keys []string) {
	keyOf := map[ring.NodeID]map[ring.ShardID]string{}
	for i := range 1000 {
		key := fmt.Sprint("key", i)
		s := f.shard("T", key)
		owner := f.ring().Owner(s)
		if keyOf[owner] == nil {
			keyOf[owner] = map[ring.ShardID]string{}
		}
		keyOf[owner][s] = key
	}
	for id, m := range keyOf {
		if len(m) > len(keys) {
			n, keys = f.nodes[id], slices.Sorted(maps.Values(m))
		}
	}
	if len(keys) < 3 {
		f.t.Fatalf("no node is preferred for three shards: %v", keyOf)
	}
	return n, keys
}

// served is how many calls have come to the node.
func (n *fakeNode) served() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// count is how many calls have come to any node.
func (f *fakeCluster) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *fakeCluster) setSilent(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
}

// move gives a shard to another owner under a new token; 0 is nobody.
func (f *fakeCluster) move(s ring.ShardID, to ring.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owners[s] = to
	f.tokens[s]++
}

func (f *fakeCluster) shard(class, key string) ring.ShardID { return f.ring().ShardOf(class, key) }

func (f *fakeCluster) log(key string) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.logs[key]...)
}

type fakeSession struct {
	node    *fakeNode
	mu      sync.Mutex
	refused map[uint64]uint64
}

func (s *fakeSession) Closed(*tcp.Conn, error) {}

func (s *fakeSession) Frame(c *tcp.Conn, h transport.Header, body []byte) {
	s.node.mu.Lock()
	deaf, gate := s.node.deaf, s.node.gate
	s.node.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if deaf {
		return
	}
	switch h.Kind {
	case transport.KindRequest:
		var q transport.Request
		if err := transport.DecodeRequest(body, &q); err != nil {
			c.Refuse(h.ID, err.Error())
		} else if q.Name == "ring" {
			s.node.c.asked.Add(1)
			c.Respond(h.ID, transport.Response{Body: s.node.c.ring().Encode()})
		} else {
			c.Respond(h.ID, transport.Response{Body: append([]byte(q.Name+" of "+s.node.id.String()+" "), q.Body...)})
		}
	case transport.KindCall:
		var call transport.Call
		if err := transport.DecodeCall(body, &call); err != nil {
			c.Refuse(h.ID, err.Error())
			return
		}
		if call.Method == "Riddle" {
			c.Refuse(h.ID, "what is this")
			return
		}
		s.call(c, h.ID, &call)
	}
}

func (s *fakeSession) call(c *tcp.Conn, id uint64, call *transport.Call) {
	f := s.node.c
	s.node.mu.Lock()
	s.node.seen++
	s.node.mu.Unlock()
	f.mu.Lock()
	f.calls++
	shard := f.table.ShardOf(call.Class, call.Key)
	owner, token, silent := f.owners[shard], f.tokens[shard], f.silent
	f.mu.Unlock()
	r := &transport.Reply{Outcome: uint8(actor.Ran), Token: token, Epoch: 1}
	refuse := func(code actor.Code, flags uint8, text string) {
		s.refused[call.Stream] = max(s.refused[call.Stream], call.Generation)
		*r = transport.Reply{Code: uint16(code), Outcome: uint8(actor.DidNotRun), Flags: flags, Message: text}
	}
	s.mu.Lock()
	gen, poisoned := s.refused[call.Stream]
	switch {
	case poisoned && call.Generation <= gen:
		refuse(actor.CodeNotOwner, transport.FlagRetryable, "an earlier call of the same Ref did not run")
	case owner != s.node.id || call.Method == "Ghost":
		refuse(actor.CodeNotOwner, transport.FlagRetryable, "not the owner")
		if !silent && call.Method != "Ghost" {
			r.Hint, r.Token, r.Epoch = owner, token, 1
		}
	case call.Method == "Busy":
		refuse(actor.CodeOverloaded, transport.FlagRetryable|transport.FlagOverloaded, "mailbox full")
	case call.Method == "Fail":
		refuse(actor.CodeUnknownMethod, 0, "no such method")
	}
	s.mu.Unlock()
	if r.Code == 0 {
		switch call.Method {
		case "Cut":
			c.Close()
			return
		case "Flaky", "Unsure": // runs, and the first time nobody hears of it
			f.mu.Lock()
			n := len(f.keys[call.Idempotent])
			f.keys[call.Idempotent] = append(f.keys[call.Idempotent], call.Generation)
			f.mu.Unlock()
			switch {
			case n == 0 && call.Method == "Flaky":
				c.Close()
				return
			case n == 0:
				*r = transport.Reply{Code: uint16(actor.CodeMoved), Outcome: uint8(actor.MayHaveRun), Flags: transport.FlagRetryable, Token: token, Epoch: 1}
			}
		case "Park":
			f.parked <- func() { sendReply(c, id, r) }
			return
		}
		s.run(call, r)
	}
	if call.Method == "Later" { // runs now, and is answered after a while
		time.AfterFunc(2*time.Millisecond, func() { sendReply(c, id, r) })
		return
	}
	sendReply(c, id, r)
}

// run executes what answers at once.
func (s *fakeSession) run(call *transport.Call, r *transport.Reply) {
	switch call.Method {
	case "Add", "Later":
		var n int
		if call.Encoding == transport.EncodingJSON {
			_ = json.Unmarshal(call.Arg, &n)
		} else {
			_ = msgpack.Unmarshal(call.Arg, &n)
		}
		s.node.c.mu.Lock()
		s.node.c.logs[call.Key] = append(s.node.c.logs[call.Key], n)
		s.node.c.mu.Unlock()
	case "Size":
		return
	case "Boom":
		*r = transport.Reply{Code: uint16(actor.CodeApp), Outcome: uint8(actor.Ran), Flags: transport.FlagRemote, App: "sold-out", Message: "none left",
			Epoch: 1, Token: r.Token}
		return
	case "Bomb": // a map of 2^31 entries in five bytes
		r.Encoding, r.Result = transport.EncodingMsgpack, []byte{0xdf, 0x7f, 0xff, 0xff, 0xff}
		return
	case "Shape":
		r.Encoding = transport.EncodingMsgpack
		r.Result, _ = msgpack.Marshal(fmt.Sprintf("%s/%s %d %v", call.Class, call.Key, call.TimeoutMillis, call.Chain))
		return
	}
	r.Encoding, r.Result = call.Encoding, call.Arg
}

func sendReply(c *tcp.Conn, id uint64, r *transport.Reply) {
	c.TrySend(transport.Header{Kind: transport.KindReply, ID: id}, func(b []byte) []byte { return transport.AppendReply(b, r) })
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
