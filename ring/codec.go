package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// A ring's bytes: format byte, cluster, uvarints of epoch, replicas, next replica ID; members (count, then ID, boot, state, two strings); the system
// shard and the shards (count, then per assignment a count and node index, replica ID, role); crc32c of all before it.
const codecFormat = 2

// maxCopies bounds an assignment while it changes: every replica wanted, and every one on its way out.
const maxCopies = 2 * MaxReplicas

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the ring's bytes, the same for equal rings.
func (r *Ring) Encode() []byte {
	b := append([]byte{codecFormat}, r.cluster[:]...)
	b = binary.AppendUvarint(b, uint64(r.epoch))
	b = binary.AppendUvarint(b, uint64(r.replicas))
	b = binary.AppendUvarint(b, uint64(r.nextReplica))
	b = binary.AppendUvarint(b, uint64(len(r.members)))
	index := make(map[NodeID]uint64, len(r.members))
	for i, m := range r.members {
		index[m.ID] = uint64(i)
		b = binary.LittleEndian.AppendUint64(b, uint64(m.ID))
		b = binary.LittleEndian.AppendUint64(b, uint64(m.Boot))
		b = append(b, byte(m.State))
		for _, s := range [...]string{m.Addr, m.GossipAddr} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	b = appendAssignment(b, r.system, index)
	b = binary.AppendUvarint(b, uint64(len(r.shards)))
	for _, a := range r.shards {
		b = appendAssignment(b, a, index)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendAssignment(b []byte, a Assignment, index map[NodeID]uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(a.Replicas)))
	for _, r := range a.Replicas {
		b = binary.AppendUvarint(b, index[r.Node])
		b = binary.AppendUvarint(b, uint64(r.ID))
		b = append(b, byte(r.Role))
	}
	return b
}

// Hash is equal for equal rings: nodes that disagree about an epoch's table notice by it.
func (r *Ring) Hash() uint64 { return xxhash.Sum64(r.Encode()) }

// Decode reads what Encode wrote. Whatever the bytes are it allocates little more than their length, and what it returns obeys every rule of a ring.
func Decode(b []byte) (*Ring, error) {
	if len(b) < 1+16+4 {
		return nil, fmt.Errorf("ring: %d bytes are too few", len(b))
	}
	if b[0] != codecFormat {
		return nil, fmt.Errorf("ring: format %d; this version reads format %d: run the version that wrote it", b[0], codecFormat)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("ring: checksum does not match; the bytes are damaged")
	}
	d := ringReader{b: body[1:]}
	r := new(Ring)
	copy(r.cluster[:], d.take(16))
	r.epoch = Epoch(d.uvarint())
	r.replicas = int(d.count(MaxReplicas))
	r.nextReplica = ReplicaID(d.uvarint())
	for n := d.count(uint64(len(d.b)) / 19); n > 0; n-- {
		m := Member{ID: NodeID(d.uint64()), Boot: BootID(d.uint64()), State: MemberState(d.byte()), Addr: d.string(), GossipAddr: d.string()}
		r.members = append(r.members, m)
	}
	r.system = d.assignment(r.members)
	for n := d.count(min(MaxShards, uint64(len(d.b))/4)); n > 0; n-- {
		r.shards = append(r.shards, d.assignment(r.members))
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("ring: %d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, r.check()
}

// ringReader consumes bytes and remembers the first thing that was wrong; after that it returns zeros.
type ringReader struct {
	b   []byte
	err error
}

func (d *ringReader) fail(what string) {
	if d.err == nil {
		d.err = errors.New("ring: " + what)
	}
	d.b = nil
}

func (d *ringReader) take(n int) []byte {
	if n > len(d.b) {
		d.fail("ends too soon")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *ringReader) uint64() uint64 {
	if v := d.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (d *ringReader) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *ringReader) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("ends within a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *ringReader) count(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.fail(fmt.Sprintf("a count of %d where at most %d are possible", v, limit))
		return 0
	}
	return v
}

func (d *ringReader) string() string { return string(d.take(int(d.count(maxAddr)))) }

func (d *ringReader) assignment(members []Member) Assignment {
	var a Assignment
	for n := d.count(maxCopies); n > 0; n-- {
		i := d.uvarint()
		id := ReplicaID(d.uvarint())
		if i >= uint64(len(members)) {
			d.fail("a replica on a node that is not listed")
			return a
		}
		a.Replicas = append(a.Replicas, Replica{Node: members[i].ID, ID: id, Role: Role(d.byte())})
	}
	return a
}
