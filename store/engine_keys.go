package store

import (
	"encoding/binary"

	"github.com/ringfence/ringfence/ring"
)

// The key spaces of a node's one database. The first byte says which; numbers only grow, and a number once used keeps its
// meaning. Group IDs and indices are big endian, so that a group, and a log, is one key range.
//
//	1 ‖ kind ‖ …                         what concerns the node (identity, tripwire, named records)
//	2 ‖ group                            which replica of the group lives here, or its tombstone
//	3 ‖ group ‖ 1 ‖ record               Raft log: truncation point; hard state, see the journal
//	3 ‖ group ‖ 2 ‖ index                Raft log: entries that were moved out of the journal
//	4 ‖ group ‖ 1 ‖ record               shard state: applied index, fence, configuration, history's head
//	4 ‖ group ‖ 1 ‖ 4 ‖ kind ‖ slot      shard state: history's rows
//	4 ‖ group ‖ 2 ‖ generation ‖ key     shard state: data
//	5 ‖ number                           Raft logs: records of the journal
const (
	spaceNode    byte = 1
	spaceReplica byte = 2
	spaceLog     byte = 3
	spaceState   byte = 4
	spaceJournal byte = 5
)

const (
	nodeIdentity byte = 1
	nodeTripwire byte = 2
	nodeRecord   byte = 3
)

const (
	partRecords byte = 1
	partItems   byte = 2
)

// GroupRecord names one small value that is kept per group: its area in the high byte, its number in the low one.
type GroupRecord uint16

// The records of a group.
const (
	RecordHardState GroupRecord = GroupRecord(spaceLog)<<8 | 1
	RecordTruncated GroupRecord = GroupRecord(spaceLog)<<8 | 2
	RecordApplied   GroupRecord = GroupRecord(spaceState)<<8 | 1
	RecordFence     GroupRecord = GroupRecord(spaceState)<<8 | 2
	RecordConf      GroupRecord = GroupRecord(spaceState)<<8 | 3
	recordHistory   GroupRecord = GroupRecord(spaceState)<<8 | 4
)

// entryKeyLen is the length of an entry's key.
const entryKeyLen = 1 + 4 + 1 + 8

// dataPrefixLen is the length of what goes before a shard's own keys.
const dataPrefixLen = 1 + 4 + 1 + 4

func appendGroup(b []byte, space byte, g ring.GroupID) []byte {
	return binary.BigEndian.AppendUint32(append(b, space), uint32(g))
}

func appendReplicaKey(b []byte, g ring.GroupID) []byte { return appendGroup(b, spaceReplica, g) }

func appendRecordKey(b []byte, g ring.GroupID, r GroupRecord) []byte {
	return append(appendGroup(b, byte(r>>8), g), partRecords, byte(r))
}

func appendEntryKey(b []byte, g ring.GroupID, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(appendGroup(b, spaceLog, g), partItems), index)
}

func appendDataPrefix(b []byte, g ring.GroupID, generation uint32) []byte {
	return binary.BigEndian.AppendUint32(append(appendGroup(b, spaceState, g), partItems), generation)
}

func nodeRecordKey(name string) []byte { return append([]byte{spaceNode, nodeRecord}, name...) }

// parseGroup reads the group out of any key of the spaces 2 to 4.
func parseGroup(key []byte) (ring.GroupID, bool) {
	if len(key) < 5 {
		return 0, false
	}
	return ring.GroupID(binary.BigEndian.Uint32(key[1:5])), true
}
