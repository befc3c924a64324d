//go:build linux

package nemesis

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// probeEnv makes the test binary a prober: it reads counters of one node, as the JSON of a probeConfig says, until its stdin ends, and then
// writes what it was answered, as JSON, to stdout. It speaks the protocol itself, because the client library hides refusals by asking again.
const probeEnv = "NEMESIS_PROBE"

type probeConfig struct {
	Server string
	Prefix string // of the objects' keys
	Keys   []int
}

// probed is one read as a node answered it.
type probed struct {
	Key        int
	Start, End time.Duration
	Code       actor.Code // 0: a value
	Outcome    actor.Outcome
	Value      int64
	Message    string
}

// prober hears the answers of one connection.
type prober struct {
	mu      sync.Mutex
	waiting map[uint64]chan transport.Reply
	closed  error
}

func (p *prober) Frame(_ *tcp.Conn, h transport.Header, body []byte) {
	var r transport.Reply
	if h.Kind != transport.KindReply || transport.DecodeReply(body, &r) != nil {
		return // who waits for it says so
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.waiting[h.ID]; ch != nil {
		ch <- r
		delete(p.waiting, h.ID)
	}
}

func (p *prober) Closed(_ *tcp.Conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = err
	for _, ch := range p.waiting {
		close(ch)
	}
	p.waiting = nil
}

// probe reads one counter. The reads of one counter are a stream and each is a generation, so that no refusal holds up the next one, and
// a node remembers no more than it would of a client.
func (p *prober) probe(c *tcp.Conn, prefix string, key int, generation uint64) (probed, error) {
	id, ch := c.NextID(), make(chan transport.Reply, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return probed{}, fmt.Errorf("the connection ended: %w", p.closed)
	}
	p.waiting[id] = ch
	p.mu.Unlock()
	o := probed{Key: key, Start: now()}
	call := transport.Call{Class: "Counter", Key: fmt.Sprintf("%s-%d", prefix, key), Method: "Get", TimeoutMillis: 30_000,
		Stream: uint64(key) + 1, Generation: generation}
	if !c.TrySend(transport.Header{Kind: transport.KindCall, ID: id}, func(b []byte) []byte { return transport.AppendCall(b, &call) }) {
		return probed{}, fmt.Errorf("nothing can be sent: %w", c.Err())
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return probed{}, fmt.Errorf("the connection ended: %w", p.closed)
		}
		o.End, o.Code, o.Outcome, o.Message = now(), actor.Code(r.Code), actor.Outcome(r.Outcome), r.Message
		if r.Code != 0 {
			return o, nil
		}
		return o, msgpack.Unmarshal(r.Result, &o.Value)
	case <-time.After(35 * time.Second):
		return probed{}, fmt.Errorf("counter %d was neither read nor refused within 35 s", key)
	}
}

