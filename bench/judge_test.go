package bench

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/node"
)

// What a witness says when two activations ran at the same time, or one was asked too late, must be noticed.
func TestWitnessesNotice(t *testing.T) {
	type reply struct {
		s, before sighting
		read      bool
	}
	for _, c := range []struct {
		name           string
		replies        []reply
		doubles, stale int
	}{
		{"one after the other", []reply{{sighting{1, 1}, sighting{}, false}, {sighting{1, 2}, sighting{1, 1}, false}, {sighting{2, 3}, sighting{1, 2}, false}}, 0, 0},
		{"replies that overtake each other", []reply{{sighting{1, 2}, sighting{}, false}, {sighting{1, 1}, sighting{}, false}}, 0, 0},
		{"one number twice", []reply{{sighting{1, 1}, sighting{}, false}, {sighting{2, 1}, sighting{}, false}}, 2, 0},
		{"numbers that mix", []reply{{sighting{1, 1}, sighting{}, false}, {sighting{2, 2}, sighting{}, false}, {sighting{1, 3}, sighting{}, false}}, 1, 0},
		{"a count that does not grow", []reply{{sighting{1, 2}, sighting{}, false}, {sighting{1, 1}, sighting{1, 2}, false}}, 0, 1},
		{"a read of the past", []reply{{sighting{1, 2}, sighting{}, false}, {sighting{1, 1}, sighting{1, 2}, true}}, 0, 1},
		{"a read of an older activation", []reply{{sighting{2, 2}, sighting{}, false}, {sighting{1, 2}, sighting{2, 2}, true}}, 0, 1},
		{"a read of now", []reply{{sighting{1, 2}, sighting{}, false}, {sighting{1, 2}, sighting{1, 2}, true}}, 0, 0},
		{"a new activation that has only been read", []reply{{sighting{1, 2}, sighting{}, false}, {sighting{2, 2}, sighting{1, 2}, true}, {sighting{2, 3}, sighting{2, 2}, false}}, 0, 0},
	} {
		w := newWitnesses(nil, Load{Objects: 1})
		for _, r := range c.replies {
			w.all[0].see(r.s, r.before, r.read)
		}
		if doubles, stale := w.unique(); doubles != c.doubles || stale != c.stale {
			t.Errorf("%s: %d doubles, %d stale, want %d and %d", c.name, doubles, stale, c.doubles, c.stale)
		}
	}
}

func TestOutages(t *testing.T) {
	w := newWitnesses(nil, Load{Objects: 3})
	for _, o := range w.all {
		o.see(sighting{1, 1}, sighting{}, false)
	}
	w.expect([]int{0, 2})
	w.all[0].see(sighting{1, 2}, sighting{1, 1}, false) // still the old one
	if took, missing := w.outages([]int{0, 2}); len(took) != 0 || missing != 2 {
		t.Errorf("%v, %d missing", took, missing)
	}
	w.all[2].see(sighting{2, 2}, sighting{1, 1}, false)
	if took, missing := w.outages([]int{0, 2}); len(took) != 1 || missing != 1 || took[0] <= 0 {
		t.Errorf("%v, %d missing", took, missing)
	}
}

// Alarms that are lost, early, unasked for or told a wrong time must be noticed.
func TestAlarmsAreJudged(t *testing.T) {
	start := time.UnixMilli(1_000_000)
	for _, c := range []struct {
		name   string
		change func(told *Tally, logs []alarmLog)
		wrong  string // empty: nothing
	}{
		{"all well", func(*Tally, []alarmLog) {}, ""},
		{"twice", func(_ *Tally, logs []alarmLog) { logs[1].Runs = 2 }, ""},
		{"lost", func(_ *Tally, logs []alarmLog) { logs[1] = alarmLog{} }, "alarm 1 has not run"},
		{"early", func(_ *Tally, logs []alarmLog) { logs[1].Ran = logs[1].Scheduled - 1 }, "alarm 1 ran 1 µs early"},
		{"wrong time", func(_ *Tally, logs []alarmLog) { logs[2].Scheduled += 1000 }, "alarm 2 ran for a time that is 1000 µs from"},
		{"never set", func(told *Tally, _ []alarmLog) { told.failed[3] = true }, "alarm 3 ran although it was not set"},
		{"perhaps set, ran", func(told *Tally, _ []alarmLog) { told.failed[3], told.doubts[3] = true, 1 }, ""},
		{"perhaps set, did not", func(told *Tally, logs []alarmLog) { told.failed[3], told.doubts[3], logs[3] = true, 1, alarmLog{} }, ""},
	} {
		a := &alarms{load: Load{Objects: 4, Window: time.Second}, burst: start, steady: start.Add(time.Minute)}
		told := newTally(Load{Fresh: true})
		var logs []alarmLog
		for i := range 4 {
			told.note(i, nil)
			logs = append(logs, alarmLog{1, a.due(i) * 1000, a.due(i)*1000 + 700})
		}
		c.change(told, logs)
		check := a.judge(told, logs)
		if got := strings.Join(check.Wrong, "; "); check.OK != (c.wrong == "") || !strings.Contains(got, c.wrong) {
			t.Errorf("%s: %v, want %q", c.name, check, c.wrong)
		}
	}
}

