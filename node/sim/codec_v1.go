package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

// This file is the codec of the version before the present one, as it was: log entries, fences, snapshots' heads, Raft frames. It is never changed
// together with the packages it was copied from; when a version has been released, its codec takes the place of what is here. In a run with mixed
// versions some processes read and write by it.

// v1 of a log entry: kind, then uvarints; of a batch, the writes: op ‖ key ‖ value or end.
func decodeCommandV1(b []byte, c *store.Command) error {
	d := readerV1{b: b}
	*c = store.Command{Kind: store.CommandKind(d.byte())}
	switch c.Kind {
	case 1:
		a := &c.Acquire
		a.Prev, a.Term, a.Epoch = store.Token(d.uvarint()), d.uvarint(), ring.Epoch(d.uvarint())
		a.Holder = store.Holder{Replica: ring.ReplicaID(d.uvarint()), Node: ring.NodeID(d.uvarint()), Boot: ring.BootID(d.uvarint())}
	case 3:
		c.Token, c.Seq = store.Token(d.uvarint()), d.uvarint()
	case 2:
		c.Token, c.Seq, c.Count = store.Token(d.uvarint()), d.uvarint(), uint32(d.uvarint())
		for d.err == nil && len(d.b) > 0 {
			var w store.Write
			switch op := d.byte(); op {
			case 1:
				w.Key, w.Value = d.bytes(), d.bytes()
			case 2:
				w.Key, w.Delete = d.bytes(), true
			case 3:
				w.Key, w.End, w.Delete = d.bytes(), d.bytes(), true
			default:
				return fmt.Errorf("write of kind %d", op)
			}
			c.Writes = append(c.Writes, w)
		}
	default:
		return fmt.Errorf("command kind %d", c.Kind)
	}
	return d.end()
}

func encodeCommandV1(c *store.Command) []byte {
	b := []byte{byte(c.Kind)}
	put := func(vs ...uint64) {
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
	}
	putBytes := func(v []byte) { b = append(binary.AppendUvarint(b, uint64(len(v))), v...) }
	switch a := &c.Acquire; c.Kind {
	case 1:
		put(uint64(a.Prev), a.Term, uint64(a.Epoch), uint64(a.Holder.Replica), uint64(a.Holder.Node), uint64(a.Holder.Boot))
	case 3:
		put(uint64(c.Token), c.Seq)
	case 2:
		put(uint64(c.Token), c.Seq, uint64(c.Count))
		for i := range c.Writes {
			switch w := &c.Writes[i]; {
			case w.End != nil:
				b = append(b, 3)
				putBytes(w.Key)
				putBytes(w.End)
			case w.Delete:
				b = append(b, 2)
				putBytes(w.Key)
			default:
				b = append(b, 1)
				putBytes(w.Key)
				putBytes(w.Value)
			}
		}
	}
	return b
}

// v1 of a fence: 1 ‖ uvarints ‖ released.
func decodeFenceV1(b []byte) (f store.Fence, err error) {
	d := readerV1{b: b}
	if k := d.byte(); k != 1 {
		return f, fmt.Errorf("fence of format %d", k)
	}
	f = store.Fence{Token: store.Token(d.uvarint()), Seq: d.uvarint(), Epoch: ring.Epoch(d.uvarint()), Term: d.uvarint(),
		Holder: store.Holder{Replica: ring.ReplicaID(d.uvarint()), Node: ring.NodeID(d.uvarint()), Boot: ring.BootID(d.uvarint())}}
	f.Released = d.byte() == 1
	return f, d.end()
}

// v1 of a snapshot's data: uvarint(len(fence)) ‖ fence ‖ payload.
func splitSnapshotV1(b []byte) (f store.Fence, payload []byte, err error) {
	d := readerV1{b: b}
	head := d.bytes()
	if d.err != nil {
		return f, nil, d.err
	}
	f, err = decodeFenceV1(head)
	return f, d.b, err
}

