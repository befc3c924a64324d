package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"github.com/ringfence/ringfence/ring"
)

// Mark is how far a replica's log and votes had certainly come on disk.
type Mark struct {
	Group    ring.GroupID
	Replica  ring.ReplicaID
	Last     uint64 // index of the last entry
	LastTerm uint64 // its term
	Term     uint64 // Raft's hard state
	Vote     ring.ReplicaID
	Commit   uint64
	// Regressed: the replica was found behind an earlier mark. It stays so until the replica is removed.
	Regressed bool
}

// A watermark notices what Pebble cannot: a WAL whose end is missing opens without an error, and the replicas in it have
// forgotten entries and votes that others counted. Writing one puts a tripwire, a growing number, into the WAL, waits for the fsync, and
// then writes the same number and the marks into a file of their own. If at open the database has a lower number
// than the file, the WAL has lost its end, and no replica of this directory may vote.
type watermark struct {
	none  bool // there was no file yet; not stored
	seq   uint64
	lost  bool   // the database was once found behind the file; only an empty directory ends that
	marks []Mark // ascending by group
}

const (
	watermarkFormat = 1
	watermarkMagic  = "RFWM"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendWatermark(b []byte, w watermark) []byte {
	b = append(b, watermarkMagic...)
	b = append(b, watermarkFormat)
	b = binary.AppendUvarint(b, w.seq)
	b = binary.AppendUvarint(b, flag(w.lost))
	b = binary.AppendUvarint(b, uint64(len(w.marks)))
	for _, m := range w.marks {
		for _, v := range [...]uint64{uint64(m.Group), uint64(m.Replica), m.Last, m.LastTerm, m.Term, uint64(m.Vote), m.Commit, flag(m.Regressed)} {
			b = binary.AppendUvarint(b, v)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func flag(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

func decodeWatermark(b []byte) (watermark, error) {
	var w watermark
	n := len(b) - 4
	if n < len(watermarkMagic)+1 || string(b[:len(watermarkMagic)]) != watermarkMagic ||
		crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return w, errors.New("its checksum is wrong")
	}
	d := decoder{b: b[len(watermarkMagic):n]}
	if f := d.byte(); f != watermarkFormat {
		return w, fmt.Errorf("it has format %d, and this version reads format %d", f, watermarkFormat)
	}
	w.seq = d.uvarint()
	w.lost = d.uvarint() != 0
	count := d.uvarint()
	for ; count > 0 && d.err == nil; count-- {
		m := Mark{Group: ring.GroupID(d.uvarint()), Replica: ring.ReplicaID(d.uvarint()), Last: d.uvarint(), LastTerm: d.uvarint(),
			Term: d.uvarint(), Vote: ring.ReplicaID(d.uvarint()), Commit: d.uvarint()}
		m.Regressed = d.uvarint() != 0
		w.marks = append(w.marks, m)
	}
	return w, d.end("watermark")
}

// loadWatermark reads the file and the tripwire. A damaged file is an error: without it a lost end of the WAL goes unseen.
func (e *Engine) loadWatermark() error {
	v, ok, err := e.get([]byte{spaceNode, nodeTripwire})
	if err != nil {
		return openError(e.dir, err)
	}
	var tripwire uint64
	if ok {
		if len(v) != 8 {
			return openError(e.dir, errors.New("the watermark's tripwire cannot be read"))
		}
		tripwire = binary.BigEndian.Uint64(v)
	}
	path := e.fs.PathJoin(e.dir, fileWatermark)
	b, err := e.readFile(fileWatermark)
	switch {
	case errors.Is(err, os.ErrNotExist) && tripwire <= 1: // none written yet, or a crash before the first was; see firstWatermark
		e.watermark.none = true
	case errors.Is(err, os.ErrNotExist):
		return openError(e.dir, fmt.Errorf("watermark file %s is missing", path))
	case err != nil:
		return openError(e.dir, fmt.Errorf("watermark file %s: %w", path, err))
	default:
		if e.watermark, err = decodeWatermark(b); err != nil {
			return openError(e.dir, fmt.Errorf("watermark file %s cannot be read: %w", path, err))
		}
	}
	e.watermark.lost = e.watermark.lost || tripwire < e.watermark.seq
	e.wmSeq = max(e.watermark.seq, tripwire)
	return nil
}

// firstWatermark writes the file before the tripwire goes on, if there is none. From then on one that is missing is one that was lost: without it, two crashes in
// a row while the first watermark was written looked the same.
func (e *Engine) firstWatermark() error {
	if !e.watermark.none {
		return nil
	}
	if err := e.writeFile(fileWatermark, appendWatermark(nil, watermark{seq: e.wmSeq})); err != nil {
		return openError(e.dir, err)
	}
	return nil
}

// WriteWatermark records how far the replicas of this node have certainly come: every second or so, and at a clean stop. Marks
// must describe what is fsynced. It waits for three fsyncs. marks is sorted by group in place.
func (e *Engine) WriteWatermark(marks []Mark) error {
	e.wmMu.Lock()
	defer e.wmMu.Unlock()
	seq := e.wmSeq + 1
	if err := e.put([]byte{spaceNode, nodeTripwire}, binary.BigEndian.AppendUint64(nil, seq)); err != nil {
		return err
	}
	e.wmSeq = seq
	slices.SortFunc(marks, func(a, b Mark) int { return cmp.Compare(a.Group, b.Group) })
	if !e.gate.enter() {
		return ErrClosed
	}
	defer e.gate.leave()
	return e.writeFile(fileWatermark, appendWatermark(nil, watermark{seq: seq, lost: e.watermark.lost, marks: marks}))
}

// Watermark is what was read at Open: the marks of the last watermark written before.
func (e *Engine) Watermark() []Mark { return slices.Clone(e.watermark.marks) }

// lostTail says that every replica of this directory may have forgotten something.
func (e *Engine) lostTail() error {
	return fmt.Errorf("data directory %s has lost the end of its write-ahead log (watermark %d): none of its replicas may vote: %s", e.dir, e.watermark.seq, wipeRemedy(e.dir))
}

// Regressed compares a replica, as it was found at Open, with the watermark. An error says how the replica went backwards: it
// may have forgotten entries and votes that others counted, and must not vote again under this replica ID.
func (e *Engine) Regressed(now Mark) error {
	w := &e.watermark
	if w.lost {
		return e.lostTail()
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("data directory %s: replica %d of %v went backwards: %s; it must not vote: %s",
			e.dir, now.Replica, now.Group, fmt.Sprintf(format, args...), wipeRemedy(e.dir))
	}
	i, ok := slices.BinarySearchFunc(w.marks, now.Group, func(m Mark, g ring.GroupID) int { return cmp.Compare(m.Group, g) })
	if !ok || w.marks[i].Replica != now.Replica {
		return nil
	}
	was := w.marks[i]
	switch {
	case was.Regressed:
		return bad("an earlier start found it so")
	case now.Term < was.Term:
		return bad("it is in term %d and was in term %d", now.Term, was.Term)
	case now.Term == was.Term && was.Vote != 0 && now.Vote != was.Vote:
		return bad("in term %d it had voted for replica %d and now for %d", was.Term, was.Vote, now.Vote)
	case now.Commit < was.Commit:
		return bad("its commit index is %d and was %d", now.Commit, was.Commit)
	case now.Term == was.Term && was.LastTerm == was.Term && now.Last < was.Last:
		// Only an entry that the leader of this very term made can never be replaced within the term.
		return bad("its log ends at %d and ended at %d, both in term %d", now.Last, was.Last, now.Term)
	}
	return nil
}
