package host

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// TestAlarmScripts plays testdata/alarms/*.txt: a line is a call of the machine, the lines under it that begin with two blanks are what it answers.
func TestAlarmScripts(t *testing.T) { playAll(t, "testdata/alarms/*.txt", playAlarms) }

var scriptLimits = alarmLimits{window: 4, low: 2, crowd: 2, flights: 3, slow: 1000, unknown: 60_000, rescan: 1000}

func playAlarms(text string) string {
	a := newAlarms(scriptLimits)
	where := map[string]ring.ShardID{}
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if f[0] == "next" {
			for more := true; more; {
				s := a.next(milli(f[1]))
				more = s.Act == alarmDeliver
				where[s.ID.Key] = s.Shard
				fmt.Fprintln(&out, "  "+s.String())
			}
			continue
		}
		alarmCommand(a, f, where)
	}
	return out.String()
}

func (s alarmStep) String() string {
	switch s.Act {
	case alarmDeliver:
		return fmt.Sprintf("deliver %s of shard %d, due %d", s.ID.Key, s.Shard, s.At)
	case alarmScan:
		from := "the start"
		if at, _, key, ok := store.ParseAlarmKey(s.From); ok {
			from = fmt.Sprint(at, " ", key)
		}
		return fmt.Sprintf("scan shard %d from %s", s.Shard, from)
	}
	if s.Until == 0 {
		return "wait"
	}
	return fmt.Sprintf("wait until %d", s.Until)
}

func scriptID(key string) actor.ID { return actor.ID{Class: "C", Key: key} }

func alarmCommand(a *alarms, f []string, where map[string]ring.ShardID) {
	const token = 7
	option := func(name string) int64 {
		if i := slices.Index(f, name); i >= 0 {
			return milli(f[i+1])
		}
		return 0
	}
	if f[0] == "done" {
		v := map[string]verdict{"settled": alarmSettled, "failed": alarmFailed, "refused": alarmRefused, "unknown": alarmUnknown}[f[2]]
		a.done(where[f[1]], token, scriptID(f[1]), v, option("stored"), option("at"), 0)
		return
	}
	s := ring.ShardID(milli(f[1]))
	switch f[0] {
	case "open":
		a.open(s, token, false)
	case "close":
		a.close(s, token)
	case "pause", "resume":
		a.pause(s, token, f[0] == "pause")
	case "change":
		at := milli(f[2][1:])
		a.change(s, token, []alarmChange{{gone: f[2][0] == '-', indexed: indexed{at, scriptID(f[3])}}})
	case "notscanned":
		a.notScanned(s, token, option("at"))
	case "scanned":
		var found []indexed
		var next []byte
		for i := 2; i < len(f); i += 2 {
			if f[i] == "next" {
				next = indexed{milli(f[i+1]), scriptID(f[i+2])}.key()
				break
			}
			found = append(found, indexed{milli(f[i]), scriptID(f[i+1])})
		}
		a.scanned(s, token, found, next)
	default:
		panic(f[0])
	}
}

