package store

import (
	"encoding/binary"

	"github.com/ringfence/ringfence/ring"
)

// AppendReplicaHistory appends the form in which a replica's history travels: numbers and length-prefixed rows.
func AppendReplicaHistory(b []byte, r *ReplicaHistory) []byte {
	b = appendUvarints(append(b, historyFormat), uint64(r.Node), uint64(r.Replica))
	b = appendBytes(b, AppendHistoryHead(nil, &r.Head))
	b = binary.AppendUvarint(b, uint64(len(r.Tenures)))
	var row []byte
	for i := range r.Tenures {
		row = appendTenure(row[:0], &r.Tenures[i])
		b = appendBytes(b, row)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Checkpoints)))
	for i := range r.Checkpoints {
		row = AppendCheckpoint(row[:0], &r.Checkpoints[i])
		b = appendBytes(b, row)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Recent)))
	for i := range r.Recent {
		b = appendPrint(b, &r.Recent[i])
	}
	return b
}

// DecodeReplicaHistory reads what AppendReplicaHistory wrote; the bytes may come from anybody. It allocates less than eight times their length.
func DecodeReplicaHistory(b []byte) (r ReplicaHistory, err error) {
	d := decoder{b: b}
	d.format(historyFormat)
	r.Node, r.Replica = ring.NodeID(d.uvarint()), ring.ReplicaID(d.uvarint())
	if head := d.bytes(); d.err == nil {
		r.Head, d.err = DecodeHistoryHead(head)
	}
	const leastTenure, leastCheckpoint, leastPrint = 39, 21, 18 // bytes that one takes at least
	r.Tenures = make([]Tenure, 0, d.count("tenures", HistoryTenures, leastTenure))
	for range cap(r.Tenures) {
		row := decoder{b: d.bytes()}
		t := row.tenure()
		if err := row.end("tenure"); err != nil {
			d.fail("%w", err)
			break
		}
		r.Tenures = append(r.Tenures, t)
	}
	r.Checkpoints = make([]Checkpoint, 0, d.count("checkpoints", HistoryCheckpoints, leastCheckpoint))
	for range cap(r.Checkpoints) {
		c, err := DecodeCheckpoint(d.bytes())
		if err != nil {
			d.fail("%w", err)
			break
		}
		r.Checkpoints = append(r.Checkpoints, c)
	}
	r.Recent = make([]Print, 0, d.count("prints", historyRecent, leastPrint))
	for range cap(r.Recent) {
		r.Recent = append(r.Recent, d.print())
	}
	return r, d.end("history")
}

// count reads how many rows follow, of which each takes so many bytes at least.
func (d *decoder) count(what string, most, least uint64) int {
	n := d.uvarint()
	if n > most || n > uint64(len(d.b))/least {
		d.fail("%d %s in %d bytes; at most %d are kept", n, what, len(d.b), most)
		return 0
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}
