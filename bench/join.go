package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

func joinWorkload() Workload {
	l := Load{Callers: 256, Objects: 50_000, Payload: 1024, Reads: 0.75, Rate: 1000, Window: 15 * second, Warmup: 2 * second}
	long, short := Options{Load: l}, Options{Load: l}
	short.Objects, short.Window, short.Warmup = 10_000, 6*second, second
	return Workload{Name: "join", Summary: "a node joins under load: what moves, how long it takes, what callers notice",
		Nodes: 3, Faults: true, Alone: true, Metrics: true,
		Default: long, Short: short,
		Text: "--objects states of --payload bytes are written; then, under an open loop of --rate calls a second, a node is added a third of " +
			"--duration after the beginning. The cluster is balanced when nothing moves any more " +
			"and every node owns at least half of its share, and at most five quarters. Bytes moved are those of snapshots, as the nodes " +
			"count them; the least possible is the new node's share of the replicas of the keys and states. " + twinText,
		run: runJoin}
}

func runJoin(ctx context.Context, e *Env, o Options) (*Result, error) {
	t, err := newTwins(ctx, e.Cluster, o.Load)
	if err != nil {
		return nil, err
	}
	j := joining{e: e, t: t, calm: o.Window / 3}
	h := e.hooks()
	h.During = j.during
	r, err := e.drive(ctx, t, o.Load, h)
	if err != nil {
		return r, err
	}
	r.Figures, err = j.figures(r)
	return r, err
}

// joining is one node's joining.
type joining struct {
	e    *Env
	t    *twins
	calm time.Duration

	took   time.Duration // until balanced
	moved  float64       // bytes
	gained int           // replicas that are where none was before
	owners int           // shards that another node owns than before
	shards int
	copies int // of each shard
	nodes  int // afterwards
}

func (j *joining) during(ctx context.Context, s *Stage) error {
	s.Begin("calm")
	if err := sleep(ctx, j.calm); err != nil {
		return err
	}
	before, err := j.places(ctx)
	if err != nil {
		return err
	}
	const sent = "ringfence_snapshot_sent_bytes_total"
	earlier, err := j.e.metric(ctx, j.e.Nodes.Addrs(), sent)
	if err != nil {
		return err
	}
	s.Begin("joining")
	began := time.Now()
	addr, err := j.e.Nodes.Add(ctx)
	if err != nil {
		return err
	}
	s.Mark("%s joins", j.e.name(addr))
	addrs := j.e.Nodes.Addrs()
	if err := j.e.whole(ctx, addrs, true); err != nil {
		return err
	}
	j.took, j.nodes = time.Since(began), len(addrs)
	s.Mark("balanced")
	s.Begin("balanced")
	if err := sleep(ctx, j.calm); err != nil {
		return err
	}
	later, err := j.e.metric(ctx, addrs, sent)
	if err != nil {
		return err
	}
	j.moved = later - earlier
	after, err := j.places(ctx)
	if err != nil {
		return err
	}
	j.compare(before, after)
	return nil
}

// place is where a shard is.
type place struct {
	owner    string
	replicas map[string]bool
}

// places are those of all shards, looked up by way of objects that are on them.
func (j *joining) places(ctx context.Context) (map[uint32]place, error) {
	s, err := j.e.status(ctx)
	if err != nil {
		return nil, err
	}
	j.shards, j.copies = s.Shards, s.Replicas
	all := map[uint32]place{}
	for from, step := 0, 4*s.Shards; from < j.t.load.Objects && len(all) < s.Shards; from += step {
		batch := make([]place, min(step, j.t.load.Objects-from))
		shards := make([]uint32, len(batch))
		err := each(ctx, 16, len(batch), func(ctx context.Context, i int) error {
			w, err := j.e.where(ctx, twinClass, j.t.keys.of(from+i))
			if err != nil {
				return err
			}
			p := place{w.Owner.ID, map[string]bool{}}
			for _, r := range w.Replicas {
				p.replicas[r.ID] = true
			}
			batch[i], shards[i] = p, w.Shard
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, p := range batch {
			all[shards[i]] = p
		}
	}
	if len(all) < s.Shards {
		return nil, fmt.Errorf("%d objects are on %d of %d shards only: want more objects", j.t.load.Objects, len(all), s.Shards)
	}
	return all, nil
}

func (j *joining) compare(before, after map[uint32]place) {
	for shard, now := range after {
		was := before[shard]
		if was.owner != now.owner {
			j.owners++
		}
		for r := range now.replicas {
			if !was.replicas[r] {
				j.gained++
			}
		}
	}
}

// figures compares what moved with what had to.
func (j *joining) figures(r *Result) ([]Figure, error) {
	size := 0
	for i := range j.t.load.Objects {
		value, err := msgpack.Marshal(twinState{1, j.t.data(i, 1)})
		if err != nil {
			return nil, err
		}
		size += len(twinClass) + len(j.t.keys.of(i)) + len("state") + len(value)
	}
	// The new node's share: all copies, divided by the nodes. If there were fewer nodes than copies it takes a whole one.
	share := min(1, float64(j.copies)/float64(j.nodes))
	least := share * float64(size)
	figures := []Figure{
		{"time to balance", ms(j.took), "ms"},
		{"bytes moved", j.moved, "B"},
		{"least possible", least, "B"},
		{"bytes moved / least possible", j.moved / least, ""},
		{"replicas moved / least possible", float64(j.gained) / (share * float64(j.shards)), ""},
		{"objects with a new owner", 100 * float64(j.owners) / float64(j.shards), "%"},
	}
	if len(r.Phases) == 3 && r.Phases[0].P99 > 0 {
		figures = append(figures, Figure{"p99 calm", float64(r.Phases[0].P99) / 1000, "ms"},
			Figure{"p99 while it joins", float64(r.Phases[1].P99) / 1000, "ms"},
			Figure{"p99 while it joins / calm", float64(r.Phases[1].P99) / float64(r.Phases[0].P99), ""})
	}
	return figures, nil
}
