package client

import (
	"fmt"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport"
)

// replyError is the error of a reply whose code is not 0.
func replyError(id actor.ID, r *transport.Reply) *actor.Error {
	return &actor.Error{
		Code:       actor.Code(r.Code),
		Outcome:    outcome(r.Outcome),
		Retryable:  r.Flags&transport.FlagRetryable != 0,
		Overloaded: r.Flags&transport.FlagOverloaded != 0,
		Remote:     r.Flags&transport.FlagRemote != 0,
		Reset:      r.Flags&transport.FlagReset != 0,
		App:        r.App,
		Message:    r.Message,
		Object:     id,
		Epoch:      uint64(r.Epoch),
		Token:      r.Token,
	}
}

// outcome reads the wire's; what is not known may have run.
func outcome(o uint8) actor.Outcome {
	switch actor.Outcome(o) {
	case actor.DidNotRun, actor.Ran:
		return actor.Outcome(o)
	}
	return actor.MayHaveRun
}

// classify makes a reply an event of the call's stream. Only what the system refused before it ran, for a transient cause
// other than load, is sent again.
func classify(r *reply) answer {
	a := answer{reply: r, hint: hint{node: r.Hint, token: r.Token, epoch: r.Epoch}}
	overloaded := r.Flags&transport.FlagOverloaded != 0 || actor.Code(r.Code) == actor.CodeOverloaded
	switch {
	case r.Code == 0:
		a.kind = answerOK
	case outcome(r.Outcome) == actor.MayHaveRun && r.Flags&transport.FlagRetryable != 0 && !overloaded:
		a.kind, a.text = answerMaybe, why(r)
	case actor.Outcome(r.Outcome) != actor.DidNotRun:
		a.kind = answerRan
	case !overloaded && r.Flags&transport.FlagRetryable != 0 && r.Flags&transport.FlagRemote == 0:
		a.kind, a.text = answerRefused, why(r)
	default:
		a.kind, a.overloaded = answerFailed, overloaded
	}
	return a
}

// why is the server's text, for the error at the deadline.
func why(r *reply) string {
	if r.Message != "" {
		return r.Message
	}
	return actor.Code(r.Code).String()
}

// verdictError makes what a stream decided the caller's error; nil is success. What is said of the last try does not undo the earlier ones.
func (c *call) verdictError(how verdict, a *answer) error {
	if how == verdictReply && a.reply.Code == 0 {
		return nil
	}
	e := c.lastError(how, a)
	if c.mayBe && e.Outcome == actor.DidNotRun {
		e.Outcome = actor.MayHaveRun
	}
	return e
}

func (c *call) lastError(how verdict, a *answer) *actor.Error {
	e := &actor.Error{Object: c.ref.id, Retryable: true, Outcome: actor.DidNotRun}
	switch how {
	case verdictReply:
		return replyError(c.ref.id, &a.reply.Reply)
	case verdictLost:
		e.Code, e.Outcome = actor.CodeUnreachable, actor.MayHaveRun
		if c.ref.client.closed.Load() {
			e.Code = actor.CodeStopping
		}
		e.Message = fmt.Sprintf("the connection to %s was lost before the answer: %s", c.ref.target(), a.text)
	case verdictFull:
		e.Code, e.Overloaded, e.Retryable = actor.CodeOverloaded, true, false
		e.Message = fmt.Sprintf("the connection to %s takes no more: %s", c.ref.target(), a.text)
	case verdictQueueFull:
		e.Code, e.Overloaded, e.Retryable = actor.CodeOverloaded, true, false
		e.Message = fmt.Sprintf("%d calls of this Ref are underway: wait for some, or raise Options.MaxPerRef", c.ref.client.opts.MaxPerRef)
	case verdictOvertaken:
		if c.mayBe {
			e.Code = actor.CodeUnreachable
			e.Message = "the call may have run, and a later call of the same Ref did, so it is not sent again: " + c.last
			break
		}
		e.Code = actor.CodeInternal
		e.Message = "the call was refused although a later call of the same Ref ran; it is not run after that"
	case verdictNotRun:
		e.Code = c.why
		e.Message = c.whyText() + " before the call could run"
		if c.mayBe {
			e.Message = c.whyText() + " before it was known whether the call had run"
		}
		if c.last != "" {
			e.Message += fmt.Sprintf("; it was tried %d times, last on %s: %s", c.tries, c.ref.client.nodeText(c.asked), c.last)
		}
	case verdictMayHaveRun:
		e.Code, e.Outcome = c.why, actor.MayHaveRun
		e.Message = fmt.Sprintf("%s while the call was underway on %s", c.whyText(), c.ref.target())
	}
	return e
}

func (c *call) whyText() string {
	switch c.why {
	case actor.CodeDeadline:
		return "the call's time was up"
	case actor.CodeStopping:
		return "the client was closed"
	}
	return "the call was cancelled"
}

func failed(id actor.ID, code actor.Code, format string, args ...any) *actor.Error {
	return &actor.Error{Code: code, Outcome: actor.DidNotRun, Object: id, Message: fmt.Sprintf(format, args...)}
}
