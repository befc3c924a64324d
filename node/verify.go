package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport/client"
)

// Verification is what VerifyCluster and VerifyData found.
type Verification struct {
	Cluster    string          `json:"cluster"`
	OK         bool            `json:"ok"` // no violation; see Unchecked for what was not looked at
	Groups     []VerifiedGroup `json:"groups"`
	Rings      VerifiedRings   `json:"rings"`
	Violations []string        `json:"violations"` // each names shard, tokens, indices and nodes
	Unchecked  []string        `json:"unchecked"`  // what could not be checked, and why
	Nodes      []VerifiedNode  `json:"nodes"`
}

// VerifiedNode says where a node's history was read.
type VerifiedNode struct {
	ID   string `json:"id"`
	From string `json:"from"` // its --listen address or its data directory
}

// VerifiedGroup is the verdict on one shard, or on the system shard.
type VerifiedGroup struct {
	Group      string `json:"group"`    // shard-N or system
	Copies     int    `json:"copies"`   // replicas whose histories were compared
	Expected   int    `json:"expected"` // replicas as the newest ring has them
	Tokens     int    `json:"tokens"`   // takings-over that are remembered
	Batches    uint64 `json:"batches"`  // that took effect under them
	Refused    uint64 `json:"refused"`  // commands that the fence refused meanwhile
	From       uint64 `json:"from"`     // takings-over after this index of the log are all remembered
	Since      string `json:"since"`    // when the first of them was, RFC 3339; empty if not known
	EqualFrom  uint64 `json:"equal_from"`
	EqualTo    uint64 `json:"equal_to"` // the copies saw the same take effect between these indices
	Last       uint64 `json:"last"`     // the highest index that a copy has
	Retraced   uint64 `json:"retraced"` // entries of logs that were decided again; of data directories only
	Keys       uint64 `json:"keys"`     // of the state, compared one by one, with Bytes; of data directories only
	Bytes      uint64 `json:"bytes"`
	Violations int    `json:"violations"`
}

// VerifiedRings says which epochs' tables were compared between nodes.
type VerifiedRings struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Progress hears how far a verification is: done of total steps, and what is being looked at.
type Progress func(done, total int, what string)

type verifier struct {
	Verification
	progress  Progress
	rings     map[string][]seenRing
	truncated int // groups whose older takings-over are not remembered
	behind    []string
}

func (v *verifier) bad(text ...string) { v.Violations = append(v.Violations, text...) }

func (v *verifier) skip(format string, args ...any) {
	v.Unchecked = append(v.Unchecked, fmt.Sprintf(format, args...))
}

func (v *verifier) step(done, total int, what string) {
	if v.progress != nil {
		v.progress(done, total, what)
	}
}

// add takes over the verdict on one group.
func (v *verifier) add(a store.GroupAudit, expected int, more VerifiedGroup) {
	g := VerifiedGroup{Group: a.Group.String(), Copies: a.Replicas, Expected: expected, Tokens: a.Tenures, Batches: a.Batches, Refused: a.Refused,
		From: a.From, EqualFrom: a.EqualFrom, EqualTo: a.Equal, Last: a.Last, Retraced: more.Retraced, Keys: more.Keys, Bytes: more.Bytes,
		Violations: len(a.Violations) + more.Violations}
	if a.Since != 0 {
		g.Since = time.UnixMilli(a.Since).UTC().Format(time.RFC3339)
	}
	v.bad(a.Violations...)
	switch {
	case a.Replicas == 0:
		v.skip("%s: none of its %d replicas could be read", g.Group, expected)
	case a.Replicas < expected:
		v.skip("%s: %d of its %d replicas could be read", g.Group, a.Replicas, expected)
	}
	if a.From > 1 {
		v.truncated++
	}
	if a.Replicas > 1 && a.Equal < a.Last && len(a.Violations) == 0 {
		v.behind = append(v.behind, fmt.Sprintf("%s %d to %d", g.Group, a.Equal+1, a.Last))
	}
	v.Groups = append(v.Groups, g)
}

