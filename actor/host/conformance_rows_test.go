package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// crash loses what is not applied, and gives the shard to another owner.
func (w *storageTest) crash() {
	w.wait()
	w.l.lose()
	w.open(w.l.token+1, true)
}

func testCoalescing(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.Put(ctx, "c", 0) })
	write := func(ctx context.Context, st *actor.Storage) error {
		_, err := st.Delete(ctx, "c")
		return errors.Join(st.Put(ctx, "a", 1), st.Put(ctx, "b", 1), err)
	}
	all := func(want string) {
		w.do("k", func(ctx context.Context, st *actor.Storage) error {
			return expect(keys(ctx, st, actor.ListOptions{}), want)
		})
	}
	w.l.auto = false
	w.in("k", write).held()
	w.crash()
	all("c ")
	n := len(w.l.batches)
	w.do("k", write)
	if len(w.l.batches) != n+1 || len(w.l.batches[n]) != 3 {
		w.t.Errorf("batches %v, want one more of three writes", w.l.batches)
	}
	w.crash()
	all("a b ")
}

func testBatchOrder(w *storageTest) {
	w.l.auto = false
	for i := range 4 {
		w.in("k", func(ctx context.Context, st *actor.Storage) error { return st.Put(ctx, fmt.Sprint(i), i) })
	}
	w.wait()
	w.l.apply(2)
	w.crash()
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "0 1 ")
	})
	// Within an event Sync ends a batch.
	w.l.auto = false
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(st.Put(ctx, "4", 4), st.Sync(ctx), st.Put(ctx, "5", 5))
	})
	w.wait()
	w.l.apply(1)
	w.wait()
	if n := len(w.l.batches); n != 2 {
		w.t.Errorf("%d batches", n)
	}
	w.crash()
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "0 1 4 ")
	})
}

func testAbortVersusThrow(w *storageTest) {
	w.hooks.do["abort"] = func(ctx context.Context, p *probe) (string, error) {
		err := p.st.Put(ctx, "aborted", 1)
		p.s.Abort(err)
		return "", err
	}
	w.send("k", "Do", "abort").fails(actor.ErrAborted, actor.Ran)
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(st.Put(ctx, "thrown", 1), actor.Fail("thrown", "on purpose"))
	}).fails(nil, actor.Ran)
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "thrown ")
	})
}

func testReadYourWrites(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return st.PutMany(ctx, map[string]any{"a": 1, "b": 2, "d": 4})
	})
	w.l.auto = false
	look := func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(expect(number(ctx, st, "a"), -1), expect(number(ctx, st, "c"), 3), expect(keys(ctx, st, actor.ListOptions{Limit: 2}), "b c "),
			expect(keys(ctx, st, actor.ListOptions{Limit: 2, Reverse: true}), "d c "))
	}
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		_, err := st.Delete(ctx, "a")
		return errors.Join(err, st.Put(ctx, "c", 3), look(ctx, st))
	})
	later := w.in("k", look) // before the batch is applied
	later.held()
	w.l.apply(1)
	w.l.confirm()
	later.want("")
}

func testGet(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		var many []string
		for i := range 129 {
			many = append(many, fmt.Sprint(i))
		}
		if err := st.PutMany(ctx, map[string]any{"z": 1, "a": nil}); err != nil {
			return err
		}
		into := 7
		ok, err := st.Get(ctx, "absent", &into)
		if ok || err != nil || into != 7 {
			return fmt.Errorf("%v, %v, %d", ok, err, into)
		}
		found, err := st.GetMany(ctx, "z", "absent", "a", "z")
		if got := slices.Sorted(maps.Keys(found)); err != nil || !slices.Equal(got, []string{"a", "z"}) {
			return fmt.Errorf("%q, %v", got, err)
		}
		_, err = st.GetMany(ctx, many...)
		if _, e := st.GetMany(ctx, many[1:]...); e != nil {
			return e
		}
		return expect(message(err), "Maximum number of key value pairs is 128. 129 pairs were provided.")
	})
}

