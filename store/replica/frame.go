package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
)

// A Raft frame's body gathers what many groups say between one pair of nodes: version byte, then items
//
//	uvarint(group << 3 | kind) ‖ message                              kind 0: of Raft, see frame_message.go
//	uvarint(group << 3 | kind) ‖ uvarint(from, to, term, number)      kinds 1 to 4: a Ping
//
// Heartbeats and requests of all groups that tick together travel in one frame. In version 2 a message is uvarint(length) ‖ protobuf; it is read, and
// written for nodes that read nothing else, so that a cluster can be restarted node by node.
const (
	FrameVersionMin = 2
	FrameVersion    = 3
)

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
}

// appendItem begins an item in a frame's body, which has its version byte.
func appendItem(b []byte, g ring.GroupID, kind uint64) []byte {
	return binary.AppendUvarint(b, uint64(g)<<3|kind)
}

func appendMessage(b []byte, g ring.GroupID, m *raftpb.Message) ([]byte, error) {
	at := len(b)
	add := appendRaft
	if b[0] == FrameVersionMin {
		add = appendProtobuf
	}
	out, err := add(appendItem(b, g, itemMessage), m)
	if err != nil {
		return out[:at], err
	}
	return out, nil
}

func appendPing(b []byte, g ring.GroupID, p *Ping) []byte {
	b = appendItem(b, g, itemPing+uint64(p.Kind))
	for _, v := range [...]uint64{uint64(p.From), uint64(p.To), p.Term, p.Number} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// EncodeFrame is a frame's body of a version with one message of a group, or with the ping if that is nil.
func EncodeFrame(version byte, g ring.GroupID, m *raftpb.Message, p Ping) ([]byte, error) {
	b := []byte{version}
	if m == nil {
		return appendPing(b, g, &p), nil
	}
	return appendMessage(b, g, m)
}

// DecodeFrame reads a Raft frame's body. The messages own their bytes.
func DecodeFrame(b []byte) ([]GroupMessage, error) { return decodeFrame(nil, b) }

// decodeFrame appends to out.
func decodeFrame(out []GroupMessage, b []byte) ([]GroupMessage, error) {
	if len(b) == 0 {
		return nil, errors.New("replica: empty Raft frame")
	}
	read := decodeRaft
	switch b[0] {
	case FrameVersion:
	case FrameVersionMin:
		read = decodeProtobuf
	default:
		return nil, fmt.Errorf("replica: Raft frame of version %d; this build reads versions %d to %d", b[0], FrameVersionMin, FrameVersion)
	}
	b = b[1:]
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
			gm.Message, b, err = read(b)
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
