package inmem

import (
	"bytes"
	"os"
	"syscall"
	"time"
)

var (
	errReset   = os.NewSyscallError("read", syscall.ECONNRESET)
	errUnacked = os.NewSyscallError("read", syscall.ETIMEDOUT)
)

// What a segment says besides its bytes.
type mark uint8

const (
	more  mark = iota
	fin        // nothing follows
	reset      // the sender has no such stream any more
)

// segment is what was written at once, on its way.
type segment struct {
	data []byte
	mark mark
	due  time.Time
}

// pipe is one direction of a stream. Everything in it is under the network's lock.
type pipe struct {
	path     *path
	from, to *conn
	flight   []segment
	bytes    int // in flight
	unacked  int // arrived, while no acknowledgement came back
	ready    bytes.Buffer
	ended    bool // fin has arrived

	arrival *time.Timer // for the first segment that is not due yet
	giveUp  *time.Timer // while something that is due cannot arrive, or be acknowledged
}

// room is how many bytes may be written now.
func (p *pipe) room() int { return window - p.bytes - max(p.unacked, p.ready.Len()) }

// send puts something on its way. The bytes are copied.
func (p *pipe) send(data []byte, m mark) {
	due := time.Now().Add(p.path.from.n.delay(p.path))
	if n := len(p.flight); n > 0 && p.flight[n-1].due.After(due) {
		due = p.flight[n-1].due // a stream stays in order
	}
	p.flight = append(p.flight, segment{append([]byte(nil), data...), m, due})
	p.bytes += len(data)
	p.path.pipes[p] = struct{}{}
	p.advance()
}

// advance delivers what is due, and sees to it that the rest is looked at again.
func (p *pipe) advance() {
	stopTimer(&p.arrival)
	stuck := p.deliver(time.Now())
	if p.unacked > 0 && !p.path.back.blocked() {
		p.unacked = 0
		p.from.writable.Broadcast()
	}
	switch {
	case !stuck && p.unacked == 0:
		stopTimer(&p.giveUp)
	case p.giveUp == nil:
		p.giveUp = p.after(unackedTime, func(t *time.Timer) {
			if p.giveUp == t {
				p.from.fail(errUnacked)
			}
		})
	}
	if len(p.flight) == 0 && p.unacked == 0 {
		p.drop()
	}
}

// deliver hands over what can arrive now. stuck: the first of the rest is due, and cannot.
func (p *pipe) deliver(now time.Time) (stuck bool) {
	for len(p.flight) > 0 {
		s := p.flight[0]
		if s.due.After(now) {
			p.arrival = p.after(s.due.Sub(now), func(*time.Timer) { p.advance() })
			return false
		}
		refused := p.to.gone && s.mark != reset
		if p.path.blocked() || refused && p.path.back.blocked() {
			return s.mark != reset // which nobody waits for
		}
		if refused {
			p.drop()
			p.from.fail(errReset)
			return false
		}
		p.flight[0] = segment{}
		p.flight = p.flight[1:]
		p.bytes -= len(s.data)
		if p.path.back.blocked() {
			p.unacked += len(s.data)
		}
		p.arrive(s)
	}
	return false
}

func (p *pipe) arrive(s segment) {
	p.ready.Write(s.data)
	switch s.mark {
	case fin:
		p.ended = true
	case reset:
		p.to.fail(errReset)
	}
	p.to.readable.Broadcast()
}

// after calls f with the timer under the lock, later.
func (p *pipe) after(d time.Duration, f func(*time.Timer)) *time.Timer {
	n := p.path.from.n
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		n.mu.Lock() // which this function's caller holds, so t is set
		defer n.mu.Unlock()
		f(t)
	})
	return t
}

// drop forgets what is on its way.
func (p *pipe) drop() {
	p.flight, p.bytes, p.unacked = nil, 0, 0
	stopTimer(&p.arrival)
	stopTimer(&p.giveUp)
	delete(p.path.pipes, p)
}

func stopTimer(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}