func testPut(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		// All are looked at before any is written.
		for what, bad := range map[string]map[string]any{
			"value": {"a": 1, "b": make(chan int), "c": 1},
			"key":   {"a": 1, "": 1},
			"size":  {"a": 1, "b": make([]byte, actor.MaxStorageValue)},
		} {
			if err := st.PutMany(ctx, bad); !errors.Is(err, actor.ErrBadArgument) {
				return fmt.Errorf("bad %s: %v", what, err)
			}
		}
		if got := keys(ctx, st, actor.ListOptions{}); got != "" {
			return fmt.Errorf("written: %q", got)
		}
		// nil is a value: what undefined is elsewhere, Go does not have.
		if err := st.PutMany(ctx, map[string]any{"nil": nil, "pointer": (*int)(nil)}); err != nil {
			return err
		}
		v, ok, err := actor.Get[any](ctx, st, "nil")
		return errors.Join(err, expect(v, nil), expect(ok, true), st.PutMany(ctx, nil), expect(keys(ctx, st, actor.ListOptions{}), "nil pointer "))
	})
}

func testLimits(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		const head = 5 // of a large binary value, encoded
		key, value := strings.Repeat("é", actor.MaxStorageKey/2), make([]byte, actor.MaxStorageValue-head)
		if err := errors.Join(st.Put(ctx, key, value), expect(keys(ctx, st, actor.ListOptions{}), key+" ")); err != nil {
			return err
		}
		const long = "Keys cannot be larger than 2048 bytes. A key of size 2049 was provided."
		_, get := st.Get(ctx, key+"x", new(int))
		_, many := st.GetMany(ctx, "a", key+"x")
		_, del := st.Delete(ctx, key+"x")
		return errors.Join(expect(message(get), long), expect(message(many), long), expect(message(del), long), expect(message(st.Put(ctx, key+"x", 1)), long),
			expect(message(st.Put(ctx, "a", append(value, 0))), "Values cannot be larger than 2097152 bytes. A value of size 2097153 was provided."))
	})
}

func testDelete(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return st.PutMany(ctx, map[string]any{"a": 1, "b": 2})
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		count := func(want int, keys ...string) error {
			n, err := st.Delete(ctx, keys...)
			return errors.Join(err, expect(n, want))
		}
		_, many := st.Delete(ctx, make([]string, 129)...)
		return errors.Join(st.Put(ctx, "c", 3), count(1, "c"), count(0, "c"), count(2, "b", "x", "a", "b"), count(0, "a"), count(0),
			expect(message(many), "Maximum number of key value pairs is 128. 129 pairs were provided."))
	})
	n := len(w.l.batches)
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		_, err := st.Delete(ctx, "a")
		return err
	})
	if len(w.l.batches) != n {
		w.t.Error("deleting what does not exist made a batch")
	}
}

// the keys of C-60, and what their order is.
var listed = []string{"a", "é", "z", "\uffff", "\U00010000"}

func testListOrder(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		entries := map[string]any{}
		for i, k := range listed {
			entries[k] = i
		}
		if err := st.PutMany(ctx, entries); err != nil {
			return err
		}
		for _, c := range []struct {
			o    actor.ListOptions
			want string
		}{
			{actor.ListOptions{}, "a z é \uffff \U00010000 "},
			{actor.ListOptions{Start: "z"}, "z é \uffff \U00010000 "},
			{actor.ListOptions{StartAfter: "z"}, "é \uffff \U00010000 "},
			{actor.ListOptions{Start: "b", End: "é"}, "z "},
			{actor.ListOptions{Start: "z", End: "z"}, ""},
			{actor.ListOptions{Start: "z", End: "a"}, ""},
			{actor.ListOptions{Start: "z", StartAfter: "z"}, "list() cannot be called with both start and startAfter values. "},
			{actor.ListOptions{Limit: -1}, "List limit must be positive. "},
			{actor.ListOptions{Limit: 1}, "a "},
			{actor.ListOptions{Limit: math.MaxInt}, "a z é \uffff \U00010000 "},
		} {
			got, err := st.List(ctx, c.o)
			s := ""
			for _, e := range got {
				s += e.Key + " "
			}
			if err != nil {
				s = message(err) + " "
			}
			if s != c.want {
				return fmt.Errorf("%+v: %q, want %q", c.o, s, c.want)
			}
		}
		return nil
	})
}

