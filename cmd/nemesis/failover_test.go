//go:build linux

package nemesis

import (
	"context"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// owner is a node's answer to the question "owner".
type owner struct {
	Node  uint64 `msgpack:"node"`
	Token uint64 `msgpack:"token"`
}

// failovers counts how often each shard changes owners, as a majority sees it. It asks a few times a second what token each shard has: two
// elections of one shard are further apart than that.
type failovers struct {
	u      *user
	asked  []string
	cancel context.CancelFunc
	done   sync.WaitGroup

	handed map[int]int             // lines of hand-overs in the logs before the fault, by shard
	first  map[int]uint64          // token by shard before the fault
	later  map[int]map[uint64]bool // tokens that came after it
}

// watchFailovers begins to count, among all nodes but one.
func (u *user) watchFailovers(but *process) *failovers {
	u.t.Helper()
	ctx, cancel := context.WithCancel(u.t.Context())
	f := &failovers{u: u, cancel: cancel, handed: u.c.handOvers(u.t), first: map[int]uint64{}, later: map[int]map[uint64]bool{}}
	for _, p := range u.c.nodes {
		if p != but {
			f.asked = append(f.asked, listenAddr(p.number))
		}
	}
	for shard, tokens := range f.look(ctx) {
		for _, token := range tokens {
			f.first[shard] = max(f.first[shard], token)
		}
	}
	if len(f.first) != u.c.shards {
		u.t.Fatalf("the owners of %d shards of %d are known", len(f.first), u.c.shards)
	}
	f.done.Go(func() {
		for pause := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
			for shard, tokens := range f.look(ctx) {
				for _, token := range tokens {
					if token > f.first[shard] {
						if f.later[shard] == nil {
							f.later[shard] = map[uint64]bool{}
						}
						f.later[shard][token] = true
					}
				}
			}
		}
	})
	return f
}

// look asks every node for the tokens it knows.
func (f *failovers) look(ctx context.Context) map[int][]uint64 {
	var mu sync.Mutex
	var askers sync.WaitGroup
	found := map[int][]uint64{}
	for _, addr := range f.asked {
		askers.Go(func() {
			for shard := range f.u.c.shards {
				body, err := msgpack.Marshal(uint32(shard))
				if err != nil {
					return
				}
				asking, cancel := context.WithTimeout(ctx, 2*time.Second)
				b, err := f.u.cl.Request(asking, addr, "owner", body)
				cancel()
				var o owner
				if err != nil || msgpack.Unmarshal(b, &o) != nil || o.Token == 0 {
					continue // asked again soon
				}
				mu.Lock()
				found[shard] = append(found[shard], o.Token)
				mu.Unlock()
			}
		})
	}
	askers.Wait()
	return found
}

var handOver = regexp.MustCompile(`msg="a shard was handed over" node=[0-9a-f]+ shard=([0-9]+) `)

// handOvers counts, by shard, the planned moves that the nodes logged.
func (c *cluster) handOvers(t *testing.T) map[int]int {
	t.Helper()
	n := map[int]int{}
	for _, p := range c.all {
		b, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range handOver.FindAllSubmatch(b, -1) {
			shard, err := strconv.Atoi(string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			n[shard]++
		}
	}
	return n
}

// wantAtMostOne ends the count and wants no shard to have changed owners twice, but for planned moves: the ring may prefer another owner
// than the one that an election made, or finish what it had begun before the fault.
func (f *failovers) wantAtMostOne(t *testing.T) {
	t.Helper()
	f.cancel()
	f.done.Wait()
	handed := f.u.c.handOvers(t)
	changed, moves, most := 0, 0, 0
	for shard, tokens := range f.later {
		planned := handed[shard] - f.handed[shard]
		changed, moves, most = changed+1, moves+planned, max(most, len(tokens)-planned)
		if len(tokens)-planned > 1 {
			late(t, "shard %d changed owners %d times, %d of them planned: token %d, then %v", shard, len(tokens), planned, f.first[shard], slices.Sorted(maps.Keys(tokens)))
		}
	}
	remark(t, "%d of %d shards changed owners; beside %d planned moves each did at most %d times", changed, f.u.c.shards, moves, max(most, 0))
}
