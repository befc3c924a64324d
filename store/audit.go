package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ringfence/ringfence/ring"
)

// ReplicaHistory is what one replica says of its group.
type ReplicaHistory struct {
	Node        ring.NodeID
	Replica     ring.ReplicaID
	Head        HistoryHead
	Tenures     []Tenure     // ended, ascending, without holes
	Checkpoints []Checkpoint // ascending, without holes
	Recent      []Print      // of the last entries, ascending; may be empty
}

func (r *ReplicaHistory) name() string { return fmt.Sprintf("node %v (replica %d)", r.Node, r.Replica) }

// all are the tenures of the history, the current one last.
func (r *ReplicaHistory) all() []Tenure {
	if r.Head.Tenure.Token == 0 {
		return r.Tenures
	}
	return append(slices.Clip(r.Tenures), r.Head.Tenure)
}

// reaches is the index after which the history has every tenure that began.
func (r *ReplicaHistory) reaches() uint64 {
	if n := len(r.Tenures); uint64(n) < r.Head.Ended {
		if n == 0 {
			return max(r.Head.Since, uint64(r.Head.Tenure.Token)-1)
		}
		return max(r.Head.Since, uint64(r.Tenures[0].Token)-1)
	}
	return r.Head.Since
}

// whole reports whether the tenure was seen from its acquire on.
func (t *Tenure) whole() bool { return t.At.Index != 0 }

// gap is how many batches are missing in the sequence, or too many.
func (t *Tenure) gap() int64 {
	released := uint64(0)
	if t.Released != 0 && t.Seq > t.SeqFrom {
		released = 1 // the release has a number too
	}
	return int64(t.Seq - t.SeqFrom - released - t.Batches)
}

// GroupAudit is the result of holding the histories of one group's replicas against the rules and against each other.
type GroupAudit struct {
	Group      ring.GroupID
	Violations []string // each names indices, tokens and nodes
	Replicas   int      // whose histories were compared
	Tenures    int      // tokens seen, on any replica
	Batches    uint64   // under these
	Refused    uint64   // commands that the fence refused, as far as rows tell
	From       uint64   // tenures that began after this index are all there, on the replica that remembers most
	Since      int64    // when the first of them began, in milliseconds since 1970; 0 if not known
	Equal      uint64   // up to this index all replicas are known to have seen the same take effect; 0 if they could not be compared
	EqualFrom  uint64   // from which index on that holds
	Last       uint64   // the highest index that any replica has
}

// Audit checks the histories of one group. It knows neither fence nor log: its rules are written a second time.
func Audit(g ring.GroupID, replicas []ReplicaHistory) GroupAudit {
	a := &auditor{GroupAudit: GroupAudit{Group: g, Replicas: len(replicas)}}
	for i := range replicas {
		a.alone(&replicas[i])
	}
	a.merged(replicas)
	for i := range replicas {
		for j := range i {
			a.pair(&replicas[j], &replicas[i])
		}
	}
	if len(replicas) < 2 {
		a.Equal, a.EqualFrom = 0, 0
	}
	return a.GroupAudit
}

type auditor struct {
	GroupAudit
	compared bool
}

func (a *auditor) bad(format string, args ...any) {
	a.Violations = append(a.Violations, fmt.Sprintf("%v: %s", a.Group, fmt.Sprintf(format, args...)))
}

// alone checks one history by itself.
func (a *auditor) alone(r *ReplicaHistory) {
	h := &r.Head
	for _, f := range h.Faults {
		a.bad("%s saw this: %v", r.name(), f)
	}
	if kept := uint64(len(h.Faults)); h.Faulty > kept {
		a.bad("%s saw %d more such entries, of which it kept nothing but the count", r.name(), h.Faulty-kept)
	}
	all := r.all()
	for i := range all {
		t := &all[i]
		a.tenure(r, t)
		if i == 0 {
			continue
		}
		p := &all[i-1]
		switch {
		case t.Number != p.Number+1:
			a.bad("%s: tenure %d follows tenure %d: rows are missing or of another history", r.name(), t.Number, p.Number)
		case t.Token <= p.Token:
			a.bad("%s: token %d came after token %d: tokens never go back", r.name(), t.Token, p.Token)
		case t.Prev != p.Token:
			a.bad("%s: token %d was acquired by who took token %d for the current one, which was %d", r.name(), t.Token, t.Prev, p.Token)
		case t.Epoch < p.Epoch:
			a.bad("%s: token %d has epoch %d and token %d after it epoch %d: epochs never go back", r.name(), p.Token, p.Epoch, t.Token, t.Epoch)
		case t.Term < p.Term:
			a.bad("%s: token %d has term %d and token %d after it term %d: terms never go back", r.name(), p.Token, p.Term, t.Token, t.Term)
		}
	}
	for i := 1; i < len(r.Checkpoints); i++ {
		if p, c := &r.Checkpoints[i-1], &r.Checkpoints[i]; c.Number != p.Number+1 || c.Window <= p.Window || c.Chain != p.closed() {
			a.bad("%s: the checkpoints at %d and at %d do not follow from each other", r.name(), p.Index, c.Index)
		}
	}
	if n := len(r.Checkpoints); n > 0 && h.Now.Window > r.Checkpoints[n-1].Window && h.Checked == r.Checkpoints[n-1].Number {
		if p := &r.Checkpoints[n-1]; h.Now.Chain != p.closed() {
			a.bad("%s: the history at %d does not follow from the checkpoint at %d", r.name(), h.Index, p.Index)
		}
	}
}

