package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// What a node remembers for Verify, and the questions by which it tells: "history" (of groups), "rings".

const (
	requestHistory = "history"
	requestRings   = "rings"

	// recordRings is the name under which a node keeps which rings it took over.
	recordRings = "rings"
	ringsKept   = 256
	// historyGroups is how many groups one answer tells of: with all rows that are kept a few MiB.
	historyGroups = 16
)

// seenRing is one ring that a node took over.
type seenRing struct {
	Epoch uint64 `msgpack:"epoch"`
	Hash  uint64 `msgpack:"hash"`
	When  int64  `msgpack:"when"` // of its wall clock, in milliseconds since 1970
}

type historyRequest struct {
	From  uint32 `msgpack:"from"`  // group
	Count uint32 `msgpack:"count"` // at most historyGroups
}

type historyAnswer struct {
	Group   uint32 `msgpack:"group"`
	History []byte `msgpack:"history"` // store.AppendReplicaHistory; empty if Error says why
	Error   string `msgpack:"error"`
}

func decodeRings(b []byte) (out []seenRing, err error) {
	err = decode(b, &out)
	return out, err
}

// rememberRing is the record of rings with one more.
func (n *Node) rememberRing(r *ring.Ring) ([]byte, error) {
	b, ok, err := n.engine.Record(recordRings)
	if err != nil {
		return nil, err
	}
	var seen []seenRing
	if ok {
		if seen, err = decodeRings(b); err != nil {
			return nil, n.engine.Damaged(fmt.Errorf("record %s: %w", recordRings, err))
		}
	}
	seen = append(seen, seenRing{Epoch: uint64(r.Epoch()), Hash: r.Hash(), When: time.Now().UnixMilli()})
	return msgpack.Marshal(seen[max(0, len(seen)-ringsKept):])
}

// answerRings tells which rings this node took over, the newest last.
func (n *Node) answerRings() ([]byte, error) {
	b, ok, err := n.engine.Record(recordRings)
	if err == nil && !ok {
		b, err = msgpack.Marshal([]seenRing{})
	}
	return b, err
}

// answerHistory tells what this node's replicas recorded.
func (n *Node) answerHistory(ctx context.Context, body []byte) ([]byte, error) {
	var q historyRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	d := n.driver.Load()
	if d == nil {
		return nil, errForming
	}
	if q.Count > historyGroups {
		return nil, fmt.Errorf("the histories of %d groups; at most %d are told at once", q.Count, historyGroups)
	}
	recs, err := n.engine.Replicas()
	if err != nil {
		return nil, err
	}
	out := []historyAnswer{}
	for _, rec := range recs {
		if rec.Replica == 0 || rec.Group < ring.GroupID(q.From) || rec.Group-ring.GroupID(q.From) >= ring.GroupID(q.Count) {
			continue
		}
		a := historyAnswer{Group: uint32(rec.Group)}
		if h, err := d.History(ctx, rec.Group); err != nil {
			a.Error = err.Error()
		} else {
			a.History = store.AppendReplicaHistory(nil, &h)
		}
		out = append(out, a)
	}
	return msgpack.Marshal(out)
}

// ringViolations finds epochs of which there were two tables, and nodes on which epochs went back.
func ringViolations(by map[string][]seenRing) (bad []string, from, to uint64) {
	type table struct {
		hash uint64
		node string
	}
	tables := make(map[uint64]table)
	names := make([]string, 0, len(by))
	for n := range by {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, name := range names {
		for i, s := range by[name] {
			if i > 0 && s.Epoch < by[name][i-1].Epoch {
				bad = append(bad, fmt.Sprintf("rings: node %s went from epoch %d back to epoch %d", name, by[name][i-1].Epoch, s.Epoch))
			}
			if from == 0 || s.Epoch < from {
				from = s.Epoch
			}
			to = max(to, s.Epoch)
			if t, ok := tables[s.Epoch]; !ok {
				tables[s.Epoch] = table{s.Hash, name}
			} else if t.hash != s.Hash {
				bad = append(bad, fmt.Sprintf("rings: of epoch %d node %s has the table %016x and node %s the table %016x", s.Epoch, t.node, t.hash, name, s.Hash))
			}
		}
	}
	return bad, from, to
}
