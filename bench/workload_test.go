package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringfence/ringfence/node/nodetest"
)

// virtual is a cluster of whole nodes in virtual time, on which workloads run. Its methods are called by a workload; the test's goroutine
// does what they ask, because a nodetest.Cluster belongs to it.
type virtual struct {
	c     *nodetest.Cluster
	asked chan func()
	addrs []string
	gone  map[int]bool
}

func (v *virtual) ask(f func()) {
	done := make(chan struct{})
	v.asked <- func() { f(); close(done) }
	<-done
}

func (v *virtual) Addrs() (all []string) {
	for i, a := range v.addrs {
		if !v.gone[i] {
			all = append(all, a)
		}
	}
	return all
}

func (v *virtual) Fault(_ context.Context, f Fault, addr string) error {
	for i, a := range v.addrs {
		if a != addr {
			continue
		}
		v.gone[i] = f == Kill || f == Stop
		v.ask(map[Fault]func(){Kill: func() { v.c.Kill(i) }, Stop: func() { v.c.Stop(i) }, Start: func() { v.c.Restart(i) },
			Pause: func() { v.c.Cut(i) }, Resume: func() { v.c.Heal(i) }}[f])
		return nil
	}
	return fmt.Errorf("no node at %s", addr)
}

func (v *virtual) Add(context.Context) (addr string, err error) {
	v.ask(func() { addr = v.c.Node(v.c.Add()).Addr() })
	v.addrs = append(v.addrs, addr)
	return addr, nil
}

