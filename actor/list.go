package actor

import (
	"context"
	"iter"
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

// Of what All reads ahead.
const (
	pageEntries = 256 // at most; pages begin small and grow while nothing is written
	pageBytes   = 1 << 20
)

// All runs over the selected entries in the order of their keys' bytes:
//
//	for e, err := range s.All(ctx, actor.ListOptions{Prefix: "job/"}) {
//
// It holds few of them in memory at a time, at most 1 MiB and one value. An error ends the loop. The body may write: each entry is as it is when the
// loop comes to it, so what was written ahead is seen, what was deleted ahead is not, and what happens behind makes no difference. A new loop
// begins anew.
func (s *Storage) All(ctx context.Context, o ListOptions) iter.Seq2[Entry, error] {
	return s.all(ctx, o, func() error { return nil })
}

func (s *Storage) all(ctx context.Context, o ListOptions, check func() error) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r, err := o.bounds()
		p := pager{s: s, r: r, size: 16}
		for err == nil && !p.done {
			if err = check(); err == nil {
				err = p.read(ctx)
			}
			if err == nil && !p.give(yield) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// pager reads pages for All.
type pager struct {
	s      *Storage
	r      ListOptions // what is still wanted
	size   int         // of the next page
	page   []Entry
	writes uint64 // Storage.writes before the page was read
	last   bool   // nothing comes after the page
	done   bool
}

func (p *pager) read(ctx context.Context) error {
	r := p.r
	if r.Limit == 0 || p.size < r.Limit {
		r.Limit = p.size
	}
	p.writes = p.s.writes.Load()
	page, more, err := p.s.b.List(ctx, r, pageBytes)
	p.page, p.last = page, !more && len(page) < r.Limit
	return err
}

// give yields the page, as far as it is not old. It returns false if the loop is over.
func (p *pager) give(yield func(Entry, error) bool) bool {
	for _, e := range p.page {
		if p.s.writes.Load() != p.writes {
			p.size = 1 // likely the body writes every time
			return true
		}
		if p.r.Reverse {
			p.r.End = e.Key
		} else {
			p.r.Start = e.Key + "\x00"
		}
		if !yield(e, nil) {
			return false
		}
		if p.r.Limit > 0 {
			if p.r.Limit--; p.r.Limit == 0 {
				return false
			}
		}
	}
	p.size = min(2*p.size, pageEntries)
	p.done = p.last && p.s.writes.Load() == p.writes
	return true
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
