package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
)

// answer answers a named question of another process.
func (n *Node) answer(ctx context.Context, q transport.Request) ([]byte, error) {
	switch q.Name {
	case "ring":
		r := n.ring.Load()
		if r == nil {
			return nil, errForming
		}
		return r.Encode(), nil
	case "status":
		return n.answerStatus(ctx)
	case "self":
		return msgpack.Marshal(n.self())
	case "where":
		return n.answerWhere(ctx, q.Body)
	case "owner":
		return n.answerOwner(q.Body)
	case requestHistory:
		return n.answerHistory(ctx, q.Body)
	case requestRings:
		return n.answerRings()
	case requestAdmit, requestReport, requestLeave, requestRemove:
		if n.driver.Load() == nil {
			return nil, errForming
		}
		return n.atSequencer(ctx, q.Name, q.Body)
	case passed + requestAdmit, passed + requestReport, passed + requestLeave, passed + requestRemove:
		if n.driver.Load() == nil {
			return nil, errForming
		}
		return n.sequence(ctx, strings.TrimPrefix(q.Name, passed), q.Body)
	case requestPromise, requestAbort, requestOutcome:
		return n.forms.answer(q.Name, q.Body)
	}
	return nil, fmt.Errorf("the question %q is not known here: this node runs version %s", q.Name, Version)
}

var errForming = errors.New("the cluster is forming: this node has no ring yet")

// self is what a node says of itself for another's status.
func (n *Node) self() NodeStatus {
	s := NodeStatus{ID: n.id.String(), Addr: n.addr, State: "up", Version: Version}
	r := n.ring.Load()
	if r == nil || n.driver.Load() == nil {
		s.State = "joining"
		return s
	}
	if m, ok := r.Member(n.id); ok && m.State != ring.Lost {
		s.State = m.State.String()
	}
	s.Owned = len(n.Owned())
	return s
}

// Owned are the shards that this node serves now, ascending.
func (n *Node) Owned() (out []ring.ShardID) {
	r, d := n.ring.Load(), n.driver.Load()
	if r == nil || d == nil {
		return nil
	}
	for i := range r.Shards() {
		s := ring.ShardID(i)
		if h, ok := d.Hint(s.Group()); ok && h.Self && h.Open {
			out = append(out, s)
		}
	}
	return out
}

// answerStatus asks every member for itself, all at once.
func (n *Node) answerStatus(ctx context.Context) ([]byte, error) {
	r := n.ring.Load()
	if r == nil {
		return nil, errForming
	}
	members := r.Members()
	out := Status{Cluster: r.Cluster().String(), Epoch: uint64(r.Epoch()), Shards: r.Shards(), Replicas: r.Replicas(),
		Nodes: make([]NodeStatus, len(members))}
	inView := make(map[ring.NodeID]bool)
	for _, m := range n.gossip.View().Members {
		inView[m.ID] = true
	}
	out.Moves = movesOf(r)
	var wg sync.WaitGroup
	for i, m := range members {
		if m.ID == n.id {
			out.Nodes[i] = n.self()
			continue
		}
		wg.Go(func() { out.Nodes[i] = n.askSelf(ctx, m, inView[m.ID]) })
	}
	wg.Wait()
	out.Unowned = out.Shards
	for _, s := range out.Nodes {
		out.Unowned -= s.Owned
	}
	out.Unowned = max(out.Unowned, 0)
	gone := make(map[ring.NodeID]bool)
	for i, s := range out.Nodes {
		gone[members[i].ID] = s.State == "dead" || s.State == "suspect"
	}
	out.Tolerates = tolerates(r, gone)
	return msgpack.Marshal(&out)
}

// movesOf lists the replicas that a ring brings in or takes out.
func movesOf(r *ring.Ring) []Move {
	out := []Move{}
	for g := range ring.GroupID(r.Shards() + 1) {
		a, _ := r.Group(g)
		for _, rep := range a.Replicas {
			step := map[ring.Role]string{ring.Learner: "filling", ring.Outgoing: "leaving"}[rep.Role]
			if step != "" {
				out = append(out, Move{Group: g.String(), Step: step, Node: rep.Node.String()})
			}
		}
	}
	return out
}

