package actor

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// What an object keeps of calls with idempotency keys, see Idempotent.
const (
	MaxIdempotencyKey    = 256       // bytes of a key
	IdempotentKeys       = 1024      // keys that an object remembers
	IdempotentBytes      = 1 << 20   // bytes that it stores for them, replies, keys and methods
	IdempotentReplyBytes = 256 << 10 // of one of them; a larger reply is not stored
	IdempotentHours      = 24        // after which a key is forgotten as soon as another is added
	IdempotentBatchKeys  = 8_000     // of a batch of an event with an idempotency key, in place of MaxBatchKeys
	IdempotentBatchBytes = 6 << 20   // the same, in place of MaxBatchBytes
)

// Idempotent makes a call take effect at most once however often it is sent: key, chosen by the caller, names it among all calls of the
// object. What the method writes and what it answers, an application's error too, are stored in one batch. A later call with the same
// key, sent by the client itself because it does not know what became of the first, or by its caller after whatever time, crash or
// hand-over, does not run the method but returns the stored answer. So all outcomes but Ran may be answered by calling again with the same key;
// the client does it by itself, until the deadline, after MayHaveRun with Retryable or a lost connection.
//
// key is 1 to 256 bytes of UTF-8 without NUL; else the call fails with ErrBadArgument. So does one that has the key of an earlier call, but
// another method or argument. The argument is compared as it was sent: in JSON it is another than in msgpack, and a type whose encoding differs from
// time to time (a map other than of strings to strings, to bools or to any) is no good argument.
//
// An object remembers its last 1,024 keys, as long as their answers together take no more than 1 MiB, for 24 hours by its owner's clock.
// What is beyond that is forgotten when a key is added, the oldest first, and a call with a forgotten key runs anew. DeleteAll forgets none.
//
//   - The batch of the answer is that of the writes only if the method does not commit before its end. Before it goes outside (Await, a call to
//     another object), or writes before a Sync, it is noted that the call has begun. If it then is cut off, by a crash, a reset or the loss of the
//     owner's lease, it is not run again: calls with its key fail with ErrInterrupted, MayHaveRun.
//   - An answer of more than 256 KiB is not stored. A later call with its key fails with ErrNotStored, Ran.
//   - Not stored is what is no answer of the method: a panic, an abort, the loss of the lease; and an error of another code than CodeApp, such as
//     ErrDeadline, if the method has written nothing and was not outside. A later call runs the method.
//   - While a call with the same key is under way on an interleaved object, another waits for its end.
//   - A batch of such a call has at most 8,000 keys and 6 MiB: the rest is for what has to be remembered and forgotten.
//
// An answer, also one of a method that only reads, costs a commit.
func Idempotent(key string) CallOption {
	return func(o *CallOptions) {
		o.Idempotent = key
		if err := CheckIdempotencyKey(key); err != nil {
			o.Err = err
		}
	}
}

// CheckIdempotencyKey says what is wrong with a key; nil if nothing is.
func CheckIdempotencyKey(key string) *Error {
	why := ""
	switch {
	case key == "":
		why = "is empty"
	case len(key) > MaxIdempotencyKey:
		why = "is too long"
	case !utf8.ValidString(key):
		why = "is not valid UTF-8"
	case strings.IndexByte(key, 0) >= 0:
		why = "contains a NUL"
	default:
		return nil
	}
	return &Error{Code: CodeBadArgument, Outcome: DidNotRun, Message: fmt.Sprintf("the idempotency key %.40q %s: want 1 to %d bytes of UTF-8 without NUL", key, why, MaxIdempotencyKey)}
}
