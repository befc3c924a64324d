// Package actor is what classes and callers of Ringfence see: object IDs, errors, references to objects, and what a class is
// given to work with. It imports nothing of the module, so that an application which only calls objects links no database.
//
// An error that crosses the API is an [*Error]. Its code is stable; its outcome says whether the call may be sent again:
//
//	code                 sentinel          usual outcome  meaning
//	 1 CodeMoved         ErrMoved          any            the owner's lease is over: another machine has, or will have, the object
//	 2 CodeNotOwner      ErrNotOwner       DidNotRun      the node that was asked does not own the object's shard
//	 3 CodeOverloaded    ErrOverloaded     DidNotRun      a queue is full
//	 4 CodeCallCycle     ErrCallCycle      DidNotRun      the call came back to an object that waits for it
//	 5 CodeBatchTooLarge ErrBatchTooLarge  Ran            the operation would make the event's batch too large; it wrote nothing, what was written before stays
//	 6 CodeNotInEvent    ErrNotInEvent     Ran            storage was used outside a running event of its activation
//	 7 CodeUnknownClass  ErrUnknownClass   DidNotRun      no such class
//	 8 CodeUnknownMethod ErrUnknownMethod  DidNotRun      the class has no such callable method
//	 9 CodeBadArgument   ErrBadArgument    DidNotRun      the argument, the ID or an operation's parameter is not acceptable
//	10 CodeDeadline      ErrDeadline       any            the call's time was up
//	11 CodeStopping      ErrStopping       DidNotRun      the node or the client is stopping
//	12 CodePanic         ErrPanic          Ran            the class's code panicked; the activation was reset
//	13 CodeAborted       ErrAborted        Ran            the class's code called State.Abort; the activation was reset
//	14 CodeConstructor   ErrConstructor    DidNotRun      the class's constructor failed: the method did not run
//	15 CodeApp           –                 Ran            the method returned an error
//	16 CodeInternal      ErrInternal       any            something that should not happen
//	17 CodeCanceled      ErrCanceled       any            the caller's context was cancelled
//	18 CodeUnreachable   ErrUnreachable    any            no node could be asked, or the connection was lost before the answer
//	19 CodeStorageFull   ErrStorageFull    Ran            the object would hold more than its class's StorageLimit; nothing of the operation was written, reads and deletes work
//	20 CodeInterrupted   ErrInterrupted    MayHaveRun     a call with the same idempotency key was cut off after part of its effects: nothing is run again, look at the object
//	21 CodeNotStored     ErrNotStored      Ran            a call with the same idempotency key ran; its reply was too large to be stored
//
// Outcomes: DidNotRun, the call left no trace and may be sent again; MayHaveRun, unknown; Ran, it ran to its end and the error is its
// answer. A zero outcome means MayHaveRun.
package actor
