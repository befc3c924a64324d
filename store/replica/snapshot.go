package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// A snapshot's Data is uvarint(len(fence)) ‖ fence ‖ payload. The fence is inside because without it a replica that was filled by a
// snapshot would accept what a superseded owner proposes. What the payload is, is its sender's and receiver's affair.

// SnapshotData makes a snapshot's Data.
func SnapshotData(f store.Fence, payload []byte) []byte {
	fence := store.AppendFence(nil, f)
	b := binary.AppendUvarint(make([]byte, 0, len(fence)+len(payload)+2), uint64(len(fence)))
	b = append(b, fence...)
	return append(b, payload...)
}

// SplitSnapshotData is the inverse of SnapshotData; payload aliases data.
func SplitSnapshotData(data []byte) (f store.Fence, payload []byte, err error) {
	n, k := binary.Uvarint(data)
	if k <= 0 || n > uint64(len(data)-k) {
		return f, nil, errors.New("replica: snapshot without a fence")
	}
	f, err = store.DecodeFence(data[k : k+int(n)])
	return f, data[k+int(n):], err
}

// SnapshotFence is the fence that a snapshot carries.
func SnapshotFence(s *raftpb.Snapshot) (store.Fence, error) {
	f, _, err := SplitSnapshotData(s.GetData())
	if err != nil {
		return f, fmt.Errorf("snapshot at index %d: %w", s.GetMetadata().GetIndex(), err)
	}
	return f, nil
}

func unmarshalConfChange(e *raftpb.Entry, cc *raftpb.ConfChangeV2) error {
	if e.GetType() == raftpb.EntryConfChangeV2 {
		return proto.Unmarshal(e.GetData(), cc)
	}
	var v1 raftpb.ConfChange
	if err := proto.Unmarshal(e.GetData(), &v1); err != nil {
		return err
	}
	proto.Merge(cc, v1.AsV2())
	return nil
}

// changeEpoch is the epoch of the ring for whose sake a configuration changes.
func changeEpoch(cc *raftpb.ConfChangeV2) (ring.Epoch, error) {
	epoch, n := binary.Uvarint(cc.GetContext())
	if n <= 0 || n != len(cc.GetContext()) {
		return 0, errors.New("it names no ring")
	}
	return ring.Epoch(epoch), nil
}