func (v *verifier) finish() *Verification {
	bad, from, to := ringViolations(v.rings)
	v.bad(bad...)
	v.Rings = VerifiedRings{from, to}
	if v.truncated > 0 {
		v.skip("takings-over up to the index under FROM, of %d shards: no replica remembers them (%d are kept, and one that was filled by a snapshot begins there)", v.truncated, store.HistoryTenures)
	}
	if n := len(v.behind); n > 0 {
		v.skip("whether copies agree on what took effect last, of %d shards (%s%s): they were not asked at one index", n, joinSome(v.behind, 3), map[bool]string{true: ", …"}[n > 3])
	}
	v.OK = len(v.Violations) == 0
	for _, s := range []*[]string{&v.Violations, &v.Unchecked} {
		if *s == nil {
			*s = []string{}
		}
	}
	return &v.Verification
}

func joinSome(s []string, most int) string {
	out := ""
	for i, t := range s[:min(len(s), most)] {
		if i > 0 {
			out += ", "
		}
		out += t
	}
	return out
}

// How a running cluster is asked.
const (
	historyTries = 5                // of a group whose copies were not asked at one index
	historyTime  = 10 * time.Second // for one answer
)

// VerifyCluster asks all nodes of a running cluster for what they recorded. It changes nothing. An error means that nothing could be verified; nodes that do not answer are
// told of in the result. progress may be nil.
func VerifyCluster(ctx context.Context, cl *client.Client, server string, progress Progress) (*Verification, error) {
	b, err := cl.Request(ctx, server, "status", nil)
	if err != nil {
		return nil, err
	}
	status, err := DecodeStatus(b)
	if err != nil {
		return nil, fmt.Errorf("%s: the answer is no status: %w", server, err)
	}
	if b, err = cl.Request(ctx, server, "ring", nil); err != nil {
		return nil, err
	}
	r, err := ring.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: the answer is no ring: %w", server, err)
	}
	v := &verifier{progress: progress, rings: map[string][]seenRing{}}
	v.Cluster = r.Cluster().String()
	w := &watch{cl: cl, r: r, addrs: map[ring.NodeID]string{}, silent: map[ring.NodeID]error{}, v: v}
	for _, n := range status.Nodes {
		id, err := ring.ParseNodeID(n.ID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server, err)
		}
		w.addrs[id] = n.Addr
		v.Nodes = append(v.Nodes, VerifiedNode{n.ID, n.Addr})
	}
	w.askRings(ctx)
	groups := r.Shards() + 1
	for from := 0; from < groups; from += historyGroups {
		v.step(from, groups, ring.GroupID(from).String())
		w.verify(ctx, ring.GroupID(from), min(historyGroups, groups-from))
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	v.step(groups, groups, "done")
	for _, m := range r.Members() {
		if err := w.silent[m.ID]; err != nil {
			v.skip("node %v at %s: %v", m.ID, w.addrs[m.ID], err)
		}
	}
	return v.finish(), nil
}

// watch asks the nodes of one running cluster.
type watch struct {
	cl    *client.Client
	r     *ring.Ring
	addrs map[ring.NodeID]string
	v     *verifier

	mu     sync.Mutex
	silent map[ring.NodeID]error // who did not answer: not asked again
}

func (w *watch) ask(ctx context.Context, id ring.NodeID, name string, body []byte) ([]byte, error) {
	w.mu.Lock()
	err := w.silent[id]
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	b, err := w.cl.Request(ctx, w.addrs[id], name, body)
	if err != nil {
		w.mu.Lock()
		w.silent[id] = err
		w.mu.Unlock()
	}
	return b, err
}

// each asks every member at once.
func (w *watch) each(ask func(id ring.NodeID)) {
	var wg sync.WaitGroup
	for _, m := range w.r.Members() {
		wg.Go(func() { ask(m.ID) })
	}
	wg.Wait()
}

func (w *watch) askRings(ctx context.Context) {
	w.each(func(id ring.NodeID) {
		b, err := w.ask(ctx, id, requestRings, nil)
		if err != nil {
			return
		}
		seen, err := decodeRings(b)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.silent[id] = fmt.Errorf("its rings cannot be read: %w", err)
			return
		}
		w.v.rings[id.String()] = seen
	})
}

