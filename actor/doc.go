// Package actor is what classes and callers of Ringfence see: object IDs, errors, references to objects, and what a class is
// given to work with. It imports nothing of the module, so that an application which only calls objects links no database.
//
// An error that crosses the API is an [*Error]. Its code is stable; its outcome says whether the call may be sent again. The flags are r Retryable,
// o Overloaded, m Remote, x Reset, - none; those in brackets are set only where they apply. An error that a method passes on from its own storage
// or calls is its answer: Ran, and Remote.
//
//	code                 sentinel          usual outcome  flags      meaning; what to do
//	 1 CodeMoved         ErrMoved          any            r x (m)    the owner's lease is over: another node has, or will have, the object; do: DidNotRun: call again; else read what became of it, or use Idempotent
//	 2 CodeNotOwner      ErrNotOwner       DidNotRun      r          the node that was asked does not own the object's shard; do: call again; the client has, until the deadline
//	 3 CodeOverloaded    ErrOverloaded     DidNotRun      o (m x r)  a queue is full; with x and MayHaveRun or Ran: a batch or a critical section took longer than 30 s; do: shed load; not again at once
//	 4 CodeCallCycle     ErrCallCycle      DidNotRun      - (m)      the call came back to an object that waits for it; the text has the chain; do: change the calls, or make the class Reentrant
//	 5 CodeBatchTooLarge ErrBatchTooLarge  Ran            m          the operation would make the event's batch too large; it wrote nothing, what was written before stays; do: write less at a time, with Sync between
//	 6 CodeNotInEvent    ErrNotInEvent     Ran            m          storage was used outside a running event of its activation; do: mend the class: pass on the method's context
//	 7 CodeUnknownClass  ErrUnknownClass   DidNotRun      -          no such class; do: mend the call, or give the nodes the class
//	 8 CodeUnknownMethod ErrUnknownMethod  DidNotRun      -          the class has no such callable method; the text lists those it has; do: mend the call
//	 9 CodeBadArgument   ErrBadArgument    DidNotRun      - (m)      the argument, the ID or an operation's parameter is not acceptable; Ran: the reply does not fit the variable; do: mend the call
//	10 CodeDeadline      ErrDeadline       any            (r m)      the call's time was up; do: as for ErrMoved, with more time
//	11 CodeStopping      ErrStopping       DidNotRun      (r)        the node or the client is stopping; do: r: call again; else the client was closed
//	12 CodePanic         ErrPanic          Ran            m x        the class's code panicked; the event's uncommitted writes are dropped, the activation was reset; do: mend the class; the node's log has the stack
//	13 CodeAborted       ErrAborted        Ran            m x        the class's code called State.Abort; the activation was reset; MayHaveRun: another event's did; do: as the application says
//	14 CodeConstructor   ErrConstructor    DidNotRun      m x        the class's constructor failed: the method did not run; do: mend the class; the next call runs the constructor again
//	15 CodeApp           –                 Ran            m          the method returned an error; App is the name that Fail gave; do: as the application says
//	16 CodeInternal      ErrInternal       any            (r m)      something that should not happen; do: report it; not again
//	17 CodeCanceled      ErrCanceled       any            (r m)      the caller's context was cancelled; do: nothing: the caller wanted it
//	18 CodeUnreachable   ErrUnreachable    any            (r)        no node could be asked, or the connection was lost before the answer; do: as for ErrMoved
//	19 CodeStorageFull   ErrStorageFull    Ran            m          the object would hold more than its class's StorageLimit; nothing of the operation was written, reads and deletes work; do: delete something, or raise the limit
//	20 CodeInterrupted   ErrInterrupted    MayHaveRun     -          a call with the same idempotency key was cut off after part of its effects: nothing is run again; do: look at the object, and go on with a new key
//	21 CodeNotStored     ErrNotStored      Ran            -          a call with the same idempotency key ran; its reply was too large to be stored; do: read what is needed by another call
//
// Outcomes: DidNotRun, the call left no trace and may be sent again; MayHaveRun, unknown; Ran, it ran to its end and the error is its
// answer. A zero outcome means MayHaveRun.
package actor
