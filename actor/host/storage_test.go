package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

func TestValuesAreIsolated(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		w.hooks.do["isolated"] = func(ctx context.Context, p *probe) (string, error) {
			in := map[string][]int{"a": {1, 2}}
			if err := p.st.Put(ctx, "m", in); err != nil {
				return "", err
			}
			in["a"][0] = 99
			for range 2 {
				out, _, err := actor.Get[map[string][]int](ctx, p.st, "m")
				if err != nil || out["a"][0] != 1 {
					return "", fmt.Errorf("got %v, %v", out, err)
				}
				out["a"][0] = 98
			}
			raw := []byte("bytes")
			if err := p.st.Put(ctx, "b", raw); err != nil {
				return "", err
			}
			raw[0] = 'X'
			out, _, err := actor.Get[[]byte](ctx, p.st, "b")
			if err != nil || string(out) != "bytes" {
				return "", fmt.Errorf("got %q, %v", out, err)
			}
			out[0] = 'Y'
			entries, err := p.st.List(ctx, actor.ListOptions{Prefix: "b"})
			if err != nil || len(entries) != 1 {
				return "", fmt.Errorf("got %v, %v", entries, err)
			}
			var listed []byte
			if err := entries[0].Decode(&listed); err != nil || string(listed) != "bytes" {
				return "", fmt.Errorf("got %q, %v", listed, err)
			}
			return "ok", nil
		}
		w.send("k", "Do", "isolated").want("ok")
	})
}

func TestReadsAreRemembered(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		prefix := store.ObjectPrefix("Probe", "k")
		w.l.data[string(append(prefix, 'n'))] = []byte{7}
		for range 5 {
			w.send("k", "Read", nil).want(int64(7))
		}
		w.send("k", "Add", int64(1)).want(int64(8))
		w.send("k", "Read", nil).want(int64(8))
		if _, _, reads := w.l.count(); reads != 2 { // the first write of an activation looks for a record of its size
			t.Errorf("%d reads of the shard's state", reads)
		}
		// That a key does not exist is remembered too.
		w.send("l", "Read", nil).want(int64(0))
		w.send("l", "Read", nil).want(int64(0))
		if _, _, reads := w.l.count(); reads != 3 {
			t.Errorf("%d reads of the shard's state", reads)
		}
		// What a disk error answered is not.
		w.l.mu.Lock()
		w.l.diskError = errors.New("bad disk")
		w.l.mu.Unlock()
		if e := w.send("m", "Read", nil).fails(actor.ErrInternal, actor.Ran); strings.Contains(e.Message, "bad disk") {
			t.Errorf("the caller hears what only the log should tell: %v", e)
		}
		w.l.mu.Lock()
		w.l.diskError = nil
		w.l.mu.Unlock()
		w.send("m", "Read", nil).want(int64(0))
	})
}

func TestBatchLimits(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		w.hooks.do["keys"] = func(ctx context.Context, p *probe) (string, error) {
			many := map[string]any{}
			for i := range actor.MaxBatchKeys {
				many[fmt.Sprint(i)] = i
			}
			if err := p.st.PutMany(ctx, many); err != nil {
				return "", err
			}
			if err := p.st.Put(ctx, "5", 0); err != nil { // a key again is not one more
				return "", err
			}
			if err := p.st.Put(ctx, "one more", 0); !errors.Is(err, actor.ErrBatchTooLarge) {
				return "", fmt.Errorf("one key too many: %v", err)
			}
			if err := p.st.PutMany(ctx, map[string]any{"x": 1, "y": 2}); !errors.Is(err, actor.ErrBatchTooLarge) {
				return "", fmt.Errorf("two keys too many: %v", err)
			}
			if err := p.st.Sync(ctx); err != nil {
				return "", err
			}
			return "ok", p.st.Put(ctx, "one more", 0)
		}
		w.hooks.do["bytes"] = func(ctx context.Context, p *probe) (string, error) {
			big := make([]byte, 2<<20-100)
			for i := range 4 {
				if err := p.st.Put(ctx, fmt.Sprint(i), big); err != nil {
					return "", err
				}
			}
			if err := p.st.Put(ctx, "3", big); err != nil { // instead of the one before
				return "", err
			}
			if err := p.st.Put(ctx, "4", big); !errors.Is(err, actor.ErrBatchTooLarge) {
				return "", fmt.Errorf("too many bytes: %v", err)
			}
			entries, err := p.st.List(ctx, actor.ListOptions{})
			return fmt.Sprint(len(entries)), err
		}
		w.send("k", "Do", "keys").want("ok")
		w.send("l", "Do", "bytes").want("4")
		if n, _, _ := w.l.count(); n != 3 || len(w.l.batches[0]) != actor.MaxBatchKeys || len(w.l.batches[1]) != 1 || len(w.l.batches[2]) != 4 {
			t.Errorf("%d batches", n)
		}
	})
}

