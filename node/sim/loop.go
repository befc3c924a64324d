package sim

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/ringfence/ringfence/store/replica"
)

// This file plays the driver's loop and the appender's: what a group wants done is done in the order of the contract of replica.Output.

// drain does what a group wants done, in the order of the contract of replica.Output.
func (n *node) drain(r *rep) {
	for n.up && !r.gone && r.g.HasReady() {
		out := r.g.Ready()
		r.own.events(out.Lost)
		for _, m := range out.Send {
			if !n.effect() {
				return
			}
			n.w.net.send(n, packet{Message: m})
		}
		for _, p := range out.Pings {
			if !n.effect() {
				return
			}
			n.w.net.send(n, packet{ping: p})
		}
		for _, m := range out.Append {
			if !n.effect() {
				return
			}
			n.appends = append(n.appends, appendTask{r: r, msg: m})
			n.writeAppends()
		}
		for _, t := range out.Apply {
			if !n.effect() {
				return
			}
			if r.mayTell(t) {
				r.tell(t)
				continue
			}
			if !r.storeTold() {
				return
			}
			r.applies++
			n.applies = append(n.applies, applyTask{r, t})
		}
		r.own.events(out.Events)
		n.runApplies()
	}
	if err := r.g.Err(); err != nil {
		n.w.fail("replica works", "replica %d halted: %v", r.rid, err)
	}
}

// writeAppends writes Append tasks in order. One with a snapshot waits for the Apply tasks before it, or they would be stored over it.
func (n *node) writeAppends() {
	for len(n.appends) > 0 {
		t := n.appends[0]
		if t.r.gone {
			n.appends = n.appends[1:]
			continue
		}
		if !raft.IsEmptySnap(t.msg.GetSnapshot()) {
			if t.r.applies > 0 || !t.r.storeTold() {
				return
			}
			n.w.stats.Snapshots++
			n.w.trace("snapshot", t.r.rid, t.msg.GetSnapshot().GetMetadata().GetIndex(), 0)
		}
		n.appends = n.appends[1:]
		pos := n.disk.write(diskOp{group: t.r.group, msg: t.msg})
		if t.vital() {
			n.vital = pos
		}
		if len(t.msg.GetResponses()) > 0 && !mutant.has(ackBeforeSync) {
			t.need = n.vital
		}
		if !raft.IsEmptySnap(t.msg.GetSnapshot()) {
			n.w.checkImage(n, t.r.group)
		}
		n.waiting = append(n.waiting, t)
	}
	n.sync()
}

// vital reports whether a response may vouch for what the task writes: entries, a snapshot, another term or vote. The commit index
// may be lost, it is learned again.
func (t *appendTask) vital() bool {
	changed := false
	if t.msg.GetTerm() != 0 {
		changed = t.msg.GetTerm() != t.r.term || t.msg.GetVote() != t.r.vote
		t.r.term, t.r.vote = t.msg.GetTerm(), t.msg.GetVote()
	}
	return changed || len(t.msg.GetEntries()) > 0 || !raft.IsEmptySnap(t.msg.GetSnapshot())
}

// sync sends responses for which all is synced, and makes the rest durable: one fsync for all groups.
func (n *node) sync() {
	inc := n.inc
	if len(n.waiting) > 0 && n.waiting[0].need <= n.disk.done && !n.sending {
		n.sending = true
		n.w.after(n.w.between(5*time.Microsecond, 50*time.Microsecond), func() { n.do(inc, n.respond) })
	}
	if n.syncing || n.vital <= n.disk.done {
		return
	}
	n.syncing = true
	pos := n.disk.end()
	d := n.w.between(100*time.Microsecond, 1200*time.Microsecond)
	if n.w.now < n.slowUntil {
		d = n.slowSync
	}
	n.w.after(d, func() {
		if n.inc != inc {
			return
		}
		if n.failSync { // nothing may be concluded from a failed fsync: the process ends
			n.failSync = false
			n.w.count(syncError)
			n.crash()
			return
		}
		n.disk.sync(pos)
		n.w.checkSynced(n)
		n.do(inc, func() {
			n.syncing = false
			n.w.trace("synced", uint64(n.id), pos, 0)
			n.respond()
		})
	})
}

