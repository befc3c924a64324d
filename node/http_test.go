package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/store/replica"
)

// probed is a node whose HTTP port is open, and that does not run yet.
type probed struct {
	*Node
	url      string
	draining chan struct{}
	end      context.CancelFunc // of the HTTP port alone
	ended    chan error
}

func probe(t *testing.T, change func(*Config)) *probed {
	t.Helper()
	cfg := quietConfig(t, t.TempDir())
	cfg.HTTP = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg, stock.Counter())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := listenHTTP(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &probed{Node: n, url: "http://" + ln.Addr().String(), draining: make(chan struct{}), end: cancel, ended: make(chan error, 1)}
	go func() { p.ended <- n.serveHTTP(ctx, ln, p.draining) }()
	t.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-p.ended; err != nil {
			t.Errorf("HTTP: %v", err)
		}
	})
	return p
}

// run runs a probed node; HTTP learns that it stops as it will from the context of Run.
func (p *probed) run(t *testing.T) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Node: p.Node, cancel: cancel, done: make(chan error, 1)}
	context.AfterFunc(ctx, func() { close(p.draining) })
	go func() { r.done <- p.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

func (p *probed) do(t *testing.T, method, path string) (code int, body string, h http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// want asks and compares; the body must have text in it.
func (p *probed) want(t *testing.T, path string, code int, text string) {
	t.Helper()
	got, body, _ := p.do(t, http.MethodGet, path)
	if got != code || !strings.Contains(body, text) || strings.Count(body, "\n") != 1 {
		t.Errorf("%s answered %d %q, want %d and one line with %q", path, got, body, code, text)
	}
}

type metrics map[string]*dto.MetricFamily

func (p *probed) metrics(t *testing.T) metrics {
	t.Helper()
	code, body, h := p.do(t, http.MethodGet, "/metrics")
	if code != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
		t.Fatalf("/metrics answered %d, %q", code, h.Get("Content-Type"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("/metrics cannot be parsed: %v\n%s", err, body)
	}
	return m
}

// value is that of a ringfence metric without labels; -1 if there is none.
func (m metrics) value(name string) float64 {
	f := m["ringfence_"+name]
	if f == nil || len(f.GetMetric()) != 1 || len(f.GetMetric()[0].GetLabel()) != 0 {
		return -1
	}
	if f.GetType() == dto.MetricType_COUNTER {
		return f.GetMetric()[0].GetCounter().GetValue()
	}
	return f.GetMetric()[0].GetGauge().GetValue()
}

func (m metrics) want(t *testing.T, values map[string]float64) {
	t.Helper()
	for name, want := range values {
		if got := m.value(name); got != want {
			t.Errorf("ringfence_%s is %v, want %v", name, got, want)
		}
	}
}

func TestHTTPOfOneNode(t *testing.T) {
	p := probe(t, func(c *Config) { c.Shards = 8 })
	p.want(t, "/healthz", 200, "ok")
	p.want(t, "/readyz", 503, "no cluster yet: waiting until 1 nodes")
	m := p.metrics(t)
	m.want(t, map[string]float64{"serving": 0, "ring_epoch": 0, "shards_owned": 0, "raft_groups": 0, "events_started_total": 0,
		"raft_rounds_total": -1, "connections": -1})

	r := p.run(t)
	waitServing(t, r)
	p.want(t, "/healthz", 200, "ok")
	p.want(t, "/readyz", 200, "ready")
	p.leaving.Store(true)
	p.want(t, "/readyz", 503, "leaving the cluster")
	p.leaving.Store(false)
	before := p.metrics(t)
	before.want(t, map[string]float64{"serving": 1, "ring_epoch": 1, "ring_members": 1, "ring_shards": 8, "shards_owned": 8,
		"shards_replicated": 8, "shards_unowned": 0, "raft_groups": 9, "events_started_total": 0, "activations": 0})

	c := dialTo(t, r)
	for range 5 {
		increment(t, c, "a")
	}
	if _, err := actor.Call[int64](context.Background(), c.Object("Counter", "a"), "NoSuchMethod", nil); err == nil {
		t.Error("a method that is not there answered")
	}
	storeAll(t, r, "Counter", "a")
	after := p.metrics(t)
	after.want(t, map[string]float64{"events_started_total": 5, "events_ended_total": 5, "activations": 1, "calls_unanswered_bytes": 0})
	for _, name := range []string{"raft_rounds_total", "raft_proposed_batches_total", "raft_applied_tasks_total", "disk_writes_total",
		"disk_appends_total", "disk_syncs_total", "disk_sync_seconds_total", "write_batches_total", "calls_refused_total",
		"connections_accepted_total"} {
		if before.value(name) < 0 || after.value(name) <= before.value(name) {
			t.Errorf("ringfence_%s went from %v to %v by 5 increments", name, before.value(name), after.value(name))
		}
	}
	if after.value("connections") < 1 || after.value("store_files_bytes") <= 0 {
		t.Errorf("%v connections, %v bytes", after.value("connections"), after.value("store_files_bytes"))
	}

	r.cancel()
	<-p.draining
	p.want(t, "/readyz", 503, "stopping")
	r.stop(t)
	p.want(t, "/readyz", 503, "stopping")
}

// What a node says of itself follows the conventions, has few labels, and does not grow with the number of shards.
func TestMetricsNames(t *testing.T) {
	p := probe(t, nil)
	r := p.run(t)
	waitServing(t, r)
	_, body, _ := p.do(t, http.MethodGet, "/metrics")
	var own bytes.Buffer
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "ringfence_") || strings.HasPrefix(line, "# HELP ringfence_") || strings.HasPrefix(line, "# TYPE ringfence_") {
			own.WriteString(line)
		}
	}
	problems, err := promlint.New(&own).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	m := p.metrics(t)
	wanted := 1 + len(factFigures) + len(driverFigures) + len(hostFigures) + len(storeFigures) + len(serverFigures)
	seen := 0
	for name, f := range m {
		if !strings.HasPrefix(name, "ringfence_") {
			continue
		}
		seen++
		if labels := len(f.GetMetric()[0].GetLabel()); len(f.GetMetric()) != 1 || labels != 0 && name != "ringfence_build_info" {
			t.Errorf("%s has %d series, the first with %d labels", name, len(f.GetMetric()), labels)
		}
	}
	if seen != wanted {
		t.Errorf("%d metrics, want %d: do two of them share a name?", seen, wanted)
	}
	if m["go_goroutines"] == nil || m["process_start_time_seconds"] == nil {
		t.Error("the process and Go collectors are missing")
	}
	for _, l := range m["ringfence_build_info"].GetMetric()[0].GetLabel() {
		if l.GetName() == "version" && l.GetValue() != Version {
			t.Errorf("version %q, want %q", l.GetValue(), Version)
		}
	}
}

func TestHTTPReadyNamesWhatItWaitsFor(t *testing.T) {
	gossip := freeAddr(t)
	for text, change := range map[string]func(*Config){
		"waiting until 3 nodes list each other": func(c *Config) { c.Join, c.BootstrapExpect, c.Shards = []string{gossip}, 3, 16 },
		"take this node in":                     func(c *Config) { c.Join = []string{gossip} },
	} {
		p := probe(t, change)
		p.want(t, "/readyz", 503, text)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestHTTPRefusesOtherRequests(t *testing.T) {
	p := probe(t, nil)
	defer p.Close()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			if code, _, h := p.do(t, method, path); code != 405 || h.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s answered %d, Allow %q", method, path, code, h.Get("Allow"))
			}
		}
		want, _, _ := p.do(t, http.MethodGet, path)
		if code, body, _ := p.do(t, http.MethodHead, path); code != want || body != "" {
			t.Errorf("HEAD %s answered %d %q, GET %d", path, code, body, want)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/healthz/", "/metrics/x"} {
		if code, _, _ := p.do(t, http.MethodGet, path); code != 404 {
			t.Errorf("GET %s answered %d", path, code)
		}
	}
}

// A driver that does not turn makes a node sick; a node that ends says why.
func TestHealthOfStuckNode(t *testing.T) {
	n, err := New(quietConfig(t, t.TempDir()), stock.Counter())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	w := &web{n: n, draining: make(chan struct{})}
	get := func() *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		w.handler(nil).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return rec
	}
	if rec := get(); rec.Code != 200 {
		t.Errorf("before the driver is there: %d %s", rec.Code, rec.Body)
	}
	n.driver.Store(replica.NewDriver(replica.DriverConfig{Engine: n.engine, Node: n.id, Boot: n.boot, Timing: replica.LANTiming, Network: newPeers(n), Logger: n.log}))
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if rec := get(); rec.Code != 503 || !strings.Contains(rec.Body.String(), "has not turned for 5s") || time.Since(began) != beatTime {
			t.Errorf("with a driver that nobody runs: %d %s after %v", rec.Code, rec.Body, time.Since(began))
		}
	})
	n.fatal = errors.New("the disk is full")
	if rec := get(); rec.Code != 503 || !strings.Contains(rec.Body.String(), "the disk is full") {
		t.Errorf("of a node that ends: %d %s", rec.Code, rec.Body)
	}
}

