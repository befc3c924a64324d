package store

import (
	"encoding/binary"
	"fmt"

	"github.com/ringfence/ringfence/ring"
)

// Holder names who took a shard over.
type Holder struct {
	Replica ring.ReplicaID
	Node    ring.NodeID
	Boot    ring.BootID
}

// Fence is a shard's record of who may write. It is part of the shard's replicated state: every replica runs [Fence.Step]
// over the same log and so reaches the same verdicts. The zero value is the fence of a shard that nobody has acquired.
type Fence struct {
	Token    Token      // index of the last accepted acquire
	Seq      uint64     // number of the last batch that took effect under Token
	Epoch    ring.Epoch // never decreases
	Term     uint64     // Raft term of the acquire
	Holder   Holder
	Released bool // the holder gave the token back: nothing of it takes effect any more
}

// Verdict says what became of a command. The zero value is Accepted.
type Verdict uint8

const (
	Accepted      Verdict = iota
	StaleToken            // the token is not, or no longer, the current one
	SequenceGap           // a batch before this one was lost, or this one came twice
	TokenReleased         // its holder had given the token back
	TermMismatch          // an acquire that reached the log in another term than its proposer's
	EpochBehind           // an acquire of an epoch below the fence's
)

func (v Verdict) String() string {
	switch v {
	case Accepted:
		return "accepted"
	case StaleToken:
		return "stale token"
	case SequenceGap:
		return "sequence gap"
	case TokenReleased:
		return "token released"
	case TermMismatch:
		return "term mismatch"
	case EpochBehind:
		return "epoch behind"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// Step decides the command at (index, term) of the shard's log. It returns the fence after it; rejected commands change nothing.
//
// The token alone is not enough: Raft may drop one proposal of a pipeline and commit the next. With the gapless sequence
// number what takes effect under a token is exactly a prefix of what its owner computed.
func (f Fence) Step(index, term uint64, c *Command) (Fence, Verdict) {
	switch c.Kind {
	case KindAcquire:
		return f.acquire(index, term, &c.Acquire)
	case KindBatch:
		if v := f.check(c.Token, c.Seq); v != Accepted {
			return f, v
		}
		f.Seq = c.Seq + uint64(c.Count) - 1
		return f, Accepted
	case KindRelease:
		if v := f.check(c.Token, c.Seq); v != Accepted {
			return f, v
		}
		f.Seq = c.Seq
		f.Released = true
		return f, Accepted
	}
	panic(fmt.Sprintf("store: fence asked about command kind %d", c.Kind)) // DecodeCommand lets no other through
}

func (f Fence) acquire(index, term uint64, a *Acquire) (Fence, Verdict) {
	switch {
	case a.Prev != f.Token:
		return f, StaleToken
	case a.Term != term:
		return f, TermMismatch
	case a.Epoch < f.Epoch && !mutStaleEpoch():
		return f, EpochBehind
	}
	seq := uint64(0)
	if mutSeqNotReset() {
		seq = f.Seq
	}
	return Fence{Token: Token(index), Seq: seq, Epoch: a.Epoch, Term: term, Holder: a.Holder}, Accepted
}

// check applies the two rules that every batch and release obeys.
func (f Fence) check(t Token, seq uint64) Verdict {
	switch {
	case t != f.Token && !mutNoTokenCheck():
		return StaleToken
	case f.Released && !mutNoTokenCheck():
		return TokenReleased
	case seq != f.Seq+1 && !mutNoSeqCheck():
		return SequenceGap
	}
	return Accepted
}

const fenceFormat = 1

// AppendFence appends the stored form of f: format byte, then uvarints.
func AppendFence(b []byte, f Fence) []byte {
	b = append(b, fenceFormat)
	for _, v := range [...]uint64{uint64(f.Token), f.Seq, uint64(f.Epoch), f.Term,
		uint64(f.Holder.Replica), uint64(f.Holder.Node), uint64(f.Holder.Boot)} {
		b = binary.AppendUvarint(b, v)
	}
	if f.Released {
		return append(b, 1)
	}
	return append(b, 0)
}

// DecodeFence reads what AppendFence wrote; the bytes must hold one fence and nothing else.
func DecodeFence(b []byte) (Fence, error) {
	var f Fence
	d := decoder{b: b}
	if k := d.byte(); d.err == nil && k != fenceFormat {
		return f, fmt.Errorf("store: fence of format %d; this version reads format %d: use the version that wrote it", k, fenceFormat)
	}
	f.Token = Token(d.uvarint())
	f.Seq = d.uvarint()
	f.Epoch = ring.Epoch(d.uvarint())
	f.Term = d.uvarint()
	f.Holder = Holder{Replica: ring.ReplicaID(d.uvarint()), Node: ring.NodeID(d.uvarint()), Boot: ring.BootID(d.uvarint())}
	switch d.byte() {
	case 0:
	case 1:
		f.Released = true
	default:
		d.fail("released flag is neither 0 nor 1")
	}
	return f, d.end("fence")
}
