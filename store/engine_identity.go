package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/ringfence/ringfence/ring"
)

// Identity is who this data directory is. Node is made at the first open; the rest is zero until SetCluster, once.
type Identity struct {
	Node     ring.NodeID
	Cluster  ring.ClusterID
	Shards   int
	Replicas int
	Timing   string
}

// Limits of named records.
const (
	MaxRecordName  = 128
	MaxRecordBytes = 16 << 20
)

const identityFormat = 1

func appendIdentity(b []byte, id Identity) []byte {
	b = append(b, identityFormat)
	b = binary.BigEndian.AppendUint64(b, uint64(id.Node))
	b = append(b, id.Cluster[:]...)
	b = binary.AppendUvarint(b, uint64(id.Shards))
	b = binary.AppendUvarint(b, uint64(id.Replicas))
	b = binary.AppendUvarint(b, uint64(len(id.Timing)))
	return append(b, id.Timing...)
}

func decodeIdentity(b []byte) (Identity, error) {
	var id Identity
	if len(b) < 1+8+16 || b[0] != identityFormat {
		return id, errors.New("the node's identity cannot be read")
	}
	id.Node = ring.NodeID(binary.BigEndian.Uint64(b[1:]))
	copy(id.Cluster[:], b[9:])
	d := decoder{b: b[25:]}
	id.Shards = int(d.uvarint())
	id.Replicas = int(d.uvarint())
	id.Timing = string(d.bytes())
	return id, d.end("identity")
}

// loadIdentity reads the identity, or makes one in an empty directory. known is the node that the FORMAT file names: it is
// written after the identity, so a directory that has it and no identity has lost data.
func (e *Engine) loadIdentity(known ring.NodeID) error {
	v, ok, err := e.get([]byte{spaceNode, nodeIdentity})
	if err != nil {
		return openError(e.dir, err)
	}
	if ok {
		if e.identity, err = decodeIdentity(v); err != nil {
			return openError(e.dir, err)
		}
	}
	switch {
	case known != 0 && e.identity.Node != known:
		return openError(e.dir, fmt.Errorf("it belongs to node %v, but its database is that of node %v", known, e.identity.Node))
	case known != 0:
		return nil
	case !ok:
		if e.identity.Node, err = newNodeID(); err != nil {
			return err
		}
		if err := e.put([]byte{spaceNode, nodeIdentity}, appendIdentity(nil, e.identity)); err != nil {
			return err
		}
	}
	// Pebble makes a new database in its oldest format and raises it then, but the first WAL keeps the old form, which hides
	// damage. A flush begins the next one.
	if err := e.db.Flush(); err != nil {
		return openError(e.dir, err)
	}
	return e.writeFormat(e.identity.Node)
}

func newNodeID() (ring.NodeID, error) {
	for {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("no random bytes for a node ID: %w", err)
		}
		if n := ring.NodeID(binary.BigEndian.Uint64(b[:])); n != 0 {
			return n, nil
		}
	}
}

// Identity is who this data directory is.
func (e *Engine) Identity() Identity {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.identity
}

// SetCluster makes this node part of a cluster, durably and for ever. Repeating it with the same values does nothing; others
// are refused by name.
func (e *Engine) SetCluster(c ring.ClusterID, shards, replicas int, timing string) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	have := e.Identity()
	want := Identity{Node: have.Node, Cluster: c, Shards: shards, Replicas: replicas, Timing: timing}
	switch {
	case c.IsZero():
		return errors.New("store: a cluster's ID is not zero")
	case shards < 1 || shards > ring.MaxShards:
		return fmt.Errorf("store: %d shards: want 1 to %d", shards, ring.MaxShards)
	case replicas < 1 || replicas > ring.MaxReplicas:
		return fmt.Errorf("store: %d replicas: want 1 to %d", replicas, ring.MaxReplicas)
	case have.Cluster.IsZero():
		if err := e.put([]byte{spaceNode, nodeIdentity}, appendIdentity(nil, want)); err != nil {
			return err
		}
		e.mu.Lock()
		e.identity = want
		e.mu.Unlock()
		return nil
	case have.Cluster != c:
		return fmt.Errorf("data directory %s belongs to cluster %v, not %v: use that cluster's addresses, or an empty --data to join as a new node", e.dir, have.Cluster, c)
	case have.Shards != shards:
		return fmt.Errorf("cluster %v has %d shards, not %d: the number is fixed when a cluster forms; leave --shards out", c, have.Shards, shards)
	case have != want:
		return fmt.Errorf("data directory %s keeps %d replicas and timing %q for cluster %v, not %d and %q", e.dir, have.Replicas, have.Timing, c, replicas, timing)
	}
	return nil
}

// PutRecord stores a node's small durable value under a name of 1 to 128 bytes; it returns when that is fsynced.
func (e *Engine) PutRecord(name string, value []byte) error {
	if len(name) < 1 || len(name) > MaxRecordName || len(value) > MaxRecordBytes {
		return fmt.Errorf("store: record %.40q of %d bytes: want a name of 1 to %d bytes and at most %d bytes", name, len(value), MaxRecordName, MaxRecordBytes)
	}
	return e.put(nodeRecordKey(name), value)
}

// PutRecords is PutRecord for several records, all or none, with one fsync.
func (e *Engine) PutRecords(records map[string][]byte) error {
	b := e.NewBatch()
	defer b.Close()
	for name, value := range records {
		if len(name) < 1 || len(name) > MaxRecordName || len(value) > MaxRecordBytes {
			return fmt.Errorf("store: record %.40q of %d bytes: want a name of 1 to %d bytes and at most %d bytes", name, len(value), MaxRecordName, MaxRecordBytes)
		}
		b.set(nodeRecordKey(name), value)
	}
	return b.Commit(true)
}

// Record returns what PutRecord stored last under the name. The caller owns the bytes.
func (e *Engine) Record(name string) (value []byte, ok bool, err error) {
	return e.get(nodeRecordKey(name))
}

// put stores one value and waits for the fsync.
func (e *Engine) put(key, value []byte) error {
	if !e.gate.enter() {
		return ErrClosed
	}
	defer e.gate.leave()
	return e.db.Set(key, value, pebble.Sync)
}

// get copies one value.
func (e *Engine) get(key []byte) ([]byte, bool, error) {
	if !e.gate.enter() {
		return nil, false, ErrClosed
	}
	defer e.gate.leave()
	return getCopy(e.db, key)
}

// getCopy reads from the database or a snapshot of it.
func getCopy(r pebble.Reader, key []byte) ([]byte, bool, error) {
	v, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, true, c.Close()
}
