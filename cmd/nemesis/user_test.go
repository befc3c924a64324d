//go:build linux

package nemesis

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/node"
)

// counters is how many objects are called; they are spread over all shards.
const counters = 200

// user is the load of one scenario, the faults that it lived through, and at the end the judge.
type user struct {
	t *testing.T
	c *cluster
	*load
	warm  time.Duration // since then every counter is active; what its activation took is not the fault's
	extra []op          // of load processes

	sample  *sample
	row     row
	windows []window
	changes []named      // planned work
	broken  atomic.Int64 // promises to callers
	judges  []func(ops []op)
	told    bool // the row is in the table
}

// window is the time of a fault, and the counters that it is expected to hit.
type window struct {
	From, To time.Duration
	Keys     []int
}

func startUser(t *testing.T, c *cluster) *user {
	t.Helper()
	l, err := startLoad(loadConfig{Servers: c.servers(), Prefix: strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()), Keys: counters, Roamers: 16,
		Think: 130 * time.Millisecond, Timeout: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, c: c, load: l, row: results(t)}
	u.sample = startSample(l.cl, l.cfg.Prefix)
	t.Cleanup(u.close)
	u.more(4 * counters)
	u.warm = now()
	return u
}

// more waits for n more answered calls.
func (u *user) more(n int64) {
	u.t.Helper()
	goal, limit := u.acked.Load()+n, time.Now().Add(40*time.Second)
	for u.acked.Load() < goal {
		if time.Now().After(limit) {
			u.t.Fatalf("%d calls of %d were answered within 40 s", u.acked.Load()-goal+n, n)
		}
		pass(u.t, 10*time.Millisecond)
	}
}

// where asks the cluster for a counter's owner.
func (u *user) where(key int) (w node.Where, err error) {
	b, err := msgpack.Marshal(node.WhereRequest{Class: "Counter", Key: fmt.Sprintf("%s-%d", u.cfg.Prefix, key)})
	if err != nil {
		return w, err
	}
	ctx, cancel := context.WithTimeout(u.t.Context(), 10*time.Second)
	defer cancel()
	if b, err = u.cl.Request(ctx, "", "where", b); err != nil {
		return w, err
	}
	return node.DecodeWhere(b)
}

// tokens are the owners of all counters and their shards' tokens, by key; a change is a change of owners.
func (u *user) tokens() map[int]string {
	u.t.Helper()
	var mu sync.Mutex
	var askers sync.WaitGroup
	all := map[int]string{}
	for i := range 8 {
		askers.Go(func() {
			for key := i; key < counters; key += 8 {
				w, err := u.where(key)
				if err != nil {
					u.t.Errorf("where counter %d is: %v", key, err)
					return
				}
				mu.Lock()
				all[key] = fmt.Sprintf("%s %d", w.Owner.Addr, w.Token)
				mu.Unlock()
			}
		})
	}
	askers.Wait()
	return all
}

// ownedBy are the counters that a node owns.
func (u *user) ownedBy(p *process) []int {
	u.t.Helper()
	return ownedIn(u.tokens(), p)
}

func ownedIn(tokens map[int]string, p *process) (keys []int) {
	for key, owner := range tokens {
		if strings.HasPrefix(owner, listenAddr(p.number)+" ") {
			keys = append(keys, key)
		}
	}
	return keys
}

// busiest is the node that owns the most counters, and these.
func (u *user) busiest() (p *process, keys []int) {
	u.t.Helper()
	tokens := u.tokens()
	for _, n := range u.c.nodes {
		if owned := ownedIn(tokens, n); len(owned) > len(keys) {
			p, keys = n, owned
		}
	}
	if p == nil {
		u.t.Fatal("no node owns a counter")
	}
	return p, keys
}

// fault notes that a fault of this kind hit these counters from then until now.
func (u *user) fault(kind string, from time.Duration, keys []int) {
	u.windows = append(u.windows, window{from, now(), keys})
	u.row.faults[kind]++
}

// violation is a promise to callers that was not kept.
func (u *user) violation(format string, args ...any) {
	u.t.Helper()
	u.broken.Add(1)
	u.t.Errorf(format, args...)
}

// verdict is what the callers lived through.
type verdict struct {
	row
	ops []op
}

