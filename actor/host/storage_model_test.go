package host

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

var (
	modelSeed  = flag.Uint64("storage.seed", 0, "run the storage property test with this seed only")
	modelSeeds = flag.Uint64("storage.seeds", 600, "seeds of the storage property test")
)

// storageModel is what one object's storage must look like: a map, and what it was after each batch.
type storageModel struct {
	t     *testing.T
	rnd   *rand.Rand
	now   map[string]string
	since map[string]string // at the last batch
	depth int               // of transactions
	limit int               // of bytes; 0: none
	trace []string
}

type programme struct {
	*world
	seed    uint64
	rnd     *rand.Rand
	models  map[string]*storageModel
	states  []map[string]map[string]string // per batch, of all objects
	running *pendingCall
	token   store.Token
}

var errWanted = errors.New("the programme wants to fail")

// TestStorageProgrammes runs random programmes of storage operations on two neighbouring objects: events that read and write, transactions,
// ends of all sorts, batches applied late or never. What an operation returns must be what a sorted map gives, and what is left
// after a crash must be the map as it was after one of the batches.
func TestStorageProgrammes(t *testing.T) {
	at := uint64(0)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("go test -run TestStorageProgrammes -storage.seed %d", at)
		}
	})
	for seed := range *modelSeeds {
		if *modelSeed != 0 {
			seed = *modelSeed
		}
		at = seed
		limit := int(seed/3%3) * 300
		var opts []actor.ClassOption
		if limit > 0 {
			opts = append(opts, actor.StorageLimit(int64(limit)))
		}
		inWorld(t, Options{CacheBytes: int(seed % 3 * 300)}, func(t *testing.T, w *world) {
			w.l.proves.Store(true)
			p := &programme{world: w, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), token: 1, models: map[string]*storageModel{}}
			for _, key := range []string{"k", "k\x01"} {
				p.models[key] = &storageModel{t: t, rnd: p.rnd, limit: limit, now: map[string]string{}, since: map[string]string{}}
			}
			p.states = append(p.states, p.snapshot())
			for range 4 + p.rnd.IntN(10) {
				p.step()
			}
			p.crash()
		}, opts...)
		if *modelSeed != 0 || t.Failed() {
			return
		}
	}
}

func (p *programme) snapshot() map[string]map[string]string {
	s := map[string]map[string]string{}
	for key, m := range p.models {
		s[key] = maps.Clone(m.since)
	}
	return s
}

// step sends an event and lets it run as far as it can, or lets the world go on.
func (p *programme) step() {
	switch n := p.rnd.IntN(10); {
	case n == 0:
		p.crash()
	case n < 4 || p.running != nil:
		p.apply()
	default:
		key := []string{"k", "k\x01"}[p.rnd.IntN(2)]
		m := p.models[key]
		name := fmt.Sprint("event", len(p.hooks.do))
		p.hooks.do[name] = m.event
		p.running = p.send(key, "Do", name)
		p.settle()
	}
}

// settle waits until the event has ended or waits for its writes, and notes the batch that it made.
func (p *programme) settle() {
	p.wait()
	batches, _, _ := p.l.count()
	if grown := batches + 1 - len(p.states); grown > 1 || grown < 0 {
		p.t.Fatalf("%d batches, %d states", batches, len(p.states))
	} else if grown == 1 {
		for _, m := range p.models {
			m.since = maps.Clone(m.now)
		}
		p.states = append(p.states, p.snapshot())
	}
	if p.h.Metrics().Running == 0 {
		p.running = nil
		for _, m := range p.models { // a panic has dropped what was not submitted
			m.now, m.depth = maps.Clone(m.since), 0
		}
	}
}

func (p *programme) apply() {
	batches, _, _ := p.l.count()
	if n := batches - p.l.applied; n > 0 {
		p.l.apply(1 + p.rnd.IntN(n))
		p.settle()
	}
}

