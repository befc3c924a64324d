package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// installChunk is how many bytes Add gathers before it writes them.
const installChunk = 1 << 20

// ErrInstalling refuses a second installation into a group while one is under way.
var ErrInstalling = errors.New("store: a snapshot is being installed into this group already")

// Install loads a shard's new state beside the current one; Stage makes it the current one, atomically. Memory stays bounded
// and a crash at any moment leaves the old state or the new one. It belongs to one goroutine at a time, and ends with a
// committed Stage or with Abort.
type Install struct {
	e     *Engine
	g     ring.GroupID
	gs    *groupState
	rec   ReplicaRecord // as it will be
	batch *pebble.Batch
	key   []byte
	ended bool
}

// NewInstall begins an installation into a group that has a replica here.
func (e *Engine) NewInstall(g ring.GroupID) (*Install, error) {
	gs, err := e.group(g)
	if err != nil {
		return nil, err
	}
	rec, err := e.Replica(g)
	if err != nil {
		return nil, err
	}
	if rec.Replica == 0 {
		return nil, fmt.Errorf("store: %v has no replica here to install a snapshot into", g)
	}
	if !gs.installing.CompareAndSwap(false, true) {
		return nil, ErrInstalling
	}
	rec.generation++
	i := &Install{e: e, g: g, gs: gs, rec: rec, batch: e.db.NewBatch()}
	from := i.prefix()
	if err := i.batch.DeleteRange(from, PrefixEnd(from), nil); err != nil { // an aborted one may have left something
		return nil, errors.Join(err, i.Abort())
	}
	return i, nil
}

func (i *Install) prefix() []byte { return appendDataPrefix(nil, i.g, i.rec.generation) }

// Add adds one key; the bytes are copied.
func (i *Install) Add(key, value []byte) error {
	if i.ended {
		return ErrClosed
	}
	i.key = append(appendDataPrefix(i.key[:0], i.g, i.rec.generation), key...)
	if err := i.batch.Set(i.key, value, nil); err != nil {
		return err
	}
	if i.batch.Len() < installChunk {
		return nil
	}
	return i.flush()
}

// flush writes what was added, without a sync: the batch that makes it current comes later in the same WAL.
func (i *Install) flush() error {
	if !i.e.gate.enter() {
		return ErrClosed
	}
	defer i.e.gate.leave()
	if err := i.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	i.batch.Reset()
	return nil
}

// Stage puts into b what makes the loaded state the group's current one, together with whatever else b holds.
func (i *Install) Stage(b *Batch) error {
	if i.ended {
		return ErrClosed
	}
	now, err := i.e.Replica(i.g)
	if err != nil {
		return err
	}
	if now.Replica != i.rec.Replica || now.generation+1 != i.rec.generation {
		return fmt.Errorf("store: %v: replica %d is gone; its snapshot is of no use", i.g, i.rec.Replica)
	}
	if err := i.flush(); err != nil {
		return err
	}
	b.set(appendReplicaKey(nil, i.g), appendReplica(nil, i.rec))
	b.Notify(i)
	return nil
}

// Committed is called by Batch.Commit. Readers go over to the new state before the old one is removed.
func (i *Install) Committed(bool) {
	i.gs.generation.Store(i.rec.generation)
	old := appendDataPrefix(nil, i.g, i.rec.generation-1)
	if err := i.e.db.DeleteRange(old, PrefixEnd(old), pebble.NoSync); err != nil {
		i.e.log.Warn("the data that a snapshot replaced is not removed before the next start", "group", i.g, "error", err)
	}
	i.end()
}

// Abort gives up; after Stage was committed, or twice, it does nothing.
func (i *Install) Abort() error {
	if i.ended {
		return nil
	}
	defer i.end()
	if !i.e.gate.enter() {
		return nil // the next Open sweeps
	}
	defer i.e.gate.leave()
	from := i.prefix()
	return i.e.db.DeleteRange(from, PrefixEnd(from), pebble.NoSync)
}

func (i *Install) end() {
	i.ended = true
	i.gs.installing.Store(false)
	_ = i.batch.Close()
}