// finish ends the load, checks every counter and adds a row to the table.
func (u *user) finish() verdict {
	u.t.Helper()
	byKey := u.endLoad()
	v := verdict{ops: append(u.ops, u.extra...)}
	for _, o := range u.extra {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	u.keep(v.ops)
	u.checkAll(byKey)
	calls, undecided := u.sample.check(u)
	u.row.calls += calls
	remark(u.t, "registers and queues: %d calls, %d of unknown outcome, searched for a legal order object by object", calls, undecided)
	for _, judge := range u.judges {
		judge(v.ops)
	}
	for _, w := range u.windows {
		for _, key := range w.Keys {
			u.row.outages = append(u.row.outages, outage(byKey[key], w.From, w.To))
		}
	}
	v.row = u.tell()
	return v
}

// endLoad ends the load and adds it up; not that of load processes: a client that is cut off fails.
func (u *user) endLoad() map[int][]op {
	ended := now()
	u.load.end()
	u.sample.end()
	byKey := map[int][]op{}
	for _, o := range u.ops {
		byKey[o.Key] = append(byKey[o.Key], o)
		if o.Start >= u.warm {
			u.row.longest = max(u.row.longest, o.End-o.Start)
		}
		if !o.ok() {
			u.row.failed.add(o.Fail, 1)
		}
	}
	u.row.calls = len(u.ops)
	if u.warm > 0 {
		for key := range counters {
			u.row.unavailable = max(u.row.unavailable, outage(byKey[key], u.warm, ended))
		}
	}
	return byKey
}

func (u *user) tell() row {
	u.told, u.row.violations = true, int(u.broken.Load())
	report.add(u.row)
	return u.row
}

// close ends the load of a test that has ended, and shows what there was of one that ended early.
func (u *user) close() {
	if !u.told {
		u.endLoad()
		u.tell()
	}
	u.cl.Close()
}

// keep writes the history beside the logs, which stay there if the test fails.
func (u *user) keep(ops []op) {
	u.t.Helper()
	b, err := json.Marshal(map[string]any{"ops": ops, "faults": u.windows})
	if err == nil {
		err = os.WriteFile(filepath.Join(u.c.dir, u.cfg.Prefix+".json"), b, 0o644)
	}
	if err != nil {
		u.t.Error(err)
	}
}

func (u *user) checkAll(byKey map[int][]op) {
	u.t.Helper()
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			for key := i; key < counters; key += 8 {
				final := u.call(key, true)
				if !final.ok() {
					u.t.Errorf("reading counter %d at the end: %s", key, final.Fail)
				} else if err := checkCounter(byKey[key], final.Value); err != nil {
					u.violation("counter %d (%s-%d): %v", key, u.cfg.Prefix, key, err)
				}
			}
		})
	}
	readers.Wait()
}

// longestIn is the longest that a call took which overlaps a time.
func longestIn(ops []op, from, to time.Duration) (longest time.Duration) {
	for _, o := range ops {
		if o.End >= from && o.Start <= to {
			longest = max(longest, o.End-o.Start)
		}
	}
	return longest
}

// wantNoFailure is for planned work.
func (v verdict) wantNoFailure(t *testing.T, limit time.Duration) {
	t.Helper()
	for kind, n := range v.failed {
		t.Errorf("%d calls failed: %s", n, kind)
	}
	if v.longest >= limit {
		late(t, "a call waited %v, want less than %v", ms(v.longest), limit)
	}
}

// startOutsider lets a client that reaches only one node call these counters.
func (u *user) startOutsider(only *process, keys []int) *child[[]op] {
	t := u.t
	t.Helper()
	var others []string
	for _, p := range u.c.nodes {
		if p != only {
			others = append(others, nodeIP(p.number))
		}
	}
	if err := drop(net.minority(), rules{in: others, out: others}); err != nil {
		t.Fatal(err)
	}
	cfg := u.cfg
	cfg.Servers, cfg.Only, cfg.Timeout = []string{listenAddr(only.number)}, keys, 3*time.Second
	return startChild[[]op](t, net.minority(), loadEnv, cfg)
}

// endOutsider adds the load process's calls to the user's and returns them.
func (u *user) endOutsider(o *child[[]op]) []op {
	u.t.Helper()
	ops := o.end(u.t)
	u.extra = append(u.extra, ops...)
	return ops
}

func (v verdict) sortedOutages() []time.Duration { return slices.Sorted(slices.Values(v.outages)) }
