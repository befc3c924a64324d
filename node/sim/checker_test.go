package sim

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

func wrote(id, number uint64, from, to int) Op {
	return Op{ID: id, Write: true, Call: time.Duration(from), Return: time.Duration(to), Outcome: Ran, Number: number}
}

func saw(id, number, seen uint64, from, to int) Op {
	return Op{ID: id, Call: time.Duration(from), Return: time.Duration(to), Outcome: Ran, Number: number, Seen: seen}
}

func TestCheckerOnHistoriesMadeByHand(t *testing.T) {
	chain := []Version{{1, 10, 0}, {2, 20, 10}, {3, 30, 20}}
	three := []Op{wrote(10, 1, 0, 5), wrote(20, 2, 6, 9), wrote(30, 3, 8, 12)}
	with := func(ops ...Op) []Op { return append(append([]Op(nil), three...), ops...) }
	for name, c := range map[string]struct {
		ops   []Op
		chain []Version
		want  string // "" for a good history
	}{
		"good":                        {with(saw(1, 0, 0, 1, 3), saw(2, 1, 10, 4, 7), saw(3, 3, 30, 11, 14)), chain, ""},
		"open write took effect":      {with(Op{ID: 40, Write: true, Call: 13}), append(chain[:3:3], Version{4, 40, 30}), ""},
		"open write took none":        {with(Op{ID: 40, Write: true, Call: 13}), chain, ""},
		"open write seen late":        {with(Op{ID: 40, Write: true, Call: 13}, saw(4, 3, 30, 50, 60), saw(5, 4, 40, 70, 80)), append(chain[:3:3], Version{4, 40, 30}), ""},
		"lost":                        {three, chain[:2], "made version 0"},
		"twice":                       {three, append(chain[:3:3], Version{4, 20, 30}), "took effect twice"},
		"gap":                         {three, []Version{{1, 10, 0}, {3, 30, 20}}, "computed on something else"},
		"computed on an older one":    {three, []Version{{1, 10, 0}, {2, 20, 10}, {2, 30, 10}}, "computed on something else"},
		"another before it":           {three, []Version{{1, 10, 0}, {2, 20, 10}, {3, 30, 10}}, "computed on something else"},
		"answered with another":       {[]Op{wrote(10, 2, 0, 5)}, chain[:1], "answered with version 2"},
		"two answered alike":          {with(wrote(31, 3, 9, 12)), chain, "write 31 was answered with version 3"},
		"refused and ran":             {[]Op{{ID: 10, Write: true, Outcome: DidNotRun}}, chain[:1], "reported not to have run"},
		"read wrote":                  {[]Op{saw(10, 0, 0, 0, 1)}, chain[:1], "is a read and wrote"},
		"read of nothing":             {with(saw(4, 4, 40, 13, 14)), chain, "there are only 3"},
		"read of another's":           {with(saw(4, 2, 30, 8, 14)), chain, "which it was not"},
		"read before its time":        {with(saw(4, 3, 30, 1, 7)), chain, "op 30 (write: true), called at 8ns"},
		"stale read":                  {with(saw(4, 2, 20, 13, 14)), chain, "op 4 (write: false), called at 13ns, has version 2"},
		"empty read after a write":    {with(saw(4, 0, 0, 6, 7)), chain, "has version 0"},
		"reads go back":               {with(saw(4, 3, 30, 9, 10), saw(5, 2, 20, 11, 13)), chain, "op 5"},
		"write before one that ended": {[]Op{wrote(20, 2, 0, 5), wrote(10, 1, 6, 9)}, chain[:2], "op 10 (write: true)"},
		"open write before a read":    {[]Op{wrote(10, 1, 0, 5), {ID: 20, Write: true, Call: 20}, saw(3, 2, 20, 6, 9)}, chain[:2], "op 20"},
	} {
		err := CheckObject(c.ops, c.chain)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
	}
}

// TestCheckerAgainstPorcupine has both look at small random histories, good and bad.
func TestCheckerAgainstPorcupine(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	verdicts := [2]int{}
	for range 4000 {
		var ops []Op
		var chain []Version
		var calls []porcupine.Operation
		n := 1 + rng.IntN(5)
		for i := range n {
			from := rng.IntN(30)
			id, prev := uint64(100+i), uint64(0)
			if i > 0 {
				prev = uint64(99 + i)
			}
			ops = append(ops, wrote(id, uint64(i+1), from, from+1+rng.IntN(15)))
			chain = append(chain, Version{uint64(i + 1), id, prev})
		}
		for i := range 3 {
			from, v := rng.IntN(30), uint64(rng.IntN(n+1))
			seen := uint64(0)
			if v > 0 {
				seen = chain[v-1].Op
			}
			ops = append(ops, saw(uint64(1+i), v, seen, from, from+1+rng.IntN(15)))
		}
		for i, o := range ops {
			calls = append(calls, porcupine.Operation{ClientId: i, Input: call{o.Write, o.Number, o.Seen}, Call: int64(o.Call), Return: int64(o.Return)})
		}
		good := CheckObject(ops, chain) == nil
		if want := porcupine.CheckOperations(register, calls); good != want {
			t.Fatalf("the checker says %v, porcupine %v: %+v", good, want, ops)
		}
		if good {
			verdicts[1]++
		} else {
			verdicts[0]++
		}
	}
	if verdicts[0] < 100 || verdicts[1] < 100 {
		t.Fatalf("bad and good histories: %v; want many of both", verdicts)
	}
}