// verify checks groups from … from+count-1. Copies are asked again, a few times, until they have an index in common at their ends.
func (w *watch) verify(ctx context.Context, from ring.GroupID, count int) {
	got := w.histories(ctx, from, count)
	for i := range count {
		g := from + ring.GroupID(i)
		a := store.Audit(g, got[g])
		for range historyTries {
			if a.Equal >= a.Last || len(a.Violations) > 0 || len(got[g]) < 2 || ctx.Err() != nil {
				break
			}
			again := w.histories(ctx, g, 1)[g]
			if len(again) < len(got[g]) {
				break
			}
			if b := store.Audit(g, again); b.Equal > a.Equal || len(b.Violations) > 0 {
				a = b
			}
		}
		as, _ := w.r.Group(g)
		w.v.add(a, len(as.Replicas), VerifiedGroup{})
	}
}

// histories asks all nodes for the histories of groups; only those of replicas that the ring names count.
func (w *watch) histories(ctx context.Context, from ring.GroupID, count int) map[ring.GroupID][]store.ReplicaHistory {
	body, err := msgpack.Marshal(historyRequest{From: uint32(from), Count: uint32(count)})
	if err != nil {
		panic(err) // two numbers
	}
	out := make(map[ring.GroupID][]store.ReplicaHistory)
	w.each(func(id ring.NodeID) {
		if !w.holds(id, from, count) {
			return
		}
		b, err := w.ask(ctx, id, requestHistory, body)
		if err != nil {
			return
		}
		got, err := decodeHistories(b)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.silent[id] = err
			return
		}
		for g, h := range got {
			a, _ := w.r.Group(g)
			if rep, here := a.On(id); here && rep.ID == h.Replica && h.Node == id {
				out[g] = append(out[g], h)
			}
		}
	})
	for _, all := range out {
		slices.SortFunc(all, func(a, b store.ReplicaHistory) int { return cmp.Compare(a.Replica, b.Replica) })
	}
	return out
}

func (w *watch) holds(id ring.NodeID, from ring.GroupID, count int) bool {
	for i := range count {
		if a, _ := w.r.Group(from + ring.GroupID(i)); a.Replicas != nil {
			if _, here := a.On(id); here {
				return true
			}
		}
	}
	return false
}

// decodeHistories reads the answer to "history"; the bytes may come from anybody.
func decodeHistories(b []byte) (map[ring.GroupID]store.ReplicaHistory, error) {
	var all []historyAnswer
	if err := decode(b, &all); err != nil {
		return nil, fmt.Errorf("its histories cannot be read: %w", err)
	}
	out := make(map[ring.GroupID]store.ReplicaHistory, min(len(all), historyGroups))
	for _, a := range all {
		if a.Error != "" {
			continue // counted as a replica that could not be read
		}
		h, err := store.DecodeReplicaHistory(a.History)
		if err != nil {
			return nil, fmt.Errorf("its history of %v cannot be read: %w", ring.GroupID(a.Group), err)
		}
		out[ring.GroupID(a.Group)] = h
	}
	return out, nil
}

// VerifyData verifies data directories of nodes that do not run, and changes nothing in them: histories, what is left of the logs, and the states of all copies, key
// by key. An error means that nothing could be verified. progress may be nil.
func VerifyData(ctx context.Context, dirs []string, log *slog.Logger, progress Progress) (*Verification, error) {
	v := &verifier{progress: progress, rings: map[string][]seenRing{}}
	s := &shelf{v: v, engines: map[ring.NodeID]*store.Engine{}}
	defer s.close()
	for _, dir := range dirs {
		if err := s.open(dir, log); err != nil {
			return nil, err
		}
	}
	if err := s.newestRing(); err != nil {
		return nil, err
	}
	groups, err := s.groups()
	if err != nil {
		return nil, err
	}
	for i, g := range groups {
		v.step(i, len(groups), g.String())
		if err := s.verify(ctx, g, func(keys uint64) { v.step(i, len(groups), fmt.Sprintf("%v, %d keys", g, keys)) }); err != nil {
			return nil, err
		}
	}
	v.step(len(groups), len(groups), "done")
	return v.finish(), nil
}

// shelf is a set of data directories.
type shelf struct {
	v       *verifier
	order   []*store.Engine
	engines map[ring.NodeID]*store.Engine
	ring    *ring.Ring // the newest, nil if there is none
}

func (s *shelf) close() {
	for _, e := range s.order {
		_ = e.Close() // open for reading: there is nothing to lose
	}
}

