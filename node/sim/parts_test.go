package sim

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
)

func TestSchedulerOrdersByTimeThenByAsking(t *testing.T) {
	s := newScheduler(1, nil)
	var got, want []string
	for i := range 500 {
		d := time.Duration(s.pick(20))
		name := fmt.Sprintf("%02d-%03d", d, i)
		want = append(want, name)
		s.after(d, func() { got = append(got, name) })
	}
	slices.Sort(want)
	for s.next(time.Second) {
	}
	if !slices.Equal(got, want) {
		t.Fatalf("ran in order %v", got)
	}
	if s.now != time.Second {
		t.Fatalf("time stands at %v", s.now)
	}
}

// TestCrashKeepsAPrefix compares a disk after a crash with what each prefix of its operations makes.
func TestCrashKeepsAPrefix(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	kept := map[int]int{}
	for range 300 {
		voters := []uint64{101, 102, 103}
		d := newDisk(2)
		d.place(0, newImage(0, voters))
		model := newImage(0, voters)
		prefixes := []*image{model.clone()}
		n, synced := 3+rng.IntN(20), 0
		for i := range n {
			op := randomOp(rng, model, uint64(i))
			model.do(&op)
			prefixes = append(prefixes, model.clone())
			pos := d.write(op)
			if d.cur[0].sum != model.sum || d.cur[0].last() != model.last() {
				t.Fatal("what is written is not what is read")
			}
			if rng.IntN(6) == 0 {
				d.sync(pos)
				synced = i + 1
			}
		}
		d.crash(rng)
		found := -1
		for i, p := range prefixes {
			if i >= synced && same(d.cur[0], p) {
				found = i
			}
		}
		if found < 0 || !same(d.cur[0], d.base[0]) {
			t.Fatalf("%d operations, %d synced: what is left is no prefix of them", n, synced)
		}
		kept[found-synced]++
	}
	if kept[0] < 10 || len(kept) < 4 {
		t.Fatalf("unsynced operations kept, and how often: %v; want all sorts", kept)
	}
}

func randomOp(rng *rand.Rand, m *image, i uint64) diskOp {
	if last := m.last(); last > m.applied && rng.IntN(2) == 0 {
		w := store.Write{Key: []byte{byte(rng.IntN(3))}, Value: []byte{byte(i)}}
		return diskOp{task: &replica.ApplyTask{Index: m.applied + 1, Fence: store.Fence{Token: store.Token(i)}, Writes: []store.Write{w}}}
	}
	if m.applied > m.trunc+2 && rng.IntN(4) == 0 {
		return diskOp{truncate: m.applied - 1}
	}
	first := max(m.applied, m.trunc) + 1
	if last := m.last(); last > first && rng.IntN(3) > 0 {
		first = last + 1
	}
	e := &raftpb.Entry{Index: proto.Uint64(first), Term: proto.Uint64(i + 2), Data: []byte{byte(i)}}
	return diskOp{msg: &raftpb.Message{Term: proto.Uint64(i + 2), Commit: proto.Uint64(m.applied), Entries: []*raftpb.Entry{e}}}
}

func same(a, b *image) bool {
	x, y := *a, *b
	x.snap, y.snap = nil, nil
	if len(x.ents) == 0 && len(y.ents) == 0 {
		x.ents, y.ents = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func TestSnapshotCarriesAllOfAState(t *testing.T) {
	m := newImage(0, []uint64{101})
	for i := range 50 {
		m.put(&store.Write{Key: []byte{byte(i % 7)}, Value: []byte(strings.Repeat("v", i))})
	}
	m.put(&store.Write{Key: []byte{2}, End: []byte{4}, Delete: true})
	if len(m.kv) != 5 {
		t.Fatalf("two of seven removed, left %v", m.kv)
	}
	kv, sum := decodeState(encodeState(m.kv))
	if !reflect.DeepEqual(kv, m.kv) || sum != m.sum {
		t.Fatalf("%v with sum %x became %v with sum %x", m.kv, m.sum, kv, sum)
	}
}

func TestMinimiseKeepsWhatIsNeeded(t *testing.T) {
	need := set(pause, cutRing)
	got := Minimise(Config{Seed: 5}, allClasses, 2, func(c Config) bool { return c.Profile.Only&need == need })
	if got.Profile.Only != need {
		t.Fatalf("left: %v", got.Profile.Only)
	}
	// One class less fails with another seed only.
	got = Minimise(Config{Seed: 5}, need, 2, func(c Config) bool { return c.Profile.Only == set(pause) && c.Seed != 5 })
	if got.Profile.Only != set(pause) || got.Seed == 5 {
		t.Fatalf("left: %v, seed %d", got.Profile.Only, got.Seed)
	}
}

func TestEveryCutLeavesANodeOnSpeakingTermsWithItself(t *testing.T) {
	for class := cutOne; class <= cutLink; class++ {
		for seed := range uint64(50) {
			w := &world{scheduler: newScheduler(seed, nil), cfg: Config{Seed: seed}}
			w.cfg.Profile.fill()
			w.cfg.Virtual = time.Minute
			w.build()
			w.net.cut(class)
			cut := 0
			for i := range w.nodes {
				if w.net.blocked[i][i] {
					t.Fatalf("%v cuts node %d from itself", class, i)
				}
				for j := range w.nodes {
					if w.net.blocked[i][j] {
						cut++
						if class != cutOneWay && !w.net.blocked[j][i] {
							t.Fatalf("%v cuts one direction", class)
						}
					}
				}
			}
			if cut == 0 && !(class == cutBridge && len(w.nodes) < 3) {
				t.Fatalf("%v cuts nothing among %d nodes", class, len(w.nodes))
			}
		}
	}
}

func TestReportNamesWhatNeverHappened(t *testing.T) {
	s := Stats{Seeds: 1, Acked: 2}
	zero := s.Zero()
	if slices.Contains(zero, "seeds") || slices.Contains(zero, "calls answered") || !slices.Contains(zero, "fault: pause") {
		t.Fatal(zero)
	}
	sum := Stats{}
	one := reflect.ValueOf(&s).Elem()
	for i := range one.NumField() { // every field counts in a sum
		switch f := one.Field(i); f.Kind() {
		case reflect.Array:
			f.Index(0).SetInt(3)
		default:
			f.SetInt(3)
		}
	}
	sum.Add(&s)
	sum.Add(&s)
	got := reflect.ValueOf(sum)
	for i := range got.NumField() {
		f := got.Field(i)
		if f.Kind() == reflect.Array {
			f = f.Index(0)
		}
		if want := int64(6); f.Int() != want && got.Type().Field(i).Name != "SlowestServe" {
			t.Errorf("%s adds up to %d", got.Type().Field(i).Name, f.Int())
		}
	}
}
