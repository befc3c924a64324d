package replica

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// Inspection is what a data directory holds of one replica, read without a driver.
type Inspection struct {
	store.ReplicaHistory
	Applied    uint64
	First      uint64   // of the log
	Violations []string // what is wrong with this replica alone
	Notes      []string // what could not be checked
	Retraced   uint64   // entries of the log that were decided again and compared with the history

	e *store.Engine
	g ring.GroupID
	l *LogStore
}

// Inspect reads a replica's history, and decides what is left of its log once more to see whether it leads where the history and the state are. exists is false
// if there is no replica of the group here; an error means that it cannot be read.
func Inspect(e *store.Engine, g ring.GroupID) (i *Inspection, exists bool, err error) {
	l, exists, err := OpenLog(e, g)
	if err != nil || !exists {
		return nil, exists, err
	}
	applied, fence, err := NewStateStore(e, g).Load()
	if err != nil {
		return nil, true, err
	}
	first, err := l.FirstIndex()
	if err != nil {
		return nil, true, err
	}
	i = &Inspection{Applied: applied, First: first, e: e, g: g, l: l}
	i.Node, i.Replica = e.Identity().Node, l.Replica()
	if l.Regressed() {
		i.Notes = append(i.Notes, fmt.Sprintf("%v: %v", g, l.Regression()))
	}
	stored, ok, err := e.HistoryHead(g)
	if err != nil {
		return nil, true, err
	}
	h, err := loadHistory(e, l, applied, fence)
	switch {
	case errors.Is(err, errHistoryGap):
		i.Notes = append(i.Notes, fmt.Sprintf("%v: node %v: %v", g, i.Node, err))
	case err != nil:
		i.Violations = append(i.Violations, fmt.Sprintf("%v: node %v: history, log and state do not fit together: %v", g, i.Node, err))
	case !ok && applied > bootIndex && first > bootIndex+1:
		i.Notes = append(i.Notes, fmt.Sprintf("%v: node %v has no history: a version without histories wrote it", g, i.Node))
	}
	if !ok && err == nil && applied >= bootIndex && first == bootIndex+1 {
		// Nothing was worth a row yet, and the log is whole.
		if again, rerr := replay(l, store.NewHistory(bootIndex, store.Fence{}, nil).Head(), applied, fence); rerr == nil {
			h = again
		}
	}
	i.Head, i.Recent = h.Head(), h.Recent()
	rows := stored
	if !ok || err != nil {
		rows = i.Head
	}
	if i.Tenures, i.Checkpoints, err = e.HistoryRows(g, &rows); err != nil {
		return nil, true, err
	}
	i.catchUp(h)
	return i, true, i.retrace(fence)
}

// catchUp adds the rows that the log gave which were not stored yet.
func (i *Inspection) catchUp(h *store.History) {
	c := h.Flush()
	for _, t := range c.Tenures {
		if n := len(i.Tenures); n == 0 || i.Tenures[n-1].Number < t.Number {
			i.Tenures = append(i.Tenures, t)
		}
	}
	for _, p := range c.Checkpoints {
		if n := len(i.Checkpoints); n == 0 || i.Checkpoints[n-1].Number < p.Number {
			i.Checkpoints = append(i.Checkpoints, p)
		}
	}
}

// retrace decides the log again from the oldest acquire in it that the history knows, and compares where that leads.
func (i *Inspection) retrace(fence store.Fence) error {
	all := append(slices.Clip(i.Tenures), i.Head.Tenure)
	k := slices.IndexFunc(all, func(t store.Tenure) bool { return t.At.Index != 0 && uint64(t.Token) >= i.First })
	if k < 0 {
		return nil
	}
	t := all[k]
	begun := store.Tenure{Number: t.Number, Token: t.Token, Prev: t.Prev, Term: t.Term, Epoch: t.Epoch, Holder: t.Holder, At: t.At, When: t.When}
	head := store.HistoryHead{Index: uint64(t.Token), Since: i.Head.Since, Origin: i.Head.Origin, Now: t.At, Tenure: begun, Ended: t.Number - 1,
		Fence: store.Fence{Token: t.Token, Epoch: t.Epoch, Term: t.Term, Holder: t.Holder}}
	h, err := replay(i.l, head, i.Applied, fence)
	if err != nil {
		i.Violations = append(i.Violations, fmt.Sprintf("%v: node %v: the log, decided again from token %d on, does not lead to the state: %v", i.g, i.Node, t.Token, err))
		return nil
	}
	again := h.Head()
	i.Retraced = i.Applied - uint64(t.Token)
	a, b := again.Tenure, i.Head.Tenure
	a.When, b.When = 0, 0
	if again.Now != i.Head.Now || a != b {
		i.Violations = append(i.Violations, fmt.Sprintf("%v: node %v: entries %d to %d of its log give print %016x/%016x at %d under token %d, number %d; its history says %016x/%016x at %d, token %d, number %d",
			i.g, i.Node, t.Token, i.Applied, again.Now.Chain, again.Now.Hash, again.Now.Index, a.Token, a.Seq,
			i.Head.Now.Chain, i.Head.Now.Hash, i.Head.Now.Index, b.Token, b.Seq))
	}
	return nil
}