// probeMain is a prober.
func probeMain(config string) error {
	var cfg probeConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return fmt.Errorf("%s: %w", probeEnv, err)
	}
	p := &prober{waiting: map[uint64]chan transport.Reply{}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := tcp.Dial(ctx, cfg.Server, transport.Hello{Purpose: transport.PurposeCalls}, tcp.DialOptions{Handler: p})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := make(chan struct{})
	var mu sync.Mutex
	all, failed := []probed{}, error(nil)
	var probers sync.WaitGroup
	for _, key := range cfg.Keys {
		probers.Go(func() {
			for generation := uint64(1); ; generation++ {
				o, err := p.probe(conn, cfg.Prefix, key, generation)
				mu.Lock()
				if all = append(all, o); err != nil {
					failed, all = err, all[:len(all)-1]
				}
				mu.Unlock()
				if err != nil {
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	fmt.Fprintln(os.Stderr, loadReady)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	close(stop)
	probers.Wait()
	if failed != nil {
		return failed
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// child is this program as another process, whose answer is the JSON that it writes when its stdin ends.
type child[T any] struct {
	stdin  io.Closer
	answer chan T
}

// startChild starts this program within a namespace, in the role that env gives it, and waits until it says that it is ready.
func startChild[T any](t *testing.T, ns, env string, config any) *child[T] {
	t.Helper()
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	c := in(ns, os.Args[0])
	c.Env = append(os.Environ(), env+"="+string(b))
	stdin, err1 := c.StdinPipe()
	stdout, err2 := c.StdoutPipe()
	stderr, err3 := c.StderrPipe()
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	if err := startBound(c); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	if line, err := said.ReadString('\n'); strings.TrimSpace(line) != loadReady {
		t.Fatalf("the %s process said %q: %v", env, line, err)
	}
	o := &child[T]{stdin: stdin, answer: make(chan T, 1)}
	go func() {
		var answer T
		if err := json.NewDecoder(stdout).Decode(&answer); err != nil {
			words, _ := io.ReadAll(said)
			t.Errorf("the %s process gave no answer: %v: %s", env, err, words)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("the %s process: %v", env, err)
		}
		o.answer <- answer
	}()
	return o
}

func (o *child[T]) end(t *testing.T) (answer T) {
	t.Helper()
	if err := o.stdin.Close(); err != nil {
		t.Error(err)
	}
	select {
	case answer = <-o.answer:
	case <-time.After(60 * time.Second):
		t.Fatal("a process does not end")
	}
	return answer
}

// startProber reads counters of a node from within the node's own namespace, so the prober is cut off with it.
func (u *user) startProber(p *process, keys []int) *child[[]probed] {
	u.t.Helper()
	return startChild[[]probed](u.t, net.node(p.number), probeEnv, probeConfig{Server: listenAddr(p.number), Prefix: u.cfg.Prefix, Keys: keys[:min(len(keys), 8)]})
}

// judgeProber wants a node that is alone to answer nothing when its lease is over, and to say no within an election timeout and what a busy
// machine adds.
func (u *user) judgeProber(reads []probed, cut, lease, healing time.Duration) {
	t := u.t
	t.Helper()
	read, leased, refused := 0, 0, 0
	var caught, verdict, slowest time.Duration // the last of those under way at the cut; the first refusal; any read that began in the cut
	for _, o := range reads {
		if o.Code == 0 {
			u.extra = append(u.extra, op{Key: o.Key, Get: true, Start: o.Start, End: o.End, Value: o.Value})
		}
		switch {
		case o.End < cut && o.Code == 0:
			read++
		case o.End < cut || o.Start > healing:
		case o.Start < cut:
			caught = max(caught, o.End-cut)
		case o.Code == 0 && o.Start <= cut+lease:
			leased++
		case o.Code == 0 && o.End < healing:
			u.violation("a node that is cut off answered %d to a read of counter %d that began %v after the cut", o.Value, o.Key, ms(o.Start-cut))
		case o.End < healing:
			refused++
			slowest = max(slowest, o.End-o.Start)
			if verdict == 0 || o.End-cut < verdict {
				verdict = o.End - cut
			}
		}
		if o.Start < healing && o.End >= healing && healing-o.Start > refusalLimit {
			late(t, "a node that is cut off left a read of counter %d without an answer for %v", o.Key, ms(healing-o.Start))
		}
	}
	if read == 0 || refused == 0 {
		t.Errorf("within the cut-off namespace %d reads were answered before and %d refused after the cut: nothing is shown", read, refused)
	}
	remark(t, "within the cut-off namespace: %d reads before the cut, %d answered within the lease after it, %d refused, the first %v after the cut; one under way at the cut took %v from then, one that began later %v at most",
		read, leased, refused, ms(verdict), ms(caught), ms(slowest))
	if most := max(caught, slowest); most > refusalLimit {
		late(t, "a node that is cut off took %v to refuse a read, want an election timeout, %v at most", ms(most), refusalLimit)
	}
}

// refusalLimit is the longest election timeout and what two busy cores add.
const refusalLimit = electionTimeout + 200*time.Millisecond