func TestSync(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		step := make(chan struct{})
		at := 0
		var lost error
		w.hooks.do["sync"] = func(ctx context.Context, p *probe) (string, error) {
			if err := p.st.Sync(ctx); err != nil { // waits for the event before
				return "", err
			}
			at = 1
			if err := errors.Join(p.st.Put(ctx, "a", 1), p.st.Sync(ctx), p.st.Sync(ctx)); err != nil {
				return "", err
			}
			at = 2
			if err := p.st.Put(ctx, "a", 2); err != nil {
				return "", err
			}
			<-step
			lost = p.st.Sync(ctx)
			at = 3
			return "done", nil
		}
		before := w.send("k", "Add", int64(1))
		p := w.send("k", "Do", "sync")
		before.held()
		if at != 0 {
			t.Fatal("Sync did not wait for what was submitted before")
		}
		w.l.apply(1)
		before.want(int64(1))
		if at != 1 {
			t.Fatal(at)
		}
		w.l.apply(1)
		w.wait()
		if at != 2 {
			t.Fatal(at)
		}
		step <- struct{}{}
		p.held()
		w.l.lose()
		p.fails(actor.ErrMoved, actor.MayHaveRun)
		if at != 3 || !errors.Is(lost, actor.ErrMoved) {
			t.Error(at, lost)
		}
		if n, _, _ := w.l.count(); n != 3 {
			t.Errorf("%d batches", n)
		}
	})
}

// A panic after a Sync: what was synced stays, what came after is dropped.
func TestSyncThenPanic(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		w.hooks.do["panic"] = func(ctx context.Context, p *probe) (string, error) {
			if err := errors.Join(p.st.Put(ctx, "n", 5), p.st.Sync(ctx), p.st.Put(ctx, "n", 6)); err != nil {
				return "", err
			}
			panic("after Sync")
		}
		w.send("k", "Do", "panic").fails(actor.ErrPanic, actor.Ran)
		w.send("k", "Read", nil).want(int64(5))
	})
}

// model is storage as a sorted map: what is applied, submitted and written all in one.
type model map[string]string

func (m model) list(o actor.ListOptions) (keys []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, o.Prefix) && k >= o.Start && (o.StartAfter == "" || k > o.StartAfter) && (o.End == "" || k < o.End) {
			keys = append(keys, k)
		}
	}
	if o.Reverse {
		slices.Reverse(keys)
	}
	if o.Limit > 0 && len(keys) > o.Limit {
		keys = keys[:o.Limit]
	}
	return keys
}

// TestStorageAgainstModel: whatever of the writes is applied, submitted or only written, and whatever is remembered, the object sees what
// a sorted map would show, and the shard's state ends as that map.
func TestStorageAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		inWorld(t, Options{CacheBytes: int(seed%3) * 600, MailboxLimit: 1 << 20}, func(t *testing.T, w *world) {
			rng := rand.New(rand.NewPCG(seed, 1))
			m := model{}
			// Neighbours in the order of keys must not be seen.
			w.l.data[string(store.ObjectPrefix("Probe", "j"))+"\xff"] = []byte{1}
			w.l.data[string(store.ObjectPrefix("Probe", "k0"))+"a"] = []byte{1}
			w.hooks.do["step"] = func(ctx context.Context, p *probe) (string, error) {
				for range rng.IntN(8) {
					if err := randomStep(ctx, rng, p.st, m); err != nil {
						return "", err
					}
				}
				return "ok", nil
			}
			var calls []*pendingCall
			for range 80 {
				calls = append(calls, w.send("k", "Do", "step"))
				w.wait()
				if n, _, _ := w.l.count(); n > w.l.applied && rng.IntN(3) == 0 {
					w.l.apply(1 + rng.IntN(n-w.l.applied))
				}
				w.l.confirm()
			}
			w.wait()
			w.l.apply(len(w.l.batches) - w.l.applied)
			for range 3 {
				w.l.confirm()
			}
			for _, c := range calls {
				c.want("ok")
			}
			prefix := string(store.ObjectPrefix("Probe", "k"))
			for k := range w.l.data {
				if rest, ok := strings.CutPrefix(k, prefix); ok && m[rest] == "" {
					t.Errorf("seed %d: %q is stored and should not be", seed, rest)
				}
			}
			for k, v := range m {
				want, _ := actor.Marshal(v)
				if !bytes.Equal(w.l.data[prefix+k], want) {
					t.Errorf("seed %d: %q is stored as %x, want %x", seed, k, w.l.data[prefix+k], want)
				}
			}
		})
	}
}