func (a *auditor) tenure(r *ReplicaHistory, t *Tenure) {
	switch {
	case t.gap() != 0:
		a.bad("%s: under token %d %d batches took effect, and they are numbered %d to %d: the sequence has a gap", r.name(), t.Token, t.Batches, t.SeqFrom+1, t.Seq)
	case t.whole() && t.First != 0 && t.First <= uint64(t.Token):
		a.bad("%s: a batch of token %d took effect at %d, before its acquire", r.name(), t.Token, t.First)
	case t.Released != 0 && t.Last > t.Released && t.whole():
		a.bad("%s: a batch of token %d took effect at %d, after its release at %d", r.name(), t.Token, t.Last, t.Released)
	case t.Last > r.Head.Index || t.Released > r.Head.Index || uint64(t.Token) > r.Head.Index:
		a.bad("%s: token %d tells of entry %d, and the history ends at %d", r.name(), t.Token, max(t.Last, t.Released, uint64(t.Token)), r.Head.Index)
	}
}

// merged lays the tenures of all replicas side by side, in order of their tokens.
func (a *auditor) merged(replicas []ReplicaHistory) {
	type seen struct {
		*Tenure
		by *ReplicaHistory
	}
	var all []seen
	for i := range replicas {
		r := &replicas[i]
		ts := r.all()
		for k := range ts {
			all = append(all, seen{&ts[k], r})
		}
		if i == 0 || r.reaches() < a.From {
			a.From = r.reaches()
		}
		a.Last = max(a.Last, r.Head.Index)
	}
	slices.SortStableFunc(all, func(x, y seen) int {
		if x.Token != y.Token {
			return cmp.Compare(x.Token, y.Token)
		}
		return cmp.Compare(y.Seq, x.Seq) // who saw most first
	})
	var before seen // the last one with a batch, of the tokens before
	for i, s := range all {
		if s.When != 0 && (a.Since == 0 || s.When < a.Since) {
			a.Since = s.When
		}
		if before.Tenure != nil && before.Token < s.Token && before.Last > uint64(s.Token) {
			a.bad("the batches of tokens %d and %d interleave: %s saw one of token %d take effect at %d, and %s saw token %d acquired at %d",
				before.Token, s.Token, before.by.name(), before.Token, before.Last, s.by.name(), s.Token, uint64(s.Token))
		}
		if i == 0 || all[i-1].Token != s.Token {
			a.Tenures++
			a.Batches += s.Batches
			a.Refused += s.Refused
		}
		if before.Tenure == nil || s.Last > before.Last {
			before = s
		}
	}
}

// pair holds two replicas against each other.
func (a *auditor) pair(x, y *ReplicaHistory) {
	a.tenures(x, y)
	a.prints(x, y)
}

func (a *auditor) tenures(x, y *ReplicaHistory) {
	xs, ys := x.all(), y.all()
	byToken := make(map[Token]int, len(ys))
	for i := range ys {
		byToken[ys[i].Token] = i
	}
	for i := range xs {
		k, both := byToken[xs[i].Token]
		if !both {
			a.missing(&xs[i], x, y)
			continue
		}
		delete(byToken, xs[i].Token)
		a.same(&xs[i], &ys[k], x, y)
	}
	for i := range ys {
		if _, alone := byToken[ys[i].Token]; alone {
			a.missing(&ys[i], y, x)
		}
	}
}

// missing is called for a tenure that one replica saw and the other has no row of.
func (a *auditor) missing(t *Tenure, saw, other *ReplicaHistory) {
	if at := uint64(t.Token); at > other.reaches() && at <= other.Head.Index {
		a.bad("%s saw token %d acquired by node %v, and %s, whose history goes from %d to %d, did not", saw.name(), t.Token, t.Holder.Node, other.name(),
			other.reaches(), other.Head.Index)
	}
}

