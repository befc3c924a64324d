package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/ring"
)

// Token names one taking-over of a shard: the log index of its accepted acquire. 0 means none. Within a shard tokens only grow.
type Token uint64

// Write is one effect on a shard's state: Value is stored under Key; or, if Delete is set, Key is removed; or, if End is not nil as well, all
// keys from Key up to and without End, however many: none if End is not beyond Key. End without Delete means nothing.
// Keys are relative to the shard; [ObjectPrefix] begins those of an object.
type Write struct {
	Key    []byte
	Value  []byte
	End    []byte
	Delete bool
}

// IsRange reports whether w removes a range of keys.
func (w *Write) IsRange() bool { return w.Delete && w.End != nil }

// Removes reports whether key does not exist just after w.
func (w *Write) Removes(key []byte) bool {
	if w.IsRange() {
		return bytes.Compare(w.Key, key) <= 0 && bytes.Compare(key, w.End) < 0
	}
	return w.Delete && bytes.Equal(w.Key, key)
}

// Reader reads a shard's applied state. Safe for concurrent use. Keys are relative to the shard.
type Reader interface {
	// Get returns the value under key. The caller owns the returned bytes.
	Get(key []byte) (value []byte, ok bool, err error)
	// Scan calls fn for the keys in [start, end) in ascending byte order, or descending if reverse, until fn returns false.
	// key and value are valid only during the call. A nil end means the end of the shard.
	Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error
}

// Lease is an owner's right to a shard, as the code holds it: it carries one token for ever and is never re-used for another.
// All methods are safe for concurrent use. None but Check may block.
type Lease interface {
	Reader
	Shard() ring.ShardID
	Token() Token
	// Epoch is the ring epoch that the acquire recorded.
	Epoch() ring.Epoch
	// Valid reports, without blocking, whether an event may start or storage be touched now: this node leads the shard in the
	// token's term, has the promises of a majority (or, if leases prove nothing, heard a majority within an election timeout), and knows of
	// no newer token.
	Valid() bool
	// Proves reports whether Valid and Check prove something: that no other node owned the shard at that moment, whatever goes on elsewhere.
	// It is the same for all leases of a node. Without it only a confirming round proves anything.
	Proves() bool
	// Check is Valid, but waits for the verdict while it is not known (no majority heard lately and not yet superseded), for
	// about one election timeout. The error is a *MovedError, or that of ctx.
	Check(ctx context.Context) error
	// Commit submits one batch, to take effect after all batches submitted before it under this token. Batches of one lease are
	// numbered 1, 2, 3 … in the order of the calls; pos is that number. It never blocks; it takes over writes and their
	// bytes. The outcome comes as Owner.Applied or Owner.Lost. ErrTokenEnded if the token has ended already, ErrBusy if too many bytes wait.
	Commit(writes []Write) (pos uint64, err error)
	// Confirm asks for confirming round n, begun after this call; the answer comes as Owner.Confirmed. The caller numbers rounds 1, 2, 3 …
	Confirm(n uint64)
}

// Owner hears of a shard's ownership on this node. It is called on the driver's goroutine, must not block, and hands work over.
// For one shard the calls come in order: Opened(l1), Applied*…, Lost(t1), Opened(l2), …
type Owner interface {
	// Opened: this node's acquire is applied; everything written under older tokens is in the lease's Reader.
	Opened(l Lease)
	// Applied: all batches up to and including pos are applied here: the lease's Reader has them. In the log they are fsynced on a majority; among this node's
	// stored state they may come later.
	Applied(s ring.ShardID, t Token, pos uint64)
	// Confirmed: confirming round n (and all earlier ones) of this token is answered by a majority.
	Confirmed(s ring.ShardID, t Token, n uint64)
	// Lost: the token is over. Batches after the last Applied may or may not take effect: their callers hear "may have run".
	Lost(s ring.ShardID, t Token, why *MovedError)
}

// MovedText is the text of a storage access under a lease that is over, as the hosted original has it.
const MovedText = "cannot access storage because object has moved to a different machine"

// MovedError says that a lease is over. Held* is what the lease carried; Current* what is known now, 0 if unknown.
type MovedError struct {
	Shard        ring.ShardID
	HeldToken    Token
	HeldEpoch    ring.Epoch
	CurrentToken Token
	CurrentEpoch ring.Epoch
	CurrentOwner ring.NodeID
	Reason       string
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("%s (shard %d, held token %d of epoch %d, current token %d of epoch %d: %s)", MovedText,
		e.Shard, e.HeldToken, e.HeldEpoch, e.CurrentToken, e.CurrentEpoch, e.Reason)
}

var (
	// ErrTokenEnded refuses a batch of a token that is over. Nothing was submitted.
	ErrTokenEnded = errors.New("store: token has ended")
	// ErrBusy refuses a batch because too many bytes of this shard wait to be committed. Nothing was submitted.
	ErrBusy = errors.New("store: too many bytes wait to be committed")
)

// Key layout within a shard's state, relative to the shard. Kinds only grow; a number once used keeps its meaning.
const (
	kindObject byte = 1
	kindSystem byte = 2 // the system shard's records
	kindMeta   byte = 3 // what the host keeps about an object
	kindAlarm  byte = 4 // the index of alarms
)

// The records that the host keeps about an object. Numbers only grow, and a number once used keeps its meaning.
const (
	MetaAlarm byte = 1 // the object's alarm
	MetaReply byte = 2 // what a call with an idempotency key came to; the key follows
	MetaSize  byte = 4 // bytes stored, of an object whose class limits them
)

// MetaKey is the key of a record that the host keeps about an object: kind ‖ class ‖ 0 ‖ key ‖ 0 ‖ record. Neither part may contain NUL.
func MetaKey(class, key string, record byte) []byte {
	b := appendObject(make([]byte, 0, len(class)+len(key)+4), kindMeta, class, key)
	return append(b, record)
}

// SystemKey is the key of a record of the system shard.
func SystemKey(name string) []byte { return append([]byte{kindSystem}, name...) }

// ObjectPrefix is what all keys of an object's storage begin with: kind ‖ class ‖ 0 ‖ key ‖ 0. Neither part may contain NUL.
func ObjectPrefix(class, key string) []byte {
	return AppendObjectPrefix(make([]byte, 0, len(class)+len(key)+3), class, key)
}

// AppendObjectPrefix appends ObjectPrefix.
func AppendObjectPrefix(b []byte, class, key string) []byte {
	return appendObject(b, kindObject, class, key)
}

func appendObject(b []byte, kind byte, class, key string) []byte {
	b = append(append(b, kind), class...)
	b = append(append(b, 0), key...)
	return append(b, 0)
}

// IsObjectKey reports whether key is one of an object's storage.
func IsObjectKey(key []byte) bool { return len(key) > 0 && key[0] == kindObject }

// PrefixEnd is the least key greater than all keys with the prefix; nil if there is none.
func PrefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
