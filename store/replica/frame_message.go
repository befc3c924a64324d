package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/raft/v3/raftpb"
)

// How a message of Raft travels. Hand-coded: its protobuf form costs one allocation for every number in it, and reflection.
//
//	type u8 ‖ flags u8 ‖ uvarint from, to, term, logTerm, index, commit
//	‖ uvarint rejectHint                                               if flagHint
//	‖ uvarint length ‖ context                                         if flagContext
//	‖ uvarint count ‖ count × entry                                    if flagEntries
//
//	entry   uvarint((term − its term) << 2 | type) ‖ uvarint length ‖ data
//
// The entries' indices follow that of the message, and none is of a later term: what is out of order has no form.
const (
	flagReject = 1 << iota
	flagHint
	flagContext
	flagEntries
	flagsKnown = 1<<iota - 1
)

// errEntryOrder: Raft trusts what it is sent.
var errEntryOrder = errors.New("entries are not in order")

// appendRaft appends m, which must be of a type that is for the wire, and carries neither snapshot nor responses.
func appendRaft(b []byte, m *raftpb.Message) ([]byte, error) {
	if !forWire(m.GetType()) {
		return b, fmt.Errorf("type %v is not for the wire", m.GetType())
	}
	if m.GetSnapshot() != nil || len(m.GetResponses()) > 0 {
		return b, errors.New("a snapshot or responses where none belong")
	}
	b = append(b, byte(m.GetType()), messageFlags(m))
	for _, v := range [...]uint64{m.GetFrom(), m.GetTo(), m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit()} {
		b = binary.AppendUvarint(b, v)
	}
	if m.GetRejectHint() != 0 {
		b = binary.AppendUvarint(b, m.GetRejectHint())
	}
	if c := m.GetContext(); len(c) > 0 {
		b = append(binary.AppendUvarint(b, uint64(len(c))), c...)
	}
	if es := m.GetEntries(); len(es) > 0 {
		return appendEntries(b, m, es)
	}
	return b, nil
}

func messageFlags(m *raftpb.Message) (f byte) {
	if m.GetReject() {
		f |= flagReject
	}
	if m.GetRejectHint() != 0 {
		f |= flagHint
	}
	if len(m.GetContext()) > 0 {
		f |= flagContext
	}
	if len(m.GetEntries()) > 0 {
		f |= flagEntries
	}
	return f
}

func appendEntries(b []byte, m *raftpb.Message, es []*raftpb.Entry) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(es)))
	next, term := m.GetIndex()+1, m.GetTerm()
	for _, e := range es {
		if e.GetIndex() != next || e.GetTerm() == 0 || e.GetTerm() > term || term-e.GetTerm() > math.MaxUint64>>2 {
			return b, errEntryOrder
		}
		next++
		b = binary.AppendUvarint(b, (term-e.GetTerm())<<2|uint64(e.GetType()))
		b = append(binary.AppendUvarint(b, uint64(len(e.GetData()))), e.GetData()...)
	}
	return b, nil
}

// messageBox is a message with room for its numbers, to which its fields point.
type messageBox struct {
	m      raftpb.Message
	kind   raftpb.MessageType
	reject bool
	n      [7]uint64 // from, to, term, logTerm, index, commit, rejectHint
}

// entryBox is an entry with room for its numbers. Those of one message lie together: they stay in memory together too, in their group's tail.
type entryBox struct {
	e           raftpb.Entry
	index, term uint64
	kind        raftpb.EntryType
}

// decodeRaft reads a message from the beginning of b. It owns its bytes.
func decodeRaft(b []byte) (*raftpb.Message, []byte, error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	x := &messageBox{kind: raftpb.MessageType(b[0])}
	flags := b[1]
	if !forWire(x.kind) || flags > flagsKnown {
		return nil, nil, fmt.Errorf("type %v (flags %x) is not for the wire", x.kind, flags)
	}
	d := cut{b: b[2:]}
	for i := range 6 {
		x.n[i] = d.uvarint()
	}
	m := &x.m
	m.Type, m.From, m.To, m.Term, m.LogTerm, m.Index, m.Commit = &x.kind, &x.n[0], &x.n[1], &x.n[2], &x.n[3], &x.n[4], &x.n[5]
	if flags&flagReject != 0 {
		x.reject = true
		m.Reject = &x.reject
	}
	if flags&flagHint != 0 {
		x.n[6] = d.uvarint()
		m.RejectHint = &x.n[6]
	}
	if flags&flagContext != 0 {
		m.Context = append([]byte(nil), d.bytes()...)
	}
	if flags&flagEntries != 0 {
		m.Entries = d.entries(x.n[4], x.n[2])
	}
	if d.err == nil && (x.n[0] == 0 || x.n[1] == 0 || x.n[2] == 0) {
		d.err = errors.New("sender, receiver or term is missing")
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	return m, d.b, nil
}

// forWire names what one node sends to another: Raft trusts its local messages, so a foreign one must not look like them.
func forWire(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
		return true
	}
	return false
}

var errShort = errors.New("it is cut short")

// cut takes a message apart and remembers the first thing that was wrong.
type cut struct {
	b   []byte
	err error
}

func (d *cut) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.err = nil, errShort
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes are the next length ‖ bytes, within the frame.
func (d *cut) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.b, d.err = nil, errShort
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// entries are those of a message of that term behind an index. First they are looked at, then copied, all at once.
func (d *cut) entries(index, term uint64) []*raftpb.Entry {
	n := d.uvarint()
	switch {
	case n == 0 || n > uint64(len(d.b)/2):
		d.err = errShort
		return nil
	case index > math.MaxUint64-n:
		d.err = errEntryOrder
		return nil
	}
	look := *d
	for range n {
		if head := look.uvarint(); head>>2 >= term || raftpb.EntryType(head&3) > raftpb.EntryConfChangeV2 {
			look.err = errEntryOrder
		}
		look.bytes()
	}
	if look.err != nil {
		*d = look
		return nil
	}
	own := cut{b: append([]byte(nil), d.b[:len(d.b)-len(look.b)]...)}
	*d = look
	boxes, es := make([]entryBox, n), make([]*raftpb.Entry, n)
	for i := range boxes {
		x := &boxes[i]
		head := own.uvarint()
		x.index, x.term, x.kind = index+1+uint64(i), term-head>>2, raftpb.EntryType(head&3)
		x.e.Index, x.e.Term = &x.index, &x.term
		if x.kind != raftpb.EntryNormal {
			x.e.Type = &x.kind
		}
		if data := own.bytes(); len(data) > 0 {
			x.e.Data = data
		}
		es[i] = &x.e
	}
	return es
}