// same compares two rows of one token.
func (a *auditor) same(s, t *Tenure, x, y *ReplicaHistory) {
	if s.Holder != t.Holder || s.Term != t.Term || (s.whole() && t.whole() && (s.Epoch != t.Epoch || s.Prev != t.Prev)) {
		a.bad("token %d has two holders: %s saw replica %d of node %v (boot %v) take it in term %d, epoch %d, after token %d; %s saw replica %d of node %v (boot %v), term %d, epoch %d, after token %d",
			s.Token, x.name(), s.Holder.Replica, s.Holder.Node, s.Holder.Boot, s.Term, s.Epoch, s.Prev,
			y.name(), t.Holder.Replica, t.Holder.Node, t.Holder.Boot, t.Term, t.Epoch, t.Prev)
		return
	}
	// A current tenure is known up to where its replica's history goes; an ended one to its end.
	sEnds, tEnds := s.Number < x.Head.Tenure.Number, t.Number < y.Head.Tenure.Number
	comparable := sEnds && tEnds || !sEnds && !tEnds && x.Head.Index == y.Head.Index
	switch {
	case comparable && s.whole() && t.whole() && (s.Seq != t.Seq || s.Batches != t.Batches || s.First != t.First || s.Last != t.Last || s.Released != t.Released || s.Refused != t.Refused),
		comparable && s.Seq != t.Seq,
		!comparable && sEnds && t.Seq > s.Seq, !comparable && tEnds && s.Seq > t.Seq:
		a.bad("under token %d %s saw %s, and %s saw %s", s.Token, x.name(), s.extent(), y.name(), t.extent())
	}
}

func (t *Tenure) extent() string {
	s := fmt.Sprintf("%d batches up to number %d, entries %d to %d", t.Batches, t.Seq, t.First, t.Last)
	if t.Released != 0 {
		s += fmt.Sprintf(", released at %d", t.Released)
	}
	if t.Refused != 0 {
		s += fmt.Sprintf(", %d refused", t.Refused)
	}
	return s
}

// prints compares the prints that both have, and finds how far the two are known to be equal.
func (a *auditor) prints(x, y *ReplicaHistory) {
	var equal, wrong uint64 // highest index found equal, lowest found different
	from := max(x.Head.Origin, y.Head.Origin)
	if x.Head.Origin != y.Head.Origin {
		from = (from/HistoryWindow + 1) * HistoryWindow // whole windows only
	}
	try := func(p, q *Print, what string) {
		sameOrigin := x.Head.Origin == y.Head.Origin
		if !sameOrigin && p.Window*HistoryWindow <= max(x.Head.Origin, y.Head.Origin) {
			return
		}
		if p.Index == q.Index && p.Hash == q.Hash && (p.Chain == q.Chain || !sameOrigin) {
			equal = max(equal, p.Index)
			return
		}
		if at := min(p.Index, q.Index); wrong == 0 || at < wrong {
			wrong = at
			a.bad("%s and %s differ %s: at entry %d one has print %016x/%016x, at entry %d the other has %016x/%016x", x.name(), y.name(), what,
				p.Index, p.Chain, p.Hash, q.Index, q.Chain, q.Hash)
		}
	}
	windows := make(map[uint64]*Print, len(y.Checkpoints))
	for i := range y.Checkpoints {
		windows[y.Checkpoints[i].Window] = &y.Checkpoints[i].Print
	}
	for i := range x.Checkpoints {
		if wrong != 0 {
			break
		}
		p := &x.Checkpoints[i].Print
		if q := windows[p.Window]; q != nil {
			try(p, q, fmt.Sprintf("in what took effect from %d to %d", p.Window*HistoryWindow, (p.Window+1)*HistoryWindow-1))
		}
	}
	tokens := make(map[Token]*Print)
	ys := y.all()
	for i := range ys {
		tokens[ys[i].Token] = &ys[i].At
	}
	for _, t := range x.all() {
		if q := tokens[t.Token]; wrong == 0 && q != nil && q.Index != 0 && t.At.Index != 0 {
			try(&t.At, q, fmt.Sprintf("in what took effect before token %d", t.Token))
		}
	}
	recent := make(map[uint64]*Print, len(y.Recent))
	for i := range y.Recent {
		recent[y.Recent[i].Index] = &y.Recent[i]
	}
	for i := range x.Recent {
		if q := recent[x.Recent[i].Index]; wrong == 0 && q != nil {
			try(&x.Recent[i], q, "in what took effect lately")
		}
	}
	// Both have seen what the other saw last: then they have seen the same.
	if p, q := &x.Head.Now, &y.Head.Now; wrong == 0 && p.Index <= y.Head.Index && q.Index <= x.Head.Index && p.Index > y.Head.Origin && q.Index > x.Head.Origin {
		try(p, q, "in what took effect last")
		if wrong == 0 && equal == p.Index {
			equal = min(x.Head.Index, y.Head.Index)
		}
	}
	if equal == 0 && x.Head.Entries == 0 && y.Head.Entries == 0 && x.Head.Origin == y.Head.Origin {
		equal = min(x.Head.Index, y.Head.Index) // nothing has taken effect yet
	}
	if !a.compared {
		a.Equal, a.EqualFrom = equal, from
	}
	a.compared = true
	a.Equal, a.EqualFrom = min(a.Equal, equal), max(a.EqualFrom, from)
}
