package replica

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var frameVersions = []byte{FrameVersionMin, FrameVersion}

func sampleFrame(t testing.TB, version byte) []byte {
	b := []byte{version}
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
	for _, version := range frameVersions {
		testFrameCodec(t, version)
	}
}

func testFrameCodec(t *testing.T, version byte) {
	msgs, err := DecodeFrame(sampleFrame(t, version))
	if err != nil || len(msgs) != 4 || msgs[0].Group != 5 || string(msgs[0].Message.GetContext()) != "ctx" ||
		string(msgs[1].Message.GetEntries()[0].GetData()) != "data" || msgs[2].Message != nil || msgs[2].Group != 9 ||
		msgs[2].Ping != (Ping{From: 7, To: 8, Term: 300, Number: 1}) || msgs[3].Ping != (Ping{Kind: PingPromise, From: 8, To: 7, Term: 300, Number: 1}) {
		t.Fatalf("%v, %v", msgs, err)
	}
}

// TestMessageCodec: what comes out is what went in, to Raft.
func TestMessageCodec(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	number := func() *uint64 { return proto.Uint64(rng.Uint64() >> rng.IntN(64)) }
	kinds := []raftpb.MessageType{raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow}
	for range 5000 {
		version := frameVersions[rng.IntN(2)]
		m := &raftpb.Message{Type: kinds[rng.IntN(len(kinds))].Enum(), From: number(), To: number(), Term: number(), LogTerm: number(), Index: number(), Commit: number()}
		*m.From |= 1
		*m.To |= 1
		*m.Term = *m.Term>>2 | 1
		*m.Index >>= 1
		if rng.IntN(2) == 0 {
			m.Reject, m.RejectHint = proto.Bool(true), number()
		}
		if rng.IntN(2) == 0 {
			m.Context = make([]byte, rng.IntN(40))
		}
		for i := range rng.IntN(5) {
			e := &raftpb.Entry{Index: proto.Uint64(m.GetIndex() + 1 + uint64(i)), Term: proto.Uint64(1 + rng.Uint64N(m.GetTerm())), Data: make([]byte, rng.IntN(300))}
			if rng.IntN(3) == 0 {
				e.Type = raftpb.EntryType(1 + rng.IntN(2)).Enum()
			}
			m.Entries = append(m.Entries, e)
		}
		write, read := appendRaft, decodeRaft
		if version == FrameVersionMin {
			write, read = appendProtobuf, decodeProtobuf
		}
		b, err := write(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		got, rest, err := read(append(b, 1, 2, 3))
		if err != nil || string(rest) != "\x01\x02\x03" || !sameMessage(got, m) {
			t.Fatalf("%v became %v with % x left: %v", m, got, rest, err)
		}
		clear(b)
		if !sameMessage(got, m) {
			t.Fatal("the message does not own its bytes")
		}
		for cut := range b {
			if _, _, err := read(b[:cut]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", cut, len(b))
			}
		}
	}
}

// sameMessage compares as Raft reads: an absent number is 0, absent bytes are empty.
func sameMessage(a, b *raftpb.Message) bool {
	if a.GetType() != b.GetType() || a.GetFrom() != b.GetFrom() || a.GetTo() != b.GetTo() || a.GetTerm() != b.GetTerm() || a.GetLogTerm() != b.GetLogTerm() ||
		a.GetIndex() != b.GetIndex() || a.GetCommit() != b.GetCommit() || a.GetReject() != b.GetReject() || a.GetRejectHint() != b.GetRejectHint() ||
		!bytes.Equal(a.GetContext(), b.GetContext()) {
		return false
	}
	return slices.EqualFunc(a.GetEntries(), b.GetEntries(), func(x, y *raftpb.Entry) bool {
		return x.GetIndex() == y.GetIndex() && x.GetTerm() == y.GetTerm() && x.GetType() == y.GetType() && bytes.Equal(x.GetData(), y.GetData()) &&
			entrySize(x) == entrySize(&raftpb.Entry{Type: y.Type, Index: y.Index, Term: y.Term, Data: x.Data})
	})
}

// TestFrameRefuses: Raft trusts its local messages, so none may come over the wire.
func TestFrameRefuses(t *testing.T) {
	for want, m := range map[string]*raftpb.Message{
		"MsgStorageAppendResp is not": {Type: raftpb.MsgStorageAppendResp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"type MsgHup is":              {Type: raftpb.MsgHup.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"type MsgSnap is":             {Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1)},
		"a snapshot or":               {Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1), Snapshot: &raftpb.Snapshot{}},
		"entries are not in order": {Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1),
			Entries: []*raftpb.Entry{{Index: proto.Uint64(9), Term: proto.Uint64(1)}}},
	} {
		before := []byte{FrameVersion, 1}
		if b, err := appendMessage(before, 1, m); err == nil || !strings.Contains(err.Error(), want) || !bytes.Equal(b, before) {
			t.Errorf("got %x, %v, want an error with %q", b, err, want)
		}
		b, err := EncodeFrame(FrameVersionMin, 1, m, Ping{})
		if err == nil {
			_, err = DecodeFrame(b)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("in version %d: got %v, want an error with %q", FrameVersionMin, err, want)
		}
	}
	message := func(kind, flags byte, more ...byte) []byte {
		return append([]byte{FrameVersion, 8, kind, flags}, more...)
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "an older version": {FrameVersionMin - 1}, "a newer version": {FrameVersion + 1, 8}, "half a group": {FrameVersion, 200}, "no message": {FrameVersion, 8},
		"a local type":        message(byte(raftpb.MsgHup), 0, 1, 2, 3, 0, 0, 0),
		"a local answer":      message(byte(raftpb.MsgStorageAppendResp), 0, 1, 2, 3, 0, 0, 0),
		"a snapshot":          message(byte(raftpb.MsgSnap), 0, 1, 2, 3, 0, 0, 0),
		"an unknown flag":     message(byte(raftpb.MsgApp), flagsKnown+1, 1, 2, 3, 0, 0, 0),
		"no sender":           message(byte(raftpb.MsgApp), 0, 0, 2, 3, 0, 0, 0),
		"no receiver":         message(byte(raftpb.MsgApp), 0, 1, 0, 3, 0, 0, 0),
		"no term":             message(byte(raftpb.MsgApp), 0, 1, 2, 0, 0, 0, 0),
		"no entries":          message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0, 0, 0, 0),
		"too many entries":    message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0, 0, 0, 2, 0, 0),
		"an entry of term 0":  message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0, 0, 0, 1, 3<<2, 0),
		"an entry's type":     message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0, 0, 0, 1, 3, 0),
		"half an entry":       message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0, 0, 0, 1, 0, 1),
		"indices that end":    append(append(message(byte(raftpb.MsgApp), flagEntries, 1, 2, 3, 0), binary.AppendUvarint(nil, math.MaxUint64)...), 0, 1, 0, 0),
		"a ping without kind": {FrameVersion, 13, 1, 1, 1, 1}, "another": {FrameVersion, 15, 1, 1, 1, 1}, "half a ping": {FrameVersion, 9, 1, 1, 1},
		"a ping with a zero": {FrameVersion, 9, 1, 1, 0, 1},
	} {
		if _, err := DecodeFrame(b); err == nil {
			t.Errorf("%s: % x was accepted", what, b)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	for _, version := range frameVersions {
		f.Add(sampleFrame(f, version))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), protoTimes, func() { _, _ = DecodeFrame(b) })
		msgs, err := DecodeFrame(b)
		if err != nil {
			return
		}
		again := []byte{b[0]}
		for _, m := range msgs {
			if m.Message == nil {
				again = appendPing(again, m.Group, &m.Ping)
				continue
			}
			if again, err = appendMessage(again, m.Group, m.Message); err != nil {
				t.Fatal(err)
			}
		}
		if len(msgs) == 0 {
			return
		}
		back, err := DecodeFrame(again)
		if err != nil || len(back) != len(msgs) {
			t.Fatalf("%d messages became %d: %v", len(msgs), len(back), err)
		}
		for i := range msgs {
			if msgs[i].Group != back[i].Group || msgs[i].Ping != back[i].Ping || (msgs[i].Message == nil) != (back[i].Message == nil) ||
				msgs[i].Message != nil && !sameMessage(msgs[i].Message, back[i].Message) {
				t.Fatalf("%v became %v", msgs[i], back[i])
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
