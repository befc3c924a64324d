package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
)

// A Raft frame's body gathers messages of many groups between one pair of nodes: version byte, then per message
// uvarint(group) ‖ uvarint(length) ‖ protobuf. Heartbeats of all groups that tick together travel in one frame.
const frameVersion = 1

// FrameBytes is the size at which a frame is sent and a new one begun. One message may be larger.
const FrameBytes = 256 << 10

// GroupMessage is a Raft message with the group it belongs to.
type GroupMessage struct {
	Group   ring.GroupID
	Message *raftpb.Message
	from    ring.NodeID // who sent the frame
}

// appendMessage adds a message to a frame body; an empty body gets its version byte first.
func appendMessage(b []byte, g ring.GroupID, m *raftpb.Message) ([]byte, error) {
	if len(b) == 0 {
		b = append(b, frameVersion)
	}
	b = binary.AppendUvarint(b, uint64(g))
	b = binary.AppendUvarint(b, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

// DecodeFrame reads a Raft frame's body. The messages own their bytes: protobuf copies.
func DecodeFrame(b []byte) ([]GroupMessage, error) {
	if len(b) == 0 {
		return nil, errors.New("replica: empty Raft frame")
	}
	if b[0] != frameVersion {
		return nil, fmt.Errorf("replica: Raft frame of version %d; this version reads version %d", b[0], frameVersion)
	}
	b = b[1:]
	var out []GroupMessage
	for len(b) > 0 {
		g, n := binary.Uvarint(b)
		if n <= 0 || g > 1<<31 {
			return nil, errors.New("replica: Raft frame: bad group")
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, fmt.Errorf("replica: Raft frame: message of group %d is longer than the frame", g)
		}
		m := new(raftpb.Message)
		if err := proto.Unmarshal(b[n:n+int(size)], m); err != nil {
			return nil, fmt.Errorf("replica: Raft frame: message of group %d: %w", g, err)
		}
		if err := checkMessage(m); err != nil {
			return nil, fmt.Errorf("replica: Raft frame: message of group %d: %w", g, err)
		}
		out = append(out, GroupMessage{Group: ring.GroupID(g), Message: m})
		b = b[n+int(size):]
	}
	return out, nil
}

// checkMessage refuses what another node never sends: Raft trusts its local messages, so a foreign one must not look like them.
func checkMessage(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
	default:
		return fmt.Errorf("type %v is not for the wire", m.GetType())
	}
	if m.GetFrom() == 0 || m.GetTo() == 0 || m.GetTerm() == 0 {
		return errors.New("sender, receiver or term is missing")
	}
	last := m.GetIndex()
	for _, e := range m.GetEntries() {
		if e == nil || e.GetIndex() != last+1 || e.GetTerm() > m.GetTerm() {
			return errors.New("entries are not in order")
		}
		last++
	}
	if m.GetSnapshot() != nil || len(m.GetResponses()) > 0 {
		return errors.New("a snapshot or responses where none belong")
	}
	return nil
}
