package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/node"
)

// witnessing is the load of the workloads that end nodes: every object always has two callers, so that what it costs them is seen.
var witnessing = Load{Callers: 400, Objects: 200, Pinned: true, Reads: 0.2, Timeout: 60 * time.Second}

const witnessText = " Callers keep to their objects, two to each; a fifth of the calls reads only memory. Every reply tells which activation " +
	"it comes from, and its number: " +
	"numbers that come twice or mix between activations, and replies older than one that came before the call was made, fail the run, as does " +
	"an acknowledged event that is not counted afterwards."

func killWorkload() Workload {
	return faulty("kill", "kill -9 of an owner under load: uniqueness, and the outage of its objects",
		"The node that owns the most is killed a third of --duration after the beginning. Its objects are away until the first reply of a new "+
			"activation of each. "+
			"A third later it is started again."+witnessText, Kill)
}

func pauseWorkload() Workload {
	return faulty("pause", "an owner stands still (SIGSTOP) and comes back (SIGCONT) under load",
		"As kill, but the process is stopped for --pause, and goes on then, with all that it believed."+witnessText, Pause)
}

func faulty(name, summary, text string, f Fault) Workload {
	long, short := Options{Load: witnessing, Pause: 10 * second}, Options{Load: witnessing, Pause: 4 * second}
	long.Window, long.Warmup = 15*second, 2*second
	short.Window, short.Warmup = 6*second, second
	return Workload{Name: name, Summary: summary, Text: text, Nodes: 3, Faults: true, Default: long, Short: short,
		run: func(ctx context.Context, e *Env, o Options) (*Result, error) {
			w := newWitnesses(e.Cluster, o.Load)
			var took []time.Duration
			h := e.hooks()
			h.During = func(ctx context.Context, s *Stage) (err error) {
				took, err = e.outage(ctx, s, w, f, o)
				return err
			}
			r, err := e.drive(ctx, w, o.Load, h)
			if err != nil {
				return r, err
			}
			r.Figures = append(r.Figures, outageFigures(took)...)
			r.Figures = append(r.Figures, w.figures(r)...)
			return r, nil
		}}
}

// outageFigures are of the times that objects were away, ascending.
func outageFigures(took []time.Duration) []Figure {
	at := func(q float64) float64 { return ms(took[min(len(took)-1, int(q*float64(len(took))))]) }
	return []Figure{{"objects of the node", float64(len(took)), ""},
		{"outage p50", at(0.5), "ms"}, {"outage p99", at(0.99), "ms"}, {"outage, longest", at(1), "ms"}}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// figures are what the witnesses saw.
func (w *witnesses) figures(r *Result) []Figure {
	doubles, stale := w.unique()
	return []Figure{{"failed calls", float64(r.errorCount()), ""},
		{"double activations", float64(doubles), ""}, {"stale replies", float64(stale), ""}}
}

// outage does one fault to the busiest node, waits until its objects are back, and then brings the node back. It returns how long each of
// them was away, ascending.
func (e *Env) outage(ctx context.Context, s *Stage, w *witnesses, f Fault, o Options) ([]time.Duration, error) {
	third := o.Window / 3
	s.Begin("calm")
	if err := sleep(ctx, third); err != nil {
		return nil, err
	}
	victim, objects, err := e.busiest(ctx, w)
	if err != nil {
		return nil, err
	}
	s.Begin("outage")
	w.expect(objects)
	began := time.Now()
	if err := e.Nodes.Fault(ctx, f, victim); err != nil {
		return nil, err
	}
	s.Mark("%s %s", f, e.name(victim))
	took, err := w.restored(ctx, objects)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", f, victim, err)
	}
	s.Begin("without it")
	back, wait := Start, third
	if f == Pause {
		back, wait = Resume, o.Pause-time.Since(began)
	}
	if err := sleep(ctx, wait); err != nil {
		return nil, err
	}
	s.Begin("coming back")
	s.Mark("%s %s", back, e.name(victim))
	if err := e.Nodes.Fault(ctx, back, victim); err != nil {
		return nil, err
	}
	if err := e.whole(ctx, e.Nodes.Addrs(), false); err != nil {
		return nil, err
	}
	s.Begin("back")
	return took, sleep(ctx, third)
}