func TestBeats(t *testing.T) {
	for _, c := range []struct {
		turn time.Duration // one each
		ok   bool
	}{{time.Millisecond, true}, {250 * time.Millisecond, true}, {beatTime - 2*beatLook, true}, {beatTime + 2*beatLook, false}} {
		synctest.Test(t, func(t *testing.T) {
			var rounds atomic.Uint64
			turn := time.AfterFunc(c.turn, func() { rounds.Add(1) })
			defer turn.Stop()
			began := time.Now()
			err := beats(t.Context(), rounds.Load)
			if (err == nil) != c.ok || time.Since(began) > min(beatTime, c.turn+2*beatLook) {
				t.Errorf("a turn after %v: %v after %v", c.turn, err, time.Since(began))
			}
		})
	}
}

func TestHTTPConnectionLimit(t *testing.T) {
	p := probe(t, nil)
	defer p.Close()
	http.DefaultClient.CloseIdleConnections()
	var conns []net.Conn
	dial := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ask := func(c net.Conn) error {
		if _, err := fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	for i := range httpConns {
		c := dial()
		if err := ask(c); err != nil {
			t.Fatalf("connection %d: %v", i+1, err)
		}
		conns = append(conns, c)
	}
	if err := ask(dial()); err == nil {
		t.Fatalf("connection %d was answered", httpConns+1)
	}
	conns[0].Close()
	deadline := time.Now().Add(20 * time.Second)
	for ask(dial()) != nil { // the server hears of the close a moment later
		if time.Now().After(deadline) {
			t.Fatal("no connection after one was closed")
		}
	}
}

// A header without end is refused, and so is one that is too large.
func TestHTTPHeaderLimit(t *testing.T) {
	p := probe(t, nil)
	defer p.Close()
	req, err := http.NewRequest(http.MethodGet, p.url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X", strings.Repeat("x", 2*httpHeaderBytes))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of %d bytes: %d", 2*httpHeaderBytes, resp.StatusCode)
	}
}