func TestAlarmsAreDue(t *testing.T) {
	a := &alarms{load: Load{Objects: 10, Window: 10 * time.Second}, burst: time.UnixMilli(5000), steady: time.UnixMilli(60_000)}
	var due []int64
	for i := range 5 {
		due = append(due, a.due(i))
	}
	if want := []int64{5000, 61_000, 5000, 63_000, 5000}; !slices.Equal(due, want) {
		t.Errorf("due at %v, want %v", due, want)
	}
}

// The memory of activations is that of all nodes, less what was there before and what the collector had not taken away yet.
func TestFootprint(t *testing.T) {
	collections, live := 0.0, 1000.0
	e := &Env{Servers: []string{"a", "b"}, Metrics: func(_ context.Context, addr string) (map[string]float64, error) {
		collections++
		const stacks = 500
		return map[string]float64{"go_gc_duration_seconds_count": collections, "go_gc_gogc_percent": 25, "go_memstats_stack_inuse_bytes": stacks,
			"go_memstats_next_gc_bytes": live + (live+stacks)*0.25, "process_resident_memory_bytes": 3 * live, "ringfence_activations": live / 10}, nil
	}}
	m := newMemory()
	m.free = true
	f, err := e.footprint(t.Context(), &quiets{cluster: m, load: Load{Timeout: time.Second}})
	if err != nil || f != (footprint{heap: 2 * live, resident: 6 * live, activations: live / 5}) {
		t.Errorf("%+v (%v)", f, err)
	}
	e.Metrics = nil
	if _, err := e.footprint(t.Context(), &quiets{cluster: m}); err == nil {
		t.Error("a footprint without metrics")
	}
}

func TestLeast(t *testing.T) {
	j := joining{shards: 4, copies: 3}
	at := func(owner string, replicas ...string) place {
		p := place{owner, map[string]bool{}}
		for _, r := range replicas {
			p.replicas[r] = true
		}
		return p
	}
	j.compare(map[uint32]place{0: at("a", "a", "b", "c"), 1: at("b", "a", "b", "c")}, map[uint32]place{0: at("d", "d", "b", "c"), 1: at("b", "a", "b", "c")})
	if j.gained != 1 || j.owners != 1 {
		t.Errorf("%d replicas and %d owners moved", j.gained, j.owners)
	}
}

func TestShares(t *testing.T) {
	for _, c := range []struct{ shards, nodes, low, high int }{{64, 4, 4, 20}, {16, 4, 1, 5}, {8, 2, 2, 5}, {64, 3, 10, 27}, {3, 5, 1, 1}} {
		if low, high := shares(c.shards, c.nodes); low != c.low || high != c.high {
			t.Errorf("%d shards on %d nodes: %d to %d, want %d to %d", c.shards, c.nodes, low, high, c.low, c.high)
		}
	}
}

// A cluster is whole when every node sees all nodes up and every shard owned.
func TestLacks(t *testing.T) {
	for _, c := range []struct {
		s       node.Status
		settled bool
		want    string // empty: nothing
	}{
		{node.Status{Shards: 4, Nodes: []node.NodeStatus{{State: "up", Owned: 2}, {State: "up", Owned: 2}}}, true, ""},
		{node.Status{Shards: 4, Nodes: []node.NodeStatus{{State: "up", Owned: 2}, {State: "suspect", Owned: 2}}}, false, "1 of 2 nodes are up"},
		{node.Status{Shards: 4, Unowned: 1, Nodes: []node.NodeStatus{{State: "up"}, {State: "up"}}}, false, "1 of 4 shards have no owner"},
		{node.Status{Shards: 4, Moves: make([]node.Move, 2), Nodes: []node.NodeStatus{{State: "up", Owned: 2}, {State: "up", Owned: 2}}}, true, "2 replicas move"},
		{node.Status{Shards: 8, Nodes: []node.NodeStatus{{State: "up", Owned: 1}, {State: "up", Owned: 7}}}, true, "owns 1 of 8"},
		{node.Status{Shards: 8, Nodes: []node.NodeStatus{{State: "up", Owned: 1}, {State: "up", Owned: 7}}}, false, ""},
	} {
		m := newMemory()
		m.status = c.s
		err := (&Env{Cluster: m}).lacks(t.Context(), []string{"a", "b"}, c.settled)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.s, err, c.want)
		}
	}
}