// overlay is what entries of a log do to a state, without the state.
type overlay struct {
	keys   []string // sorted
	values map[string]*string
	ranges []span // what lies in them is gone from the state below; ascending and apart
}

type span struct{ from, to string }

// newOverlay gathers what the entries after..to of l do, from the fence after `after` on.
func newOverlay(l *LogStore, after, to uint64, fence store.Fence) (*overlay, error) {
	o := &overlay{values: map[string]*string{}}
	var c store.Command
	for at := after + 1; at <= to; {
		entries, err := l.Entries(at, to+1, tailBytes)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			before := fence
			if fence, err = retrace(nil, fence, &c, e); err != nil {
				return nil, err
			}
			if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 && c.Kind == store.KindBatch && fence != before {
				o.write(c.Writes)
			}
		}
		at += uint64(len(entries))
	}
	for k := range o.values {
		o.keys = append(o.keys, k)
	}
	slices.Sort(o.keys)
	o.join()
	return o, nil
}

func (o *overlay) write(writes []store.Write) {
	for i := range writes {
		w := &writes[i]
		switch {
		case w.IsRange():
			for k := range o.values {
				if w.Removes([]byte(k)) {
					delete(o.values, k)
				}
			}
			if bytes.Compare(w.Key, w.End) < 0 {
				o.ranges = append(o.ranges, span{string(w.Key), string(w.End)})
			}
		case w.Delete:
			o.values[string(w.Key)] = nil
		default:
			o.values[string(w.Key)] = new(string(w.Value))
		}
	}
}

// join sorts the ranges and makes one of those that overlap.
func (o *overlay) join() {
	slices.SortFunc(o.ranges, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := o.ranges[:0]
	for _, r := range o.ranges {
		if n := len(out); n > 0 && r.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, r.to)
			continue
		}
		out = append(out, r)
	}
	o.ranges = out
}

func (o *overlay) hides(key []byte) bool {
	k, _ := slices.BinarySearchFunc(o.ranges, key, func(r span, key []byte) int {
		if r.to <= string(key) {
			return -1
		}
		return 1
	})
	return k < len(o.ranges) && o.ranges[k].from <= string(key)
}

// pairs is an ascending run of keys with their values, which are good only until the next one. An error comes last, with nil for both.
type pairs func(yield func(key, value []byte) bool) error

// over lays the overlay over a state.
func (o *overlay) over(base pairs) pairs {
	return func(yield func(key, value []byte) bool) error {
		next, stopped := 0, false
		emit := func(k string) bool { // one of the overlay's own
			v := o.values[k]
			if v == nil {
				return true
			}
			stopped = !yield([]byte(k), []byte(*v))
			return !stopped
		}
		err := base(func(key, value []byte) bool {
			for ; next < len(o.keys) && o.keys[next] < string(key); next++ {
				if !emit(o.keys[next]) {
					return false
				}
			}
			if next < len(o.keys) && o.keys[next] == string(key) {
				next++
				return emit(string(key))
			}
			if o.hides(key) {
				return true
			}
			stopped = !yield(key, value)
			return !stopped
		})
		for ; err == nil && !stopped && next < len(o.keys); next++ {
			if !emit(o.keys[next]) {
				break
			}
		}
		return err
	}
}

