package bench

import (
	"fmt"
	"sync"
	"time"
)

// Stage is the time line of a drive for Hooks.During, which marks on it what it does.
type Stage struct {
	from time.Time

	mu     sync.Mutex
	events []Event
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
