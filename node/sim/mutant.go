package sim

// weakness is a set of mistakes that a driver could make.
type weakness uint32

const (
	ackBeforeSync   weakness = 1 << iota // responses leave before the fsync
	wipedRejoins                         // an empty disk comes back under the old replica's ID
	fenceApart                           // the fence is stored in a batch of its own
	currentLease                         // a storage handle uses the lease that the node has now
	idReused                             // a removed replica may come back: no tombstone is left
	noTombstone                          // tombstones are not looked at
	noWatermark                          // a log that lost its end goes unnoticed
	dedupApart                           // the record of an idempotent call is in another batch than what it wrote
	snapshotNoDedup                      // snapshots carry no records of idempotent calls
	alarmFirst                           // an alarm is taken away in a batch before that of its handler
	cloneRuns                            // a copy of a directory does not look whether the original runs
	toldUnread                           // an owner that hears before all is stored reads what is stored
	commitApart                          // the commit index is written with another term or vote only, not with entries
)

func (m weakness) has(x weakness) bool { return m&x != 0 }
