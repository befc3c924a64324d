package replica

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func sampleFrame(t testing.TB) []byte {
	var b []byte
	for g, m := range []*raftpb.Message{
		{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(3), Context: []byte("ctx")},
		{Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(3), Index: proto.Uint64(7),
			Entries: []*raftpb.Entry{{Index: proto.Uint64(8), Term: proto.Uint64(3), Data: []byte("data")}}},
	} {
		var err error
		if b, err = appendMessage(b, 5, m); err != nil {
			t.Fatal(g, err)
		}
	}
	b = appendPing(b, 9, &Ping{From: 7, To: 8, Term: 300, Number: 1})
	b = appendPing(b, 9, &Ping{Kind: PingPromise, From: 8, To: 7, Term: 300, Number: 1})
	return b
}

func TestFrameCodec(t *testing.T) {
	msgs, err := DecodeFrame(sampleFrame(t))
	if err != nil || len(msgs) != 4 || msgs[0].Group != 5 || string(msgs[0].Message.GetContext()) != "ctx" ||
		string(msgs[1].Message.GetEntries()[0].GetData()) != "data" || msgs[2].Message != nil || msgs[2].Group != 9 ||
		msgs[2].Ping != (Ping{From: 7, To: 8, Term: 300, Number: 1}) || msgs[3].Ping != (Ping{Kind: PingPromise, From: 8, To: 7, Term: 300, Number: 1}) {
		t.Fatalf("%v, %v", msgs, err)
	}
}

// TestFrameRefuses: Raft trusts its local messages, so none may come over the wire.
func TestFrameRefuses(t *testing.T) {
	for want, m := range map[string]*raftpb.Message{
		"not for the wire":         {Type: raftpb.MsgStorageAppendResp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"type MsgHup is":           {Type: raftpb.MsgHup.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"type MsgSnap is":          {Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"receiver or term is":      {Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), Term: proto.Uint64(1)},
		"entries are not in order": {Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1), Entries: []*raftpb.Entry{{Index: proto.Uint64(9)}}},
	} {
		b, err := appendMessage(nil, 1, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeFrame(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	for _, b := range [][]byte{nil, {1}, {9}, {2, 8}, {2, 8, 200}, {2, 8, 2, 0xff, 0xff}, {2, 13, 1, 1, 1, 1}, {2, 15, 1, 1, 1, 1}, {2, 9, 1, 1, 1}, {2, 9, 1, 1, 0, 1}} {
		if _, err := DecodeFrame(b); err == nil {
			t.Errorf("% x was accepted", b)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(sampleFrame(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), protoTimes, func() { _, _ = DecodeFrame(b) })
		msgs, err := DecodeFrame(b)
		if err != nil {
			return
		}
		var again []byte
		for _, m := range msgs {
			if m.Message == nil {
				again = appendPing(again, m.Group, &m.Ping)
				continue
			}
			if again, err = appendMessage(again, m.Group, m.Message); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDecodeChunk(f *testing.F) {
	f.Add([]byte{chunkVersion, 1, 2, 3, chunkData, 1, 'k', 1, 'v'})
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), 1, func() { _, _ = decodeChunk(b) })
		if c, err := decodeChunk(b); err == nil && (c.kind < chunkBegin || c.kind > chunkEnd) {
			t.Fatal(c)
		}
		_, _, _ = SplitSnapshotData(b)
	})
}
