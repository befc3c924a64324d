package actor

import (
	"context"
	"fmt"
)

// Code says what went wrong. Numbers are stable and only grow; they travel on the wire. The table is in the package's comment.
type Code uint16

const (
	CodeMoved         Code = 1
	CodeNotOwner      Code = 2
	CodeOverloaded    Code = 3
	CodeCallCycle     Code = 4
	CodeBatchTooLarge Code = 5
	CodeNotInEvent    Code = 6
	CodeUnknownClass  Code = 7
	CodeUnknownMethod Code = 8
	CodeBadArgument   Code = 9
	CodeDeadline      Code = 10
	CodeStopping      Code = 11
	CodePanic         Code = 12
	CodeAborted       Code = 13
	CodeConstructor   Code = 14
	CodeApp           Code = 15
	CodeInternal      Code = 16
	CodeCanceled      Code = 17
	CodeUnreachable   Code = 18
	CodeStorageFull   Code = 19
	CodeInterrupted   Code = 20
	CodeNotStored     Code = 21
)

// MovedText is the text of ErrMoved, as the hosted original has it.
const MovedText = "cannot access storage because object has moved to a different machine"

// codes holds per code its name and the text of an error that has no message of its own.
var codes = [...]struct{ name, text string }{
	CodeMoved:         {"moved", MovedText},
	CodeNotOwner:      {"not owner", "this node does not own the object"},
	CodeOverloaded:    {"overloaded", "a queue is full: call less often, or again later"},
	CodeCallCycle:     {"call cycle", "the call came back to an object that waits for it"},
	CodeBatchTooLarge: {"batch too large", "too many writes in one batch: nothing was written"},
	CodeNotInEvent:    {"not in event", "storage used outside a running event of its activation: pass on the context that the method was given"},
	CodeUnknownClass:  {"unknown class", "no class of this name is registered"},
	CodeUnknownMethod: {"unknown method", "the class has no callable method of this name"},
	CodeBadArgument:   {"bad argument", "the argument is not acceptable"},
	CodeDeadline:      {"deadline", "the call's time was up"},
	CodeStopping:      {"stopping", "the node is stopping"},
	CodePanic:         {"panic", "the object's code panicked"},
	CodeAborted:       {"aborted", "the object reset itself"},
	CodeConstructor:   {"constructor", "the object's constructor failed"},
	CodeApp:           {"application", "the method returned an error"},
	CodeInternal:      {"internal", "internal error"},
	CodeCanceled:      {"cancelled", "the call was cancelled"},
	CodeUnreachable:   {"unreachable", "no node answered"},
	CodeStorageFull:   {"storage full", "the object's storage is full"},
	CodeInterrupted:   {"interrupted", "an earlier call with this idempotency key was cut off after part of its effects; it is not run again"},
	CodeNotStored:     {"reply not stored", "an earlier call with this idempotency key ran, but its reply was too large to be stored"},
}

// String is the code's name, or its number if this version does not know it.
func (c Code) String() string {
	if int(c) < len(codes) && codes[c].name != "" {
		return codes[c].name
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// Outcome decides whether a call may be sent again. The zero value is not known, and stands for MayHaveRun.
type Outcome uint8

const (
	DidNotRun  Outcome = 1 // the call left no trace
	MayHaveRun Outcome = 2 // unknown; its effects may also take place later
	Ran        Outcome = 3 // it ran; the error is its answer
)

func (o Outcome) String() string {
	switch o {
	case DidNotRun:
		return "did not run"
	case Ran:
		return "ran"
	}
	return "may have run"
}

// Error is every error that crosses the API. errors.Is compares codes (and, between application errors, App as well), so it
// works against the sentinels.
type Error struct {
	Code    Code
	Outcome Outcome
	// Retryable: the cause is transient, a later call may succeed. It does not say that the call is safe to send again: Outcome does.
	Retryable bool
	// Overloaded: the cause is load; who retries at once makes it worse. Remote: it arose in the object's code, not in the
	// system between. Reset: the activation was thrown away; its memory is gone, its storage is not.
	Overloaded, Remote, Reset bool
	// App is the application's own name of the error, see Fail. Message is the text; empty means the code's.
	App, Message string
	Object       ID     // the object concerned; zero if none
	Epoch, Token uint64 // of the owner's lease; zero if there was none

	cause error
}

// The sentinels are for errors.Is only.
var (
	ErrMoved         error = &Error{Code: CodeMoved}
	ErrNotOwner      error = &Error{Code: CodeNotOwner}
	ErrOverloaded    error = &Error{Code: CodeOverloaded}
	ErrCallCycle     error = &Error{Code: CodeCallCycle}
	ErrBatchTooLarge error = &Error{Code: CodeBatchTooLarge}
	ErrNotInEvent    error = &Error{Code: CodeNotInEvent}
	ErrUnknownClass  error = &Error{Code: CodeUnknownClass}
	ErrUnknownMethod error = &Error{Code: CodeUnknownMethod}
	ErrBadArgument   error = &Error{Code: CodeBadArgument}
	ErrDeadline      error = &Error{Code: CodeDeadline}
	ErrStopping      error = &Error{Code: CodeStopping}
	ErrPanic         error = &Error{Code: CodePanic}
	ErrAborted       error = &Error{Code: CodeAborted}
	ErrConstructor   error = &Error{Code: CodeConstructor}
	ErrInternal      error = &Error{Code: CodeInternal}
	ErrCanceled      error = &Error{Code: CodeCanceled}
	ErrUnreachable   error = &Error{Code: CodeUnreachable}
	ErrStorageFull   error = &Error{Code: CodeStorageFull}
	ErrInterrupted   error = &Error{Code: CodeInterrupted}
	ErrNotStored     error = &Error{Code: CodeNotStored}
)

// Error is the message, after the application's name for it if it has one; the object and its lease follow in brackets.
func (e *Error) Error() string {
	s := e.text()
	if e.App != "" {
		s = e.App + ": " + s
	}
	switch {
	case e.Object.IsZero():
		return s
	case e.Token == 0:
		return fmt.Sprintf("%s [%v]", s, e.Object)
	}
	return fmt.Sprintf("%s [%v, epoch %d, token %d]", s, e.Object, e.Epoch, e.Token)
}

func (e *Error) text() string {
	switch {
	case e.Message != "":
		return e.Message
	case int(e.Code) < len(codes) && codes[e.Code].text != "":
		return codes[e.Code].text
	}
	return e.Code.String()
}

// Is reports whether target is an *Error of the same code. An application error's name counts too, unless target has none.
// ErrDeadline and ErrCanceled are also the context's errors.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == CodeDeadline
	case context.Canceled:
		return e.Code == CodeCanceled
	}
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.App == "" || t.App == e.App)
}

// Unwrap is the error that WithCause gave; nil after the wire.
func (e *Error) Unwrap() error { return e.cause }

// WithCause sets what Unwrap returns and returns e.
func (e *Error) WithCause(cause error) *Error {
	e.cause = cause
	return e
}

// Fail makes an application error that survives the wire: callers find App in Error.App, and errors.Is compares it, so
//
//	errors.Is(err, actor.Fail("sold-out", ""))
//
// holds at the caller for what a method returned as actor.Fail("sold-out", "only %d left", n).
func Fail(app, format string, args ...any) error {
	return &Error{Code: CodeApp, Outcome: Ran, App: app, Message: fmt.Sprintf(format, args...)}
}
