package ring

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// NodeID names one data directory for ever: random, 64 bits, never reused, never zero. A wiped disk is a new node.
type NodeID uint64

// String is the fixed-width form used on the wire, in gossip and on the command line: 16 hex digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// ParseNodeID reads the form that String writes.
func ParseNodeID(s string) (NodeID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 || v == 0 {
		return 0, fmt.Errorf("node ID %q: want 16 hex digits, not all zero", s)
	}
	return NodeID(v), nil
}

// BootID names one start of a node's process: random, never zero.
type BootID uint64

// ReplicaID names one replica of one group: handed out by the system shard, never reused within the group, never zero.
// It is the ID by which Raft knows the replica.
type ReplicaID uint64

// ShardID is a slice of the hash space: 0 … shards-1.
type ShardID uint32

// GroupID names a replica group: 0 is the system shard, s+1 is shard s.
type GroupID uint32

// SystemGroup is the one group that orders rings and identities.
const SystemGroup GroupID = 0

// Group is the replica group of the shard.
func (s ShardID) Group() GroupID { return GroupID(s) + 1 }

// Shard is the shard whose group this is; ok is false for the system group.
func (g GroupID) Shard() (s ShardID, ok bool) {
	if g == SystemGroup {
		return 0, false
	}
	return ShardID(g - 1), true
}

func (g GroupID) String() string {
	if g == SystemGroup {
		return "system"
	}
	return fmt.Sprintf("shard-%d", uint32(g)-1)
}

// Epoch numbers a ring. Each epoch is handed out once, with one table, by the system shard. 0 means no ring yet.
type Epoch uint64

// ClusterID is 128 random bits, fixed when the cluster forms. The zero value means "not part of a cluster yet".
type ClusterID [16]byte

// String is 32 hex digits.
func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// IsZero reports whether c is the ID of no cluster.
func (c ClusterID) IsZero() bool { return c == ClusterID{} }

// ParseClusterID reads the form that String writes.
func ParseClusterID(s string) (ClusterID, error) {
	var c ClusterID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(c) {
		return c, fmt.Errorf("cluster ID %q: want 32 hex digits", s)
	}
	copy(c[:], b)
	return c, nil
}

// Limits of a cluster. Shards is fixed for a cluster's life.
const (
	DefaultShards   = 64
	MaxShards       = 4096
	DefaultReplicas = 3
	MaxReplicas     = 7
)

// ShardOf places an object: xxhash64(uvarint(len(class)) ‖ class ‖ key) mod shards. It panics if shards is not positive.
func ShardOf(class, key string, shards int) ShardID {
	var buf [192]byte
	b := buf[:0]
	n := uint64(len(class))
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	b = append(b, byte(n))
	b = append(b, class...)
	b = append(b, key...)
	return ShardID(xxhash.Sum64(b) % uint64(shards))
}
