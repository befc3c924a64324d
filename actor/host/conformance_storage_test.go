package host

import (
	"context"
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/actor"
)

// storageTest is one row of section 12.6 of the specification, in a world where batches are applied at once.
type storageTest struct {
	*world
	t *testing.T
}

// in runs fn as an event of the object k.
func (w *storageTest) in(key string, fn func(ctx context.Context, st *actor.Storage) error) *pendingCall {
	w.t.Helper()
	w.wait() // until nobody reads the map
	name := fmt.Sprint("fn", len(w.hooks.do))
	w.hooks.do[name] = func(ctx context.Context, p *probe) (string, error) { return "", fn(ctx, p.st) }
	return w.send(key, "Do", name)
}

func (w *storageTest) do(key string, fn func(ctx context.Context, st *actor.Storage) error) {
	w.t.Helper()
	w.in(key, fn).want("")
}

// keys lists the keys of an object.
func keys(ctx context.Context, st *actor.Storage, o actor.ListOptions) string {
	entries, err := st.List(ctx, o)
	if err != nil {
		return err.Error()
	}
	s := ""
	for _, e := range entries {
		s += e.Key + " "
	}
	return s
}

func expect(got, want any) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

// TestConformanceStorage goes through C-52 … C-69.
func TestConformanceStorage(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(w *storageTest)
	}{
		{"C-63 deleteAll", testDeleteAll},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, Options{}, func(t *testing.T, w *world) {
				w.l.auto = true
				row.test(&storageTest{w, t})
			})
		})
	}
}

func testDeleteAll(w *storageTest) {
	w.l.auto = false
	w.l.proves.Store(true)
	put := func(key string) *pendingCall {
		return w.in(key, func(ctx context.Context, st *actor.Storage) error {
			return st.PutMany(ctx, map[string]any{"a": 1, "b": 2, "c": 3})
		})
	}
	put("k")
	put("k\x01") // its neighbour
	w.wait()
	w.l.apply(2)
	// Part of the event's batch, seen at once, and by later events before it is applied.
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		if err := st.Put(ctx, "d", 4); err != nil {
			return err
		}
		if err := st.DeleteAll(ctx); err != nil {
			return err
		}
		if _, ok, err := actor.Get[int](ctx, st, "a"); ok || err != nil {
			return fmt.Errorf("a is there: %v, %v", ok, err)
		}
		if n, err := st.Delete(ctx, "b", "d"); n != 0 || err != nil {
			return fmt.Errorf("%d keys deleted, %v", n, err)
		}
		if err := expect(keys(ctx, st, actor.ListOptions{}), ""); err != nil {
			return err
		}
		if err := st.Put(ctx, "b", 5); err != nil {
			return err
		}
		return expect(keys(ctx, st, actor.ListOptions{}), "b ")
	})
	later := func(want string) *pendingCall {
		return w.in("k", func(ctx context.Context, st *actor.Storage) error {
			if _, ok, err := actor.Get[int](ctx, st, "a"); ok || err != nil {
				return fmt.Errorf("a is there: %v, %v", ok, err)
			}
			if b, _, err := actor.Get[int](ctx, st, "b"); b != 5 || err != nil {
				return fmt.Errorf("b is %d, %v", b, err)
			}
			return expect(keys(ctx, st, actor.ListOptions{Reverse: true}), want)
		})
	}
	before := later("b ")
	before.held()
	w.l.apply(1)
	before.want("")
	w.l.auto = true
	later("b ").want("")
	w.do("k\x01", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "a b c ")
	})
	// Lost with its batch: all is there again.
	w.l.auto = false
	gone := w.in("k\x01", func(ctx context.Context, st *actor.Storage) error { return st.DeleteAll(ctx) })
	gone.held()
	w.l.lose()
	gone.fails(actor.ErrMoved, actor.MayHaveRun)
	w.open(2, true)
	w.do("k\x01", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "a b c ")
	})
}
