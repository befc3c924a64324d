package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/freeport"
)

// natsConns is how many connections the client has, all to the leader of the drive's stream.
const natsConns = 4

func natsSystem() *system {
	ways := []string{asCAS, asCount, asPut}
	return &system{
		name: "nats", version: server.VERSION, nodes: 3, conns: natsConns,
		settings: "3 servers, JetStream, streams with 3 replicas in files, sync_interval always; clients at the stream's leader; reads are the leader's, unconfirmed",
		start:    startNATS,
		does:     map[string][]string{"hot": ways, "spread": ways, "lone": ways, "lone-spread": ways, "fresh": {asCount, asPut}, "read": {"direct get"}},
	}
}

// natsNode is what a child is told.
type natsNode struct {
	Name, Dir   string
	Client      int
	Cluster     int
	ClusterPeer []int // the cluster ports of all
}

func runNATS(in *bufio.Scanner) error {
	var n natsNode
	if err := readSettings(in, &n); err != nil {
		return err
	}
	o := &server.Options{ServerName: n.Name, Host: "127.0.0.1", Port: n.Client, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: n.Dir, SyncAlways: true, SyncInterval: 2 * time.Minute, // the interval that the server itself sets beside always
		Cluster: server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: n.Cluster}}
	for _, p := range n.ClusterPeer {
		u, err := url.Parse("nats-route://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil {
			return err
		}
		o.Routes = append(o.Routes, u)
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(30 * time.Second) {
		return errors.New("the server does not accept connections")
	}
	sayReady("")
	untilEnd(in)
	return nil
}

type natsCluster struct {
	processes
	urls   map[string]string // by server name
	admin  *nats.Conn
	js     jetstream.JetStream
	drives int
}

func startNATS(ctx context.Context, e env) (_ cluster, err error) {
	const n = 3
	s := &natsCluster{urls: map[string]string{}}
	ns, ports := make([]natsNode, n), make([]int, n)
	for i := range ns {
		cl, err := freeport.Run(1)
		if err != nil {
			return nil, err
		}
		if ports[i], err = freeport.Run(1); err != nil {
			return nil, err
		}
		name := "node" + strconv.Itoa(i+1)
		ns[i] = natsNode{Name: name, Dir: filepath.Join(e.dir, name), Client: cl, Cluster: ports[i], ClusterPeer: ports}
		s.urls[name] = "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(cl))
	}
	if s.processes, _, err = startNodes(ctx, e, "nats", n, func(i int) any { return ns[i] }); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.admin, err = nats.Connect(s.urls["node1"]); err != nil {
		return nil, err
	}
	if s.js, err = jetstream.New(s.admin); err != nil {
		return nil, err
	}
	// JetStream serves once its servers have found each other: a stream of three replicas can be made only then.
	return s, again(ctx, func(ctx context.Context) error {
		_, err := s.js.CreateStream(ctx, jetstream.StreamConfig{Name: "probe", Replicas: n})
		return err
	})
}

// again repeats what does not work yet, until it does or ctx ends.
func again(ctx context.Context, f func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (s *natsCluster) close() error {
	if s.admin != nil {
		s.admin.Close()
	}
	s.end()
	return nil
}

// open makes a stream of the drive's own. That of compare-and-set and of puts is a bucket of keys and values.
func (s *natsCluster) open(ctx context.Context, w *workload, way string) (_ bench.Target, err error) {
	s.drives++
	t := &natsTarget{s: s, op: w.op, way: way, name: fmt.Sprintf("drive%d", s.drives), keys: newKeys("k", w.load), cells: newCells()}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	bucket := "KV_" + t.name
	if way == asCount {
		bucket = t.name
		_, err = s.js.CreateStream(ctx, jetstream.StreamConfig{Name: bucket, Subjects: []string{t.name + ".*"}, Replicas: 3, AllowMsgCounter: true, AllowDirect: true})
	} else {
		_, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: t.name, Replicas: 3})
	}
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, bucket)
	if err != nil {
		return nil, err
	}
	if err := t.connect(ctx, leader); err != nil {
		return nil, err
	}
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

func (s *natsCluster) leader(ctx context.Context, stream string) (url string, err error) {
	return url, again(ctx, func(ctx context.Context) error {
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if c := st.CachedInfo().Cluster; c != nil && s.urls[c.Leader] != "" {
			url = s.urls[c.Leader]
			return nil
		}
		return fmt.Errorf("stream %s has no leader", stream)
	})
}

type natsTarget struct {
	s     *natsCluster
	op    op
	way   string
	name  string
	keys  *keys
	cells *cells
	conns []natsConn
	replies
}

// natsConn is one connection. kv is of buckets alone.
type natsConn struct {
	nc *nats.Conn
	js jetstream.JetStream
	kv jetstream.KeyValue
}

