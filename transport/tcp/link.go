package tcp

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/transport"
)

// LinkConfig says where a link goes.
type LinkConfig struct {
	Addr  func() string          // the peer's address now; "" if it is not known yet
	Hello func() transport.Hello // who we are and whom we want
	Dial  DialOptions
	Up    func(up bool) // called when the link comes up or goes down, from the link's goroutine; may be nil
	Fail  func(error)   // called after each failed try; may be nil
}

// Back-off between tries.
const (
	redialMin = 20 * time.Millisecond
	redialMax = time.Second
)

// connectTime is short, because the kernel waits ever longer between its own tries: a peer that is reachable again should not have to wait for that.
const connectTime = 2 * time.Second

// Link keeps one connection to a peer up, for ever. What cannot be sent at once is dropped: Raft repeats itself, and what is queued for a peer
// that does not answer is stale when it does.
type Link struct {
	cfg  LinkConfig
	conn atomic.Pointer[Conn]
	kick chan struct{}
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// NewLink starts a link; Close ends it. The functions of cfg must not call Close.
func NewLink(cfg LinkConfig) *Link {
	if cfg.Dial.ConnectTimeout == 0 {
		cfg.Dial.ConnectTimeout = connectTime
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Link{cfg: cfg, kick: make(chan struct{}, 1), stop: cancel}
	l.wg.Go(func() { l.run(ctx) })
	return l
}

// Conn is the connection while the link is up, else nil.
func (l *Link) Conn() *Conn { return l.conn.Load() }

// TrySendNow sends a frame if the link is up and has room; see [Conn.TrySendNow].
func (l *Link) TrySendNow(h transport.Header, encode func([]byte) []byte) bool {
	c := l.conn.Load()
	return c != nil && c.TrySendNow(h, encode)
}

// Kick makes a link that is down try again now.
func (l *Link) Kick() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Close ends the link and its connection, and waits until its handler has heard of that; so the handler must not call it.
func (l *Link) Close() {
	l.stop()
	l.wg.Wait()
}

func (l *Link) run(ctx context.Context) {
	wait := redialMin
	for ctx.Err() == nil {
		c, err := l.dial(ctx)
		if err != nil {
			if l.cfg.Fail != nil {
				l.cfg.Fail(err)
			}
			wait = min(wait*2, redialMax)
			l.pause(ctx, wait/2+rand.N(wait/2))
			continue
		}
		if c == nil { // no address yet
			l.pause(ctx, redialMax)
			continue
		}
		began := time.Now()
		l.conn.Store(c)
		l.tell(true)
		select {
		case <-c.Done():
		case <-ctx.Done():
			c.Close()
		}
		l.conn.Store(nil)
		<-c.over // so a handler hears the end of one connection before the beginning of the next
		l.tell(false)
		// A peer that accepts and then hangs up at once is as bad as one that refuses: it must not be dialed without a pause.
		if wait = min(wait*2, redialMax); time.Since(began) >= redialMax {
			wait = redialMin
		}
		l.pause(ctx, wait/2+rand.N(wait/2))
	}
}

func (l *Link) dial(ctx context.Context) (*Conn, error) {
	addr := l.cfg.Addr()
	if addr == "" {
		return nil, nil
	}
	return Dial(ctx, addr, l.cfg.Hello(), l.cfg.Dial)
}

func (l *Link) tell(up bool) {
	if l.cfg.Up != nil {
		l.cfg.Up(up)
	}
}

func (l *Link) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-l.kick:
	}
}
