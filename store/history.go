package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/ringfence/ringfence/ring"
)

// How much of a history a replica keeps. Both bounds are of rows; a row is about 60 bytes.
const (
	// HistoryTenures is how many ended tenures a replica remembers; the current one comes on top.
	HistoryTenures = 1024
	// HistoryCheckpoints is how many checkpoints it remembers: of the last million or so of entries.
	HistoryCheckpoints = 1024
	// HistoryWindow is how many indices of the log one checkpoint stands for.
	HistoryWindow = 1024
	// historyRecent is how many prints of single entries are remembered, in memory only.
	historyRecent = 128
	// historyFaults is how many faults are kept word for word; later ones are counted.
	historyFaults = 16
)

// A Print is a fingerprint of what took effect in a group. Windows are of HistoryWindow indices and the same for all replicas, wherever
// their histories begin. Two replicas that saw the same take effect have the same prints at the same index, and if they differ in one byte of one entry they
// have not. The hash is no defence against an adversary, who could write to the log anyway.
type Print struct {
	Index  uint64 // of the last entry that took effect
	Window uint64 // Index / HistoryWindow
	Hash   uint64 // of what took effect in that window, so far
	Chain  uint64 // of all windows before it, from the origin of the history on
}

func (p *Print) add(index, term uint64, kind byte, data []byte) (ended Print, ends bool) {
	if w := index / HistoryWindow; w != p.Window {
		if ends = p.Index != 0; ends {
			ended = *p
		}
		*p = Print{Window: w, Chain: p.closed()}
	}
	p.Index = index
	p.Hash = mix(p.Hash, index, term<<8|uint64(kind), xxhash.Sum64(data))
	return ended, ends
}

// closed is the chain with the window in it. A window in which nothing took effect leaves it as it is.
func (p *Print) closed() uint64 {
	if p.Hash == 0 {
		return p.Chain
	}
	return mix(p.Chain, p.Window, p.Hash, 0)
}

// mix folds three numbers into a hash. It is never 0: that stands for nothing.
func mix(h, a, b, c uint64) uint64 {
	for _, v := range [...]uint64{a, b, c} {
		hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, v^0xd6e8feb86659fd93)
		h = bits.RotateLeft64(h, 27) + (hi ^ lo) + v
	}
	return max(h, 1)
}

// Tenure is what a replica saw take effect under one token.
type Tenure struct {
	Number   uint64 // 1, 2, 3 … as this replica counts
	Token    Token  // 0: the group was not acquired yet
	Prev     Token  // the one before, as the acquire said
	Term     uint64
	Epoch    ring.Epoch
	Holder   Holder
	SeqFrom  uint64 // number of the last batch that took effect before this replica began to look; 0 if it saw all
	Seq      uint64 // number of the last batch, and of the release
	Batches  uint64 // seen
	First    uint64 // index of the first entry with batches, 0 if there was none
	Last     uint64 // and of the last one
	Released uint64 // index of the release, 0 if there was none
	Refused  uint64 // commands that the fence refused while this token was current
	// LastRefused is the latest of these: where it stood and what token it carried.
	LastRefused Refusal
	At          Print // just after the acquire took effect; zero if it was not seen
	When        int64 // of this node's wall clock when it saw the acquire, in milliseconds since 1970, 0 if not known. Replicas differ in it.
}

// Refusal is a command that the fence refused.
type Refusal struct {
	Index   uint64
	Token   Token // that it carried; of an acquire, the token that it took for the current one
	Seq     uint64
	Verdict Verdict
}

// Checkpoint is the print of a whole window.
type Checkpoint struct {
	Number uint64 // 1, 2, 3 … as this replica counts
	Print
	When int64 // as Tenure.When, of the moment when the window was found to be over
}

// FaultKind says which rule was broken by something that took effect. Numbers only grow.
type FaultKind uint8

// The faults. Each of them means that the guarantee was not kept.
const (
	FaultToken    FaultKind = 1 // a batch or release of a token that is not the current one
	FaultReleased FaultKind = 2 // a batch of a token that had been given back
	FaultSequence FaultKind = 3 // a batch that is not the next one
	FaultEpoch    FaultKind = 4 // an acquire or a configuration of an older ring than one before
	FaultTerm     FaultKind = 5 // an acquire in another term than its proposer's, or of an older one
	FaultPrev     FaultKind = 6 // an acquire by who did not know of the current token
)

