package stock

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// lease is a lease that is never lost; a goroutine plays the driver and applies what is committed.
type lease struct {
	mu    sync.Mutex
	data  map[string][]byte
	pos   uint64
	owner store.Owner
	work  chan func()
}

func (l *lease) Shard() ring.ShardID         { return 0 }
func (l *lease) Token() store.Token          { return 7 }
func (l *lease) Epoch() ring.Epoch           { return 3 }
func (l *lease) Valid() bool                 { return true }
func (l *lease) Proves() bool                { return false }
func (l *lease) Check(context.Context) error { return nil }

func (l *lease) Get(key []byte) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.data[string(key)]
	return bytes.Clone(v), ok, nil
}

func (l *lease) Scan(start, end []byte, reverse bool, fn func(key, value []byte) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := slices.Sorted(maps.Keys(l.data))
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if k >= string(start) && (end == nil || k < string(end)) && !fn([]byte(k), l.data[k]) {
			break
		}
	}
	return nil
}

func (l *lease) Commit(writes []store.Write) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pos++
	pos := l.pos
	l.work <- func() { l.apply(writes, pos) }
	return pos, nil
}

func (l *lease) apply(writes []store.Write, pos uint64) {
	l.mu.Lock()
	for _, w := range writes {
		switch {
		case w.IsRange():
			maps.DeleteFunc(l.data, func(k string, _ []byte) bool { return w.Removes([]byte(k)) })
		case w.Delete:
			delete(l.data, string(w.Key))
		default:
			l.data[string(w.Key)] = w.Value
		}
	}
	l.mu.Unlock()
	l.owner.Applied(0, 7, pos)
}

func (l *lease) Confirm(n uint64) { l.work <- func() { l.owner.Confirmed(0, 7, n) } }

// object calls one object of a host that owns the only shard.
type object struct {
	t  *testing.T
	h  *host.Host
	id actor.ID
}

func start(t *testing.T, class string) object {
	t.Helper()
	h, err := host.New(Classes(), host.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l := &lease{data: map[string][]byte{}, owner: h, work: make(chan func(), 10_000)}
	var driver sync.WaitGroup
	driver.Go(func() {
		for do := range l.work {
			do()
		}
	})
	h.Opened(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		close(l.work)
		driver.Wait()
	})
	return object{t, h, actor.ID{Class: class, Key: "k"}}
}

// json calls a method as the command line does, and returns the answer or the error's text.
func (o object) json(method, arg string) string {
	o.t.Helper()
	answer := make(chan *host.Result, 1)
	o.h.Deliver(0, &host.Call{Object: o.id, Method: method, Encoding: uint8(actor.EncodingJSON), Arg: []byte(arg), Respond: func(r *host.Result) { answer <- r }})
	select {
	case r := <-answer:
		if r.Err != nil {
			return r.Err.Error()
		}
		return string(r.Value)
	case <-time.After(10 * time.Second):
		o.t.Fatalf("%s(%s) was not answered", method, arg)
		return ""
	}
}

func (o object) want(method, arg, want string) {
	o.t.Helper()
	if got := o.json(method, arg); got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
		o.t.Errorf("%s(%s) = %s, want %s", method, arg, got, want)
	}
}

func TestCounter(t *testing.T) {
	o := start(t, "Counter")
	o.want("Get", "", "0")
	o.want("Increment", "5", "5")
	o.want("Increment", "-7", "-2")
	o.want("Increment", "0", "-2")
	o.want("Get", "", "-2")
	o.want("Increment", "-9223372036854775806", "-9223372036854775808")
	o.want("Increment", "-1", "overflow: -9223372036854775808 + -1 is more than the counter can hold…")
	o.want("Increment", "9223372036854775807", "-1")
	o.want("Increment", "9223372036854775807", "9223372036854775806")
	o.want("Increment", "2", "overflow: …")
	o.want("Get", "", "9223372036854775806")
	o.want("Echo", `"AAEC"`, `"AAEC"`)
	o.want("Increment", "", "method Increment of class Counter wants an argument of type int64…")
	o.want("Reset", "", `no method "Reset": class Counter has Echo, Get, Increment…`)
}

// Many callers at once: the answers are all the sums from 1 on, each once.
func TestCounterConcurrently(t *testing.T) {
	o := start(t, "Counter")
	const callers, each = 8, 100
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				answer := make(chan *host.Result, 1)
				o.h.Deliver(0, &host.Call{Object: o.id, Method: "Increment", Encoding: uint8(actor.EncodingJSON), Arg: []byte("1"), Respond: func(r *host.Result) { answer <- r }})
				r := <-answer
				if r.Err != nil {
					t.Error(r.Err)
					return
				}
				mu.Lock()
				seen[string(r.Value)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := 1; n <= callers*each; n++ {
		if !seen[fmt.Sprint(n)] {
			t.Fatalf("no call was answered %d", n)
		}
	}
	o.want("Get", "", fmt.Sprint(callers*each))
}

func TestMap(t *testing.T) {
	o := start(t, "Map")
	o.want("Put", `{"b":[1,"x"],"a":{"n":null},"c":"s"}`, "3")
	o.want("Get", `["a","b","z"]`, `{"a":{"n":null},"b":[1,"x"]}`)
	o.want("Get", `[]`, `{}`)
	o.want("Delete", `["b","z","b"]`, "1")
	o.want("Get", `["b"]`, `{}`)
	o.want("List", `{}`, `{"entries":[{"key":"a","value":{"n":null}},{"key":"c","value":"s"}]}`)
	o.want("Put", `{}`, "0")
	o.want("Put", `{"":1}`, "the storage key is empty: …")
	o.want("Put", `{"ok":1,"":1}`, "the storage key is empty: …")
	o.want("Get", `["ok"]`, `{}`)
	o.want("List", `{"limit":1001}`, "bad-limit: limit is 1001: want 1 to 1000, or 0 for 100…")
}

func TestMapPages(t *testing.T) {
	o := start(t, "Map")
	entries := map[string]int{"other": 1}
	for i := range 250 {
		entries[fmt.Sprintf("p-%03d", i)] = i
	}
	arg, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	o.want("Put", string(arg), "251")
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int{0, 1, 50, 125, 249, 250, 251, 1000} {
			var got []string
			pages, after := 0, ""
			for {
				req, _ := json.Marshal(ListRequest{Prefix: "p-", After: after, Reverse: reverse, Limit: limit})
				var page ListReply
				if err := json.Unmarshal([]byte(o.json("List", string(req))), &page); err != nil {
					t.Fatal(err)
				}
				for _, e := range page.Entries {
					got = append(got, fmt.Sprintf("%s=%v", e.Key, e.Value))
				}
				pages++
				if after = page.Next; after == "" {
					break
				}
			}
			if reverse {
				slices.Reverse(got)
			}
			most := limit
			if limit == 0 {
				most = 100
			}
			if wantPages := (250 + most - 1) / most; len(got) != 250 || pages != wantPages || !slices.IsSorted(got) || got[17] != "p-017=17" {
				t.Errorf("limit %d, reverse %v: %d entries on %d pages, want 250 on %d", limit, reverse, len(got), pages, wantPages)
			}
		}
	}
}
