package sim

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	seedsFlag    = flag.Int("sim.seeds", 40, "number of seeds to run")
	firstFlag    = flag.Uint64("sim.first", 1, "first seed")
	seedFlag     = flag.Uint64("sim.seed", 0, "run this seed alone and print every event")
	secondsFlag  = flag.Int("sim.seconds", 60, "virtual seconds of a seed")
	shardFlag    = flag.String("sim.shard", "1/1", "run slice i of n of the seeds: `i/n`")
	onlyFlag     = flag.String("sim.only", "", "the fault classes to switch on, by their names, with commas between; none: drawn by seed")
	profileFlag  = flag.String("sim.profile", "", "the profile that directs the faults; none: the general mix")
	storedFlag   = flag.Bool("sim.stored", false, "no node tells its owners of anything before it is stored")
	minimiseFlag = flag.Duration("sim.minimise", 2*time.Minute, "how long to look for fewer fault classes with which a seed still fails")
)

// config is a Config by the flags.
func config(t *testing.T, seed uint64) Config {
	c, err := ParseConfig(fmt.Sprintf("%d %d %s %s", seed, *secondsFlag, or(*profileFlag, "-"), or(*onlyFlag, "-")))
	if err != nil {
		t.Fatal(err)
	}
	c.Stored = *storedFlag
	return c
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// run runs a Config with Raft's randomness seeded too.
func run(t *testing.T, cfg Config) Result {
	cryptotest.SetGlobalRandom(t, cfg.Seed)
	if cfg.Virtual == 0 {
		cfg.Virtual = time.Duration(*secondsFlag) * time.Second
	}
	return Run(cfg)
}

func TestMain(m *testing.M) {
	debug.SetGCPercent(2000) // a run holds little
	os.Exit(m.Run())
}

// commit is what is tested, for whoever wants to run a seed again.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown: " + err.Error()
	}
	return strings.TrimSpace(string(out))
}

// report fails the test with all that is needed to look at a run again: the seed, the commit, what is violated first, the fewest classes of faults with
// which that still happens, and the command that runs it again.
func report(t *testing.T, cfg Config, res Result) {
	t.Helper()
	t.Errorf("seed %d at commit %s: %v\nfaults switched on: %v\nagain, every event printed:\n  %s", cfg.Seed, commit(), res.Violation, res.On, again(cfg))
	until := time.Now().Add(*minimiseFlag)
	small := Minimise(cfg, res.On, 4, func(c Config) bool { return time.Now().Before(until) && run(t, c).Violation != nil })
	if small.Profile.Only == res.On {
		t.Error("it does not fail with any class of faults less")
		return
	}
	t.Errorf("it fails too with no more than: %v\n(%v)\n  %s", small.Profile.Only, run(t, small).Violation, again(small))
}

func again(c Config) string {
	s := fmt.Sprintf("go test ./node/sim -run TestSeeds -sim.seed=%d -sim.seconds=%.0f", c.Seed, max(c.Virtual, time.Duration(*secondsFlag)*time.Second).Seconds())
	if c.Profile.Name != "" {
		s += " -sim.profile=" + c.Profile.Name
	}
	if c.Stored {
		s += " -sim.stored"
	}
	if p := Profiles[c.Profile.Name]; c.Profile.Only != p.Only {
		s += fmt.Sprintf(" -sim.only=%q", strings.ReplaceAll(c.Profile.Only.String(), ", ", ","))
	}
	return s
}

// TestCorpus runs what once failed, first: each line of testdata/corpus.txt is a Config, and what it found.
func TestCorpus(t *testing.T) {
	b, err := os.ReadFile("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		n++
		what, found, ok := strings.Cut(line, "#")
		cfg, err := ParseConfig(what)
		if err != nil || !ok {
			t.Fatalf("%q: %v; want seed, seconds, profile, faults # what it found", line, err)
		}
		for _, cfg.Stored = range []bool{true, false} { // as it was found, and as it is now
			if res := run(t, cfg); res.Violation != nil {
				t.Errorf("what was mended is broken again (%s):", strings.TrimSpace(found))
				report(t, cfg, res)
			}
		}
	}
	if n == 0 {
		t.Error("the corpus is empty")
	}
}

// failures is after how many seeds that fail no more are run.
const failures = 3

func TestSeeds(t *testing.T) {
	if *seedFlag != 0 {
		cfg := config(t, *seedFlag)
		cfg.Log = os.Stdout
		res := run(t, cfg)
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
	begin, failed := time.Now(), 0
	for seed := *firstFlag; seed < *firstFlag+uint64(*seedsFlag) && failed < failures; seed++ {
		if seed%of != slice-1 {
			continue
		}
		cfg := config(t, seed)
		res := run(t, cfg)
		if res.Violation != nil {
			failed++
			report(t, cfg, res)
		}
		sum.Add(&res.Stats)
		if sum.Seeds%500 == 0 {
			fmt.Fprintf(os.Stderr, "%d seeds, up to %d, %v: %d failed, %d calls answered\n", sum.Seeds, seed, time.Since(begin).Round(time.Second), failed, sum.Acked)
		}
	}
	wall := time.Since(begin)
	t.Logf("%.1f s, %.0f virtual seconds a second\n%s", wall.Seconds(), sum.Virtual.Seconds()/wall.Seconds(), sum.String())
	// What is rare happens in one seed of twenty; .ci/run has 300.
	if zero := sum.Zero(); zero != nil && *profileFlag == "" && *onlyFlag == "" && sum.Seeds >= 200 {
		t.Errorf("never happened, hence not tested: %s", strings.Join(zero, "; "))
	}
}

func TestSameSeedSameEvents(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		cfg := Config{Seed: seed, Virtual: 21 * time.Second}
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
