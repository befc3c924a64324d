package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
)

// Names of the records and requests of formation.
const (
	recordPromise  = "promise"  // what this node has promised itself to; empty: nothing
	recordFounding = "founding" // what its cluster began as

	requestPromise = "form.promise"
	requestAbort   = "form.abort"
	requestOutcome = "form.outcome"
)

// beat is how often an unformed node looks again.
const beat = 200 * time.Millisecond

// former is the loop beside formation: it keeps the promise on disk, asks, and answers.
type former struct {
	n *Node

	mu      sync.Mutex
	machine *formation // nil once this node has a cluster
	cluster *Proposal  // what the cluster began as; nil if there is none, or it is not known
	done    chan struct{}
	said    string // the last thing logged, so that it is not repeated
	saidAt  time.Time
}

func newFormer(n *Node) (*former, error) {
	f := &former{n: n, done: make(chan struct{})}
	p, err := f.load(recordFounding)
	if err != nil {
		return nil, err
	}
	// A crash between the two durable steps of a decision leaves the founding without the identity: the founding decides.
	if p != nil {
		if err := n.engine.SetCluster(p.ID, p.Shards, p.Replicas, p.Timing); err != nil {
			return nil, err
		}
		f.cluster = p
	}
	return f, nil
}

func (f *former) load(name string) (*Proposal, error) {
	b, ok, err := f.n.engine.Record(name)
	if err != nil || !ok || len(b) == 0 {
		return nil, err
	}
	p, err := decodeProposal(b)
	if err != nil {
		return nil, f.n.engine.Damaged(fmt.Errorf("record %s: %w", name, err))
	}
	return p, nil
}

func decodeProposal(b []byte) (*Proposal, error) {
	p := new(Proposal)
	if err := decode(b, p); err != nil {
		return nil, err
	}
	if p.ID.IsZero() || p.Proposer == 0 || len(p.Members) == 0 || len(p.Members) > 64 {
		return nil, errors.New("the proposal of a cluster lacks its ID, its proposer or its members")
	}
	return p, nil
}

// founding is what this node's cluster began as, nil if it has none.
func (f *former) founding() *Proposal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cluster
}

// firstRing is the ring that the founders begin with, nil if this node is none.
func (f *former) firstRing() (*ring.Ring, error) {
	p := f.founding()
	if p == nil {
		return nil, nil
	}
	return ring.First(p.ID, p.Members, p.Shards, p.Replicas)
}

func (f *former) self() Candidate {
	n := f.n
	return Candidate{Member: ring.Member{ID: n.id, Addr: n.addr, GossipAddr: n.gossip.Addr(), Boot: n.boot},
		Expect: n.cfg.BootstrapExpect, Shards: n.cfg.Shards, Replicas: n.cfg.Replicas, Timing: n.cfg.Timing}
}

// run returns once this node is part of a cluster, or cannot become one.
func (f *former) run(ctx context.Context) error {
	promise, err := f.load(recordPromise)
	if err != nil {
		return err
	}
	f.mu.Lock()
	m, acts := newFormation(f.self(), promise, newClusterID)
	f.machine = m
	err = f.persist(acts)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.carryOut(ctx, acts)
	t := time.NewTicker(beat)
	defer t.Stop()
	f.saidAt = time.Now() // what settles itself within a second is not worth a word
	for {
		if err := f.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.done:
			return nil
		case <-t.C:
		case <-f.n.gossip.Changed():
		}
	}
}

func newClusterID() ring.ClusterID {
	var c ring.ClusterID
	if _, err := rand.Read(c[:]); err != nil {
		panic(err) // crypto/rand never fails on the platforms that Go supports
	}
	return c
}

// look moves the formation on with what gossip shows now.
func (f *former) look(ctx context.Context) error {
	var seen []Candidate
	var formed []string // where members of a cluster listen
	for _, m := range f.n.gossip.View().Members {
		switch {
		case m.ID == f.n.id:
		case m.Meta.Cluster.IsZero():
			seen = append(seen, Candidate{Member: ring.Member{ID: m.ID, Addr: m.Meta.Listen, GossipAddr: m.Gossip, Boot: m.Meta.Boot},
				Expect: m.Meta.Expect, Shards: m.Meta.Shards, Replicas: m.Meta.Replicas, Timing: m.Meta.Timing})
		default:
			formed = append(formed, m.Meta.Listen)
		}
	}
	f.mu.Lock()
	if f.machine == nil {
		f.mu.Unlock()
		return nil
	}
	bound := f.machine.promise != nil
	if len(formed) > 0 && !bound {
		f.mu.Unlock()
		return f.join(ctx, formed)
	}
	acts := f.machine.view(seen)
	err := f.persist(acts)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.report(seen, bound)
	f.carryOut(ctx, acts)
	return nil
}

// join makes this node a member of the cluster that gossip shows.
func (f *former) join(ctx context.Context, addrs []string) error {
	err := f.n.join(ctx, addrs)
	if errors.Is(err, errNotYet) {
		f.say("waiting to be admitted to the cluster that the seeds belong to")
		return nil
	}
	if err != nil || ctx.Err() != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.machine = nil
	close(f.done)
	return nil
}

