package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// memory is a Backend without leases, events and batches: what Storage itself does is tested here, the rest in package host.
type memory struct {
	alarms
	data map[string][]byte
	puts int
	list ListOptions
	fail error
}

func (m *memory) Get(_ context.Context, key string) ([]byte, bool, error) {
	raw, ok := m.data[key]
	return raw, ok, m.fail
}

func (m *memory) GetMany(_ context.Context, keys []string) (found []Entry, _ error) {
	if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
		return nil, fmt.Errorf("keys %q are not sorted, each once", keys)
	}
	for _, k := range keys {
		if raw, ok := m.data[k]; ok {
			found = append(found, Entry{k, Value{raw}})
		}
	}
	return found, m.fail
}

func (m *memory) Put(_ context.Context, entries []Entry, _ PutOptions) error {
	m.puts++
	for _, e := range entries {
		m.data[e.Key] = SharedBytes(e.Value)
	}
	return m.fail
}

func (m *memory) Delete(ctx context.Context, keys []string) (int, error) {
	found, err := m.GetMany(ctx, keys)
	for _, e := range found {
		delete(m.data, e.Key)
	}
	return len(found), err
}

func (m *memory) List(_ context.Context, o ListOptions, maxBytes int) (out []Entry, more bool, _ error) {
	m.list = o
	for _, k := range slices.Sorted(maps.Keys(m.data)) {
		if k >= o.Start && (o.End == "" || k < o.End) {
			out = append(out, Entry{k, Value{m.data[k]}})
		}
	}
	if o.Reverse {
		slices.Reverse(out)
	}
	if o.Limit > 0 && len(out) > o.Limit {
		out = out[:o.Limit]
	}
	size := 0
	for i, e := range out {
		if size += len(e.Key) + len(SharedBytes(e.Value)); size > maxBytes {
			return out[:i+1], true, m.fail
		}
	}
	return out, false, m.fail
}

func (m *memory) DeleteAll(context.Context) error {
	clear(m.data)
	return m.fail
}

func (m *memory) Sync(context.Context) error { return m.fail }

func (m *memory) Transaction(context.Context, func(Savepoint) error) error { return m.fail }

func newMemory() (*memory, *Storage) {
	m := &memory{data: map[string][]byte{}}
	s := NewState(StateConfig{ID: ID{"C", "k"}, Backend: m, Logger: slog.New(slog.DiscardHandler)})
	return m, s.Storage()
}

func TestStorageRoundTrip(t *testing.T) {
	_, s := newMemory()
	ctx := t.Context()
	value := pair{1, []byte("abc")}
	if err := s.Put(ctx, "p", &value); err != nil {
		t.Fatal(err)
	}
	value.B[0] = 'X'
	first, ok, err := Get[pair](ctx, s, "p")
	if !ok || err != nil || string(first.B) != "abc" {
		t.Errorf("%+v, %v, %v: the stored value follows the caller's", first, ok, err)
	}
	first.B[0] = 'Y'
	if again, _, _ := Get[pair](ctx, s, "p"); string(again.B) != "abc" {
		t.Errorf("%q: the stored value follows what was read", again.B)
	}
	n := 5
	if ok, err := s.Get(ctx, "absent", &n); ok || err != nil || n != 5 {
		t.Errorf("%v, %v, %d", ok, err, n)
	}
	ok, err = s.Get(ctx, "p", &n)
	if !ok || !errors.Is(err, ErrBadArgument) || !strings.Contains(err.Error(), `key "p"`) || !strings.Contains(err.Error(), "*int") {
		t.Errorf("a value of another type: %v, %v", ok, err)
	}
}

