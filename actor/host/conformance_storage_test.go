package host

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

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

// TestConformanceStorage goes through C-50 … C-69.
func TestConformanceStorage(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(w *storageTest)
	}{
		{"C-50 allowUnconfirmed", testUnconfirmed},
		{"C-51 sync()", testSync},
		{"C-52 coalescing atomicity", testCoalescing},
		{"C-53 batch order", testBatchOrder},
		{"C-54 abort versus throw", testAbortVersusThrow},
		{"C-55 read-your-writes", testReadYourWrites},
		{"C-56 get", testGet},
		{"C-57 put", testPut},
		{"C-58 limits", testLimits},
		{"C-59 delete", testDelete},
		{"C-60 list order and bounds", testListOrder},
		{"C-61 reverse, limit, prefix", testListReverse},
		{"C-61 all", testAll},
		{"C-62 value isolation", testIsolation},
		{"C-63 deleteAll", testDeleteAll},
		{"C-64 deleteAll in transaction", testDeleteAllInTransaction},
		{"C-65 transaction", testTransaction},
		{"C-65 a transaction has 30 s", testTransactionTimeout},
		{"C-66 rollback()", testRollback},
		{"C-67 nested transactions", testNestedTransactions},
		{"C-69 a limit that went away", testLimitGone},
		{"bad input", testBadInput},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, Options{}, func(t *testing.T, w *world) {
				w.l.auto = true
				row.test(&storageTest{w, t})
			})
		})
	}
	for name, test := range map[string]func(w *storageTest){"C-69 quota": testQuota, "C-69 a limit after data": testLateLimit,
		"C-69 goroutines of an event": testQuotaAtOnce} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{}, func(t *testing.T, w *world) {
				w.l.auto = true
				test(&storageTest{w, t})
			}, actor.StorageLimit(100))
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

// message is the text of a storage error that says ErrBadArgument.
func message(err error) string {
	e := (*actor.Error)(nil)
	if !errors.As(err, &e) || !errors.Is(err, actor.ErrBadArgument) || e.Outcome != actor.Ran || !e.Remote || e.Reset {
		return fmt.Sprintf("%+v", err)
	}
	return e.Message
}

// number reads a key; -1 stands for its absence.
func number(ctx context.Context, g actor.Getter, key string) int {
	n, ok, err := actor.Get[int](ctx, g, key)
	if err != nil || !ok {
		return -1
	}
	return n
}

func testDeleteAllInTransaction(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return errors.Join(st.Put(ctx, "a", 1), st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			return expect(message(st.DeleteAll(ctx)), "Cannot call deleteAll() within a transaction")
		}))
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return expect(number(ctx, st, "a"), 1) })
}

func testTransaction(w *storageTest) {
	failure := errors.New("failure")
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		if err := st.Put(ctx, "a", 1); err != nil {
			return err
		}
		err := st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			return errors.Join(tx.Put(ctx, "a", 2), tx.PutMany(ctx, map[string]any{"b": 2}), st.Put(ctx, "c", 2),
				expect(number(ctx, tx, "a"), 2), expect(number(ctx, st, "b"), 2), expect(keys(ctx, st, actor.ListOptions{}), "a b c "))
		})
		if err != nil {
			return err
		}
		// fn's error comes back as it is, and what was written is gone, be it by tx or by the storage.
		err = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			if err := errors.Join(tx.Put(ctx, "a", 3), st.Put(ctx, "d", 3)); err != nil {
				return err
			}
			return failure
		})
		if err != failure {
			return fmt.Errorf("%v is not the error of the function", err)
		}
		return errors.Join(expect(number(ctx, st, "a"), 2), expect(keys(ctx, st, actor.ListOptions{}), "a b c "))
	})
	if n, _, _ := w.l.count(); n != 1 || len(w.l.batches[0]) != 3 {
		w.t.Errorf("%d batches, want one of three writes: %v", n, w.l.batches)
	}
	made := w.hooks.made.Load()
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "a b c ")
	})
	if made != 1 || w.hooks.made.Load() != 1 {
		w.t.Error("the object was reset")
	}
	// A panic that the method recovers has rolled back.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		func() {
			defer func() { _ = recover() }()
			_ = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
				_ = tx.Put(ctx, "a", 9)
				panic("in a transaction")
			})
		}()
		return expect(number(ctx, st, "a"), 2)
	})
	// One that the event leaves open takes nothing with it.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		open := make(chan error)
		go func() {
			_ = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
				open <- tx.Put(ctx, "a", 9)
				<-ctx.Done()
				return nil
			})
		}()
		return <-open
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		if n := number(ctx, st, "a"); n != 2 {
			return fmt.Errorf("a is %d", n)
		}
		return expect(message(st.Transaction(ctx, nil)), "Transaction: the function is nil")
	})
	// What could not be rolled back is refused.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			return errors.Join(tx.Put(ctx, "a", 3), expect(message(st.Sync(ctx)), textDurableInTx))
		})
	})
}

