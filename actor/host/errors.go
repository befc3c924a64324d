package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// The texts of the hosted original.
const (
	textCount   = "Durable Object is overloaded. Too many requests queued."
	textBytes   = "Durable Object is overloaded. Too much data queued."
	textAge     = "Durable Object is overloaded. Requests queued for too long."
	textRate    = "Durable Object is overloaded. Too many requests for the same object within a 10 second window."
	textSection = "A call to blockConcurrencyWhile() in a Durable Object waited for too long. The call was canceled and the Durable Object was reset."
	textNested  = "blockConcurrencyWhile() calls are nested too deeply."
	textTimeout = "Durable Object storage operation exceeded timeout which caused object to be reset."
	textAbort   = "Application called abort() to reset Durable Object."
)

const moving = "the object is moving to another node"

func refused(code actor.Code, id actor.ID, format string, args ...any) *actor.Error {
	return &actor.Error{Code: code, Outcome: actor.DidNotRun, Object: id, Message: fmt.Sprintf(format, args...)}
}

func overloaded(id actor.ID, text string) *actor.Error {
	return &actor.Error{Code: actor.CodeOverloaded, Outcome: actor.DidNotRun, Overloaded: true, Object: id, Message: text}
}

// moved is the error of a storage access, or of a reply that must not leave, under a lease that is over.
func moved(id actor.ID, l store.Lease, why *store.MovedError) *actor.Error {
	e := &actor.Error{Code: actor.CodeMoved, Outcome: actor.MayHaveRun, Retryable: true, Reset: true, Message: actor.MovedText,
		Object: id, Epoch: uint64(l.Epoch()), Token: uint64(l.Token())}
	if why == nil {
		return e
	}
	if why.CurrentToken != 0 || why.CurrentEpoch != 0 {
		e.Message = fmt.Sprintf("%s (now epoch %d, token %d)", actor.MovedText, why.CurrentEpoch, why.CurrentToken)
	}
	return e.WithCause(why)
}

// waited is the error for a wait that the caller's context ended.
func waited(id actor.ID, cause error, outcome actor.Outcome, what string) *actor.Error {
	e := &actor.Error{Code: actor.CodeCanceled, Outcome: outcome, Object: id, Message: what + ": the context was cancelled"}
	if errors.Is(cause, context.DeadlineExceeded) {
		e.Code, e.Message = actor.CodeDeadline, what+": the deadline has passed"
	}
	return e.WithCause(cause)
}