func TestListenHTTP(t *testing.T) {
	if ln, err := listenHTTP(Config{}); ln != nil || err != nil {
		t.Errorf("without --http: %v, %v", ln, err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = listenHTTP(Config{HTTP: taken.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "--http "+taken.Addr().String()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a port in use: %v", err)
	}
	cfg := quietConfig(t, t.TempDir())
	cfg.HTTP = "nowhere"
	if err := cfg.fill(); err == nil || !strings.Contains(err.Error(), `--http "nowhere"`) {
		t.Errorf("no address: %v", err)
	}
	if err := (*Node)(nil).serveHTTP(context.Background(), nil, nil); err != nil {
		t.Errorf("nothing to serve: %v", err)
	}
}

// The port ends with its context, also while a probe waits for an answer.
func TestHTTPEnds(t *testing.T) {
	p := probe(t, nil)
	defer p.Close()
	p.driver.Store(replica.NewDriver(replica.DriverConfig{Engine: p.engine, Node: p.id, Boot: p.boot, Timing: replica.LANTiming, Network: newPeers(p.Node), Logger: p.log}))
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	p.end()
	select {
	case err := <-p.ended:
		p.ended <- err
	case <-time.After(20 * time.Second):
		t.Fatal("HTTP does not end")
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://")); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}