func testTransactionTimeout(w *storageTest) {
	slow := w.in("k", func(ctx context.Context, st *actor.Storage) error {
		return st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			if err := tx.Put(ctx, "a", 1); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
	})
	time.Sleep(29 * time.Second)
	slow.held()
	time.Sleep(time.Second)
	e := slow.fails(actor.ErrOverloaded, actor.Ran)
	if e.Message != textSection || !e.Reset || !e.Overloaded {
		w.t.Errorf("%+v", e)
	}
	w.do("k", func(ctx context.Context, st *actor.Storage) error { return expect(number(ctx, st, "a"), -1) })
	if w.hooks.made.Load() != 2 {
		w.t.Error("the object was not reset")
	}
}

func testRollback(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		var leaked, done *actor.Tx
		returned := errors.New("returned")
		err := st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			leaked = tx
			if err := errors.Join(tx.Put(ctx, "a", 1), tx.Rollback(), tx.Rollback()); err != nil {
				return err
			}
			return errors.Join(overErrors(ctx, tx, "Cannot %s on rolled back transaction"), st.Put(ctx, "b", 2)) // b is outside by now
		})
		if err := errors.Join(err, leaked.Rollback(), overErrors(ctx, leaked, "Cannot %s on rolled back transaction")); err != nil {
			return err
		}
		err = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			if err := errors.Join(tx.Put(ctx, "a", 1), tx.Rollback()); err != nil {
				return err
			}
			return returned
		})
		if err != returned {
			return fmt.Errorf("%v is not what the function returned", err)
		}
		err = st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
			done = tx
			return tx.Put(ctx, "c", 3)
		})
		const committed = "Cannot call %s on transaction that has already committed: did you move `txn` outside of the closure?"
		return errors.Join(err, overErrors(ctx, done, committed), expect(message(done.Rollback()), fmt.Sprintf(committed, "rollback()")))
	})
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return expect(keys(ctx, st, actor.ListOptions{}), "b c ")
	})
}

// overErrors tries everything on a transaction that is over.
func overErrors(ctx context.Context, tx *actor.Tx, format string) error {
	second := func(_ any, err error) error { return err }
	all := func() (err error) {
		for _, err = range tx.All(ctx, actor.ListOptions{}) {
		}
		return err
	}
	var errs []error
	for _, c := range []struct {
		op  string
		err error
	}{
		{"get()", second(tx.Get(ctx, "a", new(int)))},
		{"get()", second(tx.GetMany(ctx, "a"))},
		{"put()", tx.Put(ctx, "a", 1)},
		{"put()", tx.PutMany(ctx, nil)},
		{"delete()", second(tx.Delete(ctx, "a"))},
		{"list()", second(tx.List(ctx, actor.ListOptions{}))},
		{"list()", all()},
		{"transaction()", tx.Transaction(ctx, nil)},
	} {
		errs = append(errs, expect(message(c.err), fmt.Sprintf(format, c.op)))
	}
	return errors.Join(errs...)
}

func testNestedTransactions(w *storageTest) {
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		return st.Transaction(ctx, func(ctx context.Context, outer *actor.Tx) error {
			failure := errors.New("failure")
			err := errors.Join(outer.Put(ctx, "a", 1), outer.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
				return errors.Join(tx.Put(ctx, "a", 2), tx.Put(ctx, "b", 2))
			}))
			if err != nil {
				return err
			}
			for _, begin := range []func(context.Context, func(context.Context, *actor.Tx) error) error{outer.Transaction, st.Transaction} {
				err = begin(ctx, func(ctx context.Context, tx *actor.Tx) error {
					if err := errors.Join(tx.Put(ctx, "a", 3), tx.Put(ctx, "c", 3)); err != nil {
						return err
					}
					const text = "Cannot roll back an outer transaction while a nested transaction is still running."
					if err := expect(message(outer.Rollback()), text); err != nil {
						return err
					}
					return failure
				})
				if err != failure {
					return fmt.Errorf("the inner one: %v", err)
				}
			}
			return errors.Join(expect(number(ctx, outer, "a"), 2), expect(keys(ctx, st, actor.ListOptions{}), "a b "))
		})
	})
	// Rolled back with the outer one, though committed itself.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		err := st.Transaction(ctx, func(ctx context.Context, outer *actor.Tx) error {
			err := outer.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error { return tx.Put(ctx, "a", 4) })
			return errors.Join(err, expect(number(ctx, st, "a"), 4), outer.Rollback())
		})
		return errors.Join(err, expect(number(ctx, st, "a"), 2))
	})
	// An outer one that ends first takes the inner one back, and says so to both.
	w.do("k", func(ctx context.Context, st *actor.Storage) error {
		inner, open, closing := make(chan error, 1), make(chan struct{}), make(chan struct{})
		err := st.Transaction(ctx, func(ctx context.Context, outer *actor.Tx) error {
			go func() {
				inner <- outer.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
					err := tx.Put(ctx, "a", 5)
					close(open)
					<-closing
					return errors.Join(err, expect(message(tx.Put(ctx, "a", 6)), "Cannot put() on rolled back transaction"))
				})
			}()
			<-open
			return nil
		})
		close(closing)
		return errors.Join(expect(message(err), "Cannot commit an outer transaction while a nested transaction is still running."),
			expect(message(<-inner), "Cannot commit a transaction whose outer transaction was rolled back."), expect(number(ctx, st, "a"), 2))
	})
}