// v1 of a Raft frame: 2 ‖ items; of an item: uvarint(group << 3 | kind), then uvarint(length) ‖ protobuf, or four uvarints.
func encodeFrameV1(group ring.GroupID, p packet) ([]byte, error) {
	b := []byte{2}
	if p.Message != nil {
		m, err := proto.Marshal(p.Message)
		b = binary.AppendUvarint(b, uint64(group)<<3)
		return append(binary.AppendUvarint(b, uint64(len(m))), m...), err
	}
	b = binary.AppendUvarint(b, uint64(group)<<3|uint64(p.ping.Kind)+1)
	for _, v := range [...]uint64{uint64(p.ping.From), uint64(p.ping.To), p.ping.Term, p.ping.Number} {
		b = binary.AppendUvarint(b, v)
	}
	return b, nil
}

func decodeFrameV1(b []byte) (group ring.GroupID, p packet, err error) {
	d := readerV1{b: b}
	if v := d.byte(); v != 2 {
		return 0, p, fmt.Errorf("frame of version %d", v)
	}
	head := d.uvarint()
	switch kind := head & 7; {
	case kind == 0:
		p.Message = new(raftpb.Message)
		if err := proto.Unmarshal(d.bytes(), p.Message); err != nil {
			return 0, p, err
		}
	case kind <= 4:
		p.ping = replica.Ping{Kind: replica.PingKind(kind - 1), From: ring.ReplicaID(d.uvarint()), To: ring.ReplicaID(d.uvarint()), Term: d.uvarint(), Number: d.uvarint()}
	default:
		return 0, p, fmt.Errorf("item of kind %d", kind)
	}
	return ring.GroupID(head >> 3), p, d.end()
}

type readerV1 struct {
	b   []byte
	err error
}

func (d *readerV1) byte() byte {
	if len(d.b) == 0 {
		d.err = errors.New("ends too soon")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *readerV1) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.err = errors.New("ends within a number")
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *readerV1) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.err = errors.New("ends within bytes")
		d.b = nil
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *readerV1) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	return d.err
}

// translate sends a packet through the codecs of its two ends, if they are of different versions.
func (w *world) translate(from, to *node, p packet) packet {
	if from.old == to.old || p.Message != nil && p.GetType() == raftpb.MsgSnap {
		return p
	}
	w.stats.Translated++
	group := ring.GroupID(w.groupOf(p.to()))
	var b []byte
	var err error
	var out packet
	var got ring.GroupID
	if from.old {
		if b, err = encodeFrameV1(group, p); err == nil {
			var msgs []replica.GroupMessage
			if msgs, err = replica.DecodeFrame(b); err == nil {
				got, out = msgs[0].Group, packet{Message: msgs[0].Message, ping: msgs[0].Ping}
			}
		}
	} else if b, err = replica.EncodeFrame(replica.FrameVersionMin, group, p.Message, p.ping); err == nil {
		got, out, err = decodeFrameV1(b)
	}
	if err != nil || got != group {
		w.fail("I17 mixed versions", "a message of group %d from node %s (old: %v) to node %s: %v", group, from.name, from.old, to.name, err)
		return p
	}
	return out
}

// checkReadable looks at an entry that an old process applies: it reads it as the present version does, and would have written the same.
func (w *world) checkReadable(n *node, group int, e *raftpb.Entry) {
	if len(e.GetData()) == 0 || e.GetType() != raftpb.EntryNormal || w.cfg.HistoryOnly {
		return
	}
	var c store.Command
	if err := decodeCommandV1(e.GetData(), &c); err != nil {
		w.fail("I17 mixed versions", "group %d entry %d: the version before on node %s cannot read it: %v", group, e.GetIndex(), n.name, err)
	} else if again := encodeCommandV1(&c); !bytes.Equal(again, e.GetData()) {
		w.fail("I17 mixed versions", "group %d entry %d: the version before would have written %x, and it is %x", group, e.GetIndex(), again, e.GetData())
	} else if err := store.DecodeCommand(again, &c); err != nil {
		w.fail("I17 mixed versions", "group %d entry %d: what the version before writes cannot be read: %v", group, e.GetIndex(), err)
	}
}

// checkSnapshot looks at a snapshot that goes from one version to the other.
func (w *world) checkSnapshot(data []byte) {
	f, payload, err := splitSnapshotV1(data)
	g, now, err2 := replica.SplitSnapshotData(data)
	if err != nil || err2 != nil || f != g || !bytes.Equal(payload, now) {
		w.fail("I17 mixed versions", "a snapshot is %+v to the version before (%v), and %+v to this one (%v)", f, err, g, err2)
	}
}