func (k FaultKind) String() string {
	switch k {
	case FaultToken:
		return "took effect under a token that was not the current one"
	case FaultReleased:
		return "took effect after its token had been given back"
	case FaultSequence:
		return "took effect out of sequence"
	case FaultEpoch:
		return "took effect though its epoch was behind"
	case FaultTerm:
		return "took effect though its term was not the entry's own, or was behind"
	case FaultPrev:
		return "took the shard over without knowing the current token"
	}
	return fmt.Sprintf("broke rule %d", uint8(k))
}

// Fault is something that took effect and must not have.
type Fault struct {
	Kind    FaultKind
	Index   uint64
	Token   Token // the entry's
	Seq     uint64
	Current Token // the current ones
	Last    uint64
}

func (f Fault) String() string {
	return fmt.Sprintf("entry %d (token %d, number %d) %v: the current token was %d, its last number %d", f.Index, f.Token, f.Seq, f.Kind, f.Current, f.Last)
}

// HistoryHead is where a history stands.
type HistoryHead struct {
	Index   uint64 // all entries up to it are in the history
	Since   uint64 // those up to it are not: this replica began after it
	Origin  uint64 // where Now.Chain begins; before Since if a snapshot brought it along
	Entries uint64 // that took effect after Origin
	Now     Print
	Fence   Fence // after Index
	Tenure  Tenure
	Ended   uint64 // tenures that ended; the rows of the last HistoryTenures of them are kept
	Checked uint64 // checkpoints made; the last HistoryCheckpoints are kept
	Faults  []Fault
	Faulty  uint64 // faults, kept or not
}

// HistoryChange is what is to be stored of a history, in the batch that applies the entries behind it.
type HistoryChange struct {
	Head        HistoryHead
	Tenures     []Tenure
	Checkpoints []Checkpoint
}

// History records what takes effect in a group, on one replica: who held the shard and how far each got, and prints of it all. It looks at what took effect and not
// at the fence's reasons: it is the witness against the fence. A pure state machine; a nil one records nothing.
//
// All but the times is a function of the log: two replicas that began at the same index have equal histories.
type History struct {
	head    HistoryHead
	pending HistoryChange
	due     bool
	recent  [historyRecent]Print // of the entry that was the n-th to take effect, at n % historyRecent
	seen    uint64               // since this History was made
}

// NewHistory begins a history after index, with the fence of that moment. from is the head of another replica's history at the same index, as it comes
// with a snapshot, nil if there is none.
func NewHistory(index uint64, f Fence, from *HistoryHead) *History {
	h := HistoryHead{Index: index, Since: index, Origin: index, Fence: f, Tenure: Tenure{Number: 1, Token: f.Token, Term: f.Term,
		Epoch: f.Epoch, Holder: f.Holder, SeqFrom: f.Seq, Seq: f.Seq}}
	if f.Released {
		h.Tenure.Released = index
	}
	if from != nil && from.Index == index && from.Fence == f {
		h.Origin, h.Entries, h.Now, h.Tenure = from.Origin, from.Entries, from.Now, from.Tenure
		h.Tenure.Number = 1
	}
	return &History{head: h}
}

// ResumeHistory goes on from a stored head.
func ResumeHistory(h HistoryHead) *History { return &History{head: h} }

// Head is where the history stands. The caller owns it.
func (h *History) Head() HistoryHead {
	out := h.head
	out.Faults = append([]Fault(nil), out.Faults...)
	return out
}

// Recent are the prints after each of the last entries that took effect, ascending: replicas that are asked at about the same time have some in common.
func (h *History) Recent() []Print {
	n := min(h.seen, historyRecent)
	out := make([]Print, 0, n)
	for i := h.seen - n; i < h.seen; i++ {
		out = append(out, h.recent[i%historyRecent])
	}
	return out
}

// Command records what the fence said of a command. raw is the entry, of which c was decoded; wall is this node's time, see Tenure.When.
func (h *History) Command(index, term uint64, c *Command, raw []byte, v Verdict, wall int64) {
	if h == nil {
		return
	}
	t := &h.head.Tenure
	if v != Accepted {
		t.Refused++
		t.LastRefused = Refusal{Index: index, Token: c.Token, Seq: c.Seq, Verdict: v}
		if c.Kind == KindAcquire {
			t.LastRefused.Token, t.LastRefused.Seq = c.Acquire.Prev, 0
		}
		return
	}
	h.print(index, term, byte(c.Kind), raw, wall)
	switch c.Kind {
	case KindAcquire:
		h.acquire(index, term, &c.Acquire, wall)
	case KindBatch:
		h.check(index, c)
		t.Batches += uint64(c.Count)
		t.Seq = c.Seq + uint64(c.Count) - 1
		if t.First == 0 {
			t.First = index
		}
		t.Last = index
	case KindRelease:
		h.check(index, c)
		t.Seq, t.Released = c.Seq, index
		h.due = true
	}
}