// askSelf asks a member for itself. One that does not answer is suspect while gossip still shows it, dead after that.
func (n *Node) askSelf(ctx context.Context, m ring.Member, inView bool) NodeStatus {
	s := NodeStatus{ID: m.ID.String(), Addr: n.address(m.ID), State: "dead"}
	if inView {
		s.State = "suspect"
	}
	b, err := n.askMember(ctx, m.ID, "self", nil)
	if err == nil {
		err = decode(b, &s)
	}
	if err != nil {
		n.log.Debug("a member does not answer", "node", m.ID.String(), "cause", err)
	}
	return s
}

// tolerates is how many more nodes may fail, whichever they are, with every group keeping a majority.
func tolerates(r *ring.Ring, gone map[ring.NodeID]bool) int {
	spare := func(a ring.Assignment) int {
		here, voters := 0, a.Voters()
		for _, rep := range voters {
			if !gone[rep.Node] {
				here++
			}
		}
		return here - (len(voters)/2 + 1)
	}
	system, _ := r.Group(ring.SystemGroup)
	least := spare(system)
	for i := range r.Shards() {
		least = min(least, spare(r.Shard(ring.ShardID(i))))
	}
	return max(least, 0)
}

// decodeBase is what a body of the nodes' own may take beside some multiple of its bytes.
const decodeBase = 256 << 10

func decode(b []byte, into any) error {
	if err := transport.SkimWithin(reflect.TypeOf(into).Elem(), b, decodeBase); err != nil {
		return err
	}
	return msgpack.Unmarshal(b, into)
}

// ownerAnswer is what a node knows about a shard's owner.
type ownerAnswer struct {
	Node  uint64 `msgpack:"node"`
	Token uint64 `msgpack:"token"`
	Epoch uint64 `msgpack:"epoch"`
}

func (n *Node) answerOwner(body []byte) ([]byte, error) {
	var shard uint32
	if err := decode(body, &shard); err != nil {
		return nil, err
	}
	if r := n.ring.Load(); r == nil || int(shard) >= r.Shards() {
		return nil, fmt.Errorf("there is no shard %d here", shard)
	}
	node, token, epoch := n.whose(ring.ShardID(shard))
	return msgpack.Marshal(ownerAnswer{uint64(node), token, uint64(epoch)})
}

// answerWhere says where an object is: its shard, the shard's replicas and, from the replica that knows the newest token, its owner.
func (n *Node) answerWhere(ctx context.Context, body []byte) ([]byte, error) {
	var q WhereRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	object := actor.ID{Class: q.Class, Key: q.Key}
	if err := object.Validate(); err != nil {
		return nil, err
	}
	r := n.ring.Load()
	if r == nil {
		return nil, errForming
	}
	s := r.ShardOf(q.Class, q.Key)
	w := Where{Object: object.String(), Shard: uint32(s), Epoch: uint64(r.Epoch())}
	var best ownerAnswer
	for _, rep := range r.Shard(s).Replicas {
		w.Replicas = append(w.Replicas, n.info(rep.Node))
		if a, err := n.ownerFrom(ctx, rep.Node, s); err == nil && a.Node != 0 && a.Token >= best.Token {
			best = a
		}
	}
	if best.Node != 0 {
		w.Owner, w.Token = n.info(ring.NodeID(best.Node)), best.Token
	}
	return msgpack.Marshal(&w)
}

func (n *Node) info(id ring.NodeID) NodeInfo { return NodeInfo{ID: id.String(), Addr: n.address(id)} }

func (n *Node) ownerFrom(ctx context.Context, id ring.NodeID, s ring.ShardID) (a ownerAnswer, err error) {
	if id == n.id {
		node, token, epoch := n.whose(s)
		return ownerAnswer{uint64(node), token, uint64(epoch)}, nil
	}
	body, err := msgpack.Marshal(uint32(s))
	if err != nil {
		return a, err
	}
	b, err := n.askMember(ctx, id, "owner", body)
	if err != nil {
		return a, err
	}
	err = decode(b, &a)
	return a, err
}