// randomStep does one random operation on storage and on the model and compares.
func randomStep(ctx context.Context, rng *rand.Rand, st *actor.Storage, m model) error {
	key := func() string {
		letters := []string{"a", "b", "\xff", "é", "0"}
		k := ""
		for range 1 + rng.IntN(3) {
			k += letters[rng.IntN(len(letters))]
		}
		return k
	}
	switch rng.IntN(7) {
	case 0, 1:
		k, v := key(), fmt.Sprint(rng.IntN(1000))
		m[k] = v
		return st.Put(ctx, k, v)
	case 2:
		many := map[string]any{}
		for range rng.IntN(12) {
			k, v := key(), fmt.Sprint(rng.IntN(1000))
			many[k], m[k] = v, v
		}
		return st.PutMany(ctx, many)
	case 3:
		a, b := key(), key()
		want := 0
		for _, k := range []string{a, b} {
			if _, ok := m[k]; ok {
				want++
				delete(m, k)
			}
		}
		if n, err := st.Delete(ctx, a, b, a); err != nil || n != want {
			return fmt.Errorf("Delete(%q, %q) = %d, %v, want %d", a, b, n, err, want)
		}
	case 4:
		k := key()
		v, ok, err := actor.Get[string](ctx, st, k)
		if want, has := m[k]; err != nil || ok != has || v != want {
			return fmt.Errorf("Get(%q) = %q, %v, %v, want %q", k, v, ok, err, want)
		}
	case 5:
		a, b := key(), key()
		got, err := st.GetMany(ctx, a, b)
		for _, k := range []string{a, b} {
			_, has := m[k]
			if _, ok := got[k]; err != nil || ok != has {
				return fmt.Errorf("GetMany(%q, %q) = %v, %v", a, b, got, err)
			}
		}
	default:
		return randomList(ctx, rng, st, m, key)
	}
	return nil
}

func randomList(ctx context.Context, rng *rand.Rand, st *actor.Storage, m model, key func() string) error {
	var o actor.ListOptions
	switch rng.IntN(3) {
	case 0:
		o.Start = key()
	case 1:
		o.StartAfter = key()
	}
	if rng.IntN(2) == 0 {
		o.End = key()
	}
	if rng.IntN(3) == 0 {
		o.Prefix = key()[:1]
	}
	o.Reverse, o.Limit = rng.IntN(2) == 0, rng.IntN(5)
	entries, err := st.List(ctx, o)
	if err != nil {
		return err
	}
	want := m.list(o)
	if len(entries) != len(want) {
		return fmt.Errorf("List(%+v) has %d entries, want %q", o, len(entries), want)
	}
	for i, e := range entries {
		var v string
		if err := e.Decode(&v); err != nil || e.Key != want[i] || v != m[e.Key] {
			return fmt.Errorf("List(%+v)[%d] = %q: %q, %v; want %q: %q", o, i, e.Key, v, err, want[i], m[want[i]])
		}
	}
	return nil
}

func TestListIsBounded(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world) {
		w.l.auto = true
		prefix := string(store.ObjectPrefix("Probe", "k"))
		big, err := actor.Marshal(make([]byte, 2<<20-100))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			w.l.data[prefix+fmt.Sprint(i)] = big
		}
		w.hooks.do["all"] = func(ctx context.Context, p *probe) (string, error) {
			_, err := p.st.List(ctx, actor.ListOptions{})
			return "", err
		}
		w.hooks.do["some"] = func(ctx context.Context, p *probe) (string, error) {
			es, err := p.st.List(ctx, actor.ListOptions{Limit: 10})
			return fmt.Sprint(len(es)), err
		}
		if e := w.send("k", "Do", "all").fails(actor.ErrBadArgument, actor.Ran); !strings.Contains(e.Message, "set a Limit") {
			t.Error(e)
		}
		w.send("k", "Do", "some").want("10")
	})
}