func milli(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// alarmModel is the whole truth that the machine knows a part of: the index of one shard, and what was done with its alarms.
type alarmModel struct {
	t        *testing.T
	rng      *rand.Rand
	a        *alarms
	now      int64
	shard    ring.ShardID
	index    map[actor.ID]int64
	flying   map[actor.ID]int64 // since when
	late     map[actor.ID]int64 // not to be expected before
	paused   bool
	scanning bool
	blind    int64 // until when it cannot know what is beyond its horizon
	from     []byte
	limit    int
	snapshot []indexed
}

// sorted is the index in order.
func (m *alarmModel) sorted() (all []indexed) {
	for id, at := range m.index {
		all = append(all, indexed{at, id})
	}
	slices.SortFunc(all, indexed.compare)
	return all
}

// change is a batch that is applied.
func (m *alarmModel) change(id actor.ID, at int64) {
	var c []alarmChange
	if old := m.index[id]; old != 0 && old != at {
		c = append(c, alarmChange{gone: true, indexed: indexed{old, id}})
	}
	delete(m.index, id)
	if at != 0 {
		m.index[id] = at
		c = append(c, alarmChange{indexed: indexed{at, id}})
	}
	if m.rng.IntN(2) == 0 {
		slices.Reverse(c)
	}
	delete(m.late, id)
	m.a.change(m.shard, 1, c)
}

func (m *alarmModel) scanned() {
	var found []indexed
	var next []byte
	for _, i := range m.snapshot {
		if bytes.Compare(i.key(), m.from) < 0 {
			continue
		}
		if len(found) == m.limit {
			next = i.key()
			break
		}
		found = append(found, i)
	}
	m.scanning = false
	m.a.scanned(m.shard, 1, found, next)
}

// poll asks the machine until it waits, and checks that it waits for nothing that is due.
func (m *alarmModel) poll() {
	for {
		s := m.a.next(m.now)
		switch s.Act {
		case alarmDeliver:
			switch _, twice := m.flying[s.ID]; {
			case twice:
				m.t.Fatalf("%v is delivered twice at once", s.ID)
			case s.At > m.now:
				m.t.Fatalf("%v is delivered early", s.ID)
			case m.paused:
				m.t.Fatal("a delivery while paused")
			}
			m.flying[s.ID] = m.now
			if n := len(m.flying); n > m.a.limits.flights {
				m.t.Fatalf("%d deliveries", n)
			}
		case alarmScan:
			if m.scanning || m.paused {
				m.t.Fatal("two scans at once, or one while paused")
			}
			m.scanning, m.from, m.limit = true, s.From, s.Limit
			m.snapshot = m.sorted() // a scan sees one moment, not before it was asked for
		default:
			m.idle(s.Until)
			return
		}
	}
}

func (m *alarmModel) idle(until int64) {
	fresh := 0
	for _, since := range m.flying {
		if since+m.a.limits.slow > m.now {
			fresh++
		}
	}
	if fresh > m.a.limits.crowd {
		m.t.Fatalf("%d fresh deliveries at once", fresh)
	}
	if until != 0 && until <= m.now {
		m.t.Fatalf("waits until %d, at %d", until, m.now)
	}
	if m.scanning || m.paused || fresh == m.a.limits.crowd || len(m.flying) == m.a.limits.flights {
		return
	}
	for id, at := range m.index {
		if _, ok := m.flying[id]; ok {
			continue
		}
		if at = max(at, m.late[id], m.blind); at <= m.now || until == 0 || until > at {
			m.t.Fatalf("at %d: %v is due at %d, but the machine waits until %d", m.now, id, at, until)
		}
	}
}

// land ends one delivery, as a handler would: its alarm done, set anew, or nothing that was stored.
func (m *alarmModel) land() {
	ids := slices.SortedFunc(func(yield func(actor.ID) bool) {
		for id := range m.flying {
			if !yield(id) {
				return
			}
		}
	}, func(a, b actor.ID) int { return strings.Compare(a.Key, b.Key) })
	if len(ids) == 0 {
		return
	}
	id := ids[m.rng.IntN(len(ids))]
	v, stored := alarmSettled, int64(0)
	at, ok := m.index[id]
	switch x := m.rng.IntN(10); {
	case !ok: // deleted meanwhile: the delivery found nothing
	case at > m.now: // moved meanwhile
		stored = at
	case x == 0:
		v = alarmFailed
	case x == 1:
		v = alarmRefused
	case x == 2:
		v = alarmUnknown
	case x == 3:
		m.change(id, m.now+m.rng.Int64N(3000))
	default:
		m.change(id, 0)
	}
	delete(m.flying, id)
	full := len(m.a.find(m.shard, 1).late) >= m.a.limits.window
	m.a.done(m.shard, 1, id, v, stored, m.now, m.rng.Float64())
	switch v {
	case alarmFailed:
		m.late[id] = m.now + 64_000*5/4
	case alarmRefused:
		m.late[id] = m.now + 100
	}
	if v == alarmUnknown || v == alarmRefused && full { // left out until the index is read again
		m.late[id] = m.now + m.a.limits.unknown
	}
}

func (m *alarmModel) step() {
	id := scriptID(strconv.Itoa(m.rng.IntN(60)))
	switch x := m.rng.IntN(20); {
	case x < 7:
		m.change(id, m.now+1+m.rng.Int64N(20_000))
	case x < 9:
		m.change(id, max(1, m.now-m.rng.Int64N(5000)))
	case x < 10:
		m.change(id, 0)
	case x < 14:
		m.land()
	case x < 16 && m.scanning:
		m.scanned()
	case x < 17 && m.scanning:
		m.scanning = false
		m.a.notScanned(m.shard, 1, m.now)
		m.blind = m.now + m.a.limits.rescan
	case x == 17:
		m.paused = !m.paused
		m.a.pause(m.shard, 1, m.paused)
	default:
		m.now += m.rng.Int64N(2000)
	}
}

// TestAlarmsAgainstModel drives the machine with random changes, slow and failing scans, and deliveries that end in every way. At no moment does it
// sleep past an alarm that is in the index, deliver one early or twice at once, or too many; and in the end all have been delivered.
func TestAlarmsAgainstModel(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		m := &alarmModel{t: t, rng: rand.New(rand.NewPCG(uint64(seed), 7)), now: 100_000, shard: 3, index: map[actor.ID]int64{}, flying: map[actor.ID]int64{},
			late: map[actor.ID]int64{}}
		limits := scriptLimits
		limits.window, limits.low, limits.flights = 4+seed%20, 1+seed%4, 3+seed%5
		m.a = newAlarms(limits)
		for i := range seed % 80 {
			m.index[scriptID(strconv.Itoa(i))] = m.now - 3000 + m.rng.Int64N(6000)
		}
		m.a.open(m.shard, 1, false)
		for range 600 {
			m.poll()
			m.step()
		}
		m.finish(seed)
	}
}

