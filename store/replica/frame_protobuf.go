package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Messages of frames of version 2.

func appendProtobuf(b []byte, m *raftpb.Message) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

func decodeProtobuf(b []byte) (*raftpb.Message, []byte, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errors.New("it is longer than the frame")
	}
	m := new(raftpb.Message)
	if err := proto.Unmarshal(b[n:n+int(size)], m); err != nil {
		return nil, nil, err
	}
	return m, b[n+int(size):], checkProtobuf(m)
}

// checkProtobuf refuses what has no form in later versions either.
func checkProtobuf(m *raftpb.Message) error {
	if !forWire(m.GetType()) {
		return fmt.Errorf("type %v is not for the wire", m.GetType())
	}
	if m.GetFrom() == 0 || m.GetTo() == 0 || m.GetTerm() == 0 {
		return errors.New("sender, receiver or term is missing")
	}
	last := m.GetIndex()
	for _, e := range m.GetEntries() {
		if e == nil || e.GetIndex() != last+1 || e.GetTerm() == 0 || e.GetTerm() > m.GetTerm() {
			return errEntryOrder
		}
		last++
	}
	if m.GetSnapshot() != nil || len(m.GetResponses()) > 0 {
		return errors.New("a snapshot or responses where none belong")
	}
	return nil
}
