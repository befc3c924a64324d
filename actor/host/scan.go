package host

import (
	"bytes"
	"context"
	"slices"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// List is of actor.Backend.
func (b *instance) List(ctx context.Context, o actor.ListOptions, maxBytes int) ([]actor.Entry, bool, error) {
	r, err := b.enter(ctx)
	if err != nil {
		return nil, false, err
	}
	return b.list(r, o, maxBytes)
}

func (b *instance) list(r *run, o actor.ListOptions, maxBytes int) ([]actor.Entry, bool, error) {
	prefix := b.prefix(0)
	start, end := append(b.prefix(len(o.Start)), o.Start...), store.PrefixEnd(prefix)
	if o.End != "" {
		end = append(b.prefix(len(o.End)), o.End...)
	}
	if bytes.Compare(start, end) >= 0 {
		return nil, false, nil
	}
	b.s.mu.Lock()
	mem, all := b.s.t.Unapplied(b.a, start, end)
	b.s.mu.Unlock()
	r.mu.Lock()
	over := r.over
	mem, all = r.pending.over(mem, start, end), all || r.pending.cleared
	r.mu.Unlock()
	if over {
		return nil, false, b.ended()
	}
	m := merger{mem: mem, prefix: len(prefix), limit: o.Limit, maxBytes: maxBytes, less: -1}
	if o.Reverse {
		slices.Reverse(m.mem)
		m.less = 1
	}
	if !all {
		if err := b.s.lease.Scan(start, end, o.Reverse, m.next); err != nil {
			return nil, false, b.failed("list", err)
		}
	}
	m.rest()
	return m.out, m.bytes > maxBytes, nil
}

// merger lays what is in memory over a scan of the shard's state. Both come in the order of the scan.
type merger struct {
	mem      []store.Write
	prefix   int
	limit    int
	maxBytes int
	less     int // what bytes.Compare gives for a key that comes before another
	out      []actor.Entry
	bytes    int
}

func (m *merger) full() bool { return m.limit > 0 && len(m.out) == m.limit || m.bytes > m.maxBytes }

// next takes one entry of the scan; false ends it.
func (m *merger) next(key, value []byte) bool {
	for len(m.mem) > 0 && !m.full() && bytes.Compare(m.mem[0].Key, key) == m.less {
		m.take()
	}
	switch {
	case m.full():
	case len(m.mem) > 0 && bytes.Equal(m.mem[0].Key, key):
		m.take()
	default:
		m.emit(key, bytes.Clone(value))
	}
	return !m.full()
}

func (m *merger) take() {
	w := &m.mem[0]
	m.mem = m.mem[1:]
	if !w.Delete {
		m.emit(w.Key, w.Value)
	}
}

func (m *merger) rest() {
	for len(m.mem) > 0 && !m.full() {
		m.take()
	}
}

func (m *merger) emit(key, value []byte) {
	m.out = append(m.out, actor.Entry{Key: string(key[m.prefix:]), Value: actor.NewValue(value)})
	m.bytes += len(key) + len(value)
}
