//go:build mutant

package host

// Mutant switches one weakening of the gate on. Only the simulation sets it, before a run, from one goroutine.
var Mutant struct {
	ReplyAtPropose     bool // no output gate: a reply leaves when its batch is submitted
	MemoryReadsNotHeld bool // only events that touch storage wait for earlier writes of their activation
	NoConfirm          bool // replies wait for no confirming round
	JoinEarlierRound   bool // a confirming round under way is joined though it began before the event
	StaleRelease       bool // replies leave without a look at whether the token is lost
}

func mutReplyAtPropose() bool     { return Mutant.ReplyAtPropose }
func mutMemoryReadsNotHeld() bool { return Mutant.MemoryReadsNotHeld }
func mutNoConfirm() bool          { return Mutant.NoConfirm }
func mutJoinEarlierRound() bool   { return Mutant.JoinEarlierRound }
func mutStaleRelease() bool       { return Mutant.StaleRelease }