// StateDiff is the result of CompareStates.
type StateDiff struct {
	Index      uint64 // all states were brought to it
	Compared   int    // copies
	Keys       uint64
	Bytes      uint64
	Violations []string
	Notes      []string
}

// diffsMost is how many differing keys of a group are told one by one.
const diffsMost = 5

// CompareStates reads the whole state of all copies of one group side by side. Copies that have applied less than the one that has applied most are
// brought there, in memory, by that one's log. progress is told of keys and bytes now and then, and ends the comparison by an error.
func CompareStates(copies []*Inspection, progress func(keys, bytes uint64) error) (d StateDiff, err error) {
	if len(copies) == 0 {
		return d, nil
	}
	ahead := slices.MaxFunc(copies, func(a, b *Inspection) int { return cmp.Compare(a.Applied, b.Applied) })
	d.Index = ahead.Applied
	var streams []*stream
	defer func() {
		for _, s := range streams {
			s.stop()
		}
	}()
	for _, c := range copies {
		base := pairs(func(yield func(k, v []byte) bool) error { return c.e.StateReader(c.g).Scan(nil, nil, false, yield) })
		if c.Applied < ahead.Applied {
			if c.Applied+1 < ahead.First {
				d.Notes = append(d.Notes, fmt.Sprintf("%v: the state of node %v is at %d and could not be brought to %d: the log of node %v begins at %d",
					c.g, c.Node, c.Applied, ahead.Applied, ahead.Node, ahead.First))
				continue
			}
			_, fence, err := NewStateStore(c.e, c.g).Load()
			if err != nil {
				return d, err
			}
			o, err := newOverlay(ahead.l, c.Applied, ahead.Applied, fence)
			if err != nil {
				return d, err
			}
			base = o.over(base)
		}
		streams = append(streams, newStream(c.Node, base))
	}
	d.Compared = len(streams)
	if len(streams) < 2 {
		return d, nil
	}
	return d, d.compare(copies[0].g, streams, progress)
}

// stream is pairs, pulled.
type stream struct {
	node       ring.NodeID
	next       func() ([]byte, []byte, bool)
	stop       func()
	key, value []byte
	ok         bool
	err        error
}

func newStream(node ring.NodeID, p pairs) *stream {
	s := &stream{node: node}
	s.next, s.stop = iter.Pull2(func(yield func(k, v []byte) bool) { s.err = p(yield) })
	return s
}

func (s *stream) step() error {
	s.key, s.value, s.ok = s.next()
	return s.err
}

func (d *StateDiff) compare(g ring.GroupID, streams []*stream, progress func(keys, bytes uint64) error) error {
	for _, s := range streams {
		if err := s.step(); err != nil {
			return fmt.Errorf("%v: node %v: %w", g, s.node, err)
		}
	}
	wrong := 0
	for {
		var least *stream
		for _, s := range streams {
			if s.ok && (least == nil || bytes.Compare(s.key, least.key) < 0) {
				least = s
			}
		}
		if least == nil {
			break
		}
		key := append([]byte(nil), least.key...)
		value := append([]byte(nil), least.value...)
		d.Keys++
		d.Bytes += uint64(len(key) + len(value))
		if d.Keys%4096 == 0 && progress != nil {
			if err := progress(d.Keys, d.Bytes); err != nil {
				return err
			}
		}
		differ := ""
		for _, s := range streams {
			switch {
			case !s.ok || !bytes.Equal(s.key, key):
				differ += fmt.Sprintf("; node %v has none", s.node)
				continue
			case s != least && !bytes.Equal(s.value, value):
				differ += fmt.Sprintf("; node %v has %d bytes %.40x", s.node, len(s.value), s.value)
			}
			if err := s.step(); err != nil {
				return fmt.Errorf("%v: node %v: %w", g, s.node, err)
			}
		}
		if differ == "" {
			continue
		}
		if wrong++; wrong <= diffsMost {
			d.Violations = append(d.Violations, fmt.Sprintf("%v: at index %d the copies differ in %s: node %v has %d bytes %.40x%s", g, d.Index,
				store.DescribeKey(key), least.node, len(value), value, differ))
		}
	}
	if wrong > diffsMost {
		d.Violations = append(d.Violations, fmt.Sprintf("%v: the copies differ in %d more keys", g, wrong-diffsMost))
	}
	return nil
}
