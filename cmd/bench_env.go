package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ringfence/ringfence/bench"
	"github.com/ringfence/ringfence/transport/client"
)

// benchEnv is what a workload runs on, and what is to be put away afterwards.
type benchEnv struct {
	bench.Env
	cl *client.Client
	l  *local // nil: the cluster ran already
}

// openBench connects to the cluster, which it starts before if that is asked for.
func (a *app) openBench(ctx context.Context, f *benchFlags, w bench.Workload) (*benchEnv, error) {
	e := &benchEnv{}
	e.Conns, e.Metrics = f.conns, nodeMetrics
	servers, dir := f.servers, ""
	if f.starts() {
		if err := e.startNodes(ctx, a, f, w); err != nil {
			return nil, err
		}
		servers, dir = e.l.servers(), e.l.dir
	} else if f.faultCmd != "" {
		e.Nodes = &commandNodes{command: f.faultCmd, log: a.err}
	}
	dialCtx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var err error
	if e.cl, err = dialServers(dialCtx, servers, client.Options{Timeout: f.timeout, ConnsPerNode: f.conns}); err != nil {
		return nil, errors.Join(err, e.close())
	}
	e.Cluster, e.Servers = e.cl, servers
	if e.Machine, err = bench.ThisMachine(dir); err != nil {
		return nil, errors.Join(err, e.close())
	}
	if !f.starts() {
		if err := e.meetNodes(ctx, servers); err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	if a.onTerminal() {
		e.OnProgress = func(p bench.Progress) { a.progress(w.Name, p) }
	}
	return e, nil
}

// startNodes starts a cluster and waits until it serves.
func (e *benchEnv) startNodes(ctx context.Context, a *app, f *benchFlags, w bench.Workload) error {
	o := localOptions{nodes: f.start, level: a.level, log: a.err, env: w.NodeEnv, flags: slices.Clone(w.NodeFlags)}
	if w.Faults && a.level == "warn" {
		o.level = "error" // nodes rightly warn of what is done to them
	}
	if f.shards > 0 {
		o.flags = append(o.flags, "--shards", strconv.Itoa(f.shards))
	}
	l, err := startLocal(o)
	if err != nil {
		return err
	}
	e.l, e.Started, e.Nodes = l, f.start, &processNodes{l}
	if _, err := processCPU(os.Getpid()); err == nil {
		e.CPU = l.cpu
	}
	if _, err := l.waitServing(ctx); err != nil {
		e.l = nil
		return errors.Join(err, l.kill())
	}
	return nil
}

// meetNodes finds all nodes of a cluster that ran already, and whether their metrics can be read.
func (e *benchEnv) meetNodes(ctx context.Context, servers []string) error {
	s, err := statusFrom(ctx, e.cl, servers)
	if err != nil {
		return err
	}
	e.Servers = nil
	for _, n := range s.Nodes {
		if n.State == "up" {
			e.Servers = append(e.Servers, n.Addr)
		}
	}
	if c, ok := e.Nodes.(*commandNodes); ok {
		c.addrs = e.Servers
	}
	if _, err := e.nodesCPU(); err == nil {
		e.CPU = e.nodesCPU
	}
	return nil
}

// nodesCPU is the processor time that the nodes' metrics tell.
func (e *benchEnv) nodesCPU() (sum time.Duration, err error) {
	for _, addr := range e.Servers {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		m, err := nodeMetrics(ctx, addr)
		cancel()
		if err != nil {
			return 0, err
		}
		sum += time.Duration(m["process_cpu_seconds_total"] * float64(time.Second))
	}
	return sum, nil
}

func (e *benchEnv) close() error {
	if e.cl != nil {
		e.cl.Close()
	}
	if e.l != nil {
		return e.l.kill() // its data goes away with it
	}
	return nil
}

// nodeMetrics reads the figures without labels that a node serves two ports after its --listen address.
func nodeMetrics(ctx context.Context, listen string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpAddr("", listen)+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] = v
		}
	}
	return all, lines.Err()
}

