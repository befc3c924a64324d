package sim

import (
	"encoding/binary"
	"maps"

	"github.com/cespare/xxhash/v2"

	"github.com/ringfence/ringfence/store/replica"
)

// Some nodes do as the driver does: while a replica holds an open token its group hears of a task as soon as that is decided, and its owner reads what the task
// writes beside what is stored. It is stored some ticks later, in order, and before whatever must find it stored: see the contract of replica.Output.

// toldTicks is after how many ticks what was told is stored.
const toldTicks = 4

// told is what a replica's group has heard of and its disk does not hold.
type told struct {
	tasks []*replica.ApplyTask
	kv    map[string]string // the state with them; nil if there are none
	sum   uint64            // of kv
	ticks int
}

// tells reports whether a machine does so: half of them, by seed and number, and not by chance, which would be chance taken from all else.
func tells(cfg *Config, id int) bool {
	if cfg.Stored {
		return false
	}
	b := binary.LittleEndian.AppendUint64(nil, cfg.Seed)
	return xxhash.Sum64(append(b, byte(id)))&1 == 0
}

// mayTell reports whether a task may be done before it is stored: nothing that waits to be stored comes before it, and a view can show it.
func (r *rep) mayTell(t *replica.ApplyTask) bool {
	if !r.n.tells || !r.owns() || r.applies > 0 || t.Conf != nil {
		return false
	}
	for i := range t.Writes {
		if t.Writes[i].IsRange() {
			return false
		}
	}
	return true
}

// tell is what the driver does with such a task.
func (r *rep) tell(t *replica.ApplyTask) {
	w := r.n.w
	if r.told.kv == nil {
		r.told.kv, r.told.sum = maps.Clone(r.image().kv), r.image().sum
	}
	for i := range t.Writes {
		r.told.sum += putState(r.told.kv, &t.Writes[i])
	}
	r.told.tasks = append(r.told.tasks, t)
	w.stats.Told++
	w.trace("told", r.rid, t.Index, r.told.sum)
	w.checkTold(r, t)
	r.g.ApplyDone(r.n.clock(), t)
}

// storeTold stores all that was told. It reports false if the process has ended over it.
func (r *rep) storeTold() bool {
	for len(r.told.tasks) > 0 {
		t := r.told.tasks[0]
		r.told.tasks = r.told.tasks[1:]
		if !r.store(t) {
			return false
		}
	}
	r.told.tasks, r.told.kv = nil, nil
	return true
}

// tickTold stores what was told when its time has come.
func (r *rep) tickTold() {
	if r.told.ticks++; r.told.ticks%toldTicks == 0 && len(r.told.tasks) > 0 && r.n.effect() {
		r.n.truncate(r)
	}
}

// kv is the state as the owner reads it.
func (r *rep) kv() map[string]string {
	if r.told.kv != nil && !mutant.has(toldUnread) {
		return r.told.kv
	}
	return r.image().kv
}

// checkTold looks at what an owner reads that is not stored, as checkImage does at what is: its entries agree with everybody's, and state and fence are what they
// make (I2, I20).
func (w *world) checkTold(r *rep, t *replica.ApplyTask) {
	img, m := r.image(), w.models[r.group]
	for i := r.g.Applied() + 1; i <= t.Index; i++ {
		w.observe(r.n, r.group, img.ents[i-img.trunc-1])
	}
	if w.broken != nil || w.cfg.HistoryOnly {
		return
	}
	want := m.at(t.Index)
	if t.Fence != want.fence {
		w.fail("I2 one committing instance", "group %d, told of %d on node %d: fence %+v, by the rules %+v", r.group, t.Index, r.n.id, t.Fence, want.fence)
	}
	if r.told.sum != want.sum {
		w.fail("I20 replicas agree", "group %d, told of %d on node %d: state %x, by the log %x", r.group, t.Index, r.n.id, r.told.sum, want.sum)
	}
}
