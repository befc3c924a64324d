package bench

import "context"

// Op is one operation that the driver asks of a target.
type Op struct {
	Worker int  // the caller, 0 ≤ Worker < Load.Callers; operations of one caller do not overlap
	Object int  // 0 ≤ Object < Load.Objects; with Load.Fresh each number from 0 on once
	Read   bool // whether it reads, by Load.Reads; else it writes
}

// Target is one system, ready for one workload: connected, and with objects of its own that nobody called before, so that what is in
// them after a drive comes from that drive.
type Target interface {
	// Do runs one operation to its end. Many goroutines call it, each Worker's operations one after the other. An error is counted by its
	// kind and ends nothing; unless it is an *actor.Error whose Outcome is DidNotRun, the operation is taken as one that may have run.
	Do(ctx context.Context, op Op) error
	// Close frees what Open took. It is called once, after the last Do.
	Close() error
}

// Verifier is a Target that can tell whether what it stores is what its callers were told. A drive calls Verify once, after the last
// operation has ended. An error says that it could not be found out; a Check that is not OK, that it is wrong.
type Verifier interface {
	Verify(ctx context.Context, t *Tally) (*Check, error)
}