func testListReverse(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		if err := st.PutMany(ctx, map[string]any{"a": 1, "b": 1, "b\xff": 1, "b\xff\xff": 1, "c": 1, "\xff\xff": 1}); err != nil {
			return err
		}
		for _, c := range []struct {
			o    actor.ListOptions
			want string
		}{
			{actor.ListOptions{Reverse: true, Start: "a", End: "c"}, "b\xff\xff b\xff b a "},
			{actor.ListOptions{Reverse: true, StartAfter: "a", End: "c", Limit: 2}, "b\xff\xff b\xff "},
			{actor.ListOptions{Prefix: "b", Limit: 2}, "b b\xff "},
			{actor.ListOptions{Prefix: "b\xff"}, "b\xff b\xff\xff "},
			{actor.ListOptions{Prefix: "\xff"}, "\xff\xff "},
			{actor.ListOptions{Prefix: "b", Start: "b\xff", End: "d"}, "b\xff b\xff\xff "},
			{actor.ListOptions{Prefix: "b", Start: "c"}, ""},
			{actor.ListOptions{Prefix: "b", End: "b"}, ""},
			{actor.ListOptions{Prefix: "b", StartAfter: "b\xff\xff", Reverse: true}, ""},
		} {
			if err := expect(keys(ctx, st, c.o), c.want); err != nil {
				return fmt.Errorf("%+v: %w", c.o, err)
			}
		}
		return nil
	})
}

func testAll(w *storageTest) {
	const n = 1000
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		entries := map[string]any{}
		for i := range n {
			entries[fmt.Sprintf("%04d", i)] = make([]byte, 6000) // more than a page by their bytes
		}
		return st.PutMany(ctx, entries)
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		loop := func(o actor.ListOptions) (got []string) {
			for e, err := range st.All(ctx, o) {
				if err != nil {
					return []string{message(err)}
				}
				got = append(got, e.Key)
			}
			return got
		}
		all, last := loop(actor.ListOptions{}), loop(actor.ListOptions{Reverse: true, Limit: 300, End: "0900"})
		if len(all) != n || !slices.IsSorted(all) || len(last) != 300 || last[0] != "0899" || last[299] != "0600" {
			return fmt.Errorf("%d and %d keys: %q", len(all), len(last), last)
		}
		if got := loop(actor.ListOptions{Start: "a", StartAfter: "a"}); len(got) != 1 || !strings.Contains(got[0], "both start and startAfter") {
			return fmt.Errorf("%q", got)
		}
		// What the body deletes ahead is not seen, what it writes ahead is.
		var seen []string
		for e, err := range st.All(ctx, actor.ListOptions{End: "0010"}) {
			if err != nil {
				return err
			}
			if seen = append(seen, e.Key); e.Key == "0003" {
				_, err := st.Delete(ctx, "0001", "0004", "0006")
				if err := errors.Join(err, st.Put(ctx, "0002a", 1), st.Put(ctx, "0008a", 1)); err != nil {
					return err
				}
			}
		}
		return expect(strings.Join(seen, " "), "0000 0001 0002 0003 0005 0007 0008 0008a 0009")
	})
}

func testIsolation(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		in := map[string][]byte{"x": []byte("abc")}
		raw := actor.Raw{0xa3, 'a', 'b', 'c'}
		if err := errors.Join(st.Put(ctx, "m", in), st.Put(ctx, "r", raw)); err != nil {
			return err
		}
		in["x"][0], raw[1] = 'X', 'X'
		for range 2 {
			m, _, err := actor.Get[map[string][]byte](ctx, st, "m")
			r, _, err2 := actor.Get[actor.Raw](ctx, st, "r")
			list, err3 := st.List(ctx, actor.ListOptions{})
			if err := errors.Join(err, err2, err3, expect(string(m["x"]), "abc"), expect(string(r), "\xa3abc"), expect(string(list[1].Raw()), "\xa3abc")); err != nil {
				return err
			}
			m["x"][0], r[1] = 'Y', 'Y'
			list[1].Raw()[1] = 'Y'
		}
		return nil
	})
}