// crash loses what is not applied; another owner goes on.
func (p *programme) crash() {
	p.wait()
	p.l.lose()
	p.wait()
	if n := p.h.Metrics().Running; n != 0 {
		p.t.Fatalf("%d events still run", n)
	}
	state := p.states[p.l.applied]
	p.states = p.states[p.l.applied : p.l.applied+1]
	p.running = nil
	p.token++
	p.open(p.token, false)
	p.l.proves.Store(true)
	for key, m := range p.models {
		m.since, m.now, m.depth = maps.Clone(state[key]), maps.Clone(state[key]), 0
		m.note("crash")
		record := w64(p.l.data[string(store.MetaKey("Probe", key, store.MetaSize))])
		if want := size(m.now); m.limit > 0 && record != want || m.limit == 0 && record != 0 {
			p.t.Errorf("%q: %d bytes recorded, %d stored\n%s", key, record, want, strings.Join(m.trace, "\n"))
		}
		p.hooks.do["check"] = func(ctx context.Context, pr *probe) (string, error) { return "", m.check(ctx, pr.st) }
		c := p.send(key, "Do", "check")
		if c.want(""); p.t.Failed() {
			return
		}
	}
}

func (m *storageModel) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(strings.Repeat("  ", m.depth)+format, args...))
}

func (m *storageModel) fail(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	m.t.Errorf("%v\n%s", err, strings.Join(m.trace, "\n"))
	return err
}

// event is the code of one event.
func (m *storageModel) event(ctx context.Context, p *probe) (string, error) {
	m.note("event")
	if err := m.body(ctx, p.st, p.st, 1+m.rnd.IntN(12)); err != nil {
		return "", err
	}
	switch m.rnd.IntN(10) {
	case 0:
		m.note("panic")
		panic("on purpose")
	case 1:
		m.note("abort")
		p.s.Abort(errWanted)
	case 2:
		return "", errWanted // its writes stay
	}
	return "", m.check(ctx, p.st)
}

// ops is what Storage and Tx have in common.
type ops interface {
	actor.Getter
	GetMany(ctx context.Context, keys ...string) (map[string]actor.Value, error)
	Put(ctx context.Context, key string, value any, opts ...actor.PutOption) error
	PutMany(ctx context.Context, entries map[string]any, opts ...actor.PutOption) error
	Delete(ctx context.Context, keys ...string) (int, error)
	List(ctx context.Context, o actor.ListOptions) ([]actor.Entry, error)
	All(ctx context.Context, o actor.ListOptions) iter.Seq2[actor.Entry, error]
	Transaction(ctx context.Context, fn func(context.Context, *actor.Tx) error) error
}

func (m *storageModel) key() string {
	if m.rnd.IntN(20) == 0 {
		return []string{"\x00", "\xff", "\xff\xff", "é", "\U00010000"}[m.rnd.IntN(5)]
	}
	return string("abcdefghij"[m.rnd.IntN(10)]) + strings.Repeat("\xff", m.rnd.IntN(2))
}

func (m *storageModel) value() string {
	return strings.Repeat("v", m.rnd.IntN(60)) + fmt.Sprint(m.rnd.IntN(100))
}

