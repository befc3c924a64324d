package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
)

// Names of the requests that the sequencer answers; any member passes them on to it.
const (
	requestAdmit  = "admit"
	requestReport = "report"
	requestLeave  = "leave"
	requestRemove = "remove"
)

// Admission asks to be made a member.
type admission struct {
	Member   ring.Member `msgpack:"member"`
	Shards   int         `msgpack:"shards"`   // 0: not given
	Replicas int         `msgpack:"replicas"` // 0: not given
}

// admitted answers an admission.
type admitted struct {
	Ring   []byte `msgpack:"ring"`
	Timing string `msgpack:"timing"`
}

// Times of reports.
const (
	reportLook  = 100 * time.Millisecond // how often a node looks whether there is news, while the cluster changes
	reportRest  = 500 * time.Millisecond // and when it has not for reportCalm
	reportCalm  = 5 * time.Second
	reportPause = time.Second // how often it reports without news
	passTime    = 1500 * time.Millisecond
)

// atSequencer answers a request that only the sequencer can answer: here, or by passing it on once.
func (n *Node) atSequencer(ctx context.Context, name string, body []byte) ([]byte, error) {
	b, err := n.sequence(ctx, name, body)
	if !errors.Is(err, errNotSequencer) {
		return b, err
	}
	ctx, cancel := context.WithTimeout(ctx, passTime)
	defer cancel()
	return n.passOn(ctx, name, body)
}

// passed marks a request that was passed on: who gets it answers it or refuses.
const passed = "passed."

// passOn asks the nodes that may run the sequencer, the likeliest first. Who does not answer soon is not waited for, the next is asked beside it: a
// machine that has lost its power is silent, and would use up the time, each time anew. Only one of them runs the sequencer, the others refuse.
func (n *Node) passOn(ctx context.Context, name string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ids := n.sequencers()
	type answer struct {
		from ring.NodeID
		body []byte
		err  error
	}
	got := make(chan answer, len(ids))
	next := time.NewTimer(0)
	defer next.Stop()
	err := errNotSequencer
	for asked, answered := 0, 0; answered < len(ids); {
		select {
		case <-ctx.Done():
			return nil, noSequencer(errors.Join(err, context.Cause(ctx)))
		case <-next.C:
			if asked < len(ids) {
				id := ids[asked]
				go func() {
					b, err := n.askMember(ctx, id, passed+name, body)
					got <- answer{id, b, err}
				}()
				asked++
				next.Reset(fetchPause)
			}
		case a := <-got:
			if a.err == nil {
				n.mu.Lock()
				n.sequencerAt = a.from
				n.mu.Unlock()
				return a.body, nil
			}
			if e, ok := errors.AsType[*answerError](a.err); ok && !strings.Contains(a.err.Error(), errNotSequencer.Error()) {
				return nil, e
			}
			answered, err = answered+1, a.err
			next.Reset(0)
		}
	}
	return nil, noSequencer(err)
}

func noSequencer(err error) error {
	return fmt.Errorf("the system shard has no leader that could be asked; try again: %w", err)
}

