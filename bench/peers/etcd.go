package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/freeport"
)

// The ways in which stores of keys and values do a durable increment.
const (
	asCAS   = "compare-and-set" // atomic, verified
	asPut   = "put"             // a blind write of as many bytes: no increment, an upper bound
	asCount = "counter"         // the store's own counters
)

// etcdConns is how many connections the client has, all to the leader.
const etcdConns = 8

func etcdSystem() *system {
	return &system{
		name: "etcd", version: moduleVersion("go.etcd.io/etcd/server/v3"), nodes: 3, conns: etcdConns,
		settings: "3 members, defaults (heartbeat 100 ms, election 1 s); fsync of the WAL before every acknowledgement (unsafe-no-fsync off); clients at the leader",
		start:    startEtcd,
		does: map[string][]string{"hot": {asCAS, asPut}, "spread": {asCAS, asPut}, "lone": {asCAS, asPut}, "lone-spread": {asCAS, asPut},
			"fresh": {asPut}, "read": {"linearizable"}},
	}
}

// etcdNode is what a child is told.
type etcdNode struct{ Name, Dir, Peer, Client, Cluster string }

func runEtcd(in *bufio.Scanner) error {
	var n etcdNode
	if err := readSettings(in, &n); err != nil {
		return err
	}
	peer, err := url.Parse(n.Peer)
	if err != nil {
		return err
	}
	cl, err := url.Parse(n.Client)
	if err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = n.Name, n.Dir, n.Cluster
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*cl}, []url.URL{*cl}
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	}
	sayReady("")
	untilEnd(in)
	return nil
}

type etcd struct {
	processes
	clients []*clientv3.Client
	drives  int
}

func startEtcd(ctx context.Context, e env) (_ cluster, err error) {
	const n = 3
	ns := make([]etcdNode, n)
	all := ""
	for i := range ns {
		peer, err := freeport.Addr()
		if err != nil {
			return nil, err
		}
		cl, err := freeport.Addr()
		if err != nil {
			return nil, err
		}
		name := "node" + strconv.Itoa(i+1)
		ns[i] = etcdNode{Name: name, Dir: filepath.Join(e.dir, name), Peer: "http://" + peer, Client: "http://" + cl}
		if i > 0 {
			all += ","
		}
		all += name + "=" + ns[i].Peer
	}
	s := &etcd{}
	s.processes, _, err = startNodes(ctx, e, "etcd", n, func(i int) any { ns[i].Cluster = all; return ns[i] })
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	leader, err := etcdLeader(ctx, ns)
	if err != nil {
		return nil, err
	}
	for range etcdConns {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{leader}, Logger: zap.NewNop(), Context: context.WithoutCancel(ctx)})
		if err != nil {
			return nil, err
		}
		s.clients = append(s.clients, c)
	}
	return s, nil
}

// etcdLeader asks every member whether it leads.
func etcdLeader(ctx context.Context, ns []etcdNode) (string, error) {
	for _, n := range ns {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{n.Client}, Logger: zap.NewNop()})
		if err != nil {
			return "", err
		}
		st, err := c.Status(ctx, n.Client)
		c.Close()
		if err != nil {
			return "", fmt.Errorf("asking %s who leads: %w", n.Client, err)
		}
		if st.Leader == st.Header.MemberId {
			return n.Client, nil
		}
	}
	return "", errors.New("no member of etcd leads")
}

func (s *etcd) close() error {
	for _, c := range s.clients {
		c.Close() // its processes end next
	}
	s.end()
	return nil
}

func (s *etcd) open(ctx context.Context, w *workload, way string) (bench.Target, error) {
	s.drives++
	t := &etcdTarget{s: s, op: w.op, way: way, keys: newKeys(fmt.Sprintf("drive%d-", s.drives), w.load), cells: newCells()}
	if w.op == read {
		err := each(ctx, workers, w.load.Objects, func(ctx context.Context, i int) error {
			_, err := t.set(ctx, i, i, int64(i+1), 0)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("writing what is to be read: %w", err)
		}
	}
	return t, nil
}

type etcdTarget struct {
	s     *etcd
	op    op
	way   string
	keys  *keys
	cells *cells
	replies
}

func (t *etcdTarget) Do(ctx context.Context, op bench.Op) error {
	switch {
	case t.op == read:
		v, _, err := t.get(ctx, op.Worker, op.Object)
		t.expect(err != nil || v == int64(op.Object+1))
		return err
	case t.way == asPut:
		_, err := t.client(op.Worker).Put(ctx, t.keys.name(op.Object), putValue)
		return err
	}
	return t.cells.increment(ctx, t, op)
}

// putValue is what a put that stands for an increment writes: as many bytes as a counter of some size.
const putValue = "123456"

func (t *etcdTarget) client(worker int) *clientv3.Client { return t.s.clients[worker%len(t.s.clients)] }

func (t *etcdTarget) set(ctx context.Context, worker, object int, value, rev int64) (int64, error) {
	key := t.keys.name(object)
	r, err := t.client(worker).Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, strconv.FormatInt(value, 10))).Commit()
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		return 0, errConflict
	}
	return r.Header.Revision, nil
}

func (t *etcdTarget) get(ctx context.Context, worker, object int) (value, rev int64, err error) {
	r, err := t.client(worker).Get(ctx, t.keys.name(object))
	if err != nil || len(r.Kvs) == 0 {
		return 0, 0, err
	}
	value, err = strconv.ParseInt(string(r.Kvs[0].Value), 10, 64)
	return value, r.Kvs[0].ModRevision, err
}

// Verify reads the counters, or how often each key was put.
func (t *etcdTarget) Verify(ctx context.Context, told *bench.Tally) (*bench.Check, error) {
	if t.op == read {
		return t.check("every read brought what was stored"), nil
	}
	if t.way != asPut {
		return checkCounts(ctx, told, "the counters add up", func(ctx context.Context, i int) (int64, error) {
			v, _, err := t.get(ctx, i, i)
			return v, err
		})
	}
	return checkCounts(ctx, told, "every key was put as often as acknowledged", func(ctx context.Context, i int) (int64, error) {
		r, err := t.client(i).Get(ctx, t.keys.name(i))
		if err != nil || len(r.Kvs) == 0 {
			return 0, err
		}
		return r.Kvs[0].Version, nil
	})
}

func (t *etcdTarget) Close() error { return nil }
