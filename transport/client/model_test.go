package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ringfence/ringfence/ring"
)

// The model: streams of one shard against a simulated cluster that moves the owner, refuses, overloads, drops connections
// (with frames that still run after the drop), delivers answers in any order and lets callers give up.

type simConn struct {
	id     int
	node   ring.NodeID
	dead   bool
	inbox  []simFrame // written and not yet looked at by the server, in order
	fences map[int]uint64
}

type simFrame struct {
	stream int
	gen    uint64
	c      *call
}

type simAnswer struct {
	stream int
	c      *call
	a      answer
}

type simStream struct {
	stream
	conn    *simConn
	timer   bool
	calls   []*call
	results map[*call]string // what the caller was told
	ran     []uint64         // in order of execution
}

type simCluster struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	nodes   []ring.NodeID
	owner   ring.NodeID
	token   uint64
	hint    hint // the client's table
	routes  *routes
	conns   map[ring.NodeID]*simConn
	all     []*simConn
	answers []simAnswer
	streams []*simStream
	rests   []rest
	clock   int  // steps
	calm    bool // no more faults
}

func newSimCluster(t *testing.T, seed uint64) *simCluster {
	m := &simCluster{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 2)), conns: map[ring.NodeID]*simConn{}, owner: 1, token: 1}
	m.routes = &routes{replicas: [][]ring.NodeID{{1, 2, 3}}, addrs: map[ring.NodeID]string{}}
	for n := ring.NodeID(1); n <= 4; n++ {
		m.nodes = append(m.nodes, n)
		if n < 4 {
			m.routes.addrs[n] = "x"
		}
	}
	for i := range 3 {
		m.streams = append(m.streams, &simStream{stream: newStream(8, seed+uint64(i)), results: map[*call]string{}})
	}
	return m
}

func (m *simCluster) view() *view {
	return &view{hint: m.hint, routes: m.routes, rests: m.rests, now: time.Unix(int64(m.clock), 0)}
}

// tire lets a node rest for some steps: it said go-away, or a dial of it failed.
func (m *simCluster) tire() {
	m.rests = append([]rest(nil), m.rests...)
	until := time.Unix(int64(m.clock+m.r.IntN(60)), 0)
	n := m.nodes[m.r.IntN(len(m.nodes))]
	for i := range m.rests {
		if m.rests[i].node == n {
			m.rests[i].until = until
			return
		}
	}
	m.rests = append(m.rests, rest{node: n, until: until})
}

func (m *simCluster) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

// do carries out a stream's actions as the shell does: what cannot be sent is answered afterwards.
func (m *simCluster) do(i int) {
	s := m.streams[i]
	for _, a := range s.out {
		switch a.kind {
		case actSend:
			m.send(i, a)
		case actComplete:
			if old, twice := s.results[a.call]; twice {
				m.fatalf("call %d completed twice: %s", a.call.seq, old)
			}
			s.results[a.call] = verdictNames[a.verdict]
			if a.verdict == verdictReply {
				s.results[a.call] = a.answer.text
			}
			if r := s.results[a.call]; a.call.mayBe && r != "ok" {
				s.results[a.call] = "may have run, at last " + r
			}
		case actLearn:
			if a.hint.better(m.hint) {
				m.hint = a.hint
			}
		case actFetch:
			for _, n := range m.nodes {
				m.routes.addrs[n] = "x"
			}
		case actRetry:
			if s.timer {
				m.fatalf("two timers for one stream")
			}
			s.timer = true
		}
	}
}

