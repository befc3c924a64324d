package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Stage is the time line of a drive for Hooks.During, which marks on it what it does.
type Stage struct {
	from time.Time

	mu     sync.Mutex
	events []Event
	phases []Phase
	phase  atomic.Int64 // the newest of them, from 1; 0: none yet
}

// Event is something that was done to the system while it was loaded.
type Event struct {
	At   Seconds `json:"at_s"` // since the beginning of the window
	What string  `json:"what"`
}

// Mark notes that something is done now.
func (s *Stage) Mark(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, Event{Seconds(time.Since(s.from)), fmt.Sprintf(format, args...)})
}

// Begin begins a phase of the window, whose latencies are told apart from those of the others, and ends the one before.
func (s *Stage) Begin(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phases = append(s.phases, Phase{Name: phase, From: Seconds(time.Since(s.from))})
	s.phase.Store(int64(len(s.phases)))
}

// phasesUntil fills in what the recorders hold of the phases.
func (s *Stage) phasesUntil(end time.Duration, total *recorder) []Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append([]Phase(nil), s.phases...)
	for i := range all {
		p := &all[i]
		p.To = Seconds(end)
		if i+1 < len(all) {
			p.To = all[i+1].From
		}
		if i+1 < len(total.phases) && total.phases[i+1].hist != nil {
			b := total.phases[i+1]
			p.Ops, p.Failed, p.Max = b.ok, b.failed, b.max
			p.P50, p.P99 = min(b.max, Micros(b.hist.ValueAtQuantile(50))), min(b.max, Micros(b.hist.ValueAtQuantile(99)))
		} else if i+1 < len(total.phases) {
			p.Failed = total.phases[i+1].failed
		}
	}
	return all
}

// Since is the time since the beginning of the window.
func (s *Stage) Since() time.Duration { return time.Since(s.from) }

func (s *Stage) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return ""
	}
	return s.events[len(s.events)-1].What
}

func (s *Stage) all() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}
