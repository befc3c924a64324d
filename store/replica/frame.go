package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
)

// A Raft frame's body gathers what many groups say between one pair of nodes: version byte, then items
//
//	uvarint(group << 3 | kind) ‖ uvarint(length) ‖ protobuf           kind 0: a message of Raft
//	uvarint(group << 3 | kind) ‖ uvarint(from, to, term, number)      kinds 1 to 4: a Ping
//
// Heartbeats and requests of all groups that tick together travel in one frame.
const frameVersion = 2

const (
	itemMessage = iota
	itemPing    // itemPing + PingKind
)

// FrameBytes is the size at which a frame is sent and a new one begun. One message may be larger.
const FrameBytes = 256 << 10

// GroupMessage is a Raft message, or a Ping if Message is nil, with the group it belongs to.
type GroupMessage struct {
	Group   ring.GroupID
	Message *raftpb.Message
	Ping    Ping
	from    ring.NodeID // who sent the frame
}

// appendItem begins an item in a frame body; an empty body gets its version byte first.
func appendItem(b []byte, g ring.GroupID, kind uint64) []byte {
	if len(b) == 0 {
		b = append(b, frameVersion)
	}
	return binary.AppendUvarint(b, uint64(g)<<3|kind)
}

func appendMessage(b []byte, g ring.GroupID, m *raftpb.Message) ([]byte, error) {
	b = appendItem(b, g, itemMessage)
	b = binary.AppendUvarint(b, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

func appendPing(b []byte, g ring.GroupID, p *Ping) []byte {
	b = appendItem(b, g, itemPing+uint64(p.Kind))
	for _, v := range [...]uint64{uint64(p.From), uint64(p.To), p.Term, p.Number} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// EncodeFrame is a frame's body with one message of a group, or with the ping if that is nil.
func EncodeFrame(g ring.GroupID, m *raftpb.Message, p Ping) ([]byte, error) {
	if m == nil {
		return appendPing(nil, g, &p), nil
	}
	return appendMessage(nil, g, m)
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
		head, n := binary.Uvarint(b)
		if n <= 0 || head>>3 > 1<<31 {
			return nil, errors.New("replica: Raft frame: bad group")
		}
		gm := GroupMessage{Group: ring.GroupID(head >> 3)}
		var err error
		b = b[n:]
		switch kind := head & 7; kind {
		case itemMessage:
			gm.Message, b, err = decodeMessage(b)
		default:
			gm.Ping, b, err = decodePing(b)
			if gm.Ping.Kind = PingKind(kind - itemPing); gm.Ping.Kind > PingDecline {
				err = errors.New("an item of unknown kind")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("replica: Raft frame: message of group %d: %w", gm.Group, err)
		}
		out = append(out, gm)
	}
	return out, nil
}

func decodeMessage(b []byte) (*raftpb.Message, []byte, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errors.New("it is longer than the frame")
	}
	m := new(raftpb.Message)
	if err := proto.Unmarshal(b[n:n+int(size)], m); err != nil {
		return nil, nil, err
	}
	return m, b[n+int(size):], checkMessage(m)
}

func decodePing(b []byte) (p Ping, rest []byte, err error) {
	var v [4]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(b); n <= 0 || v[i] == 0 {
			return p, nil, errors.New("a request or promise is cut short, or one of its numbers is 0")
		}
		b = b[n:]
	}
	return Ping{From: ring.ReplicaID(v[0]), To: ring.ReplicaID(v[1]), Term: v[2], Number: v[3]}, b, nil
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