// sequencers are the other nodes that may run the sequencer, in the order in which to ask.
func (n *Node) sequencers() []ring.NodeID {
	var out []ring.NodeID
	add := func(id ring.NodeID) {
		if id != 0 && id != n.id && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	if d := n.driver.Load(); d != nil {
		if h, ok := d.Hint(ring.SystemGroup); ok {
			add(h.Node)
		}
	}
	n.mu.Lock()
	add(n.sequencerAt)
	n.mu.Unlock()
	if r := n.ring.Load(); r != nil {
		a, _ := r.Group(ring.SystemGroup)
		for _, rep := range a.Replicas {
			add(rep.Node)
		}
	}
	return out
}

// sequence answers if this node runs the sequencer.
func (n *Node) sequence(ctx context.Context, name string, body []byte) ([]byte, error) {
	q := n.sequencer
	switch name {
	case requestReport:
		var rep report
		if err := decode(body, &rep); err != nil {
			return nil, err
		}
		return nil, q.hear(rep)
	case requestAdmit:
		return n.admit(ctx, body)
	}
	var id uint64
	if err := decode(body, &id); err != nil {
		return nil, err
	}
	_, err := q.ask(ctx, func(r *ring.Ring, f *ring.Facts) (*ring.Ring, error) {
		if name == requestLeave {
			return r.Leave(ring.NodeID(id))
		}
		return r.Lose(ring.NodeID(id), f)
	})
	return nil, err
}

func (n *Node) admit(ctx context.Context, body []byte) ([]byte, error) {
	var a admission
	if err := decode(body, &a); err != nil {
		return nil, err
	}
	id := n.engine.Identity()
	r, err := n.sequencer.ask(ctx, func(r *ring.Ring, _ *ring.Facts) (*ring.Ring, error) {
		switch {
		case a.Shards != 0 && a.Shards != r.Shards():
			return nil, fmt.Errorf("--shards %d: cluster %s has %d shards; the number is fixed for a cluster's life: leave the flag out", a.Shards, r.Cluster(), r.Shards())
		case a.Replicas != 0 && a.Replicas != r.Replicas():
			return nil, fmt.Errorf("--replicas %d: cluster %s keeps %d replicas: leave the flag out", a.Replicas, r.Cluster(), r.Replicas())
		}
		return r.Admit(a.Member)
	})
	if err != nil {
		return nil, err
	}
	return msgpack.Marshal(admitted{Ring: r.Encode(), Timing: id.Timing})
}

// join asks the members that gossip shows to admit this node, and makes it part of their cluster. errNotYet: nobody could answer.
func (n *Node) join(ctx context.Context, addrs []string) error {
	a := admission{Member: ring.Member{ID: n.id, Addr: n.addr, GossipAddr: n.gossip.Addr(), Boot: n.boot}}
	if n.cfg.ShardsSet {
		a.Shards = n.cfg.Shards
	}
	if n.cfg.ReplicasSet {
		a.Replicas = n.cfg.Replicas
	}
	body, err := msgpack.Marshal(a)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		b, askErr := n.ask(ctx, addr, 0, requestAdmit, body)
		if askErr == nil {
			return n.admittedBy(b)
		}
		if strings.Contains(askErr.Error(), "--shards") || strings.Contains(askErr.Error(), "--replicas") || strings.Contains(askErr.Error(), "too many") {
			return askErr
		}
		n.log.Debug("not admitted yet", "asked", addr, "cause", askErr)
	}
	return errNotYet
}

var errNotYet = errors.New("nobody could admit this node yet")

func (n *Node) admittedBy(b []byte) error {
	var a admitted
	if err := decode(b, &a); err != nil {
		return err
	}
	r, err := ring.Decode(a.Ring)
	if err != nil {
		return err
	}
	if _, ok := r.Member(n.id); !ok {
		return fmt.Errorf("cluster %s answered with a ring that this node is not in", r.Cluster())
	}
	if err := n.engine.PutRecord(recordRing, a.Ring); err != nil {
		return err
	}
	n.log.Info("admitted", "cluster", r.Cluster().String(), "epoch", r.Epoch())
	return n.engine.SetCluster(r.Cluster(), r.Shards(), r.Replicas(), a.Timing)
}

// reportNews tells the sequencer what this node is and knows: at once if something has changed, else once a second.
func (n *Node) reportNews(ctx context.Context) {
	t := time.NewTicker(reportLook)
	defer t.Stop()
	var last []byte
	var at, since time.Time // of the last report, and of the newest ring
	var newest *ring.Ring
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r, d := n.ring.Load(), n.driver.Load()
		if r == nil || d == nil {
			continue
		}
		if r != newest {
			newest, since = r, time.Now()
			t.Reset(reportLook)
		} else if time.Since(since) > reportCalm && calm(r) {
			t.Reset(reportRest)
		}
		body, err := n.report(ctx, r, d)
		if err != nil {
			continue
		}
		if string(body) == string(last) && time.Since(at) < reportPause {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, passTime)
		_, err = n.atSequencer(asking, requestReport, body)
		cancel()
		switch {
		case err == nil:
			last, at = body, time.Now()
		case strings.Contains(err.Error(), "is no member of this cluster any more"):
			n.removed()
			return
		default:
			n.log.Debug("no sequencer hears this node", "cause", err)
		}
	}
}

// calm reports whether a ring has no member or replica on its way.
func calm(r *ring.Ring) bool {
	for _, m := range r.Members() {
		if m.State != ring.Up {
			return false
		}
	}
	for g := range ring.GroupID(r.Shards() + 1) {
		a, _ := r.Group(g)
		if len(a.Voters()) != len(a.Replicas) {
			return false
		}
	}
	return true
}

func (n *Node) report(ctx context.Context, r *ring.Ring, d *replica.Driver) ([]byte, error) {
	groups, err := d.Facts(ctx)
	if err != nil {
		return nil, err
	}
	return msgpack.Marshal(report{Node: n.id, Boot: n.boot, Addr: n.addr, Gossip: n.gossip.Addr(), Epoch: r.Epoch(), Groups: groups})
}

// removed ends a node that is no member any more: quietly if it asked to leave.
func (n *Node) removed() {
	if n.leaving.Load() {
		n.log.Info("this node has left the cluster")
		n.stop(nil)
		return
	}
	n.fail(fmt.Errorf("data directory %s: %w", n.cfg.Data, errRemoved(n.id)))
}
