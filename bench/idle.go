package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// idleGC makes the collector of nodes run so often that what is in memory is in use.
const idleGC = "25"

// idleMax is how many activations each node may keep: the workload is about those that stay.
const idleMax = "1000000"

func idleWorkload() Workload {
	l := Load{Callers: 256, Objects: 1_000_000, Window: normally, Timeout: 30 * second}
	long, short := Options{Load: l}, Options{Load: l}
	short.Objects, short.Window = 100_000, briefly
	return Workload{Name: "idle", Summary: "what activations that do nothing cost: memory of each, processor of the nodes",
		Nodes: 3, Alone: true, Metrics: true,
		NodeEnv: []string{"GOGC=" + idleGC}, NodeFlags: []string{"--max-activations", idleMax}, Default: long, Short: short,
		Text: "--objects objects are activated by a call that touches no storage: that is the rate and the latency. The bytes of each are the " +
			"growth of the nodes' heaps in use, from the collector's own figures, " +
			"and of their resident memory, divided by the activations; 8 of them are the object's own. Then nobody calls for --duration: what " +
			"the nodes use of a processor. " +
			"Nodes that are started for it run with GOGC=" + idleGC + " and --max-activations " + idleMax + ". Afterwards the nodes must count that many activations.",
		run: runIdle}
}

// footprint is the memory of all nodes together.
type footprint struct{ heap, resident, activations float64 }

func runIdle(ctx context.Context, e *Env, o Options) (*Result, error) {
	t := &quiets{cluster: e.Cluster, keys: newKeys(), load: o.Load}
	before, err := e.footprint(ctx, t)
	if err != nil {
		return nil, err
	}
	l := o.Load
	l.Fresh, l.Limit, l.Window, l.Warmup = true, o.Objects, time.Hour, 0
	r, err := e.drive(ctx, t, l, e.hooks())
	if err != nil {
		return r, err
	}
	r.Objects = o.Objects
	after, err := e.footprint(ctx, t)
	if err != nil {
		return r, err
	}
	n := after.activations - before.activations
	r.Check = &Check{OK: true, What: "every object that was activated is in memory", Acknowledged: r.Ops, Counted: int64(n)}
	if int64(n) < r.Ops {
		r.Check.Fail("%d activations are missing", r.Ops-int64(n))
	}
	r.Figures = []Figure{{"heap in use of an activation", (after.heap - before.heap) / n, "B"},
		{"resident memory of an activation", (after.resident - before.resident) / n, "B"}}
	if e.CPU == nil {
		return r, nil
	}
	percent, err := e.idleCPU(ctx, o.Window)
	r.Figures = append(r.Figures, Figure{"processor of a node with them", percent, "% of one"})
	return r, err
}

// idleCPU is what a node uses of one processor, in percent, when nobody calls.
func (e *Env) idleCPU(ctx context.Context, d time.Duration) (float64, error) {
	s, err := e.status(ctx)
	if err != nil {
		return 0, err
	}
	before, err := e.CPU()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := sleep(ctx, d); err != nil {
		return 0, err
	}
	after, err := e.CPU()
	return 100 * (after - before).Seconds() / time.Since(began).Seconds() / float64(len(s.Nodes)), err
}

// footprint makes the nodes' collectors run, twice, and sums up.
func (e *Env) footprint(ctx context.Context, t *quiets) (f footprint, err error) {
	if err := e.collect(ctx, t); err != nil {
		return f, err
	}
	all, err := e.metrics(ctx, e.Servers)
	for _, m := range all {
		// The collector's goal is what was in use, and of that and what is beside the heap GOGC percent.
		more := m["go_gc_gogc_percent"] / 100
		f.heap += (m["go_memstats_next_gc_bytes"] - more*m["go_memstats_stack_inuse_bytes"]) / (1 + more)
		f.resident += m["process_resident_memory_bytes"]
		f.activations += m["ringfence_activations"]
	}
	return f, err
}

const collections = "go_gc_duration_seconds_count"

// collect calls a few objects, until each node has collected twice: only garbage makes it.
func (e *Env) collect(ctx context.Context, t *quiets) error {
	before, err := e.metrics(ctx, e.Servers)
	if err != nil {
		return err
	}
	some := quiets{cluster: t.cluster, keys: t.keys + "again-", load: t.load}
	ctx, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	for {
		err := each(ctx, 64, 10_000, func(ctx context.Context, i int) error { return some.Do(ctx, Op{Object: i % 300}) })
		if err != nil {
			return fmt.Errorf("making the nodes collect garbage: %w", err)
		}
		now, err := e.metrics(ctx, e.Servers)
		if err != nil {
			return err
		}
		least := now[0][collections] - before[0][collections]
		for i := range now {
			least = min(least, now[i][collections]-before[i][collections])
		}
		if least >= 2 {
			return nil
		}
	}
}

// collectTime is how long the nodes may take to collect twice.
const collectTime = 2 * time.Minute

// quiets is the target whose operations activate objects.
type quiets struct {
	cluster Objects
	keys    keys
	load    Load
}

func (*quiets) Close() error { return nil }

func (t *quiets) ref(i int) actor.Ref { return t.cluster.Object(quietClass, t.keys.of(i)) }

func (t *quiets) Do(ctx context.Context, op Op) error {
	return t.ref(op.Object).Call(ctx, "Touch", nil, nil)
}