func (s *shelf) open(dir string, log *slog.Logger) error {
	e, err := store.OpenReadOnly(dir, store.Options{Logger: log})
	if err != nil {
		return err
	}
	s.order = append(s.order, e)
	id := e.Identity()
	if other := s.engines[id.Node]; other != nil {
		return fmt.Errorf("data directories %s and %s are both of node %v: one is a copy; verify one of them", other.Dir(), dir, id.Node)
	}
	if first := s.order[0].Identity(); id.Cluster != first.Cluster {
		return fmt.Errorf("data directory %s is of cluster %v, and %s of cluster %v: verify one cluster at a time", dir, id.Cluster, s.order[0].Dir(), first.Cluster)
	}
	s.engines[id.Node] = e
	s.v.Cluster = id.Cluster.String()
	s.v.Nodes = append(s.v.Nodes, VerifiedNode{id.Node.String(), dir})
	return nil
}

func (s *shelf) newestRing() error {
	for _, e := range s.order {
		node := e.Identity().Node.String()
		b, ok, err := e.Record(recordRing)
		if err != nil {
			return err
		}
		if ok {
			r, err := ring.Decode(b)
			if err != nil {
				s.v.bad(fmt.Sprintf("rings: node %s: the newest ring cannot be read: %v", node, err))
				continue
			}
			if s.ring == nil || r.Epoch() > s.ring.Epoch() {
				s.ring = r
			}
		}
		if b, ok, err = e.Record(recordRings); err == nil && ok {
			var seen []seenRing
			if seen, err = decodeRings(b); err == nil {
				s.v.rings[node] = seen
			}
		}
		if err != nil {
			s.v.bad(fmt.Sprintf("rings: node %s: what it remembers of rings cannot be read: %v", node, err))
		}
	}
	if s.ring == nil {
		s.v.skip("how many replicas there are: no directory has a ring")
		return nil
	}
	for _, m := range s.ring.Members() {
		if s.engines[m.ID] == nil {
			s.v.skip("node %v at %s: its directory was not given", m.ID, m.Addr)
		}
	}
	return nil
}

// groups are those that have a replica in any of the directories, or in the newest ring.
func (s *shelf) groups() (out []ring.GroupID, err error) {
	for _, e := range s.order {
		recs, err := e.Replicas()
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			if r.Replica != 0 {
				out = append(out, r.Group)
			}
		}
	}
	if s.ring != nil {
		for g := range ring.GroupID(s.ring.Shards() + 1) {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (s *shelf) verify(ctx context.Context, g ring.GroupID, said func(keys uint64)) error {
	var copies []*replica.Inspection
	var all []store.ReplicaHistory
	more := VerifiedGroup{}
	bad := func(text ...string) {
		s.v.bad(text...)
		more.Violations += len(text)
	}
	for _, e := range s.order {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		i, ok, err := replica.Inspect(e, g)
		if err != nil {
			bad(fmt.Sprintf("%v: node %v: its copy cannot be read: %v", g, e.Identity().Node, err))
			continue
		}
		if !ok {
			continue
		}
		bad(i.Violations...)
		s.v.Unchecked = append(s.v.Unchecked, i.Notes...)
		if s.ring != nil {
			if a, _ := s.ring.Group(g); !slices.ContainsFunc(a.Replicas, func(r ring.Replica) bool { return r.ID == i.Replica }) {
				s.v.skip("%v: replica %d on node %v: it is no part of the group any more", g, i.Replica, i.Node)
				continue
			}
		}
		more.Retraced += i.Retraced
		copies, all = append(copies, i), append(all, i.ReplicaHistory)
	}
	d, err := replica.CompareStates(copies, func(keys, _ uint64) error {
		said(keys)
		return context.Cause(ctx)
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, store.ErrClosed):
		return err
	case err != nil:
		bad(fmt.Sprintf("the states cannot be compared: %v", err))
	}
	bad(d.Violations...)
	s.v.Unchecked = append(s.v.Unchecked, d.Notes...)
	more.Keys, more.Bytes = d.Keys, d.Bytes
	expected := len(all)
	if s.ring != nil {
		a, _ := s.ring.Group(g)
		expected = len(a.Replicas)
	}
	s.v.add(store.Audit(g, all), expected, more)
	return nil
}