// report says, once a second at most, what a node without a cluster waits for.
func (f *former) report(seen []Candidate, bound bool) {
	n := f.n
	var what string
	switch err := n.gossip.JoinError(); {
	case bound:
		what = "waiting for the other founders to agree"
	case err != nil && len(seen) == 0:
		what = "waiting: no seed answers"
	case n.cfg.BootstrapExpect == 0:
		what = "waiting for the seeds' cluster to form; this node, started with --join and without --bootstrap-expect, forms none itself"
	default:
		what = fmt.Sprintf("waiting for %d nodes with the same --bootstrap-expect; %d are here", n.cfg.BootstrapExpect, len(seen)+1)
		for _, c := range seen {
			f.mu.Lock()
			why := ""
			if f.machine != nil {
				why = f.machine.mismatch(c)
			}
			f.mu.Unlock()
			if why != "" {
				what = why
			}
		}
	}
	f.say(what)
}

func (f *former) say(what string) {
	if what == f.said && time.Since(f.saidAt) < 10*time.Second || time.Since(f.saidAt) < time.Second {
		return
	}
	f.said, f.saidAt = what, time.Now()
	f.n.log.Warn(what)
}

// persist does the durable part of actions. The caller holds the lock, so that no message overtakes it.
func (f *former) persist(acts []formAction) error {
	for _, a := range acts {
		switch a.kind {
		case formPersist:
			if err := f.put(recordPromise, a.proposal); err != nil {
				return err
			}
		case formDecide:
			if err := f.decide(a.proposal); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *former) put(name string, p *Proposal) error {
	var b []byte
	if p != nil {
		var err error
		if b, err = msgpack.Marshal(p); err != nil {
			return err
		}
	}
	return f.n.engine.PutRecord(name, b)
}

func (f *former) decide(p *Proposal) error {
	if err := f.put(recordFounding, p); err != nil {
		return err
	}
	if err := f.n.engine.SetCluster(p.ID, p.Shards, p.Replicas, p.Timing); err != nil {
		return err
	}
	if f.cluster == nil {
		f.cluster = p
		close(f.done)
	}
	return nil
}

// carryOut sends what actions ask for and feeds the answers back, in the background.
func (f *former) carryOut(ctx context.Context, acts []formAction) {
	for _, a := range acts {
		switch a.kind {
		case formAsk, formAbort, formQuery:
			go f.exchange(ctx, a)
		}
	}
}

func (f *former) exchange(ctx context.Context, a formAction) {
	name := map[formKind]string{formAsk: requestPromise, formAbort: requestAbort, formQuery: requestOutcome}[a.kind]
	body, err := msgpack.Marshal(a.proposal)
	if err != nil {
		f.n.fail(err)
		return
	}
	resp, err := f.n.ask(ctx, a.to.Addr, a.to.ID, name, body)
	if err != nil || len(resp) != 1 {
		f.n.log.Debug("a founder did not answer", "node", a.to.ID.String(), "asked", name, "cause", err)
		return
	}
	f.mu.Lock()
	var next []formAction
	if f.machine != nil && !f.machine.decided {
		switch a.kind {
		case formAsk:
			next = f.machine.answered(a.proposal.ID, a.to.ID, Outcome(resp[0]) == OutcomeCommitted)
		case formQuery:
			next = f.machine.outcome(a.proposal.ID, Outcome(resp[0]))
		}
	}
	err = f.persist(next)
	f.mu.Unlock()
	if err != nil {
		f.n.fail(err)
		return
	}
	f.carryOut(ctx, next)
}

// answer is the server's side. A promise is one byte, OutcomeCommitted for yes; so is an outcome.
func (f *former) answer(name string, body []byte) ([]byte, error) {
	p, err := decodeProposal(body)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cluster != nil || f.machine == nil {
		return f.answerFormed(name, p)
	}
	var out Outcome
	var acts []formAction
	switch name {
	case requestPromise:
		refusal := ""
		out = OutcomeCommitted
		if refusal, acts = f.machine.ask(p); refusal != "" {
			f.n.log.Warn("this node does not take part in a proposed cluster", "cause", refusal)
			out = OutcomeAborted
		}
	case requestAbort:
		out, acts = OutcomeAborted, f.machine.outcome(p.ID, OutcomeAborted)
	case requestOutcome:
		out = f.machine.tell(p.ID)
	}
	if err := f.persist(acts); err != nil {
		return nil, err
	}
	return []byte{byte(out)}, nil
}

// answerFormed answers for a node that has a cluster, or has not begun to look for one.
func (f *former) answerFormed(name string, p *Proposal) ([]byte, error) {
	switch id := f.n.cluster(); {
	case id == p.ID:
		return []byte{byte(OutcomeCommitted)}, nil
	case id.IsZero():
		return nil, errors.New("this node is starting; ask again")
	case name == requestPromise:
		f.n.log.Warn("a node proposes another cluster to a member of this one", "proposer", p.Proposer.String())
	}
	return []byte{byte(OutcomeAborted)}, nil
}
