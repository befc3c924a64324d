package sim

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store"
)

// objects per shard whose calls are checked. One more, of a class that allows stale replies, is not.
const objects = 3

// model is what an observer of everything knows of one shard: the log that its replicas agreed on, and what it means by a second
// implementation of the fence's rules.
type model struct {
	group    int
	ringPut  func([]byte) string                 // of the system group: a ring took effect
	check    func(*model, *store.Command) string // of the others: what an accepted batch must obey
	founders []uint64
	conf     conf   // by the rules
	confs    []conf // all that were reached, the newest last

	log    []agreed // entry i+2 of the log
	fence  store.Fence
	actual store.Fence // by the code under test: what its rules, weakened ones too, let through
	state  map[string]string
	sum    uint64
	chains [objects][]Version
	where  map[batchID]uint64 // log index of batches that took effect
	opened map[store.Token]ownerID
	cmd    store.Command
}

type agreed struct {
	entry *raftpb.Entry
	fence store.Fence // after it
	sum   uint64
	conf  int // of confs
}

type batchID struct {
	token store.Token
	seq   uint64
}

type ownerID struct {
	node int
	boot uint64
}

func newModel(group int, voters []uint64) *model {
	return &model{group: group, founders: voters, conf: conf{voters: voters}, confs: []conf{{voters: voters}}, state: map[string]string{}, where: map[batchID]uint64{}, opened: map[store.Token]ownerID{}}
}

// last is the index of the newest entry that any replica has applied.
func (m *model) last() uint64 { return uint64(len(m.log)) + 1 }

func (m *model) at(index uint64) *agreed { return &m.log[index-2] }

// observe takes an entry that a replica applied at its place. It returns what is wrong with it, or "".
func (m *model) observe(e *raftpb.Entry) string {
	index := e.GetIndex()
	if index <= m.last() {
		old := m.at(index).entry
		if old != e && (old.GetTerm() != e.GetTerm() || !bytes.Equal(old.GetData(), e.GetData())) {
			return "another entry was applied there by another replica"
		}
		return ""
	}
	if index != m.last()+1 {
		return "entries before it were never applied anywhere"
	}
	if len(e.GetData()) > 0 && e.GetType() == raftpb.EntryNormal {
		if err := store.DecodeCommand(e.GetData(), &m.cmd); err != nil {
			return err.Error()
		}
		if wrong := m.step(index, e.GetTerm(), &m.cmd); wrong != "" {
			return wrong
		}
	}
	if e.GetType() != raftpb.EntryNormal {
		if wrong := m.change(e); wrong != "" {
			return wrong
		}
	}
	m.log = append(m.log, agreed{entry: e, fence: m.fence, sum: m.sum, conf: len(m.confs) - 1})
	return ""
}

func (m *model) step(index, term uint64, c *store.Command) (wrong string) {
	m.fence = fenceRules(m.fence, index, term, c)
	var verdict store.Verdict
	m.actual, verdict = m.actual.Step(index, term, c)
	if verdict != store.Accepted || c.Kind != store.KindBatch {
		return ""
	}
	if m.check != nil {
		if wrong := m.check(m, c); wrong != "" {
			return "I11 alarms: " + wrong
		}
	}
	for i := range c.Count {
		m.where[batchID{c.Token, c.Seq + uint64(i)}] = index
	}
	for i := range c.Writes {
		w := &c.Writes[i]
		m.sum += putState(m.state, w)
		if m.group == 0 {
			if wrong := m.ringPut(w.Value); wrong != "" {
				return wrong
			}
			continue
		}
		if object, v, ok := decodeVersion(w.Key, w.Value); ok && object < objects {
			m.chains[object] = append(m.chains[object], v)
		}
	}
	return ""
}

// fenceRules is the fence of design.md 2.4, written a second time and in one piece.
func fenceRules(f store.Fence, index, term uint64, c *store.Command) store.Fence {
	if c.Kind == store.KindAcquire {
		a := c.Acquire
		if a.Prev == f.Token && a.Term == term && a.Epoch >= f.Epoch {
			return store.Fence{Token: store.Token(index), Epoch: a.Epoch, Term: term, Holder: a.Holder}
		}
		return f
	}
	if c.Token != f.Token || f.Released || c.Seq != f.Seq+1 {
		return f
	}
	if c.Kind == store.KindRelease {
		f.Seq, f.Released = c.Seq, true
	} else {
		f.Seq += uint64(c.Count)
	}
	return f
}

// Version is what a write leaves in an object: its number, its operation, and the operation before.
type Version struct {
	Number, Op, Prev uint64
}

func objectKey(object int) string { return string([]byte{'o', byte(object)}) }

func encodeVersion(v Version) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 24), v.Number)
	b = binary.BigEndian.AppendUint64(b, v.Op)
	return binary.BigEndian.AppendUint64(b, v.Prev)
}

func decodeVersion(key, value []byte) (object int, v Version, ok bool) {
	if len(key) != 2 || key[0] != 'o' || int(key[1]) > objects || len(value) != 24 {
		return 0, v, false
	}
	return int(key[1]), parseVersion(value), true
}

func parseVersion(b []byte) Version {
	return Version{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
}

func versionIn(kv map[string]string, object int) Version {
	_, v, _ := decodeVersion([]byte(objectKey(object)), []byte(kv[objectKey(object)]))
	return v
}