func TestStorageMany(t *testing.T) {
	m, s := newMemory()
	ctx := t.Context()
	if err := s.PutMany(ctx, map[string]any{"b": 2, "a": 1, "c": nil}); err != nil || m.puts != 1 {
		t.Fatal(err, m.puts)
	}
	got, err := s.GetMany(ctx, "c", "a", "x", "a")
	var one int
	if err != nil || len(got) != 2 || got["a"].Decode(&one) != nil || one != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if n, err := s.Delete(ctx, "b", "x", "b", "a"); n != 2 || err != nil || len(m.data) != 1 {
		t.Errorf("deleted %d, %v; left %v", n, err, m.data)
	}
	if n, err := s.Delete(ctx); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestStorageLimits(t *testing.T) {
	m, s := newMemory()
	ctx := t.Context()
	long, big := strings.Repeat("k", MaxStorageKey), make([]byte, MaxStorageValue-5) // five bytes say that it is binary and how long
	if err := s.Put(ctx, long, big); err != nil {
		t.Error("the largest key and value:", err)
	}
	many := make([]string, MaxKeysPerCall+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	if _, err := s.GetMany(ctx, many[1:]...); err != nil {
		t.Error(err)
	}
	huge := map[string]any{}
	for i := range MaxBatchKeys + 1 {
		huge[fmt.Sprint(i)] = i
	}
	second := func(_ any, err error) error { return err }
	var v any
	before := len(m.data)
	for what, c := range map[string]struct {
		err  error
		is   error
		text string
	}{
		"empty key":       {s.Put(ctx, "", 1), ErrBadArgument, "empty"},
		"long key":        {s.Put(ctx, long+"k", 1), ErrBadArgument, "Keys cannot be larger than 2048 bytes. A key of size 2049 was provided."},
		"get empty":       {second(s.Get(ctx, "", &v)), ErrBadArgument, "empty"},
		"get long":        {second(s.GetMany(ctx, "a", long+"k")), ErrBadArgument, "2049"},
		"delete empty":    {second(s.Delete(ctx, "a", "")), ErrBadArgument, "empty"},
		"large value":     {s.Put(ctx, "k", append(big, 0)), ErrBadArgument, "Values cannot be larger than 2097152 bytes. A value of size 2097153 was provided."},
		"channel":         {s.Put(ctx, "k", make(chan int)), ErrBadArgument, "chan int cannot be stored"},
		"one bad of many": {s.PutMany(ctx, map[string]any{"a": 1, "b": make(chan int)}), ErrBadArgument, `key "b"`},
		"129 keys":        {second(s.GetMany(ctx, many...)), ErrBadArgument, "Maximum number of key value pairs is 128. 129 pairs were provided."},
		"delete 129 keys": {second(s.Delete(ctx, many...)), ErrBadArgument, "129 pairs"},
		"10,001 entries":  {s.PutMany(ctx, huge), ErrBatchTooLarge, "at most 10000; nothing was written"},
		"two starts":      {second(s.List(ctx, ListOptions{Start: "a", StartAfter: "b"})), ErrBadArgument, "list() cannot be called with both start and startAfter values."},
		"negative limit":  {second(s.List(ctx, ListOptions{Limit: -1})), ErrBadArgument, "List limit must be positive."},
	} {
		e := (*Error)(nil)
		if !errors.Is(c.err, c.is) || !strings.Contains(c.err.Error(), c.text) || !errors.As(c.err, &e) || e.Outcome != Ran || !e.Remote {
			t.Errorf("%s: %v, want %q", what, c.err, c.text)
		}
	}
	if len(m.data) != before {
		t.Errorf("something was written: %d keys, had %d", len(m.data), before)
	}
}

func TestStorageErrorsPass(t *testing.T) {
	m, s := newMemory()
	m.fail = &Error{Code: CodeMoved, Object: ID{"C", "k"}, Token: 3}
	ctx := t.Context()
	_, _, get := Get[int](ctx, s, "k")
	_, many := s.GetMany(ctx, "k")
	_, del := s.Delete(ctx, "k")
	_, list := s.List(ctx, ListOptions{})
	for i, err := range []error{get, many, del, list, s.Put(ctx, "k", 1), s.PutMany(ctx, map[string]any{"k": 1}), s.Sync(ctx)} {
		if err != m.fail {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// selected is what the options mean, key by key.
func selected(keys []string, o ListOptions) []string {
	var out []string
	for _, k := range keys {
		if k >= o.Start && (o.StartAfter == "" || k > o.StartAfter) && (o.End == "" || k < o.End) && strings.HasPrefix(k, o.Prefix) {
			out = append(out, k)
		}
	}
	if o.Reverse {
		slices.Reverse(out)
	}
	if o.Limit > 0 && len(out) > o.Limit {
		out = out[:o.Limit]
	}
	return out
}

func TestListOptions(t *testing.T) {
	m, s := newMemory()
	rnd := rand.New(rand.NewPCG(1, 2))
	alphabet := []byte{0, 'a', 'b', 0xff}
	word := func() string {
		b := make([]byte, rnd.IntN(4))
		for i := range b {
			b[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		return string(b)
	}
	for range 60 {
		m.data["a"+word()], m.data[word()+"b"] = []byte{1}, []byte{1}
	}
	keys := slices.Sorted(maps.Keys(m.data))
	for range 5000 {
		o := ListOptions{Start: word(), End: word(), Prefix: word(), Reverse: rnd.IntN(2) == 0, Limit: rnd.IntN(5)}
		if rnd.IntN(2) == 0 {
			o.Start, o.StartAfter = "", word()
		}
		entries, err := s.List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Key)
		}
		if want := selected(keys, o); !slices.Equal(got, want) {
			t.Fatalf("%+v: %q, want %q", o, got, want)
		}
		if m.list.Prefix != "" || m.list.StartAfter != "" {
			t.Fatalf("the backend was asked for %+v", m.list)
		}
	}
}

func TestStateIsWhatItWasMadeOf(t *testing.T) {
	reason, logger := errors.New("reason"), slog.New(slog.DiscardHandler)
	var aborted error
	s := NewState(StateConfig{ID: ID{"C", "k"}, Backend: &memory{}, Logger: logger, Runtime: aborter(func(r error) { aborted = r })})
	s.Abort(reason)
	if s.ID() != (ID{"C", "k"}) || s.Logger() != logger || aborted != reason {
		t.Error(s.ID(), aborted)
	}
}

// fakeRef answers every call with what it was asked.
type fakeRef struct{ id ID }

func (r fakeRef) ID() ID { return r.id }
func (r fakeRef) Call(ctx context.Context, method string, arg, reply any, opts ...CallOption) error {
	return r.Start(ctx, method, arg, opts...).Wait(ctx, reply)
}
func (r fakeRef) Start(_ context.Context, method string, arg any, opts ...CallOption) *Pending {
	ApplyCallOptions(opts)
	return NewPending(answer{fmt.Sprintf("%v %s %v", r.id, method, arg)})
}

type answer struct{ text string }

func (a answer) Wait(_ context.Context, reply any) error {
	*reply.(*string) = a.text
	return nil
}

func TestGenericCall(t *testing.T) {
	seen := 0
	got, err := Call[string](t.Context(), fakeRef{ID{"C", "k"}}, "M", 1, func(*CallOptions) { seen++ })
	if got != "C/k M 1" || err != nil || seen != 1 {
		t.Errorf("%q, %v, %d", got, err, seen)
	}
}

type aborter func(error)

func (a aborter) Abort(reason error)                                                { a(reason) }
func (aborter) Object(string, string) Ref                                           { return nil }
func (aborter) WaitUntil(func(context.Context) error)                               {}
func (aborter) Await(context.Context, func(context.Context) error) error            { return nil }
func (aborter) BlockConcurrency(context.Context, func(context.Context) error) error { return nil }
