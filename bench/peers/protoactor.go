package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	pa "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/cluster/identitylookup/disthash"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/freeport"
)

func protoActorSystem() *system {
	return &system{
		name: "protoactor", version: moduleVersion("github.com/asynkron/protoactor-go"), nodes: 3, conns: 1,
		settings: "3 members that never change, identities by distributed hash, virtual actors in memory; it stores nothing and checks no ownership at a reply",
		start:    startProtoActor,
		does:     map[string][]string{"echo": {""}},
	}
}

// echoKind is the kind of the virtual actors.
const echoKind = "echo"

// paMember is one process: it is told its port, tells its ID, and is then told of all members.
type paMember struct {
	ID   string
	Port int
}

// members is a cluster provider for members that are known from the beginning and stay.
type members struct{ list *pa.MemberList }

func (m *members) StartMember(c *pa.Cluster) error { m.list = c.MemberList; return nil }
func (m *members) StartClient(c *pa.Cluster) error { m.list = c.MemberList; return nil }
func (m *members) Shutdown(bool) error             { return nil }

func (m *members) are(all []paMember) {
	var list pa.Members
	for _, a := range all {
		list = append(list, &pa.Member{Id: a.ID, Host: "127.0.0.1", Port: int32(a.Port), Kinds: []string{echoKind}})
	}
	m.list.UpdateClusterTopology(list)
}

// echoActor answers with what it is sent.
type echoActor struct{}

func (echoActor) Receive(c actor.Context) {
	if m, ok := c.Message().(*wrapperspb.BytesValue); ok {
		c.Respond(m)
	}
}

func newProtoActor(port int, log io.Writer) (*pa.Cluster, *members) {
	sys := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
	}))
	m := &members{}
	kind := pa.NewKind(echoKind, actor.PropsFromProducer(func() actor.Actor { return echoActor{} }))
	return pa.New(sys, pa.Configure("bench", m, disthash.New(), remote.Configure("127.0.0.1", port), pa.WithKinds(kind))), m
}

func runProtoActor(in *bufio.Scanner) error {
	var me paMember
	if err := readSettings(in, &me); err != nil {
		return err
	}
	c, m := newProtoActor(me.Port, os.Stderr)
	c.StartMember()
	sayReady(c.ActorSystem.ID)
	var all []paMember
	if !in.Scan() {
		return errors.New("nobody told who the members are")
	}
	if err := json.Unmarshal(in.Bytes(), &all); err != nil {
		return err
	}
	m.are(all)
	untilEnd(in)
	return nil // without leaving: the cluster ends as a whole
}

type protoActor struct {
	processes
	client *pa.Cluster
	drives int
}

func startProtoActor(ctx context.Context, e env) (_ cluster, err error) {
	const n = 3
	all := make([]paMember, n)
	for i := range all {
		if all[i].Port, err = freeport.Run(1); err != nil {
			return nil, err
		}
	}
	s := &protoActor{}
	var ids []string
	if s.processes, ids, err = startNodes(ctx, e, "protoactor", n, func(i int) any { return all[i] }); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for i := range all {
		all[i].ID = ids[i]
	}
	for _, p := range s.processes {
		if err := p.write(all); err != nil {
			return nil, err
		}
	}
	port, err := freeport.Run(1)
	if err != nil {
		return nil, err
	}
	var m *members
	s.client, m = newProtoActor(port, e.log)
	s.client.StartClient()
	m.are(all)
	// The members hear of each other one by one: an actor can be made on each once it knows itself.
	return s, again(ctx, func(context.Context) error {
		for i := range 32 * n {
			if err := s.echo("probe"+strconv.Itoa(i), []byte("probe")); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *protoActor) echo(identity string, b []byte) error {
	r, err := s.client.Request(identity, echoKind, &wrapperspb.BytesValue{Value: b}, pa.WithTimeout(5*time.Second))
	if err != nil {
		return err
	}
	v, ok := r.(*wrapperspb.BytesValue)
	if !ok {
		return fmt.Errorf("the echo is a %T", r)
	}
	if !bytes.Equal(v.Value, b) {
		return errWrongEcho
	}
	return nil
}

var errWrongEcho = errors.New("the echo is not what was sent")

func (s *protoActor) open(_ context.Context, w *workload, _ string) (bench.Target, error) {
	s.drives++
	return &paTarget{s: s, keys: newKeys(fmt.Sprintf("drive%d-", s.drives), w.load), payload: bytes.Repeat([]byte{'e'}, w.load.Payload)}, nil
}

func (s *protoActor) close() error {
	if s.client != nil {
		s.client.ActorSystem.Shutdown()
		s.client.Remote.Shutdown(false)
	}
	s.end()
	return nil
}

type paTarget struct {
	s       *protoActor
	keys    *keys
	payload []byte
	replies
}

func (t *paTarget) Do(_ context.Context, op bench.Op) error {
	err := t.s.echo(t.keys.name(op.Object), t.payload)
	t.expect(!errors.Is(err, errWrongEcho))
	return err
}

func (t *paTarget) Verify(context.Context, *bench.Tally) (*bench.Check, error) {
	return t.check("every echo was what had been sent"), nil
}

func (t *paTarget) Close() error { return nil }
