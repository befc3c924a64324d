package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/freeport"
)

// workerdVersion is the npm package's.
const workerdVersion = "1.20261117.1"

//go:embed workerd/worker.js
var workerJS []byte

//go:embed workerd/config.capnp
var workerdConfig string

func workerdSystem() *system {
	return &system{
		name: "workerd", version: workerdVersion, nodes: 1, conns: 256,
		settings: "1 process, no replication; Durable Objects with SQLite on local disk, the output gate waits for the disk; HTTP/1.1, a connection for each caller",
		start:    startWorkerd,
		does:     map[string][]string{"hot": {""}, "spread": {""}, "lone": {""}, "lone-spread": {""}, "fresh": {""}, "read": {""}, "echo": {""}},
	}
}

// installTime is how long npm may take.
const installTime = 3 * time.Minute

// workerdBinary is the program, installed from npm into the cache unless it is there.
func workerdBinary(ctx context.Context, e env) (string, error) {
	dir := filepath.Join(e.cache, "workerd-"+workerdVersion)
	pattern := filepath.Join(dir, "node_modules", "@cloudflare", "workerd-*", "bin", "workerd")
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return found[0], nil
	}
	if !e.install {
		return "", missingf("workerd %s is not in %s, and --no-install forbids to put it there", workerdVersion, e.cache)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", missingf("workerd comes from npm, and there is no npm here")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	// Its platform's binary is a package that it depends on; no script need run.
	c := exec.CommandContext(ctx, npm, "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", "workerd@"+workerdVersion)
	if out, err := c.CombinedOutput(); err != nil {
		return "", missingf("npm cannot install workerd@%s: %v: %s", workerdVersion, err, endOf(string(out)))
	}
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return found[0], nil
	}
	return "", missingf("npm has no workerd %s for %s/%s", workerdVersion, runtime.GOOS, runtime.GOARCH)
}

func endOf(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

type workerd struct {
	processes
	base   string
	client *http.Client
	fresh  int // drives that make their objects as they go
}

func startWorkerd(ctx context.Context, e env) (_ cluster, err error) {
	binary, err := workerdBinary(ctx, e)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(e.dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return nil, err
	}
	addr, err := freeport.Addr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(e.dir, "config.capnp")
	text := strings.NewReplacer("DATA", data, "ADDRESS", addr).Replace(workerdConfig)
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o644), os.WriteFile(filepath.Join(e.dir, "worker.js"), workerJS, 0o644)); err != nil {
		return nil, err
	}
	p, err := e.family.start("workerd", "", e.log, binary, "serve", config)
	if err != nil {
		return nil, err
	}
	w := &workerd{processes: processes{p}, base: "http://" + addr + "/",
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, MaxIdleConns: 1024, DisableCompression: true, DialContext: (&net.Dialer{}).DialContext}}}
	err = again(ctx, func(ctx context.Context) error {
		select {
		case <-p.ended:
			return fmt.Errorf("workerd ended before it served: %w", p.howEnded())
		default:
		}
		_, err := w.call(ctx, "probe", "echo", nil)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// call posts to one object.
func (w *workerd) call(ctx context.Context, key, method string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+key+"/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("workerd answers %s", res.Status)
	}
	return b, nil
}

func (w *workerd) number(ctx context.Context, key, method string) (int64, error) {
	b, err := w.call(ctx, key, method, nil)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}

func (w *workerd) close() error {
	w.client.CloseIdleConnections()
	w.end()
	return nil
}

// open makes the objects of a workload that knows them: the first increment of one makes its file, which costs several fsyncs. Later drives use
// them again.
func (w *workerd) open(ctx context.Context, wl *workload, _ string) (bench.Target, error) {
	t := &workerdTarget{w: w, op: wl.op, payload: bytes.Repeat([]byte{'e'}, wl.load.Payload)}
	if wl.load.Fresh {
		w.fresh++
		t.keys = newKeys(fmt.Sprintf("fresh%d-", w.fresh), wl.load)
		return t, nil
	}
	t.keys, t.before = newKeys("object-", wl.load), make([]int64, wl.load.Objects)
	err := each(ctx, workers, wl.load.Objects, func(ctx context.Context, i int) (err error) {
		t.before[i], err = w.number(ctx, t.keys.name(i), "increment")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making the objects: %w", err)
	}
	return t, nil
}

type workerdTarget struct {
	w       *workerd
	op      op
	keys    *keys
	payload []byte
	before  []int64 // what each object counted before the drive; nil: nothing, they are new
	replies
}

func (t *workerdTarget) Do(ctx context.Context, o bench.Op) error {
	key := t.keys.name(o.Object)
	switch t.op {
	case read:
		n, err := t.w.number(ctx, key, "get")
		t.expect(err != nil || n == t.before[o.Object])
		return err
	case echo:
		b, err := t.w.call(ctx, key, "echo", t.payload)
		t.expect(err != nil || bytes.Equal(b, t.payload))
		return err
	}
	n, err := t.w.number(ctx, key, "increment")
	t.expect(err != nil || n > t.at(o.Object))
	return err
}

func (t *workerdTarget) at(object int) int64 {
	if t.before == nil {
		return 0
	}
	return t.before[object]
}

func (t *workerdTarget) Verify(ctx context.Context, told *bench.Tally) (*bench.Check, error) {
	if t.op != increment {
		return t.check("every reply was what it had to be"), nil
	}
	return checkCounts(ctx, told, "the counters add up", func(ctx context.Context, i int) (int64, error) {
		n, err := t.w.number(ctx, t.keys.name(i), "get")
		return n - t.at(i), err
	})
}

func (t *workerdTarget) Close() error { return nil }