// Conf records a change of the group's configuration that took effect, for the sake of the ring of an epoch; 0 if it is Raft's own.
func (h *History) Conf(index, term uint64, raw []byte, epoch ring.Epoch, wall int64) {
	if h == nil {
		return
	}
	const kind = 0xff // no command's
	h.print(index, term, kind, raw, wall)
	if epoch != 0 && epoch < h.head.Fence.Epoch {
		h.fault(Fault{Kind: FaultEpoch, Index: index})
	}
	h.head.Fence.Epoch = max(h.head.Fence.Epoch, epoch)
}

func (h *History) print(index, term uint64, kind byte, raw []byte, wall int64) {
	h.head.Entries++
	ended, ends := h.head.Now.add(index, term, kind, raw)
	h.recent[h.seen%historyRecent] = h.head.Now
	h.seen++
	if ends {
		h.head.Checked++
		h.pending.Checkpoints = append(h.pending.Checkpoints, Checkpoint{Number: h.head.Checked, Print: ended, When: wall})
		h.due = true
	}
}

func (h *History) acquire(index, term uint64, a *Acquire, wall int64) {
	t := &h.head.Tenure
	bad := func(k FaultKind) { h.fault(Fault{Kind: k, Index: index, Token: Token(index)}) }
	if a.Prev != t.Token {
		bad(FaultPrev)
	}
	if a.Term != term || term < t.Term {
		bad(FaultTerm)
	}
	if a.Epoch < max(t.Epoch, h.head.Fence.Epoch) {
		bad(FaultEpoch)
	}
	number := t.Number
	if t.Token != 0 {
		h.pending.Tenures = append(h.pending.Tenures, *t)
		h.head.Ended++
		number++
	}
	*t = Tenure{Number: number, Token: Token(index), Prev: a.Prev, Term: term, Epoch: a.Epoch, Holder: a.Holder, At: h.head.Now, When: wall}
	h.head.Fence.Epoch = max(h.head.Fence.Epoch, a.Epoch)
	h.due = true
}

// check holds a batch or a release that took effect against the tenure.
func (h *History) check(index uint64, c *Command) {
	t := &h.head.Tenure
	bad := func(k FaultKind) { h.fault(Fault{Kind: k, Index: index, Token: c.Token, Seq: c.Seq}) }
	if c.Token != t.Token {
		bad(FaultToken)
		return
	}
	if t.Released != 0 {
		bad(FaultReleased)
	}
	if c.Seq != t.Seq+1 {
		bad(FaultSequence)
	}
}

func (h *History) fault(f Fault) {
	f.Current, f.Last = h.head.Tenure.Token, h.head.Tenure.Seq
	h.head.Faulty++
	if len(h.head.Faults) < historyFaults {
		h.head.Faults = append(h.head.Faults, f)
	}
	h.due = true
}

// Take is called when all entries up to index are recorded; f is the fence after them. It returns what is to be stored with them, nil for nothing: as a
// rule, since what changes with every entry is found again in the log.
func (h *History) Take(index uint64, f Fence) *HistoryChange {
	if h == nil {
		return nil
	}
	h.head.Index, h.head.Fence = max(h.head.Index, index), f
	if !h.due {
		return nil
	}
	return h.Flush()
}

// Flush returns all that is to be stored, whether something happened or not: before the log is truncated.
func (h *History) Flush() *HistoryChange {
	if h == nil {
		return nil
	}
	c := h.pending
	c.Head = h.Head()
	h.pending, h.due = HistoryChange{}, false
	return &c
}

const historyFormat = 1

