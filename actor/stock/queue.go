package stock

import (
	"context"
	"fmt"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// Queue is the class "Queue": a durable queue of messages, each delivered at least once.
//
//	Push(message any) uint64                adds a message and returns its number: 1, 2, 3 …
//	Pop(PopRequest) []QueueMessage          takes messages in order, at most 4 MiB of them, for a time; each must be acknowledged within it
//	Ack(QueueReceipt) bool                  the message is done with, and gone; false if the receipt is not, or no longer, good
//	Nack(QueueReceipt) bool                 it comes back at once
//	Len() QueueLen
//
// A message that was popped and not acknowledged in its time is delivered again, before those behind it, with a new receipt; from then on the
// old one is void. So a consumer must bear seeing a message twice, and order holds only as long as every consumer acknowledges in time. A
// reply lost on its way to the consumer costs the message's time. Push with an idempotency key to add a message once. At most 100,000
// messages, each of at most 256 KiB; Push beyond that fails with the application error "full".
//
// Time is the owner's clock when the call runs; one that jumps forward brings messages back early.
func Queue() actor.Class { return actor.Define("Queue", newQueue) }

// PopRequest asks a Queue for messages.
type PopRequest struct {
	Max    int   `json:"max,omitempty"`    // at most so many; 0 stands for 1, and 100 is the most
	Millis int64 `json:"millis,omitempty"` // until they come back; 0 stands for 30,000, and 43,200,000 (12 hours) is the most
}

// QueueMessage is a message that was popped.
type QueueMessage struct {
	QueueReceipt
	Message  any `json:"message"`
	Attempts int `json:"attempts"` // how often it was popped, this time included
}

// QueueReceipt names one delivery of a message.
type QueueReceipt struct {
	Number   uint64 `json:"number"`
	Delivery uint64 `json:"delivery"`
}

// QueueLen is how many messages there are.
type QueueLen struct {
	Waiting int `json:"waiting"` // to be popped, those whose time is over included
	Out     int `json:"out"`     // popped and neither acknowledged nor back
}

const (
	queueMost      = 100_000
	queueMessage   = 256 << 10
	popMost        = 100
	popBytes       = 4 << 20 // of the messages of one Pop, encoded, so that the reply fits whatever its encoding
	popTimeDefault = 30_000
	popTimeMost    = 43_200_000
)

// queue keeps each message under m/NUMBER, and what is known of those that were popped under d/NUMBER: a message is popped again after a
// restart, with its attempts counted on. Memory holds the deliveries only, which are few.
type queue struct {
	s     *actor.Storage
	state queueState
	out   map[uint64]delivery
}

type queueState struct {
	Last     uint64 `json:"last"`     // number of the newest message
	Next     uint64 `json:"next"`     // number from which on none was popped yet
	Count    int    `json:"count"`    // messages
	Delivery uint64 `json:"delivery"` // newest
}

type delivery struct {
	Delivery uint64 `json:"delivery"`
	Until    int64  `json:"until"` // milliseconds since 1970
	Attempts int    `json:"attempts"`
}

func newQueue(ctx context.Context, s *actor.State) (*queue, error) {
	q := &queue{s: s.Storage(), state: queueState{Next: 1}, out: map[uint64]delivery{}}
	if _, err := q.s.Get(ctx, "state", &q.state); err != nil {
		return nil, err
	}
	for e, err := range q.s.All(ctx, actor.ListOptions{Prefix: "d/"}) {
		if err != nil {
			return nil, err
		}
		var number uint64
		var d delivery
		if _, err := fmt.Sscanf(e.Key, "d/%x", &number); err != nil {
			return nil, err
		}
		if err := e.Decode(&d); err != nil {
			return nil, err
		}
		q.out[number] = d
	}
	return q, nil
}

func messageKey(n uint64) string  { return fmt.Sprintf("m/%016x", n) }
func deliveryKey(n uint64) string { return fmt.Sprintf("d/%016x", n) }

// Push adds a message behind all others and returns its number. It fails with "full" when there are 100,000, and with "too-large" above 256 KiB encoded.
func (q *queue) Push(ctx context.Context, message any) (uint64, error) {
	b, err := actor.Marshal(message)
	if err != nil {
		return 0, actor.Fail("bad-message", "the message cannot be stored: %v", err)
	}
	if len(b) > queueMessage {
		return 0, actor.Fail("too-large", "the message has %d bytes: want at most %d", len(b), queueMessage)
	}
	if q.state.Count >= queueMost {
		return 0, actor.Fail("full", "the queue has %d messages: acknowledge some", q.state.Count)
	}
	state := q.state
	state.Last++
	state.Count++
	return state.Last, q.save(ctx, state, map[string]any{messageKey(state.Last): actor.Raw(b)})
}

// save stores the state and what goes with it, and then counts on it in memory.
func (q *queue) save(ctx context.Context, state queueState, entries map[string]any) error {
	entries["state"] = state
	if err := q.s.PutMany(ctx, entries); err != nil {
		return err
	}
	q.state = state
	return nil
}

// Pop takes messages for a time, first those that came back, the oldest first, then new ones; none is an empty list. Each must be acknowledged
// within the time, or it comes back.
func (q *queue) Pop(ctx context.Context, r PopRequest) ([]QueueMessage, error) {
	switch {
	case r.Max < 0 || r.Max > popMost:
		return nil, actor.Fail("bad-max", "max is %d: want 1 to %d, or 0 for 1", r.Max, popMost)
	case r.Millis < 0 || r.Millis > popTimeMost:
		return nil, actor.Fail("bad-time", "millis is %d: want 1 to %d, or 0 for %d", r.Millis, popTimeMost, popTimeDefault)
	}
	limit, millis := max(r.Max, 1), r.Millis
	if millis == 0 {
		millis = popTimeDefault
	}
	now := time.Now().UnixMilli()
	state, entries, messages := q.state, map[string]any{}, []QueueMessage{}
	taken := map[uint64]delivery{}
	for size := 0; len(messages) < limit; {
		n, ok := q.due(now, taken, &state)
		if !ok {
			break
		}
		raw, _, err := actor.Get[actor.Raw](ctx, q.s, messageKey(n))
		if err != nil {
			return nil, err
		}
		if size += len(raw); size > popBytes {
			break
		}
		state.Next = max(state.Next, n+1)
		state.Delivery++
		d := delivery{state.Delivery, now + millis, q.out[n].Attempts + 1}
		m := QueueMessage{QueueReceipt: QueueReceipt{n, d.Delivery}, Attempts: d.Attempts}
		if err := actor.Unmarshal(raw, &m.Message); err != nil {
			return nil, err
		}
		taken[n], entries[deliveryKey(n)] = d, d
		messages = append(messages, m)
	}
	if len(messages) == 0 {
		return messages, nil
	}
	if err := q.save(ctx, state, entries); err != nil {
		return nil, err
	}
	for n, d := range taken {
		q.out[n] = d
	}
	return messages, nil
}

// due is the number of the next message beside those taken: first those that came back, the oldest first, then new ones.
func (q *queue) due(now int64, taken map[uint64]delivery, state *queueState) (number uint64, ok bool) {
	for n, d := range q.out {
		if _, mine := taken[n]; !mine && d.Until <= now && (!ok || n < number) {
			number, ok = n, true
		}
	}
	if !ok && state.Next <= state.Last {
		number, ok = state.Next, true
	}
	return number, ok
}

func (q *queue) Ack(ctx context.Context, r QueueReceipt) (bool, error) {
	if !q.good(r) {
		return false, nil
	}
	state := q.state
	state.Count--
	if _, err := q.s.Delete(ctx, messageKey(r.Number), deliveryKey(r.Number)); err != nil {
		return false, err
	}
	if err := q.save(ctx, state, map[string]any{}); err != nil {
		return false, err
	}
	delete(q.out, r.Number)
	return true, nil
}

// Nack has a message come back at once, and reports whether the receipt was still good.
func (q *queue) Nack(ctx context.Context, r QueueReceipt) (bool, error) {
	if !q.good(r) {
		return false, nil
	}
	d := q.out[r.Number]
	d.Delivery, d.Until = 0, 0
	if err := q.s.Put(ctx, deliveryKey(r.Number), d); err != nil {
		return false, err
	}
	q.out[r.Number] = d
	return true, nil
}

// good: the receipt is that of the message's last delivery, whose time is not over.
func (q *queue) good(r QueueReceipt) bool {
	d, ok := q.out[r.Number]
	return ok && d.Delivery == r.Delivery && time.Now().UnixMilli() < d.Until
}

// Len counts the messages.
func (q *queue) Len(context.Context) (QueueLen, error) {
	back, now := 0, time.Now().UnixMilli()
	for _, d := range q.out {
		if d.Until <= now {
			back++
		}
	}
	return QueueLen{Waiting: q.state.Count - len(q.out) + back, Out: len(q.out) - back}, nil
}