func testQuota(w *storageTest) {
	full := func(err error) error {
		if e := (*actor.Error)(nil); !errors.Is(err, actor.ErrStorageFull) || !errors.As(err, &e) || e.Outcome != actor.Ran || e.Reset {
			return fmt.Errorf("%+v, want ErrStorageFull", err)
		}
		return nil
	}
	text := func(n int) string { return strings.Repeat("x", n) } // two bytes more, encoded
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		if err := errors.Join(st.Put(ctx, "a", text(47)), st.Put(ctx, "b", text(47)), full(st.Put(ctx, "c", 1)), full(st.Put(ctx, "b", text(48)))); err != nil {
			return err
		}
		// All or none; reads, deletions and smaller values work.
		if err := errors.Join(full(st.PutMany(ctx, map[string]any{"a": text(1), "c": text(80)})), expect(keys(ctx, st, actor.ListOptions{}), "a b "), st.Put(ctx, "b", text(46)), full(st.Put(ctx, "c", 1))); err != nil {
			return err
		}
		_, err := st.Delete(ctx, "a", "absent")
		return errors.Join(err, st.Put(ctx, "c", text(40)))
	})
	// It counts what a transaction keeps, and nothing that it takes back.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		err := st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			_, err := tx.Delete(ctx, "b", "c")
			return errors.Join(err, tx.Put(ctx, "a", text(90)), tx.Rollback())
		})
		return errors.Join(err, full(st.Put(ctx, "a", text(10))), st.Put(ctx, "a", 1))
	})
	w.crash()
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(full(st.Put(ctx, "d", text(10))), st.DeleteAll(ctx), st.Put(ctx, "d", text(90)), full(st.Put(ctx, "e", text(10))))
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(full(st.Put(ctx, "e", text(10))), st.DeleteAll(ctx))
	})
	for k := range w.l.data {
		w.t.Errorf("%q is left of an object that was deleted", k)
	}
	// A full batch has room for the record.
	w.in("l", func(ctx context.Context, st *actor.Storage) error {
		many := map[string]any{}
		for i := range actor.MaxBatchKeys {
			many[fmt.Sprint(i)] = 1
		}
		return full(st.PutMany(ctx, many))
	}).want("")
}

func testLateLimit(w *storageTest) {
	prefix := string(store.ObjectPrefix("Probe", "k"))
	for i := range 10 {
		w.l.data[prefix+fmt.Sprint(i)] = append([]byte{0xa9}, "xxxxxxxxx"...) // 110 bytes in all
	}
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		if err := st.Put(ctx, "a", 1); !errors.Is(err, actor.ErrStorageFull) {
			return fmt.Errorf("110 bytes are stored, and %v", err)
		}
		_, err := st.Delete(ctx, "0", "1")
		return errors.Join(err, st.Put(ctx, "a", "xxxxxxxxx"))
	})
	if got := w64(w.l.data[string(store.MetaKey("Probe", "k", store.MetaSize))]); got != 99 {
		w.t.Errorf("%d bytes recorded, want 99", got)
	}
}