func (m *simCluster) send(i int, a action) {
	s := m.streams[i]
	if r, told := s.results[a.call]; told {
		m.fatalf("call %d is sent after the caller was told %s", a.call.seq, r)
	}
	if a.fresh {
		for _, x := range m.answers {
			if x.stream == i {
				m.fatalf("connection chosen anew while a call is in flight")
			}
		}
		if s.conn != nil {
			for _, f := range s.conn.inbox {
				if f.stream == i && !s.conn.dead {
					m.fatalf("connection chosen anew while call %d is at the server", f.c.seq)
				}
			}
		}
		if s.conn = m.conns[a.node]; s.conn == nil || s.conn.dead {
			s.conn = &simConn{id: len(m.all), node: a.node, fences: map[int]uint64{}}
			m.conns[a.node] = s.conn
			m.all = append(m.all, s.conn)
		}
	}
	if s.conn.node != a.node {
		m.fatalf("call for node %v on the connection to %v", a.node, s.conn.node)
	}
	switch {
	case s.conn.dead || !m.calm && m.r.IntN(40) == 0:
		m.answers = append(m.answers, simAnswer{i, a.call, answer{kind: answerUnsent, text: "unsent"}})
		if !s.conn.dead {
			m.drop(s.conn)
		}
	case !m.calm && m.r.IntN(40) == 0:
		m.answers = append(m.answers, simAnswer{i, a.call, answer{kind: answerFull}})
	default:
		s.conn.inbox = append(s.conn.inbox, simFrame{i, s.gen, a.call})
	}
}

// drop kills a connection: a suffix of what is in it never left; the rest may still run.
func (m *simCluster) drop(c *simConn) {
	c.dead = true
	left := m.r.IntN(len(c.inbox) + 1)
	for k, f := range c.inbox {
		a := answer{kind: answerLost, text: "lost"}
		if k >= left {
			a = answer{kind: answerUnsent, text: "unsent"}
		}
		m.answers = append(m.answers, simAnswer{f.stream, f.c, a})
	}
	c.inbox = c.inbox[:left]
}

// serve lets the server look at the oldest frame of a connection.
func (m *simCluster) serve(c *simConn) {
	f := c.inbox[0]
	c.inbox = c.inbox[1:]
	s := m.streams[f.stream]
	var a answer
	switch {
	case c.fences[f.stream] >= f.gen:
		a = answer{kind: answerRefused, text: "refused"}
		if m.r.IntN(2) == 0 {
			a.hint = hint{node: m.owner, token: m.token}
		}
	case c.node != m.owner:
		a = answer{kind: answerRefused, text: "refused"}
		switch m.r.IntN(3) {
		case 0:
			a.hint = hint{node: m.owner, token: m.token}
		case 1: // an old hint, or one without a token
			a.hint = hint{node: m.nodes[m.r.IntN(4)], token: uint64(m.r.IntN(int(m.token)))}
		}
	case !m.calm && m.r.IntN(30) == 0:
		a = answer{kind: answerRefused, text: "refused", hint: hint{node: c.node, token: m.token}}
	case !m.calm && m.r.IntN(30) == 0:
		a = answer{kind: answerFailed, overloaded: m.r.IntN(2) == 0, text: "failed"}
	case !m.calm && m.r.IntN(30) == 0:
		a = answer{kind: answerRan, text: "ran", hint: hint{token: m.token}}
		if m.r.IntN(2) == 0 {
			m.run(s, f.c)
		}
	case !m.calm && m.r.IntN(20) == 0:
		a = answer{kind: answerMaybe, text: "maybe", hint: hint{token: m.token}}
		if m.r.IntN(2) == 0 {
			m.run(s, f.c)
		}
	default:
		a = answer{kind: answerOK, text: "ok", hint: hint{token: m.token}}
		m.run(s, f.c)
	}
	if a.kind == answerRefused || a.kind == answerFailed || f.c.again && a.kind != answerOK {
		c.fences[f.stream] = max(c.fences[f.stream], f.gen)
	}
	if !c.dead { // a dead connection's calls have been answered already
		m.answers = append(m.answers, simAnswer{f.stream, f.c, a})
	}
}

// run runs a call, unless it has an idempotency key and has run before.
func (m *simCluster) run(s *simStream, c *call) {
	if !c.again || !slices.Contains(s.ran, c.seq) {
		s.ran = append(s.ran, c.seq)
	}
}

func (m *simCluster) deliver() {
	k := m.r.IntN(len(m.answers))
	x := m.answers[k]
	m.answers[k] = m.answers[len(m.answers)-1]
	m.answers = m.answers[:len(m.answers)-1]
	m.streams[x.stream].answered(x.c, x.a, m.view())
	m.do(x.stream)
}