// runVirtual runs a workload with a load of 300 operations a second on three nodes, and looks at what every result has.
func runVirtual(t *testing.T, name string, change func(*Options)) (r *Result) {
	t.Helper()
	w, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	o := w.Short
	o.Callers, o.Objects, o.Window, o.Warmup, o.Pause = 16, 16, 3*time.Second, 200*time.Millisecond, 3*time.Second
	if o.Rate = 300; w.Name == "idle" || w.Name == "alarms" {
		o.Warmup = 0
	}
	if change != nil {
		change(&o)
	}
	synctest.Test(t, func(t *testing.T) {
		v := &virtual{c: nodetest.Start(t, w.Nodes, Classes()...), asked: make(chan func()), gone: map[int]bool{}}
		for i := range v.c.Len() {
			v.addrs = append(v.addrs, v.c.Node(i).Addr())
		}
		sent := 0.0
		e := &Env{Cluster: v.c.Client(), Servers: v.addrs, Nodes: v, Started: w.Nodes, pause: virtualPause,
			Metrics: func(context.Context, string) (map[string]float64, error) {
				sent += 1000
				return map[string]float64{"ringfence_snapshot_sent_bytes_total": sent}, nil
			}}
		over := make(chan struct{})
		go func() { defer close(over); r, err = w.Run(t.Context(), e, o, 7) }()
		for running := true; running; {
			select {
			case f := <-v.asked:
				f()
			case <-over:
				running = false
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Ops == 0 || r.Check == nil || !r.Check.OK || r.Workload != name || r.Run != 7 || r.System != "ringfence" || r.Replicas == 0 {
		t.Errorf("%s: %+v, check %v", name, r, r.Check)
	}
	return r
}

// figure is one of a result's.
func (r *Result) figure(t *testing.T, name string) float64 {
	t.Helper()
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value
		}
	}
	t.Fatalf("%s has no figure %q: %v", r.Workload, name, r.Figures)
	return 0
}

func (r *Result) phases() (names []string) {
	for _, p := range r.Phases {
		names = append(names, p.Name)
	}
	return names
}

func TestKillAndPause(t *testing.T) {
	for _, name := range []string{"kill", "pause"} {
		r := runVirtual(t, name, nil)
		if n := r.figure(t, "objects of the node"); n < 1 || n > 15 {
			t.Errorf("%s: %v objects", name, n)
		}
		low, high := r.figure(t, "outage p50"), r.figure(t, "outage, longest")
		if low < 100 || high < low || high > 5000 {
			t.Errorf("%s: outages of %v to %v ms", name, low, high)
		}
		if r.figure(t, "double activations") != 0 || r.figure(t, "stale replies") != 0 {
			t.Errorf("%s: %v", name, r.Figures)
		}
		if got := strings.Join(r.phases(), ", "); got != "calm, outage, without it, coming back, back" {
			t.Errorf("%s: phases %s", name, got)
		}
		if e := r.Series.Events; len(e) != 2 || !strings.HasPrefix(e[0].What, name+" node ") {
			t.Errorf("%s: events %v", name, e)
		}
		if calm, out := r.Phases[0], r.Phases[1]; calm.Max >= out.Max && out.Failed == 0 || calm.Ops == 0 || calm.Failed != 0 {
			t.Errorf("%s: %+v, then %+v", name, calm, out)
		}
	}
}

func TestRolling(t *testing.T) {
	r := runVirtual(t, "rolling", nil)
	if n := r.figure(t, "failed calls"); n != 0 {
		t.Errorf("%v calls failed: %v", n, r.Errors)
	}
	var what []string
	for _, e := range r.Series.Events {
		what = append(what, e.What)
	}
	if got := strings.Join(what, ", "); got != "stop node 1, start node 1, stop node 2, start node 2, stop node 3, start node 3" {
		t.Errorf("events %s", got)
	}
}

func TestJoin(t *testing.T) {
	r := runVirtual(t, "join", func(o *Options) { o.Objects, o.Payload = 300, 100 })
	// 16 shards with three copies: a quarter of the 48 copies would be the fourth node's equal share. With so few shards placement is uneven: 7 to 16 were seen in
	// hundreds of runs. No shard gains a copy there twice.
	if moved := r.figure(t, "replicas moved / least possible"); moved < 0.3 || moved > 16.0/12 {
		t.Errorf("it moved %v times what it had to", moved)
	}
	if least := r.figure(t, "least possible"); least < 0.75*300*100 || least > 0.75*300*200 {
		t.Errorf("%v bytes are the least", least)
	}
	if bytes := r.figure(t, "bytes moved"); bytes <= 0 || r.figure(t, "bytes moved / least possible") != bytes/r.figure(t, "least possible") {
		t.Errorf("figures %v", r.Figures)
	}
	if owners := r.figure(t, "objects with a new owner"); owners <= 0 || owners > 60 {
		t.Errorf("%v %% of the objects have another owner", owners)
	}
	if r.figure(t, "p99 calm") <= 0 || r.figure(t, "p99 while it joins") <= 0 || r.figure(t, "time to balance") <= 0 {
		t.Errorf("figures %v", r.Figures)
	}
}

func TestAlarms(t *testing.T) {
	r := runVirtual(t, "alarms", func(o *Options) { o.Objects, o.Callers, o.Window = 200, 4, 2*time.Second })
	if r.Objects != 200 || r.Check.Counted != 200 || r.figure(t, "ran more than once") != 0 || r.figure(t, "set after they were due") != 0 {
		t.Errorf("%v, figures %v", r.Check, r.Figures)
	}
	if due := r.figure(t, "steady: due in a second"); due != 50 {
		t.Errorf("%v are due in a second, want 50", due)
	}
	if late := r.figure(t, "burst: lateness most"); late < 0 || late > 2000 {
		t.Errorf("the last of the burst was %v ms late", late)
	}
}

func TestSteadyWorkloads(t *testing.T) {
	for _, name := range []string{"twin", "storm", "read"} {
		runVirtual(t, name, func(o *Options) { o.Window = time.Second })
	}
	r := runVirtual(t, "single", func(o *Options) { o.Window = time.Second })
	if r.Replicas != 1 {
		t.Errorf("single has %d replicas", r.Replicas)
	}
}

func TestWorkloads(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range Workloads() {
		if seen[w.Name] || w.Summary == "" || w.Text == "" || w.Nodes < 1 || w.run == nil {
			t.Errorf("%+v", w)
		}
		seen[w.Name] = true
		for _, o := range []Options{w.Default, w.Short} {
			if err := o.Check(); err != nil || o.Window <= 0 {
				t.Errorf("%s: %v", w.Name, err)
			}
		}
		if !w.Faults && !w.Metrics {
			continue
		}
		if _, err := w.Run(t.Context(), &Env{}, Options{}, 1); err == nil || !strings.Contains(err.Error(), "out of reach") {
			t.Errorf("%s without processes: %v", w.Name, err)
		}
	}
	if _, err := hotWorkload().Run(t.Context(), &Env{}, Options{Load: Load{Callers: -1}}, 1); err == nil || !strings.Contains(err.Error(), "-1 callers") {
		t.Errorf("got %v", err)
	}
	if _, err := Lookup("frobnicate"); err == nil || !strings.Contains(err.Error(), "hot, spread") {
		t.Errorf("got %v", err)
	}
}
