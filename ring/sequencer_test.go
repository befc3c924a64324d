package ring

import (
	"testing"
	"time"
)

// sequencerOf begins a tenure over a toy's ring, all of whose members have just reported.
func sequencerOf(c *toy) *Sequencer {
	q := NewSequencer(SequencerConfig{Alive: 3 * time.Second, ReplaceAfter: time.Minute})
	q.Committed(c.now, c.ring)
	return q
}

// report has every member that lives tell what it knows.
func (c *toy) report(q *Sequencer) {
	f := c.facts()
	for _, m := range c.ring.Members() {
		if !c.alive[m.ID] {
			continue
		}
		rep := Report{Member: m}
		for g := range GroupID(len(c.groups)) {
			if gf, ok := f.Groups[g]; ok && gf.Leader == m.ID {
				rep.Groups = append(rep.Groups, GroupReport{Group: g, Term: 1, Facts: gf})
			}
		}
		if _, err := q.Hear(c.now, &rep); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestSequencerGivesUpWhoIsDeadForLong(t *testing.T) {
	for _, nodes := range []int{3, 4} {
		c := newToy(t, 1, nodes, 8, 3)
		q := sequencerOf(c)
		c.alive[2] = false
		given := time.Duration(0)
		for ; c.now < 3*time.Minute; c.now += 500 * time.Millisecond {
			for i := range c.groups {
				c.work(i)
			}
			c.report(q)
			next, _, lost, err := q.Next(c.now)
			if err != nil {
				t.Fatal(err)
			}
			if lost != 0 && (lost != 2 || given != 0) {
				t.Fatalf("%v: node %s is given up", c.now, lost)
			} else if lost == 2 {
				given = c.now
			}
			if next != nil {
				c.accept(next, "next")
				q.Committed(c.now, next)
			}
		}
		switch _, member := c.ring.Member(2); {
		case nodes == 3 && given != 0:
			t.Errorf("%v: a node is given up though the others cannot hold as many copies", given)
		case nodes == 4 && (given != time.Minute || member):
			t.Errorf("given up at %v, still a member: %v; want a minute after it was heard of last", given, member)
		}
	}
}

// TestSequencerGivesNewMembersTime: who has just been admitted has not reported yet, and is not dead for that, however long the sequencer has been at work. The
// simulation found that.
func TestSequencerGivesNewMembersTime(t *testing.T) {
	c := newToy(t, 1, 3, 8, 3)
	q := sequencerOf(c)
	c.now += 10 * time.Minute
	c.report(q)
	r, err := c.ring.Admit(Member{ID: 4, Addr: "h4:1"})
	if err != nil {
		t.Fatal(err)
	}
	c.accept(r, "admit")
	q.Committed(c.now, r)
	for range 60 {
		c.report(q) // the others; the new one does not live
		if _, _, lost, err := q.Next(c.now); err != nil || lost != 0 {
			t.Fatalf("node %s is given up %v after it was admitted, %v", lost, c.now-10*time.Minute, err)
		}
		c.now += time.Second
	}
	c.report(q)
	if _, _, lost, _ := q.Next(c.now); lost != 4 {
		t.Fatal("a member that never reports is never given up")
	}
}

func TestSequencerHears(t *testing.T) {
	c := newToy(t, 1, 3, 8, 3)
	q := sequencerOf(c)
	if _, err := q.Hear(0, &Report{Member: Member{ID: 9}, Epoch: c.ring.epoch}); err != ErrNoMember {
		t.Errorf("hears of who is no member: %v", err)
	}
	// One that a later ring has admitted is not told that it is no member by a sequencer that has not heard of that.
	if _, err := q.Hear(0, &Report{Member: Member{ID: 9}, Epoch: c.ring.epoch + 1}); err != ErrBehind {
		t.Errorf("speaks for a ring that it does not know: %v", err)
	}
	m, _ := c.ring.Member(1)
	tell := func(id NodeID, groups ...GroupReport) {
		o, _ := c.ring.Member(id)
		if news, err := q.Hear(c.now, &Report{Member: o, Groups: groups}); news != nil || err != nil {
			t.Errorf("member %s: news %v, %v", id, news, err)
		}
	}
	led := func(id NodeID, term uint64) GroupReport {
		return GroupReport{Group: 1, Term: term, Facts: GroupFacts{Leader: id}}
	}
	leader := func() NodeID { return q.Facts(c.now).Groups[1].Leader }
	tell(1, led(1, 5))
	if tell(2, led(2, 4)); leader() != 1 {
		t.Error("who led in an earlier term is believed")
	}
	if tell(2, led(2, 6)); leader() != 2 {
		t.Error("who leads in a later term is not believed")
	}
	if tell(1); leader() != 2 {
		t.Error("who leads no more takes another's report along")
	}
	if tell(2); leader() != 0 {
		t.Error("who leads no more is believed")
	}
	tell(1, led(1, 7))
	c.now += 4 * time.Second
	if f := q.Facts(c.now); f.Nodes[1].Alive || leader() != 0 {
		t.Error("who was not heard of for long is believed")
	}
	at := m
	at.Boot, at.State = 77, Leaving
	if news, err := q.Hear(c.now, &Report{Member: at}); err != nil || news == nil || news.Boot != 77 || news.State != m.State {
		t.Errorf("a new process of member 1 is told as %+v", news)
	}
	if f := q.Facts(c.now); !f.Nodes[1].Alive || f.Nodes[2].Alive {
		t.Errorf("alive: %+v", f.Nodes)
	}
}
