package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/transport"
)

// Between two owners of a shard there is a moment without one. Calls that reach the node that is about to become the owner, or a
// replica that does not know of a leader, wait there: parked, in the order in which they came, in bounded number and for a bounded time.
const (
	parkTime  = 1200 * time.Millisecond // while this node takes the shard over; then the call is refused and its client goes on looking
	parkBlind = 250 * time.Millisecond  // while it knows of no leader: it may be cut off, and another node may know better
	parkPause = 20 * time.Millisecond   // between two looks at whether waiting still makes sense
	parkMax   = 16384                   // calls parked on a node
	parkBytes = 64 << 20                // and the bytes of their arguments
)

// parked is one call that waits for its shard's owner.
type parked struct {
	inbox *inbox
	reply func(*transport.Reply)
	call  *transport.Call
	event *host.Call
	until time.Time
}

// lot is where the calls of one shard wait.
type lot struct {
	mu    sync.Mutex
	queue []parked
}

// parking delivers calls to the host, or keeps them until their shard is served here or elsewhere.
type parking struct {
	n     *Node
	lots  [ring.MaxShards]lot
	count atomic.Int64
	bytes atomic.Int64
}

// deliver gives a call to its shard, in the order of the calls of deliver. It does not block.
func (p *parking) deliver(s ring.ShardID, c parked) {
	l := &p.lots[s]
	l.mu.Lock()
	if len(l.queue) == 0 && !p.awaits(s) {
		l.mu.Unlock()
		p.n.host.Deliver(s, c.event)
		return
	}
	if p.count.Load() >= parkMax || p.bytes.Load()+int64(len(c.call.Arg)) > parkBytes {
		l.mu.Unlock()
		c.refuse(s, "the shard has no owner yet, and too many calls wait for one")
		return
	}
	p.count.Add(1)
	p.bytes.Add(int64(len(c.call.Arg)))
	c.until = time.Now().Add(p.patience(s))
	l.queue = append(l.queue, c)
	first := len(l.queue) == 1
	l.mu.Unlock()
	if first {
		time.AfterFunc(parkPause, func() { p.watch(s) })
	}
}

// watch looks again and again while calls wait.
func (p *parking) watch(s ring.ShardID) {
	if p.look(s) {
		time.AfterFunc(parkPause, func() { p.watch(s) })
	}
}

// patience is how long a call may be parked.
func (p *parking) patience(s ring.ShardID) time.Duration {
	if h, ok := p.n.driver.Load().Hint(s.Group()); ok && h.Self {
		return parkTime
	}
	return parkBlind
}

// awaits reports whether a shard that is not served here may be soon.
func (p *parking) awaits(s ring.ShardID) bool {
	d := p.n.driver.Load()
	if d == nil || p.n.stopping.Load() || p.n.host.Owns(s) {
		return false
	}
	h, ok := d.Hint(s.Group())
	return ok && (h.Node == 0 || h.Self)
}

// look delivers what waits if the shard is served here, refuses it if it is served elsewhere, and else what has waited for too long.
// It reports whether something waits still.
func (p *parking) look(s ring.ShardID) (left bool) {
	l := &p.lots[s]
	l.mu.Lock()
	defer l.mu.Unlock() // delivering and refusing do not block, and later calls must not overtake
	now, all := time.Now(), !p.awaits(s)
	done := 0
	for ; done < len(l.queue) && (all || now.After(l.queue[done].until)); done++ {
		c := &l.queue[done]
		p.count.Add(-1)
		p.bytes.Add(-int64(len(c.call.Arg)))
		switch {
		case c.inbox.isRefused(c.call):
			c.refuse(s, "an earlier call of the same reference did not run")
		case all:
			p.n.host.Deliver(s, c.event)
		default:
			c.refuse(s, "the shard has no owner yet")
		}
	}
	clear(l.queue[:done])
	if l.queue = l.queue[done:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return len(l.queue) > 0
}

func (c *parked) refuse(s ring.ShardID, why string) {
	c.inbox.failAt(c.call, c.reply, s, notOwner(c.event.Object, why))
}

// owner is the host as the driver knows it: what is parked goes on at once when a shard opens.
type owner struct {
	*host.Host
	parking *parking
}

// Opened is of store.Owner.
func (o owner) Opened(l store.Lease) {
	o.Host.Opened(l)
	go o.parking.look(l.Shard()) // not on the driver's goroutine: it may be many calls
}
