package node

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/transport"
	"github.com/ringfence/ringfence/transport/tcp"
)

// replies gathers what a node answers on one connection.
type replies struct{ got chan transport.Reply }

func (r replies) Frame(_ *tcp.Conn, h transport.Header, body []byte) {
	var p transport.Reply
	if err := transport.DecodeReply(body, &p); err != nil {
		panic(err)
	}
	r.got <- p
}

func (r replies) Closed(*tcp.Conn, error) {}

// TestRefusalEndsTheGeneration: once a call of a stream did not run, no later call of its generation does, or a reference's calls would
// overtake one another; a higher generation goes on, and other streams are not concerned.
func TestRefusalEndsTheGeneration(t *testing.T) {
	nodes := trio(t, nil)
	waitServing(t, nodes...)
	n := nodes[0]
	key := func(mine bool) string {
		for i := 0; ; i++ {
			k := fmt.Sprint(i)
			if h, _ := n.driver.Load().Hint(n.Ring().ShardOf("Counter", k).Group()); h.Open == mine {
				return k
			}
		}
	}
	mine, foreign := key(true), key(false)
	r := replies{make(chan transport.Reply, 1)}
	c, err := tcp.Dial(context.Background(), n.Addr(), transport.Hello{Purpose: transport.PurposeCalls}, tcp.DialOptions{Handler: r})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call := func(key string, stream, generation uint64) transport.Reply {
		q := transport.Call{Class: "Counter", Key: key, Method: "Increment", Encoding: transport.EncodingJSON, Arg: []byte("1"), Stream: stream, Generation: generation}
		if err := c.Send(context.Background(), transport.Header{Kind: transport.KindCall, ID: c.NextID()},
			func(b []byte) []byte { return transport.AppendCall(b, &q) }); err != nil {
			t.Fatal(err)
		}
		return <-r.got
	}
	for i, step := range []struct {
		key                string
		stream, generation uint64
		ran                bool
	}{
		{mine, 7, 1, true},
		{foreign, 7, 1, false}, // not the owner
		{mine, 7, 1, false},    // would run, but an earlier one of its generation did not
		{mine, 8, 1, true},     // another stream
		{mine, 7, 2, true},
		{mine, 7, 2, true},
	} {
		p := call(step.key, step.stream, step.generation)
		if ran := p.Outcome == uint8(actor.Ran); ran != step.ran || !ran && (p.Outcome != uint8(actor.DidNotRun) || p.Flags&transport.FlagRetryable == 0) {
			t.Fatalf("step %d: %+v", i, p)
		}
		if step.key == foreign {
			want, _ := n.driver.Load().Hint(n.Ring().ShardOf("Counter", foreign).Group())
			if p.Hint == 0 || p.Hint == n.ID() || p.Hint != want.Node || ring.Epoch(p.Epoch) != 1 || p.Token == 0 {
				t.Fatalf("the refusal names %v under token %d, want %+v", p.Hint, p.Token, want)
			}
		}
	}
}

// TestErrorOfACallWithAKeyEndsTheGeneration: a call with an idempotency key that came to an error of the system's will be sent again, and may then
// run for the first time: what follows it in its generation must not run before.
func TestErrorOfACallWithAKeyEndsTheGeneration(t *testing.T) {
	n := launch(t, quietConfig(t, t.TempDir()))
	waitServing(t, n)
	r := replies{make(chan transport.Reply, 1)}
	c, err := tcp.Dial(context.Background(), n.Addr(), transport.Hello{Purpose: transport.PurposeCalls}, tcp.DialOptions{Handler: r})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	large, err := json.Marshal(make([]byte, actor.IdempotentReplyBytes))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		method     string
		arg        []byte
		key        string
		generation uint64
		code       actor.Code
	}{
		{"Echo", large, "large", 1, 0},
		{"Increment", []byte("1"), "", 1, 0},
		{"Echo", large, "large", 1, actor.CodeNotStored},
		{"Increment", []byte("1"), "", 1, actor.CodeNotOwner},
		{"Echo", large, "large", 2, actor.CodeNotStored},
		{"Increment", []byte("1"), "", 3, 0},
	} {
		q := transport.Call{Class: "Counter", Key: "a", Method: step.method, Encoding: transport.EncodingJSON, Arg: step.arg, Stream: 7, Generation: step.generation, Idempotent: step.key}
		if err := c.Send(context.Background(), transport.Header{Kind: transport.KindCall, ID: c.NextID()},
			func(b []byte) []byte { return transport.AppendCall(b, &q) }); err != nil {
			t.Fatal(err)
		}
		if p := <-r.got; actor.Code(p.Code) != step.code {
			t.Fatalf("step %d: code %d %s", i, p.Code, p.Message)
		}
	}
}