func testQuotaAtOnce(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		var wg sync.WaitGroup
		errs := make([]error, 6)
		note := func(g int, err error) {
			if err != nil && !errors.Is(err, actor.ErrStorageFull) {
				errs[g] = err
			}
		}
		for g := range errs {
			wg.Go(func() {
				for i := range 40 {
					key := fmt.Sprint(g, i) // not in memory yet: the state is read in between
					note(g, st.Put(ctx, key, strings.Repeat("x", i%7)))
					note(g, st.Put(ctx, key, "xx"))
					// Transactions of several goroutines may be badly nested, and are rolled back then, with whatever the others have written.
					_ = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error { return tx.Put(ctx, key, "x") })
					if i%4 > 0 {
						_, err := st.Delete(ctx, key, fmt.Sprint(g, i-1))
						note(g, err)
					}
				}
			})
		}
		wg.Wait()
		_, err := st.Delete(ctx, "0 0", "1 0", "2 0", "3 0")
		if full := st.Put(ctx, "0 0", 1); !errors.Is(full, actor.ErrStorageFull) { // it may be: what is left depends on who came last
			err = errors.Join(err, full)
		}
		return errors.Join(append(errs, err)...)
	})
	stored, prefix := 0, string(store.ObjectPrefix("Probe", "k"))
	for k, v := range w.l.data {
		if rest, ok := strings.CutPrefix(k, prefix); ok {
			stored += len(rest) + len(v)
		}
	}
	if got := w64(w.l.data[string(store.MetaKey("Probe", "k", store.MetaSize))]); got != stored {
		w.t.Errorf("%d bytes recorded, %d stored", got, stored)
	}
}

// testLimitGone: a record that is no longer kept up must not be there when the limit comes back.
func testLimitGone(w *storageTest) {
	record := string(store.MetaKey("Probe", "k", store.MetaSize))
	w.l.data[record] = []byte{50}
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		return st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error { return errors.Join(tx.Put(ctx, "a", 1), tx.Rollback()) })
	}).want("")
	if _, ok := w.l.data[record]; !ok {
		w.t.Error("nothing was written, and the record is gone")
	}
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return st.Put(ctx, "a", 1) })
	if _, ok := w.l.data[record]; ok {
		w.t.Error("the record is left, and wrong")
	}
}

type brokenEncoder struct{}

func (brokenEncoder) MarshalText() ([]byte, error) { panic("broken") }

func testBadInput(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		type loop struct{ F func() }
		self := []any{1}
		self[0] = self
		huge := strings.Repeat("k", 10<<20)
		second := func(_ any, err error) error { return err }
		if err := st.Put(ctx, "n", "text"); err != nil {
			return err
		}
		for what, err := range map[string]error{
			"empty key":            st.Put(ctx, "", 1),
			"huge key":             st.Put(ctx, huge, 1),
			"empty key read":       second(st.Get(ctx, "", new(int))),
			"empty key of many":    second(st.GetMany(ctx, "n", "")),
			"empty key deleted":    second(st.Delete(ctx, "")),
			"func":                 st.Put(ctx, "a", func() {}),
			"struct with a func":   st.Put(ctx, "a", loop{func() {}}),
			"a complex number":     st.Put(ctx, "a", 1i),
			"back to itself":       st.Put(ctx, "a", self),
			"a broken encoder":     st.Put(ctx, "a", brokenEncoder{}),
			"no value":             st.PutMany(ctx, map[string]any{"good": 1, "bad": make(chan int)}),
			"an empty key of some": st.PutMany(ctx, map[string]any{"good": 1, "": 1}),
			"nothing to decode":    actor.Value{}.Decode(new(int)),
			"raw rubbish":          st.Put(ctx, "a", actor.Raw{0xc1}),
			"raw cut":              st.Put(ctx, "a", actor.Raw{0xdb, 0xff, 0xff, 0xff, 0xff}),
			"huge value":           st.Put(ctx, "a", huge),
			"read into nil":        second(st.Get(ctx, "n", nil)),
			"read into no pointer": second(st.Get(ctx, "n", 5)),
			"read into nil *int":   second(st.Get(ctx, "n", (*int)(nil))),
			"read as a number":     second(st.Get(ctx, "n", new(int))),
			"two starts":           second(st.List(ctx, actor.ListOptions{Start: "a", StartAfter: "a"})),
			"negative limit":       second(st.List(ctx, actor.ListOptions{Limit: -1})),
			"no function":          st.Transaction(ctx, nil),
		} {
			if !errors.Is(err, actor.ErrBadArgument) || len(err.Error()) > 1000 {
				return fmt.Errorf("%s: %.2000v", what, err)
			}
		}
		// What does not fit is no number.
		if err := st.Put(ctx, "n", 300); err != nil {
			return err
		}
		if _, _, err := actor.Get[int8](ctx, st, "n"); !errors.Is(err, actor.ErrBadArgument) || !strings.Contains(err.Error(), "300 does not fit a variable of type int8") {
			return fmt.Errorf("300 read as an int8: %v", err)
		}
		// Any bytes are a key.
		odd := []string{"\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", " "}
		for i, key := range odd {
			if err := st.Put(ctx, key, i); err != nil || number(ctx, st, key) != i {
				return fmt.Errorf("key %q: %v", key, err)
			}
		}
		n, err := st.Delete(ctx, odd...)
		return errors.Join(err, expect(n, len(odd)), expect(keys(ctx, st, actor.ListOptions{}), "n "))
	})
	var ctx context.Context
	w.do("k", func(inner context.Context, st *actor.Storage) error { ctx = inner; return nil })
	w.do("k", func(_ context.Context, st *actor.Storage) error {
		var none context.Context
		for _, err := range []error{st.Put(none, "n", 2), st.Put(ctx, "n", 2), st.Put(context.Background(), "n", 2), st.DeleteAll(ctx), st.Sync(ctx),
			st.Transaction(ctx, func(context.Context, *actor.Tx) error { return errors.New("it ran") })} {
			if !errors.Is(err, actor.ErrNotInEvent) {
				return fmt.Errorf("%v, want ErrNotInEvent", err)
			}
		}
		return nil
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "n ")
	})
	if w.hooks.made.Load() != 1 {
		w.t.Error("the object was reset")
	}
}