// body does n random things. st is the object's storage, s that or a transaction on it: within one it makes no difference.
func (m *storageModel) body(ctx context.Context, st *actor.Storage, s ops, n int) error {
	for range n {
		var err error
		use := s
		if m.rnd.IntN(4) == 0 {
			use = st
		}
		switch m.rnd.IntN(13) {
		case 0, 1, 2:
			key, value := m.key(), m.value()
			m.note("put %q %d", key, len(value))
			err = m.stored(map[string]any{key: value}, use.Put(ctx, key, value, []actor.PutOption{nil, actor.Unconfirmed()}[m.rnd.IntN(2)]))
		case 3:
			err = m.putMany(ctx, use)
		case 4, 5:
			err = m.delete(ctx, use)
		case 6:
			err = m.deleteAll(ctx, st)
		case 7:
			err = m.get(ctx, use)
		case 8, 9:
			err = m.list(ctx, use)
		case 10:
			err = m.transaction(ctx, st, use)
		case 11:
			err = m.sync(ctx, st)
		case 12:
			err = m.loop(ctx, use)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *storageModel) putMany(ctx context.Context, s ops) error {
	entries := map[string]any{}
	for range m.rnd.IntN(12) {
		entries[m.key()] = m.value()
	}
	m.note("put %q", slices.Sorted(maps.Keys(entries)))
	return m.stored(entries, s.PutMany(ctx, entries))
}

// stored puts entries into the model, unless they are too many for it: then err must say so.
func (m *storageModel) stored(entries map[string]any, err error) error {
	next := maps.Clone(m.now)
	for k, v := range entries {
		next[k] = v.(string)
	}
	before, after := size(m.now), size(next)
	if m.limit > 0 && after > m.limit && after > before {
		if !errors.Is(err, actor.ErrStorageFull) {
			return m.fail("%d bytes instead of %d, and %w", after, before, err)
		}
		m.note("full")
		return nil
	}
	m.now = next
	return err
}

// size is what the strings of a map take, encoded.
func size(kv map[string]string) (n int) {
	for k, v := range kv {
		b, _ := actor.Marshal(v)
		n += len(k) + len(b)
	}
	return n
}

func (m *storageModel) delete(ctx context.Context, s ops) error {
	var keys []string
	want := 0
	for range m.rnd.IntN(4) {
		k := m.key()
		keys = append(keys, k)
		if _, ok := m.now[k]; ok {
			want++
		}
		delete(m.now, k)
	}
	m.note("delete %q", keys)
	if n, err := s.Delete(ctx, keys...); err != nil || n != want {
		return m.fail("delete: %d, %w; want %d", n, err, want)
	}
	return nil
}

func (m *storageModel) deleteAll(ctx context.Context, st *actor.Storage) error {
	m.note("delete all")
	err := st.DeleteAll(ctx)
	if m.depth > 0 {
		if err == nil {
			return m.fail("DeleteAll within a transaction")
		}
		return nil
	}
	clear(m.now)
	return err
}

func (m *storageModel) get(ctx context.Context, s ops) error {
	k := m.key()
	m.note("get %q", k)
	got, ok, err := actor.Get[string](ctx, s, k)
	if want, exists := m.now[k]; err != nil || ok != exists || got != want {
		return m.fail("get %q: %q, %v, %w; want %q, %v", k, got, ok, err, want, exists)
	}
	return nil
}

func (m *storageModel) list(ctx context.Context, s ops) error {
	o := actor.ListOptions{Reverse: m.rnd.IntN(2) == 0, Limit: m.rnd.IntN(6)}
	if m.rnd.IntN(2) == 0 {
		o.Start = m.key()
	} else if m.rnd.IntN(2) == 0 {
		o.StartAfter = m.key()
	}
	if m.rnd.IntN(2) == 0 {
		o.End = m.key()
	}
	if m.rnd.IntN(3) == 0 {
		o.Prefix = m.key()
	}
	m.note("list %+v", o)
	entries, err := s.List(ctx, o)
	if err != nil {
		return m.fail("list: %w", err)
	}
	return m.compare(entries, o)
}

func (m *storageModel) compare(entries []actor.Entry, o actor.ListOptions) error {
	var got []string
	for _, e := range entries {
		got = append(got, e.Key)
		var v string
		if err := e.Decode(&v); err != nil || v != m.now[e.Key] {
			return m.fail("list: %q is %q, %w; want %q", e.Key, v, err, m.now[e.Key])
		}
	}
	if want := m.selected(o); !slices.Equal(got, want) {
		return m.fail("list %+v: %q, want %q", o, got, want)
	}
	return nil
}

// loop runs over all entries and writes meanwhile: each entry must be the next that there is.
func (m *storageModel) loop(ctx context.Context, s ops) error {
	o := actor.ListOptions{Reverse: m.rnd.IntN(2) == 0}
	busy := m.rnd.IntN(4) // how often the body writes
	m.note("loop %+v", o)
	left := 5 + m.rnd.IntN(60)
	for e, err := range s.All(ctx, o) {
		if err != nil {
			return m.fail("all: %w", err)
		}
		var v string
		want := append(m.selected(o), "nothing")[0]
		if err := e.Decode(&v); err != nil || e.Key != want || v != m.now[e.Key] {
			return m.fail("all: %q: %q, %w; want %q: %q", e.Key, v, err, want, m.now[want])
		}
		if o.Reverse {
			o.End = e.Key
		} else {
			o.StartAfter = e.Key
		}
		if left--; left == 0 { // writes ahead could go on for ever
			return nil
		}
		if k := m.key(); m.rnd.IntN(4) < busy {
			m.note("in the loop, at %q: %q", e.Key, k)
			var err error
			if m.rnd.IntN(2) == 0 {
				delete(m.now, k)
				_, err = s.Delete(ctx, k)
			} else {
				v := m.value()
				err = m.stored(map[string]any{k: v}, s.Put(ctx, k, v))
			}
			if err != nil {
				return err
			}
		}
	}
	if rest := m.selected(o); len(rest) > 0 {
		return m.fail("all ended before %q", rest)
	}
	return nil
}

// selected is what the options mean, key by key.
func (m *storageModel) selected(o actor.ListOptions) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m.now)) {
		if k >= o.Start && (o.StartAfter == "" || k > o.StartAfter) && (o.End == "" || k < o.End) && strings.HasPrefix(k, o.Prefix) {
			out = append(out, k)
		}
	}
	if o.Reverse {
		slices.Reverse(out)
	}
	if o.Limit > 0 {
		out = out[:min(len(out), o.Limit)]
	}
	return out
}

