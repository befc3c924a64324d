package host

import "sync/atomic"

type counters struct {
	started, ended, failed, refused, lost, resets, evicted, confirms, batches atomic.Uint64
	alarmsFired, alarmsFailed, alarmsRetried, alarmsDropped                   atomic.Uint64
}

// Metrics are counts since the host was made, and what is there now.
type Metrics struct {
	Started  uint64 // events whose code was begun
	Ended    uint64 // of those, how many have ended
	Failed   uint64 // of those, how many answered with an error
	Refused  uint64 // calls that were not run
	Lost     uint64 // events that ran, and whose answer did not leave because the token was lost
	Resets   uint64 // activations thrown away by a panic, an Abort or their constructor
	Evicted  uint64 // activations dropped because they were idle
	Confirms uint64 // confirming rounds asked for
	Batches  uint64 // batches submitted

	AlarmsFired   uint64 // alarms whose handler was begun
	AlarmsFailed  uint64 // of those, and of those that did not come so far, how many failed
	AlarmsRetried uint64 // of those, how many are repeated
	AlarmsDropped uint64 // and how many were given up; and alarms of classes without a handler

	Activations int64 // in memory
	Bytes       int64 // of calls not yet answered
	Held        int   // replies at the gate
	Running     int   // events that run
	Alarms      int   // alarms that wait in memory: the nearest of each shard
}

// Metrics returns the counts. It takes each shard's lock for a moment.
func (h *Host) Metrics() Metrics {
	c := &h.counts
	m := Metrics{Started: c.started.Load(), Ended: c.ended.Load(), Failed: c.failed.Load(), Refused: c.refused.Load(), Lost: c.lost.Load(),
		Resets: c.resets.Load(), Evicted: c.evicted.Load(), Confirms: c.confirms.Load(), Batches: c.batches.Load(),
		AlarmsFired: c.alarmsFired.Load(), AlarmsFailed: c.alarmsFailed.Load(), AlarmsRetried: c.alarmsRetried.Load(), AlarmsDropped: c.alarmsDropped.Load(),
		Activations: h.live.Load(), Bytes: h.bytes.Load()}
	h.alarmMu.Lock()
	m.Alarms = h.alarms.pending()
	h.alarmMu.Unlock()
	h.each(func(s *shard) {
		s.mu.Lock()
		m.Held += s.t.Held()
		m.Running += s.t.Running()
		s.mu.Unlock()
	})
	return m
}
