package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
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

// lot is where the calls of one shard wait.
type lot struct {
	mu    sync.Mutex
	queue []*delivery
	used  atomic.Bool // something waits, or is being delivered from here: what comes must not overtake it
}

// parking delivers calls to the host, or keeps them until their shard is served here or elsewhere.
type parking struct {
	n     *Node
	lots  [ring.MaxShards]lot
	count atomic.Int64
	bytes atomic.Int64
}

// deliver gives a call to its shard, in the order of the calls of deliver, on a lane if there is one. It does not block.
func (p *parking) deliver(d *delivery, lane *host.Lane) {
	s := d.shard
	l := &p.lots[s]
	if !l.used.Load() && p.n.host.Owns(s) {
		p.pass(d, lane)
		return
	}
	l.mu.Lock()
	if len(l.queue) == 0 && !p.awaits(s) {
		l.mu.Unlock()
		p.pass(d, lane)
		return
	}
	if p.count.Load() >= parkMax || p.bytes.Load()+int64(len(d.event.Arg)) > parkBytes {
		l.mu.Unlock()
		d.refuse("the shard has no owner yet, and too many calls wait for one")
		return
	}
	p.count.Add(1)
	p.bytes.Add(int64(len(d.event.Arg)))
	d.until = time.Now().Add(p.patience(s))
	l.queue = append(l.queue, d)
	l.used.Store(true)
	first := len(l.queue) == 1
	l.mu.Unlock()
	if first {
		time.AfterFunc(parkPause, func() { p.watch(s) })
	}
}

func (p *parking) pass(d *delivery, lane *host.Lane) {
	if lane != nil {
		lane.Deliver(d.shard, &d.event)
		return
	}
	p.n.host.Deliver(d.shard, &d.event)
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
		d := l.queue[done]
		p.count.Add(-1)
		p.bytes.Add(-int64(len(d.event.Arg)))
		switch {
		case d.inbox.isRefused(d):
			d.refuse("an earlier call of the same reference did not run")
		case all:
			p.pass(d, nil)
		default:
			d.refuse("the shard has no owner yet")
		}
	}
	clear(l.queue[:done])
	if l.queue = l.queue[done:]; len(l.queue) == 0 {
		l.queue = nil
		l.used.Store(false)
	}
	return len(l.queue) > 0
}

func (d *delivery) refuse(why string) { d.failAt(notOwner(d.event.Object, why)) }

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
