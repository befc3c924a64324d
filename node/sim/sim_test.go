package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	seedsFlag   = flag.Int("sim.seeds", 60, "number of seeds to run")
	firstFlag   = flag.Uint64("sim.first", 1, "first seed")
	seedFlag    = flag.Uint64("sim.seed", 0, "run this seed alone and print every event")
	secondsFlag = flag.Int("sim.seconds", 120, "virtual seconds of a seed")
	shardFlag   = flag.String("sim.shard", "1/1", "run slice i of n of the seeds: `i/n`")
	onlyFlag    = flag.Uint("sim.only", 0, "the fault classes to switch on, as a bit set; 0: drawn by seed")
)

// run runs a Config with Raft's randomness seeded too.
func run(t *testing.T, cfg Config) Result {
	cryptotest.SetGlobalRandom(t, cfg.Seed)
	if cfg.Virtual == 0 {
		cfg.Virtual = time.Duration(*secondsFlag) * time.Second
	}
	return Run(cfg)
}

func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// report fails the test with all that is needed to look at a run again.
func report(t *testing.T, cfg Config, res Result) {
	t.Helper()
	again := func(c Config) string {
		return fmt.Sprintf("  go test ./node/sim -run TestSeeds -sim.seed=%d -sim.seconds=%d -sim.only=%d", c.Seed, *secondsFlag, c.Profile.Only)
	}
	small := Minimise(cfg, res.On, 12, func(c Config) bool { return run(t, c).Violation != nil })
	cfg.Profile.Only = Classes(*onlyFlag)
	t.Fatalf("seed %d: %v\nfault classes on: %v\nagain, every event printed:\n%s\nit fails too with no more than: %v (%v)\n%s",
		cfg.Seed, res.Violation, res.On, again(cfg), small.Profile.Only, run(t, small).Violation, again(small))
}

func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		res := run(t, Config{Seed: *seedFlag, Profile: Profile{Only: Classes(*onlyFlag)}, Log: os.Stdout})
		t.Logf("hash %016x\n%s", res.Hash, res.Stats.String())
		if res.Violation != nil {
			t.Fatal(res.Violation)
		}
		return
	}
	var slice, of uint64
	if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &slice, &of); err != nil || slice < 1 || slice > of {
		t.Fatalf("-sim.shard=%s: want i/n with 1 ≤ i ≤ n", *shardFlag)
	}
	var sum Stats
	begin := time.Now()
	for seed := *firstFlag; seed < *firstFlag+uint64(*seedsFlag); seed++ {
		if seed%of != slice-1 {
			continue
		}
		cfg := Config{Seed: seed, Profile: Profile{Only: Classes(*onlyFlag)}}
		res := run(t, cfg)
		if res.Violation != nil {
			report(t, cfg, res)
		}
		sum.Add(&res.Stats)
	}
	wall := time.Since(begin)
	t.Logf("%.1f s, %.0f virtual seconds a second\n%s", wall.Seconds(), sum.Virtual.Seconds()/wall.Seconds(), sum.String())
	if zero := sum.Zero(); zero != nil {
		t.Errorf("never happened, hence not tested: %s", strings.Join(zero, "; "))
	}
}

func TestSameSeedSameEvents(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		cfg := Config{Seed: seed, Virtual: 25 * time.Second}
		a, b := run(t, cfg), run(t, cfg)
		if a.Hash != b.Hash {
			t.Fatalf("seed %d: events hash to %016x and to %016x", seed, a.Hash, b.Hash)
		}
		if cfg.Seed++; run(t, cfg).Hash == a.Hash {
			t.Fatalf("seeds %d and %d: the same events", seed, cfg.Seed)
		}
	}
}

// call is a porcupine operation on one object.
type call struct {
	write        bool
	number, seen uint64
}

var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, _ any) (bool, any) {
		at, c := state.(uint64), input.(call)
		if c.write {
			return c.number == at+1, c.number
		}
		return c.number == at, at
	},
}

// TestPorcupineAgrees has a checker that knows nothing of versions look at the same histories.
func TestPorcupineAgrees(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		res := run(t, Config{Seed: seed, Virtual: 60 * time.Second})
		if res.Violation != nil {
			t.Fatal(res.Violation)
		}
		for object := range res.Chains {
			if !porcupine.CheckOperations(register, history(res, object)) {
				t.Fatalf("seed %d: the history of object %d is not linearizable", seed, object)
			}
		}
	}
}

// history is an object's calls for porcupine. Calls without an answer that took effect end after all others.
func history(res Result, object int) (out []porcupine.Operation) {
	made := map[uint64]uint64{}
	for _, v := range res.Chains[object] {
		made[v.Op] = v.Number
	}
	for i, o := range res.Ops {
		if o.Object != object || o.Echo {
			continue
		}
		p := porcupine.Operation{ClientId: i, Input: call{o.Write, o.Number, o.Seen}, Call: int64(o.Call), Return: int64(o.Return)}
		if o.Outcome != Ran {
			if made[o.ID] == 0 {
				continue
			}
			p.Input, p.Return = call{true, made[o.ID], 0}, int64(time.Hour)
		}
		out = append(out, p)
	}
	return out
}