// cpu is the processor time that all processes of the cluster have used, those that have ended included.
func (l *local) cpu() (sum time.Duration, err error) {
	for _, c := range l.all {
		used, err := c.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (c *child) cpu() (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil {
		return c.used, nil
	}
	select {
	case <-c.run.done: // counted in used
		return c.used, nil
	default:
	}
	now, err := processCPU(c.run.cmd.Process.Pid)
	return c.used + now, err
}

// processNodes are the processes of a cluster that was started here.
type processNodes struct{ l *local }

func (p *processNodes) Addrs() []string {
	var all []string
	for _, c := range p.l.all {
		if c.alive() {
			all = append(all, c.addrs.listen)
		}
	}
	return all
}

func (p *processNodes) Fault(ctx context.Context, f bench.Fault, addr string) error {
	for _, c := range p.l.all {
		if c.addrs.listen == addr {
			return p.fault(ctx, f, c)
		}
	}
	return fmt.Errorf("no node was started at %s", addr)
}

func (p *processNodes) fault(ctx context.Context, f bench.Fault, c *child) error {
	if f == bench.Start {
		if c.alive() {
			return fmt.Errorf("node %d runs already", c.number)
		}
		return p.l.start(c)
	}
	if !c.alive() {
		return fmt.Errorf("node %d has ended: %s", c.number, c.howEnded())
	}
	switch f {
	case bench.Pause:
		c.signal(syscall.SIGSTOP)
	case bench.Resume:
		c.signal(syscall.SIGCONT)
	case bench.Kill:
		c.signal(syscall.SIGKILL)
		<-c.now().done
	case bench.Stop:
		return c.stop(ctx)
	default:
		return fmt.Errorf("%q is no fault", f)
	}
	return nil
}

// stop asks a child to end, and waits until it has.
func (c *child) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	c.signal(syscall.SIGTERM)
	select {
	case <-c.now().done:
		if c.now().err != nil {
			return fmt.Errorf("node %d did not stop cleanly: %s", c.number, c.howEnded())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("node %d (pid %d) did not stop: %w", c.number, c.pid(), ctx.Err())
	}
}

func (p *processNodes) Add(context.Context) (string, error) {
	addrs, err := freeAddrs(1)
	if err != nil {
		return "", err
	}
	if err := p.l.add(addrs[0]); err != nil {
		return "", err
	}
	c := p.l.all[len(p.l.all)-1]
	return c.addrs.listen, p.l.start(c)
}

// commandNodes are processes that a command of the user's reaches.
type commandNodes struct {
	command string
	addrs   []string
	gone    map[string]bool
	log     interface{ Write([]byte) (int, error) }
}

func (n *commandNodes) Addrs() []string {
	var all []string
	for _, a := range n.addrs {
		if !n.gone[a] {
			all = append(all, a)
		}
	}
	return all
}

func (n *commandNodes) Fault(ctx context.Context, f bench.Fault, addr string) error {
	if _, err := n.run(ctx, string(f), addr); err != nil {
		return err
	}
	if n.gone == nil {
		n.gone = map[string]bool{}
	}
	switch f {
	case bench.Kill, bench.Stop:
		n.gone[addr] = true
	case bench.Start:
		delete(n.gone, addr)
	}
	return nil
}

func (n *commandNodes) Add(ctx context.Context) (string, error) {
	out, err := n.run(ctx, "add", "")
	if err != nil {
		return "", err
	}
	addr := strings.TrimSpace(out)
	if addr == "" || strings.ContainsAny(addr, " \n") {
		return "", fmt.Errorf("--fault-cmd printed %q for add: want the new node's --listen address", out)
	}
	n.addrs = append(n.addrs, addr)
	return addr, nil
}

func (n *commandNodes) run(ctx context.Context, fault, addr string) (string, error) {
	c := exec.CommandContext(ctx, "sh", "-c", n.command)
	c.Env = append(os.Environ(), "RINGFENCE_FAULT="+fault, "RINGFENCE_NODE="+addr)
	c.Stderr = n.log
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("--fault-cmd, %s of %s: %w", fault, addr, err)
	}
	return string(out), nil
}