// restoreTime is how long objects may be away before a workload gives up.
const restoreTime = 90 * time.Second

// restored waits until all of the objects have answered from a new activation.
func (w *witnesses) restored(ctx context.Context, objects []int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		took, missing := w.outages(objects)
		if missing == 0 {
			return took, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d objects have not answered from a new activation: %w", missing, len(objects), ctx.Err())
		case <-tick.C:
		}
	}
}

// busiest is the node that owns the most of the objects, and which.
func (e *Env) busiest(ctx context.Context, w *witnesses) (string, []int, error) {
	owners, err := e.owners(ctx, witnessClass, w.keys, len(w.all))
	if err != nil {
		return "", nil, err
	}
	of := map[string][]int{}
	for i, at := range owners {
		of[at.Owner.Addr] = append(of[at.Owner.Addr], i)
	}
	victim := ""
	for _, addr := range e.Nodes.Addrs() {
		if len(of[addr]) > len(of[victim]) {
			victim = addr
		}
	}
	if victim == "" {
		return "", nil, errors.New("none of the nodes within reach owns any of the objects")
	}
	return victim, of[victim], nil
}

// owners are where objects are.
func (e *Env) owners(ctx context.Context, class string, k keys, objects int) ([]*node.Where, error) {
	all := make([]*node.Where, objects)
	err := each(ctx, 16, objects, func(ctx context.Context, i int) (err error) {
		all[i], err = e.where(ctx, class, k.of(i))
		return err
	})
	return all, err
}

func rollingWorkload() Workload {
	long, short := Options{Load: witnessing}, Options{Load: witnessing}
	long.Window, long.Warmup = 15*second, 2*second
	short.Window, short.Warmup = 6*second, second
	return Workload{Name: "rolling", Summary: "rolling restart of all nodes under load", Nodes: 3, Faults: true, Default: long, Short: short,
		Text: "A third of --duration after the beginning, each node in turn is stopped (SIGTERM) and started again, the next as soon as all " +
			"see each other and every shard has an owner." + witnessText,
		run: func(ctx context.Context, e *Env, o Options) (*Result, error) {
			w := newWitnesses(e.Cluster, o.Load)
			var longest time.Duration
			h := e.hooks()
			h.During = func(ctx context.Context, s *Stage) (err error) {
				longest, err = e.restartAll(ctx, s, o.Window/3)
				return err
			}
			r, err := e.drive(ctx, w, o.Load, h)
			if err != nil {
				return r, err
			}
			r.Figures = append(w.figures(r), Figure{"longest wait of a call", float64(r.Max) / 1000, "ms"},
				Figure{"longest restart of a node", ms(longest), "ms"})
			return r, nil
		}}
}

// restartAll restarts the nodes one after the other, and returns how long the slowest took.
func (e *Env) restartAll(ctx context.Context, s *Stage, calm time.Duration) (longest time.Duration, err error) {
	s.Begin("calm")
	if err := sleep(ctx, calm); err != nil {
		return 0, err
	}
	s.Begin("restarts")
	addrs := e.Nodes.Addrs()
	for _, addr := range addrs {
		began := time.Now()
		s.Mark("stop %s", e.name(addr))
		if err := e.Nodes.Fault(ctx, Stop, addr); err != nil {
			return 0, err
		}
		s.Mark("start %s", e.name(addr))
		if err := e.Nodes.Fault(ctx, Start, addr); err != nil {
			return 0, err
		}
		if err := e.whole(ctx, addrs, false); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(began))
	}
	s.Begin("after")
	return longest, sleep(ctx, calm)
}