func appendUvarints(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendPrint(b []byte, p *Print) []byte {
	b = appendUvarints(b, p.Index, p.Window)
	b = binary.BigEndian.AppendUint64(b, p.Hash)
	return binary.BigEndian.AppendUint64(b, p.Chain)
}

func (d *decoder) print() (p Print) {
	p.Index, p.Window = d.uvarint(), d.uvarint()
	p.Hash, p.Chain = d.uint64(), d.uint64()
	return p
}

func (d *decoder) uint64() uint64 {
	if d.err != nil || len(d.b) < 8 {
		d.fail("ends too soon")
		return 0
	}
	v := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// format reads the byte that every record begins with.
func (d *decoder) format(want byte) {
	if f := d.byte(); d.err == nil && f != want {
		d.fail("it has format %d, and this version reads format %d: use the version that wrote it", f, want)
	}
}

func appendTenure(b []byte, t *Tenure) []byte {
	b = appendUvarints(b, t.Number, uint64(t.Token), uint64(t.Prev), t.Term, uint64(t.Epoch),
		uint64(t.Holder.Replica), uint64(t.Holder.Node), uint64(t.Holder.Boot),
		t.SeqFrom, t.Seq, t.Batches, t.First, t.Last, t.Released, t.Refused,
		t.LastRefused.Index, uint64(t.LastRefused.Token), t.LastRefused.Seq, uint64(t.LastRefused.Verdict))
	return binary.AppendUvarint(appendPrint(b, &t.At), uint64(t.When))
}

func (d *decoder) tenure() (t Tenure) {
	t.Number, t.Token, t.Prev = d.uvarint(), Token(d.uvarint()), Token(d.uvarint())
	t.Term, t.Epoch = d.uvarint(), ring.Epoch(d.uvarint())
	t.Holder = Holder{Replica: ring.ReplicaID(d.uvarint()), Node: ring.NodeID(d.uvarint()), Boot: ring.BootID(d.uvarint())}
	t.SeqFrom, t.Seq, t.Batches, t.First, t.Last = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	t.Released, t.Refused = d.uvarint(), d.uvarint()
	t.LastRefused = Refusal{Index: d.uvarint(), Token: Token(d.uvarint()), Seq: d.uvarint(), Verdict: Verdict(d.uvarint())}
	t.At, t.When = d.print(), int64(d.uvarint())
	return t
}

// AppendTenure appends the stored form of a tenure.
func AppendTenure(b []byte, t *Tenure) []byte { return appendTenure(append(b, historyFormat), t) }

// DecodeTenure reads what AppendTenure wrote.
func DecodeTenure(b []byte) (Tenure, error) {
	d := decoder{b: b}
	d.format(historyFormat)
	t := d.tenure()
	return t, d.end("tenure")
}

// AppendCheckpoint appends the stored form of a checkpoint.
func AppendCheckpoint(b []byte, c *Checkpoint) []byte {
	b = binary.AppendUvarint(append(b, historyFormat), c.Number)
	return binary.AppendUvarint(appendPrint(b, &c.Print), uint64(c.When))
}

// DecodeCheckpoint reads what AppendCheckpoint wrote.
func DecodeCheckpoint(b []byte) (Checkpoint, error) {
	d := decoder{b: b}
	d.format(historyFormat)
	c := Checkpoint{Number: d.uvarint()}
	c.Print, c.When = d.print(), int64(d.uvarint())
	return c, d.end("checkpoint")
}

// AppendHistoryHead appends the stored form of a head; it travels with snapshots too.
func AppendHistoryHead(b []byte, h *HistoryHead) []byte {
	b = appendUvarints(append(b, historyFormat), h.Index, h.Since, h.Origin, h.Entries)
	b = appendPrint(b, &h.Now)
	fence := AppendFence(nil, h.Fence)
	b = append(binary.AppendUvarint(b, uint64(len(fence))), fence...)
	b = appendTenure(b, &h.Tenure)
	b = appendUvarints(b, h.Ended, h.Checked, h.Faulty, uint64(len(h.Faults)))
	for _, f := range h.Faults {
		b = appendUvarints(b, uint64(f.Kind), f.Index, uint64(f.Token), f.Seq, uint64(f.Current), f.Last)
	}
	return b
}

// DecodeHistoryHead reads what AppendHistoryHead wrote.
func DecodeHistoryHead(b []byte) (h HistoryHead, err error) {
	d := decoder{b: b}
	d.format(historyFormat)
	h.Index, h.Since, h.Origin, h.Entries = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	h.Now = d.print()
	if fence := d.bytes(); d.err == nil {
		h.Fence, d.err = DecodeFence(fence)
	}
	h.Tenure = d.tenure()
	h.Ended, h.Checked, h.Faulty = d.uvarint(), d.uvarint(), d.uvarint()
	n := d.uvarint()
	if n > historyFaults {
		d.fail("%d faults; at most %d are kept", n, historyFaults)
	}
	for ; n > 0 && d.err == nil; n-- {
		h.Faults = append(h.Faults, Fault{Kind: FaultKind(d.uvarint()), Index: d.uvarint(), Token: Token(d.uvarint()),
			Seq: d.uvarint(), Current: Token(d.uvarint()), Last: d.uvarint()})
	}
	return h, d.end("history")
}
