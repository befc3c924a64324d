package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport/tcp"
)

// Bounds of the HTTP port, which is for probes and a scraper: a few small requests at a time.
const (
	httpConns       = 64
	httpHeaderBytes = 16 << 10
	httpHeaderTime  = 5 * time.Second
	httpAnswerTime  = 30 * time.Second
	httpIdleTime    = 2 * time.Minute
	httpStopTime    = time.Second // requests under way may go on for so long when the node ends
	scrapes         = 4           // at a time; each looks at every shard
)

const (
	// beatTime is how long the driver's loop may take for a turn. It turns at least once a tick, so this is long after its leases are gone.
	beatTime = 5 * time.Second
	beatLook = 5 * time.Millisecond
)

// listenHTTP opens --http; nil if the node serves no HTTP.
func listenHTTP(cfg Config) (net.Listener, error) {
	if cfg.HTTP == "" {
		return nil, nil
	}
	return tcp.Listen(context.Background(), "--http", cfg.HTTP)
}

// serveHTTP answers /healthz, /readyz and /metrics on ln until ctx ends, then closes ln. With a nil ln it does nothing. draining is closed
// when the node begins to stop, which is before ctx ends: then it is alive, and not ready. It may be called before Run.
func (n *Node) serveHTTP(ctx context.Context, ln net.Listener, draining <-chan struct{}) error {
	if ln == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := slog.NewLogLogger(n.log.Handler(), slog.LevelDebug) // strangers must not fill the log
	w := &web{n: n, draining: draining}
	srv := &http.Server{
		Handler: w.handler(quiet), ErrorLog: quiet, ConnState: (&connLimit{most: httpConns}).watch,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: httpHeaderTime, ReadTimeout: httpHeaderTime, WriteTimeout: httpAnswerTime, IdleTimeout: httpIdleTime,
		MaxHeaderBytes: httpHeaderBytes, DisableGeneralOptionsHandler: true,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), httpStopTime)
		defer done()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // who has not had an answer by now gets none
		}
	}()
	n.log.Info("HTTP", "addr", ln.Addr().String())
	err := srv.Serve(ln)
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("--http %s: %w", ln.Addr(), err)
}

// connLimit closes connections beyond most, so that strangers cannot take the file descriptors that calls need.
type connLimit struct {
	most int64
	open atomic.Int64
}

func (l *connLimit) watch(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if l.open.Add(1) > l.most {
			_ = c.Close() // the server finds that out, and says StateClosed
		}
	case http.StateClosed, http.StateHijacked:
		l.open.Add(-1)
	}
}

// web answers the HTTP requests.
type web struct {
	n        *Node
	draining <-chan struct{}
}

func (w *web) handler(errs *log.Logger) http.Handler {
	mux := http.NewServeMux() // a pattern with GET answers HEAD too, and 405 to the others
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, r *http.Request) { answerProbe(rw, "ok", w.sick(r.Context())) })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) { answerProbe(rw, "ready", w.unready()) })
	mux.Handle("GET /metrics", metricsHandler(w.n, errs))
	return mux
}

// answerProbe answers 200 with good, or 503 with the reason.
func answerProbe(rw http.ResponseWriter, good string, err error) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	if err != nil {
		rw.WriteHeader(http.StatusServiceUnavailable)
		good = err.Error()
	}
	_, _ = io.WriteString(rw, good+"\n")
}

// sick is why this process does not work, nil if it does. A node that waits for others works.
func (w *web) sick(ctx context.Context) error {
	w.n.mu.Lock()
	fatal := w.n.fatal
	w.n.mu.Unlock()
	if fatal != nil {
		return fmt.Errorf("the node ends: %w", fatal)
	}
	d := w.n.driver.Load()
	if d == nil {
		return nil // it runs nothing yet
	}
	return beats(ctx, func() uint64 { return d.Stats().Rounds })
}

// beats waits for the next turn of the driver's loop. It looks rather than asks: probes of a loop that hangs would queue up there.
func beats(ctx context.Context, rounds func() uint64) error {
	first := rounds()
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	look := time.NewTicker(beatLook)
	defer look.Stop()
	for rounds() == first {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("the driver's loop has not turned for %v: the disk or the processor is stuck", beatTime)
		}
	}
	return nil
}

// unready is what a node waits for before calls should be sent to it, nil if for nothing.
func (w *web) unready() error {
	select {
	case <-w.draining:
		return errors.New("the node is stopping: its shards go to other nodes")
	default:
	}
	n := w.n
	if n.leaving.Load() {
		return errors.New("the node is leaving the cluster: its replicas move to other nodes")
	}
	select {
	case <-n.serving:
		return nil
	default:
	}
	r, d := n.ring.Load(), n.driver.Load()
	switch {
	case n.cluster().IsZero() && n.cfg.BootstrapExpect > 0:
		return fmt.Errorf("no cluster yet: waiting until %d nodes list each other", n.cfg.BootstrapExpect)
	case n.cluster().IsZero():
		return errors.New("no cluster yet: waiting for one of the nodes of --join to take this node in")
	case r == nil || d == nil:
		return errors.New("no ring yet: waiting for the system shard, or for a node that has one")
	}
	c := census(n.id, r, d)
	return fmt.Errorf("waiting for the owners of %d of the %d shards that have a replica here", c.replicas-c.known, c.replicas)
}

// counted is what a node knows of its shards.
type counted struct {
	owned    int // served by this node now
	replicas int // with a replica here
	known    int // of those, how many have an owner that this node knows of
	groups   int // Raft groups that run here, the system shard's included
}

// census counts a node's shards, as checkServing judges them.
func census(id ring.NodeID, r *ring.Ring, d *replica.Driver) (c counted) {
	if _, ok := d.Hint(ring.SystemGroup); ok {
		c.groups++
	}
	for i := range r.Shards() {
		s := ring.ShardID(i)
		h, ok := d.Hint(s.Group())
		if ok {
			c.groups++
		}
		if h.Self && h.Open {
			c.owned++
		}
		if _, here := r.Shard(s).On(id); here {
			c.replicas++
			if h.Node != 0 && h.Token != 0 && (!h.Self || h.Open) {
				c.known++
			}
		}
	}
	return c
}