// finish changes nothing any more but for what was delivered.
func (m *alarmModel) finish(seed int) {
	m.a.pause(m.shard, 1, false)
	m.paused = false
	for i := 0; len(m.index) > 0 || len(m.flying) > 0; i++ {
		m.poll()
		if m.scanning {
			m.scanned()
		}
		for range 5 {
			m.land()
		}
		m.now += 1000
		if i > 20_000 {
			m.t.Fatalf("seed %d: left are %v", seed, m.sorted())
		}
	}
	m.poll()
	if m.scanning {
		m.scanned()
	}
	if m.a.flying != 0 || m.a.crowd != 0 {
		m.t.Fatalf("seed %d: %d deliveries are not forgotten, %d of them fresh", seed, m.a.flying, m.a.crowd)
	}
}

func TestAlarmRecord(t *testing.T) {
	for _, r := range []alarmRecord{newAlarm(1), newAlarm(1 << 60), {scheduled: 5, due: 7, counted: 6, uncounted: 1 << 31, backoff: 9}} {
		if got, ok := decodeAlarm(r.encode()); !ok || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, ok)
		}
	}
	good := (&alarmRecord{scheduled: 5, due: 7}).encode()
	for _, b := range [][]byte{nil, good[:5], append(slices.Clone(good), 0), (&alarmRecord{}).encode(), (&alarmRecord{scheduled: -1, due: 1}).encode(),
		(&alarmRecord{scheduled: 1, due: 1, counted: 7}).encode(), (&alarmRecord{scheduled: 1, due: 1, backoff: 10}).encode()} {
		if r, ok := decodeAlarm(b); ok {
			t.Errorf("%x was read as %+v", b, r)
		}
	}
}

func TestAlarmBackoff(t *testing.T) {
	r := newAlarm(50)
	fail := func(byClass bool, jitter float64, delay int64) {
		t.Helper()
		next, ok := r.failed(1000, byClass, jitter)
		if !ok || next.due != 1000+delay || next.scheduled != 50 {
			t.Fatalf("after %+v: %+v, %v; want it in %d ms", r, next, ok, delay)
		}
		r = next
	}
	fail(true, 0, 2000)
	fail(true, 0.5, 4500)
	for _, d := range []int64{8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024} {
		fail(false, 0, d*1000)
	}
	if r.counted != 2 || !r.retry() {
		t.Fatalf("%+v", r)
	}
	// A failure of the class's begins again with 2 s; the counted ones go on counting.
	for _, d := range []int64{2, 4, 8, 16} {
		fail(true, 0, d*1000)
	}
	fail(false, 0.999, 32_000+7992)
	if r.counted != 6 {
		t.Fatalf("%+v", r)
	}
	if _, ok := r.failed(1000, true, 0); ok {
		t.Error("a seventh retry")
	}
	r.uncounted = ^uint32(0)
	if next, ok := r.failed(0, false, 0); !ok || next.uncounted != ^uint32(0) {
		t.Errorf("%+v, %v", next, ok)
	}
}

func FuzzDecodeAlarm(f *testing.F) {
	f.Add((&alarmRecord{scheduled: 5, due: 7, counted: 3, uncounted: 2, backoff: 4}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := decodeAlarm(b); ok && !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x came back as %x", b, r.encode())
		}
	})
}
