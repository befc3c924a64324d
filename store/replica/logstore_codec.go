package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
)

// How a log is stored. Hand-coded, because an entry is written on every replica for every write and protobuf reflects over it.
//
//	entry        crc32c u32 ‖ type u8 ‖ uvarint term ‖ data      its index is in the key
//	hard state   crc32c u32 ‖ 1 ‖ uvarint term, vote, commit
//	position     crc32c u32 ‖ 1 ‖ uvarint index, term            truncation point, applied index
//
// Checksums are big endian and cover group, key number (index, or record) and all after them: bytes that stand in the wrong
// place are noticed too.

const recordFormat = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the place where a value stands and the value.
func checksum(g ring.GroupID, number uint64, head, data []byte) uint32 {
	c := crcPlace(g, number)
	c = crc32.Update(c, castagnoli, head)
	return crc32.Update(c, castagnoli, data)
}

// crcPlace is the checksum of group and number, byte by byte: what is given to package crc32 goes to the heap.
func crcPlace(g ring.GroupID, number uint64) uint32 {
	c := ^uint32(0)
	for i := 24; i >= 0; i -= 8 {
		c = castagnoli[byte(c)^byte(uint32(g)>>i)] ^ c>>8
	}
	for i := 56; i >= 0; i -= 8 {
		c = castagnoli[byte(c)^byte(number>>i)] ^ c>>8
	}
	return ^c
}

// appendEntryHead appends what goes before the entry's data.
func appendEntryHead(b []byte, g ring.GroupID, e *raftpb.Entry) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, byte(e.GetType()))
	b = binary.AppendUvarint(b, e.GetTerm())
	binary.BigEndian.PutUint32(b[at:], checksum(g, e.GetIndex(), b[at+4:], e.GetData()))
	return b
}

// decodeEntry reads an entry; its data is copied out of v.
func decodeEntry(g ring.GroupID, index uint64, v []byte) (*raftpb.Entry, error) {
	if len(v) < 6 || checksum(g, index, v[4:], nil) != binary.BigEndian.Uint32(v) {
		return nil, fmt.Errorf("%v: log entry %d has a wrong checksum", g, index)
	}
	e, n, err := decodeEntryHead(g, index, v)
	if err != nil {
		return nil, err
	}
	if data := v[n:]; len(data) > 0 {
		e.Data = append(make([]byte, 0, len(data)), data...)
	}
	return e, nil
}

// decodeEntryHead reads what appendEntryHead wrote, but for the checksum; n is its length.
func decodeEntryHead(g ring.GroupID, index uint64, v []byte) (e *raftpb.Entry, n int, err error) {
	if len(v) < 6 {
		return nil, 0, fmt.Errorf("%v: log entry %d ends too soon", g, index)
	}
	kind := v[4]
	term, n := binary.Uvarint(v[5:])
	if n <= 0 || kind > byte(raftpb.EntryConfChangeV2) {
		return nil, 0, fmt.Errorf("%v: log entry %d cannot be read (type %d)", g, index, kind)
	}
	e = &raftpb.Entry{Term: new(term), Index: new(index)}
	if kind != 0 {
		e.Type = raftpb.EntryType(kind).Enum()
	}
	return e, 5 + n, nil
}

// appendRecord appends a record of numbers; number tells records of a group apart.
func appendRecord(b []byte, g ring.GroupID, number uint64, values ...uint64) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, recordFormat)
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	binary.BigEndian.PutUint32(b[at:], checksum(g, number, b[at+4:], nil))
	return b
}

// decodeRecord reads what appendRecord wrote into values.
func decodeRecord(g ring.GroupID, number uint64, v []byte, values ...*uint64) error {
	if len(v) < 5 || checksum(g, number, v[4:], nil) != binary.BigEndian.Uint32(v) {
		return errors.New("its checksum is wrong")
	}
	if v[4] != recordFormat {
		return fmt.Errorf("it has format %d, and this version reads format %d", v[4], recordFormat)
	}
	rest := v[5:]
	for _, p := range values {
		n := 0
		if *p, n = binary.Uvarint(rest); n <= 0 {
			return errors.New("it ends too soon")
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("it has %d bytes too many", len(rest))
	}
	return nil
}

// entrySize is the size of the entry's protobuf form, by which Raft counts, without reflection.
func entrySize(e *raftpb.Entry) uint32 {
	n := entrySizeWith(e, 0)
	if e.Data != nil {
		n += uint32(1 + uvarintLen(uint64(len(e.Data))) + len(e.Data))
	}
	return n
}

// entrySizeWith is the size of an entry that has so many bytes of data, and the rest from e.
func entrySizeWith(e *raftpb.Entry, data int) uint32 {
	n := 0
	if e.Type != nil {
		n += 1 + uvarintLen(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + uvarintLen(*e.Term)
	}
	if e.Index != nil {
		n += 1 + uvarintLen(*e.Index)
	}
	if data > 0 {
		n += 1 + uvarintLen(uint64(data)) + data
	}
	return uint32(n)
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
