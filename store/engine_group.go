package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// groupState is what the engine keeps in memory of a group: which generation of its data is the current one. A snapshot is
// loaded into the next generation, in many small batches, and one small batch makes that the current one: so installing is
// atomic however large the shard is. Generations of a group only grow.
type groupState struct {
	generation atomic.Uint32
	installing atomic.Bool
}

// ReplicaRecord says which replica of a group lives in this data directory. It outlives the replica, as its tombstone.
type ReplicaRecord struct {
	Group   ring.GroupID
	Replica ring.ReplicaID // 0: none
	MinNext ring.ReplicaID // replicas below it have been here and are gone for ever

	generation uint32
}

const replicaFormat = 1

func appendReplica(b []byte, r ReplicaRecord) []byte {
	b = append(b, replicaFormat)
	b = binary.AppendUvarint(b, uint64(r.Replica))
	b = binary.AppendUvarint(b, uint64(r.MinNext))
	return binary.AppendUvarint(b, uint64(r.generation))
}

func decodeReplica(g ring.GroupID, b []byte) (ReplicaRecord, error) {
	d := decoder{b: b}
	if f := d.byte(); d.err == nil && f != replicaFormat {
		d.fail("replica record of format %d", f)
	}
	r := ReplicaRecord{Group: g, Replica: ring.ReplicaID(d.uvarint()), MinNext: ring.ReplicaID(d.uvarint()), generation: uint32(d.uvarint())}
	return r, d.end("replica record of " + g.String())
}

// Replica says which replica of the group lives here; Replica and MinNext are 0 if there never was one.
func (e *Engine) Replica(g ring.GroupID) (ReplicaRecord, error) {
	if !e.gate.enter() {
		return ReplicaRecord{}, ErrClosed
	}
	defer e.gate.leave()
	return e.readReplica(e.db, g)
}

func (e *Engine) readReplica(from pebble.Reader, g ring.GroupID) (ReplicaRecord, error) {
	v, ok, err := getCopy(from, appendReplicaKey(nil, g))
	if err != nil || !ok {
		return ReplicaRecord{Group: g}, err
	}
	r, err := decodeReplica(g, v)
	if err != nil {
		return r, e.Damaged(err)
	}
	return r, nil
}

// Replicas lists the groups that have, or had, a replica here, in ascending order.
func (e *Engine) Replicas() ([]ReplicaRecord, error) {
	if !e.gate.enter() {
		return nil, ErrClosed
	}
	defer e.gate.leave()
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceReplica}, UpperBound: []byte{spaceReplica + 1}})
	if err != nil {
		return nil, err
	}
	var all []ReplicaRecord
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		g, isGroup := parseGroup(it.Key())
		r, derr := decodeReplica(g, it.Value())
		if !isGroup || derr != nil {
			err = e.Damaged(errors.Join(errors.New("replica records cannot be read"), derr))
		}
		all = append(all, r)
	}
	return all, errors.Join(err, it.Close())
}

// CreateReplica makes a replica of a group, durably, with the records that it begins with. It is refused if one lives here or
// a replica of that ID, or a later one, has been here. fill sets records.
func (e *Engine) CreateReplica(g ring.GroupID, id ring.ReplicaID, fill func(b *Batch)) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	have, err := e.Replica(g)
	switch {
	case err != nil:
		return err
	case e.watermark.lost:
		return e.lostTail()
	case id == 0:
		return fmt.Errorf("store: %v: a replica's ID is not zero", g)
	case have.Replica != 0:
		return fmt.Errorf("store: %v: replica %d lives here already; remove it before replica %d is made", g, have.Replica, id)
	case id < have.MinNext && !mutNoTombstone():
		return fmt.Errorf("store: %v: replica %d has been here and is gone for ever; the next one must be %d or higher", g, id, have.MinNext)
	}
	return e.replaceReplica(ReplicaRecord{Group: g, Replica: id, MinNext: id + 1, generation: have.generation + 1}, fill)
}

// RemoveReplica removes the group's replica, its log and its state, durably, and leaves a tombstone: no replica below minNext
// is ever made here again. Nobody may use the replica's log and state any more.
func (e *Engine) RemoveReplica(g ring.GroupID, minNext ring.ReplicaID) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	have, err := e.Replica(g)
	if err != nil {
		return err
	}
	return e.replaceReplica(ReplicaRecord{Group: g, MinNext: max(minNext, have.MinNext), generation: have.generation + 1}, nil)
}

// replaceReplica clears all of a group and writes its new record, in one batch. The caller holds e.admin.
func (e *Engine) replaceReplica(r ReplicaRecord, fill func(b *Batch)) error {
	b := e.NewBatch()
	defer b.Close()
	b.clearGroup(r.Group)
	b.set(appendReplicaKey(nil, r.Group), appendReplica(nil, r))
	if fill != nil {
		fill(b)
	}
	if err := b.Commit(true); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if gs := e.groups[r.Group]; gs != nil {
		gs.generation.Store(r.generation) // readers of the old replica find nothing
	}
	return nil
}

// group is the group's state in memory, read once from its record.
func (e *Engine) group(g ring.GroupID) (*groupState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if gs := e.groups[g]; gs != nil {
		return gs, nil
	}
	r, err := e.Replica(g)
	if err != nil {
		return nil, err
	}
	gs := new(groupState)
	gs.generation.Store(r.generation)
	e.groups[g] = gs
	return gs, nil
}

// sweep removes data of generations that are not current: what an installation left behind that a crash interrupted.
func (e *Engine) sweep() error {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceState}, UpperBound: []byte{spaceState + 1}})
	if err != nil {
		return openError(e.dir, err)
	}
	b := e.NewBatch()
	defer b.Close()
	for ok := it.First(); ok; {
		next, err := e.sweepAt(it.Key(), b)
		if err != nil {
			return errors.Join(err, it.Close())
		}
		ok = it.SeekGE(next)
	}
	if err := it.Close(); err != nil {
		return openError(e.dir, err)
	}
	if b.Empty() {
		return nil
	}
	return b.Commit(false)
}

// sweepAt looks at one key of a shard's state and returns where to look next.
func (e *Engine) sweepAt(key []byte, b *Batch) (next []byte, err error) {
	g, ok := parseGroup(key)
	if !ok || len(key) < 6 {
		return nil, openError(e.dir, fmt.Errorf("key %x belongs to no group", key))
	}
	if key[5] != partItems {
		return append(appendGroup(nil, spaceState, g), partItems), nil
	}
	if len(key) < dataPrefixLen {
		return nil, openError(e.dir, fmt.Errorf("key %x belongs to no generation", key))
	}
	r, err := e.readReplica(e.db, g)
	if err != nil {
		return nil, err
	}
	prefix := append([]byte(nil), key[:dataPrefixLen]...)
	next = PrefixEnd(prefix)
	if binary.BigEndian.Uint32(prefix[6:]) != r.generation {
		b.deleteRange(prefix, next)
	}
	return next, nil
}