func (m *storageModel) transaction(ctx context.Context, st *actor.Storage, s ops) error {
	if m.depth == 4 {
		return nil
	}
	before := maps.Clone(m.now)
	how := m.rnd.IntN(5)
	m.note("transaction, ends as %d", how)
	var leaked *actor.Tx
	err := recovering(func() error { return m.transact(ctx, st, s, how, before, &leaked) })
	if (how == 0 || how == 2) && err == errWanted {
		err = nil
	}
	if err == nil && leaked.Put(ctx, "a", 1) == nil {
		return m.fail("a transaction that is over was written to")
	}
	return err
}

// recovering is fn, with errWanted for a panic with that.
func recovering(fn func() error) (err error) {
	defer func() {
		if p := recover(); p == errWanted {
			err = errWanted
		} else if p != nil {
			panic(p)
		}
	}()
	return fn()
}

func (m *storageModel) transact(ctx context.Context, st *actor.Storage, s ops, how int, before map[string]string, leaked **actor.Tx) error {
	return s.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
		*leaked = tx
		m.depth++
		defer func() { m.depth-- }()
		if err := m.body(ctx, st, tx, 1+m.rnd.IntN(6)); err != nil {
			return err
		}
		switch how {
		case 0:
			m.now = before
			return errWanted
		case 1:
			m.now = before
			m.note("roll back")
			return errors.Join(tx.Rollback(), tx.Rollback())
		case 2:
			m.now = before
			panic(errWanted)
		}
		return nil
	})
}

func (m *storageModel) sync(ctx context.Context, st *actor.Storage) error {
	m.note("sync")
	err := st.Sync(ctx)
	if m.depth > 0 {
		if err == nil {
			return m.fail("Sync within a transaction")
		}
		return nil
	}
	return err
}

// check reads everything, in two ways.
func (m *storageModel) check(ctx context.Context, st *actor.Storage) error {
	entries, err := st.List(ctx, actor.ListOptions{})
	if err != nil {
		return m.fail("list: %w", err)
	}
	if err := m.compare(entries, actor.ListOptions{}); err != nil {
		return err
	}
	o := actor.ListOptions{Reverse: m.rnd.IntN(2) == 0}
	entries = nil
	for e, err := range st.All(ctx, o) {
		if err != nil {
			return m.fail("all: %w", err)
		}
		entries = append(entries, e)
	}
	return m.compare(entries, o)
}

// w64 reads a record; 0 if there is none.
func w64(record []byte) int {
	n, _ := binary.Uvarint(record)
	return int(n)
}
