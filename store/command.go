package store

import (
	"encoding/binary"
	"fmt"

	"github.com/ringfence/ringfence/ring"
)

// CommandKind says what an entry of a shard's log is. Numbers only grow.
type CommandKind uint8

const (
	KindAcquire CommandKind = 1
	KindBatch   CommandKind = 2
	KindRelease CommandKind = 3
)

// Acquire asks for the shard. It is accepted iff Prev is the current token, Term is the entry's own and Epoch is not below the fence's.
type Acquire struct {
	Prev   Token
	Term   uint64
	Epoch  ring.Epoch
	Holder Holder
}

// Command is one entry of a shard's log, decoded. Acquire is set for KindAcquire, the other fields for the other kinds.
type Command struct {
	Kind    CommandKind
	Acquire Acquire
	Token   Token
	Seq     uint64  // number of the first batch in the entry (of the release, for KindRelease)
	Count   uint32  // batches in the entry, at least 1
	Writes  []Write // of all batches, in order; a later one to the same key wins
}

// Limits of one entry. A proposer keeps below them; a decoder refuses above.
const (
	MaxBatchBytes  = 8 << 20
	MaxBatchWrites = 10000
	MaxEntryBytes  = 16 << 20
)

// WriteSize is what a write counts against the byte limits.
func WriteSize(w *Write) int { return len(w.Key) + len(w.Value) + len(w.End) + 8 }

// AppendAcquire appends the log form of an acquire.
func AppendAcquire(b []byte, a Acquire) []byte {
	b = append(b, byte(KindAcquire))
	for _, v := range [...]uint64{uint64(a.Prev), a.Term, uint64(a.Epoch),
		uint64(a.Holder.Replica), uint64(a.Holder.Node), uint64(a.Holder.Boot)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// AppendRelease appends the log form of a release.
func AppendRelease(b []byte, t Token, seq uint64) []byte {
	b = append(b, byte(KindRelease))
	b = binary.AppendUvarint(b, uint64(t))
	return binary.AppendUvarint(b, seq)
}

// AppendBatchHead appends the head of an entry of count batches that begins with number seq; AppendWrite adds the writes.
func AppendBatchHead(b []byte, t Token, seq uint64, count uint32) []byte {
	b = append(b, byte(batchKind()))
	b = binary.AppendUvarint(b, uint64(t))
	b = binary.AppendUvarint(b, seq)
	return binary.AppendUvarint(b, uint64(count))
}

const (
	writePut         byte = 1
	writeDelete      byte = 2
	writeDeleteRange byte = 3
)

// AppendWrite appends one write of a batch entry.
func AppendWrite(b []byte, w *Write) []byte {
	switch {
	case w.IsRange():
		return appendBytes(appendBytes(append(b, writeDeleteRange), w.Key), w.End)
	case w.Delete:
		return appendBytes(append(b, writeDelete), w.Key)
	}
	return appendBytes(appendBytes(append(b, writePut), w.Key), w.Value)
}

func appendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

// DecodeCommand reads one entry into c, reusing c.Writes. Keys and values alias b.
func DecodeCommand(b []byte, c *Command) error {
	if len(b) > MaxEntryBytes {
		return fmt.Errorf("store: entry of %d bytes; at most %d are allowed", len(b), MaxEntryBytes)
	}
	d := decoder{b: b}
	*c = Command{Kind: knownKind(CommandKind(d.byte())), Writes: c.Writes[:0]}
	switch c.Kind {
	case KindAcquire:
		c.Acquire.Prev = Token(d.uvarint())
		c.Acquire.Term = d.uvarint()
		c.Acquire.Epoch = ring.Epoch(d.uvarint())
		c.Acquire.Holder = Holder{Replica: ring.ReplicaID(d.uvarint()), Node: ring.NodeID(d.uvarint()), Boot: ring.BootID(d.uvarint())}
	case KindRelease:
		c.Token = Token(d.uvarint())
		c.Seq = d.uvarint()
	case KindBatch:
		decodeBatch(&d, c)
	default:
		d.fail("command kind %d; this version knows 1 to 3", c.Kind)
	}
	return d.end("entry")
}

func decodeBatch(d *decoder, c *Command) {
	c.Token = Token(d.uvarint())
	c.Seq = d.uvarint()
	n := d.uvarint()
	if d.err == nil && (n == 0 || n > MaxEntryBytes || c.Seq == 0 || c.Seq+n < c.Seq) {
		d.fail("%d batches from number %d", n, c.Seq)
	}
	c.Count = uint32(n)
	for d.err == nil && len(d.b) > 0 {
		var w Write
		switch op := d.byte(); op {
		case writePut:
			w.Key = d.bytes()
			w.Value = d.bytes()
		case writeDelete:
			w.Key = d.bytes()
			w.Delete = true
		case writeDeleteRange:
			w.Key = d.bytes()
			w.End = d.bytes()
			w.Delete = true
		default:
			d.fail("write of kind %d", op)
		}
		if d.err == nil {
			c.Writes = append(c.Writes, w)
		}
	}
}

// decoder consumes bytes and remembers the first thing that was wrong.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) byte() byte {
	if d.err != nil || len(d.b) == 0 {
		d.fail("ends too soon")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("ends within a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.b)) {
		d.fail("declares %d bytes where %d are left", n, len(d.b))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) end(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("store: %s: %w", what, d.err)
	}
	return nil
}