func (m *simCluster) step() {
	m.clock++
	i := m.r.IntN(len(m.streams))
	s := m.streams[i]
	switch k := m.r.IntN(100); {
	case k < 25 && !m.calm:
		c := &call{}
		c.again = m.r.IntN(2) == 0
		s.calls = append(s.calls, c)
		s.enter(c, m.view())
		m.do(i)
	case k < 55:
		if c := m.busy(); c != nil {
			m.serve(c)
		}
	case k < 80:
		if len(m.answers) > 0 {
			m.deliver()
		}
	case k < 90:
		if s.timer {
			s.timer = false
			s.retry(m.view())
			m.do(i)
		}
	case m.calm:
	case k < 93:
		if len(s.calls) > 0 {
			s.giveUp(s.calls[len(s.calls)-1-m.r.IntN(min(8, len(s.calls)))])
			m.do(i)
		}
	case k < 96:
		m.owner = m.nodes[m.r.IntN(4)]
		m.token++
	case k < 98:
		if len(m.all) > 0 {
			if c := m.all[m.r.IntN(len(m.all))]; !c.dead {
				m.drop(c)
			}
		}
	default:
		m.tire()
	}
}

func (m *simCluster) busy() *simConn {
	n := m.r.IntN(len(m.all) + 1)
	for k := range m.all {
		if c := m.all[(n+k)%len(m.all)]; len(c.inbox) > 0 {
			return c
		}
	}
	return nil
}

func (m *simCluster) idle() bool {
	for _, s := range m.streams {
		if s.flight > 0 || len(s.queue) > 0 || s.timer {
			return false
		}
	}
	return m.busy() == nil && len(m.answers) == 0
}

func (m *simCluster) check() (ok, resent, repeated int) {
	for i, s := range m.streams {
		times := map[uint64]int{}
		last := uint64(0)
		for _, seq := range s.ran {
			times[seq]++
			if s.results[s.calls[seq-1]] != "ok" {
				continue
			}
			if seq <= last {
				m.fatalf("stream %d: call %d ran after call %d and both were reported ok", i, seq, last)
			}
			last = seq
		}
		for _, c := range s.calls {
			r, n := s.results[c], times[c.seq]
			switch {
			case r == "":
				m.fatalf("stream %d: call %d never completed", i, c.seq)
			case n > 1:
				m.fatalf("stream %d: call %d ran %d times and was reported %s", i, c.seq, n, r)
			case r == "ok" && n != 1:
				m.fatalf("stream %d: call %d reported ok ran %d times", i, c.seq, n)
			case c.again && (r == "lost" || r == "maybe"):
				m.fatalf("stream %d: call %d could have been sent again and was reported %s", i, c.seq, r)
			case n > 0 && (r == "failed" || r == "full" || r == "queue-full" || r == "overtaken" || r == "not-run"):
				m.fatalf("stream %d: call %d ran and was reported %s", i, c.seq, r)
			}
			if r == "ok" {
				ok++
				if c.tries > 1 {
					resent++
				}
				if c.mayBe {
					repeated++
				}
			}
		}
	}
	return ok, resent, repeated
}

func TestRouterModel(t *testing.T) {
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 200
	}
	ok, resent, repeated := 0, 0, 0
	for seed := range seeds {
		m := newSimCluster(t, seed)
		for range 400 {
			m.step()
		}
		m.calm = true
		for n := 0; !m.idle(); n++ {
			if n > 200_000 {
				m.fatalf("does not come to rest")
			}
			m.step()
		}
		a, b, c := m.check()
		ok, resent, repeated = ok+a, resent+b, repeated+c
	}
	if ok < int(seeds)*20 || resent < int(seeds)*2 || repeated < int(seeds)/2 {
		t.Fatalf("the model does not reach what it is for: %d calls ok, %d of them sent again, %d though they might have run", ok, resent, repeated)
	}
	t.Logf("%d calls ok, %d of them sent more than once, %d though they might have run", ok, resent, repeated)
}