func (t *natsTarget) connect(ctx context.Context, url string) (err error) {
	for range natsConns {
		var c natsConn
		if c.nc, err = nats.Connect(url); err != nil {
			return err
		}
		t.conns = append(t.conns, c)
		if c.js, err = jetstream.New(c.nc); err != nil {
			return err
		}
		if t.way != asCount {
			if c.kv, err = c.js.KeyValue(ctx, t.name); err != nil {
				return err
			}
		}
		t.conns[len(t.conns)-1] = c
	}
	return nil
}

func (t *natsTarget) conn(worker int) *natsConn { return &t.conns[worker%len(t.conns)] }

func (t *natsTarget) Do(ctx context.Context, op bench.Op) error {
	switch {
	case t.op == read:
		v, _, err := t.get(ctx, op.Worker, op.Object)
		t.expect(err != nil || v == int64(op.Object+1))
		return err
	case t.way == asPut:
		_, err := t.conn(op.Worker).kv.PutString(ctx, t.keys.name(op.Object), putValue)
		return err
	case t.way == asCount:
		m := nats.NewMsg(t.name + "." + t.keys.name(op.Object))
		m.Header.Set("Nats-Incr", "1")
		ack, err := t.conn(op.Worker).js.PublishMsg(ctx, m)
		t.expect(err != nil || ack.Value != "" && ack.Value[0] != '0')
		return err
	}
	return t.cells.increment(ctx, t, op)
}

func (t *natsTarget) set(ctx context.Context, worker, object int, value, rev int64) (int64, error) {
	kv, key, v := t.conn(worker).kv, t.keys.name(object), strconv.AppendInt(nil, value, 10)
	var now uint64
	var err error
	if rev == 0 {
		now, err = kv.Create(ctx, key, v)
	} else {
		now, err = kv.Update(ctx, key, v, uint64(rev))
	}
	if lostRace(err) {
		err = errConflict
	}
	return int64(now), err
}

// lostRace reports whether a write was refused since somebody else had written: a server says so in one way if the other write is stored, and in another if it is
// still on its way to the replicas.
func lostRace(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

func (t *natsTarget) get(ctx context.Context, worker, object int) (value, rev int64, err error) {
	e, err := t.conn(worker).kv.Get(ctx, t.keys.name(object))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	value, err = strconv.ParseInt(string(e.Value()), 10, 64)
	return value, int64(e.Revision()), err
}

// Verify reads the counters. Of puts it counts the messages that the stream took, all together.
func (t *natsTarget) Verify(ctx context.Context, told *bench.Tally) (*bench.Check, error) {
	acked, doubt := told.Total()
	switch {
	case t.op == read:
		return t.check("every read brought what was stored"), nil
	case t.way == asPut:
		st, err := t.s.js.Stream(ctx, "KV_"+t.name)
		if err != nil {
			return nil, err
		}
		c := &bench.Check{OK: true, What: "the bucket took as many puts as were acknowledged", Acknowledged: acked, MayHaveRun: doubt, Counted: int64(st.CachedInfo().State.LastSeq)}
		if c.Counted < acked || c.Counted > acked+doubt {
			c.Fail("it took %d", c.Counted)
		}
		return c, nil
	case t.way == asCount:
		return checkCounts(ctx, told, "the counters add up", func(ctx context.Context, i int) (int64, error) {
			b, err := t.last(ctx, i, t.name, t.name+"."+t.keys.name(i))
			if err != nil || b == nil {
				return 0, err
			}
			var v struct {
				Val string `json:"val"`
			}
			if err := json.Unmarshal(b, &v); err != nil {
				return 0, fmt.Errorf("counter %d holds %q: %w", i, b, err)
			}
			return strconv.ParseInt(v.Val, 10, 64)
		})
	}
	return checkCounts(ctx, told, "the counters add up", func(ctx context.Context, i int) (int64, error) {
		b, err := t.last(ctx, i, "KV_"+t.name, "$KV."+t.name+"."+t.keys.name(i))
		if err != nil || b == nil {
			return 0, err
		}
		return strconv.ParseInt(string(b), 10, 64)
	})
}

// last is what a subject holds by the word of the stream's leader, nil if nothing. A direct get may be answered by a replica that is behind.
func (t *natsTarget) last(ctx context.Context, i int, stream, subject string) ([]byte, error) {
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil, err
	}
	m, err := t.conn(i).nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return nil, err
	}
	var r struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("the answer about %s: %w", subject, err)
	}
	if r.Error != nil {
		if r.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, r.Error
	}
	return r.Message.Data, nil
}

func (t *natsTarget) Close() error {
	for _, c := range t.conns {
		c.nc.Close()
	}
	return nil
}