func (n *node) respond() {
	n.sending = false
	for n.up && len(n.waiting) > 0 && n.waiting[0].need <= n.disk.done {
		t := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.appended(t)
		if n.up && n.applying && n.w.faulty(crashInChange) && endsChange(t.msg) && slices.ContainsFunc(n.applies, n.votesBefore) {
			n.w.crashedInChange(n, t.r)
			return
		}
	}
	if n.up {
		n.sync()
	}
}

func (n *node) appended(t appendTask) {
	if t.r.gone {
		return
	}
	inc := n.inc
	n.w.trace("appended", t.r.rid, t.need, uint64(len(t.msg.GetEntries())))
	t.r.g.AppendDone(n.clock(), t.msg, func(m *raftpb.Message) {
		if n.inc == inc && n.effect() {
			n.w.net.send(n, packet{Message: m})
		}
	})
	n.drain(t.r)
}

func (n *node) slowFor(d time.Duration) {
	if !n.up {
		return
	}
	n.w.count(slowDisk)
	n.w.trace("slow disk", uint64(n.id), uint64(d), 0)
	n.slowUntil = n.w.now + d
	n.slowSync = n.w.between(20*time.Millisecond, 3*timing.Election())
}

// runApplies stores Apply tasks in order, at once or a little later.
func (n *node) runApplies() {
	for n.up && !n.applying && len(n.applies) > 0 {
		late := n.w.faulty(crashInChange) && n.votesBefore(n.applies[0])
		if late || n.w.faulty(slowApply) && n.w.chance(0.05) {
			n.w.count(slowApply)
			n.applying = true
			inc := n.inc
			n.w.after(n.w.between(time.Millisecond, timing.Election()), func() {
				n.do(inc, func() {
					n.applying = false
					n.applyOne()
					n.runApplies()
				})
			})
			return
		}
		n.applyOne()
	}
}

// votesBefore reports whether a task begins a joint change of a group in which the replica has a vote, and does not lead.
func (n *node) votesBefore(t applyTask) bool {
	return !t.r.gone && len(t.task.Conf.GetVotersOutgoing()) > 0 && !t.r.leads() && slices.Contains(t.r.image().conf.GetVoters(), t.r.rid)
}

// endsChange reports whether a joint change ends in what is appended.
func endsChange(m *raftpb.Message) bool {
	return slices.ContainsFunc(m.GetEntries(), func(e *raftpb.Entry) bool {
		return e.GetType() == raftpb.EntryConfChangeV2 && len(e.GetData()) == 0
	})
}

func (n *node) applyOne() {
	t := n.applies[0]
	n.applies = n.applies[1:]
	r := t.r
	if r.gone {
		return
	}
	r.applies--
	if !r.store(t.task) || !n.effect() {
		return
	}
	r.g.ApplyDone(n.clock(), t.task)
	n.truncate(r)
	n.writeAppends()
	n.drain(r)
}

// store writes a task's effects. It reports false if the process has ended over it.
func (r *rep) store(t *replica.ApplyTask) bool {
	n := r.n
	if mutant.has(fenceApart) {
		n.disk.write(diskOp{group: r.group, task: t, noFence: true})
		if !n.effect() {
			return false
		}
		n.disk.write(diskOp{group: r.group, task: t, onlyFnce: true})
	} else {
		n.disk.write(diskOp{group: r.group, task: t})
	}
	if t.Conf != nil {
		if !n.effect() {
			return false
		}
		n.disk.sync(n.disk.end())
	}
	n.w.trace("apply", r.rid, t.Index, n.disk.cur[r.group].sum)
	n.w.checkImage(n, r.group)
	return true
}

// truncate keeps the log small, so that who was away needs a snapshot. Nothing goes that is not stored.
func (n *node) truncate(r *rep) {
	if !r.storeTold() {
		return
	}
	img := n.disk.cur[r.group]
	if upTo, ok := r.g.LogKeep(img.trunc+1, len(img.ents), n.w.keep); ok {
		if len(img.ents) <= 8*n.w.keep { // who is being sent a snapshot goes on from there by the log
			for _, index := range r.sends {
				upTo = min(upTo, index)
			}
		}
		n.disk.write(diskOp{group: r.group, truncate: upTo})
		n.w.stats.Truncations++
	}
}
