package actor

import (
	"context"
)

// ListOptions select what List returns. The zero value selects everything.
type ListOptions struct {
	Start      string // the least key; inclusive
	StartAfter string // the same, exclusive; not together with Start
	End        string // exclusive; empty: no bound
	Prefix     string // only keys that begin so
	Reverse    bool   // from the greatest key down; Start and End keep their meaning
	Limit      int    // at most so many entries; 0: all
}

// maxListBytes bounds what one List holds in memory.
const maxListBytes = 64 << 20

// List returns the selected entries in the order of their keys' bytes. A range that holds nothing, because it ends before it begins or Prefix lies
// outside it, is no error. All entries are held in memory: more than 64 MiB of them fail; set a Limit and go on with StartAfter (or, in reverse,
// End), or use All.
func (s *Storage) List(ctx context.Context, o ListOptions) ([]Entry, error) {
	r, err := o.bounds()
	if err != nil {
		return nil, err
	}
	entries, more, err := s.b.List(ctx, r, maxListBytes)
	if err == nil && more {
		return nil, inEvent(CodeBadArgument, "List: the result has more than %d bytes: set a Limit and go on with StartAfter, or use All", maxListBytes)
	}
	return entries, err
}

// bounds checks o and makes StartAfter and Prefix part of Start and End.
func (o ListOptions) bounds() (ListOptions, error) {
	if o.Start != "" && o.StartAfter != "" {
		return o, inEvent(CodeBadArgument, "list() cannot be called with both start and startAfter values.")
	}
	if o.Limit < 0 {
		return o, inEvent(CodeBadArgument, "List limit must be positive.")
	}
	start, end := o.Start, o.End
	if o.StartAfter != "" {
		start = o.StartAfter + "\x00"
	}
	if o.Prefix != "" {
		start = max(start, o.Prefix)
		if e := prefixEnd(o.Prefix); e != "" && (end == "" || e < end) {
			end = e
		}
	}
	return ListOptions{Start: start, End: end, Reverse: o.Reverse, Limit: o.Limit}, nil
}

// prefixEnd is the least string greater than all that begin with prefix; empty if there is none.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return string(b[:i+1])
		}
	}
	return ""
}
