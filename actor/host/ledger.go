package host

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
)

// record is what is stored of a call with an idempotency key, as a msgpack array: fields are only added, at the end.
type record struct {
	State    uint8
	Seq      uint64 // the object's records are numbered in the order in which they were made
	At       int64  // when, in milliseconds since the epoch, by the owner's clock
	Method   string
	Arg      []byte // hash of the encoding and the bytes of the argument
	Encoding uint8
	Value    []byte
	Code     uint16 // 0: success
	Flags    uint8
	App      string
	Message  string
}

// The states of a record. A number once used keeps its meaning.
const (
	recordBegun     uint8 = 1 // and, as long as it says so, not ended: effects are stored, or took place elsewhere
	recordAnswered  uint8 = 2
	recordNotStored uint8 = 3 // it ran; the answer was too large
)

const (
	flagRetryable = 1 << iota
	flagOverloaded
	flagRemote
	flagReset
)

// decode reads what encode wrote; fields that b lacks are zero, and those that a later version added are ignored. The record has bytes of its own. What
// is declared is checked against what is there before anything is made for it: the library's own decoder makes up to some MiB ahead.
func (r *record) decode(b []byte) error {
	in := bytes.NewReader(b)
	dec := msgpack.NewDecoder(in)
	fields, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	take := func(into any) {
		if fields <= 0 || err != nil {
			return
		}
		fields--
		switch into := into.(type) {
		case *uint8:
			*into, err = dec.DecodeUint8()
		case *uint16:
			*into, err = dec.DecodeUint16()
		case *uint64:
			*into, err = dec.DecodeUint64()
		case *int64:
			*into, err = dec.DecodeInt64()
		case *[]byte:
			*into, err = decodeBytes(dec, in)
		case *string:
			var s []byte
			s, err = decodeBytes(dec, in)
			*into = string(s)
		}
	}
	*r = record{}
	for _, into := range []any{&r.State, &r.Seq, &r.At, &r.Method, &r.Arg, &r.Encoding, &r.Value, &r.Code, &r.Flags, &r.App, &r.Message} {
		take(into)
	}
	return err
}

// decodeBytes reads a string or bytes; nil is nil.
func decodeBytes(dec *msgpack.Decoder, in *bytes.Reader) ([]byte, error) {
	n, err := dec.DecodeBytesLen()
	if err != nil || n < 0 {
		return nil, err
	}
	if n > in.Len() {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	return b, dec.ReadFull(b)
}

func (r *record) encode() []byte {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseArrayEncodedStructs(true)
	enc.UseCompactInts(true)
	if err := enc.Encode(r); err != nil {
		panic("host: a record cannot be encoded: " + err.Error()) // it has neither interfaces nor encoders of its own
	}
	return buf.Bytes()
}

func (r *record) setError(e *actor.Error) {
	r.Code, r.App, r.Message = uint16(e.Code), e.App, e.Message
	for flag, set := range map[uint8]bool{flagRetryable: e.Retryable, flagOverloaded: e.Overloaded, flagRemote: e.Remote, flagReset: e.Reset} {
		if set {
			r.Flags |= flag
		}
	}
}

func (r *record) error() *actor.Error {
	return &actor.Error{Code: actor.Code(r.Code), Outcome: actor.Ran, App: r.App, Message: r.Message,
		Retryable: r.Flags&flagRetryable != 0, Overloaded: r.Flags&flagOverloaded != 0, Remote: r.Flags&flagRemote != 0, Reset: r.Flags&flagReset != 0}
}

// ledger is what an activation knows of its object's idempotency keys: which are remembered, and which are being worked on. It holds what is
// stored, or will be once all batches of the activation are applied; if one is not, the activation ends. Its lock is taken last.
type ledger struct {
	mu     sync.Mutex
	begun  map[string]*attempt
	loaded bool
	kept   []keptKey // oldest first
	bytes  int       // of all
	seq    uint64    // of the newest
}

type keptKey struct {
	key   string
	seq   uint64
	at    int64
	bytes int
}

func (l *ledger) attempt(key string) *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun[key]
}

func (l *ledger) begin(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun == nil {
		l.begun = make(map[string]*attempt)
	}
	l.begun[a.key] = a
}

func (l *ledger) end(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.begun, a.key)
	close(a.ended)
}

func (l *ledger) isLoaded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded
}

// load takes what is stored, in any order.
func (l *ledger) load(keys []keptKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(keys, func(a, b keptKey) int { return cmp.Compare(a.seq, b.seq) })
	l.loaded, l.kept = true, keys
	for _, k := range keys {
		l.bytes += k.bytes
		l.seq = max(l.seq, k.seq)
	}
}

// keep numbers rec, in place of an earlier one of its key, and returns its bytes and the keys that are forgotten for it.
func (l *ledger) keep(rec *record, key string) (value []byte, forgotten []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	rec.Seq = l.seq
	value = rec.encode()
	if i := slices.IndexFunc(l.kept, func(k keptKey) bool { return k.key == key }); i >= 0 {
		l.forget(i)
	}
	size := len(key) + len(value)
	for len(l.kept) > 0 && l.full(size, rec.At) {
		forgotten = append(forgotten, l.kept[0].key)
		l.forget(0)
	}
	l.kept = append(l.kept, keptKey{key: key, seq: rec.Seq, at: rec.At, bytes: size})
	l.bytes += size
	return value, forgotten
}

func (l *ledger) forget(i int) {
	l.bytes -= l.kept[i].bytes
	l.kept = slices.Delete(l.kept, i, i+1)
}

// full: the oldest key must go if another of this size is added now.
func (l *ledger) full(size int, now int64) bool {
	const ttl = actor.IdempotentHours * int64(time.Hour/time.Millisecond)
	return len(l.kept) >= actor.IdempotentKeys || l.bytes+size > actor.IdempotentBytes || now-l.kept[0].at > ttl
}
