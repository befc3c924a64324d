package client

import (
	"time"

	"github.com/ringfence/ringfence/ring"
)

// hint is the best news about who owns a shard: the node and the token under which it does. The zero value knows nothing.
type hint struct {
	node  ring.NodeID
	token uint64
	epoch ring.Epoch
}

// better reports whether h replaces old: the higher token wins. News without a token replaces only news without a token.
func (h hint) better(old hint) bool {
	if h.node == 0 {
		return false
	}
	return h.token > old.token || (h.token == 0 && old.token == 0 && h.node != old.node)
}

// routes is the client's immutable copy of one ring: per shard the voters with the preferred owner first, and the addresses.
type routes struct {
	epoch    ring.Epoch
	replicas [][]ring.NodeID
	addrs    map[ring.NodeID]string
}

func (r *routes) has(n ring.NodeID) bool { return r != nil && r.addrs[n] != "" }

func (r *routes) of(s ring.ShardID) []ring.NodeID {
	if r == nil || int(s) >= len(r.replicas) {
		return nil
	}
	return r.replicas[s]
}

// view is what a stream may know when it decides: its shard's row of the table, and who rests now.
type view struct {
	hint   hint
	routes *routes
	shard  ring.ShardID
	rests  []rest
	now    time.Time // for rests; may be zero if there are none
}

// resting reports whether the node should not be asked while another can be.
func (v *view) resting(n ring.NodeID) bool {
	for i := range v.rests {
		if v.rests[i].node == n {
			return v.now.Before(v.rests[i].until)
		}
	}
	return false
}

// everybody is who may be asked, each once: the hinted owner, then the ring's preferred owner, then the other voters.
func (v *view) everybody(yield func(ring.NodeID) bool) {
	hinted := v.routes.has(v.hint.node)
	if hinted && !yield(v.hint.node) {
		return
	}
	for _, r := range v.routes.of(v.shard) {
		if hinted && r == v.hint.node {
			continue
		}
		if !yield(r) {
			return
		}
	}
}

// known is how many everybody are.
func (v *view) known() (n int) {
	for range v.everybody {
		n++
	}
	return n
}

// candidate is the node to ask at the given turn: everybody in order, then from the start, without those who rest unless all do. It
// is 0 if nobody is known; n is the number of candidates.
func (v *view) candidate(turn int) (node ring.NodeID, n int) {
	for r := range v.everybody {
		if !v.resting(r) {
			n++
		}
	}
	all := n == 0
	if all {
		n = v.known()
	}
	if n == 0 {
		return 0, 0
	}
	i := turn % n
	for r := range v.everybody {
		if !all && v.resting(r) {
			continue
		}
		if i == 0 {
			return r, n
		}
		i--
	}
	return 0, n
}

// answerKind says what became of a call that was sent.
type answerKind uint8

const (
	answerOK      answerKind = iota // it ran
	answerRan                       // it ran or may have run: the server's word is final
	answerRefused                   // it did not run and may be sent again
	answerFailed                    // it did not run, and sending it again would not help
	answerUnsent                    // its frame never left
	answerMaybe                     // it may have run, by the server's word, for a transient cause
	answerLost                      // the connection was lost after its frame may have left
	answerFull                      // its frame never left because the connection has too many calls in flight
)

// answer is one event of a stream: what became of one of its calls.
type answer struct {
	kind       answerKind
	overloaded bool   // of answerFailed: the server asks for time
	hint       hint   // who owns the shard, by the server's word; of answerOK without a node: the one that answered
	text       string // why, for the error at the deadline
	reply      *reply // the server's own words, nil if it did not speak
}

// verdict says how a call completes.
type verdict uint8

const (
	verdictReply      verdict = iota // with the answer's reply
	verdictLost                      // may have run: the connection was lost
	verdictFull                      // did not run: the connection has too many calls in flight
	verdictQueueFull                 // did not run: the Ref has too many calls that are not completed
	verdictOvertaken                 // did not run, and cannot run any more without running after a later call
	verdictNotRun                    // did not run: given up while it waited to be sent
	verdictMayHaveRun                // may have run: given up while it was in flight
)

type actionKind uint8

const (
	actSend     actionKind = iota // send the call on the stream's connection, or, if fresh, on a connection to node that becomes it
	actComplete                   // tell the caller
	actLearn                      // put the hint into the table, if it is better than what is there
	actFetch                      // fetch the ring, once for all who ask
	actRetry                      // call stream.retry after the delay
)

// action is what a stream wants done, in the order given.
type action struct {
	kind    actionKind
	fresh   bool
	verdict verdict
	call    *call
	node    ring.NodeID
	hint    hint
	answer  answer
	delay   time.Duration
}

// Back-off between tries, before jitter, and how many hints are followed at once.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 100 * time.Millisecond
	maxHops    = 5
)

// backoff is the delay before try n (from 0): doubling from 5 ms to 100 ms, of which up to a random half is taken off. It stays short
// because an election is over in a few hundred milliseconds, and one stream asks once for all its calls.
func backoff(n int, random uint64) time.Duration {
	d := maxBackoff
	if n < 5 {
		d = minBackoff << n
	}
	half := uint64(d / 2)
	return time.Duration(half + random%(half+1))
}

// splitmix64 is the jitter's generator: one word of state, so that a stream stays small and a script repeatable.
func splitmix64(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