func testUnconfirmed(w *storageTest) {
	w.l.auto = false
	w.l.proves.Store(true)
	unconfirmed := func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(st.Put(ctx, "a", 1, actor.Unconfirmed()), st.PutMany(ctx, map[string]any{"b": 2}, actor.Unconfirmed(), nil))
	}
	w.in("k", unconfirmed).want("") // at once
	w.in("k", func(ctx context.Context, st *actor.Storage) error { return expect(number(ctx, st, "b"), 2) }).want("")
	// With a confirmed write, all of the batch gates; and what was not confirmed before it, comes before it.
	mixed := w.in("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(unconfirmed(ctx, st), st.Put(ctx, "c", 3))
	})
	mixed.held()
	w.in("k", unconfirmed).held()
	w.l.apply(1)
	mixed.held()
	w.l.apply(1)
	mixed.want("")
	// A deletion gates; one that a transaction took back does not.
	w.in("k", func(ctx context.Context, st *actor.Storage) error {
		err := st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			_, err := tx.Delete(ctx, "a")
			return errors.Join(err, tx.Put(ctx, "a", 9), tx.Rollback())
		})
		return errors.Join(err, unconfirmed(ctx, st))
	}).want("")
	deletion := w.in("k", func(ctx context.Context, st *actor.Storage) error {
		_, err := st.Delete(ctx, "a")
		return err
	})
	deletion.held()
	// Failure resets all the same.
	made := w.hooks.made.Load()
	w.l.lose()
	deletion.fails(actor.ErrMoved, actor.MayHaveRun)
	w.open(2, true)
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "a b c ")
	})
	if w.hooks.made.Load() != made+1 {
		w.t.Error("not reset")
	}
}

func testSync(w *storageTest) {
	w.l.auto = false
	w.l.proves.Store(true)
	reached := 0
	sync := w.in("k", func(ctx context.Context, st *actor.Storage) error {
		if err := st.Sync(ctx); err != nil { // nothing to wait for
			return err
		}
		reached = 1
		err := errors.Join(st.Put(ctx, "a", 1, actor.Unconfirmed()), st.Sync(ctx))
		reached = 2
		return errors.Join(err, st.Put(ctx, "b", 1), st.Sync(ctx))
	})
	sync.held()
	if reached != 1 {
		w.t.Fatalf("reached %d", reached)
	}
	w.l.apply(1)
	sync.held()
	if reached != 2 {
		w.t.Fatalf("reached %d", reached)
	}
	w.l.apply(1)
	sync.want("")
}
