package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// demoNodes are the processes of a demonstration: three from the start and a fourth for later.
type demoNodes struct {
	exe, level string
	dir        string
	all        []*demoNode
	log        io.Writer

	begin chan func() // run on the thread that the children are bound to, see local.keep
	over  chan struct{}
}

// demoNode is a node that may be started more than once, each time as a new process. Only one goroutine, the story's, uses it.
type demoNode struct {
	number int
	addrs  nodeAddrs
	dir    string
	expect int // as --bootstrap-expect; 0: it joins
	run    *demoRun
	id     string // as status shows it
}

// demoRun is one process.
type demoRun struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when it has ended and been waited for

	mu    sync.Mutex
	lines []string // of its stdout, the newest demoLines
	last  string   // of its stderr
	fresh chan struct{}
}

// demoLines bounds what is kept of a process's stdout.
const demoLines = 256

func newDemoNodes(level string, log io.Writer) (*demoNodes, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own file is not known: %w", err)
	}
	addrs, err := freeAddrs(4)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ringfence-demo-")
	if err != nil {
		return nil, err
	}
	d := &demoNodes{exe: exe, level: level, dir: dir, log: log, begin: make(chan func()), over: make(chan struct{})}
	for i, a := range addrs {
		n := &demoNode{number: i + 1, addrs: a, dir: filepath.Join(dir, "node"+strconv.Itoa(i+1)), expect: 3}
		if i == 3 {
			n.expect = 0
		}
		d.all = append(d.all, n)
	}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for {
			select {
			case f := <-d.begin:
				f()
			case <-d.over:
				return
			}
		}
	}()
	return d, nil
}

// start starts a node's process; it does not wait until it serves.
func (d *demoNodes) start(n *demoNode) error {
	var seeds []string
	for _, other := range d.all[:3] {
		if other != n {
			seeds = append(seeds, other.addrs.gossip)
		}
	}
	args := []string{"node", "--data", n.dir, "--listen", n.addrs.listen, "--gossip", n.addrs.gossip, "--http", "off",
		"--join", strings.Join(seeds, ","), "--log-level", d.level, "--control-stdin"}
	if n.expect > 0 {
		args = append(args, "--bootstrap-expect", strconv.Itoa(n.expect))
	}
	r := &demoRun{cmd: exec.Command(d.exe, args...), done: make(chan struct{}), fresh: make(chan struct{})}
	r.cmd.SysProcAttr = boundToParent()
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return err
	}
	r.in = in
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	d.begin <- func() { started <- r.cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("node %d did not start: %w", n.number, err)
	}
	n.run = r
	var readers sync.WaitGroup
	readers.Go(func() { r.read(out, r.note) })
	readers.Go(func() {
		r.read(stderr, func(line string) {
			r.mu.Lock()
			r.last = line
			r.mu.Unlock()
			fmt.Fprintf(d.log, "node %d: %s\n", n.number, strings.TrimPrefix(line, "ringfence: "))
		})
	})
	go func() {
		readers.Wait()
		_ = r.cmd.Wait()
		close(r.done)
	}()
	return nil
}

// read passes on lines until r ends; one that is too long is cut up.
func (*demoRun) read(r io.Reader, take func(string)) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		take(string(line))
	}
}

func (r *demoRun) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == demoLines {
		r.lines = append(r.lines[:0], r.lines[1:]...)
	}
	r.lines = append(r.lines, line)
	close(r.fresh)
	r.fresh = make(chan struct{})
}

// await waits for a line that begins with prefix and returns what follows.
func (n *demoNode) await(ctx context.Context, prefix string) (string, error) {
	r := n.run
	for {
		r.mu.Lock()
		lines, fresh := r.lines, r.fresh
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				r.mu.Unlock()
				return rest, nil
			}
		}
		r.mu.Unlock()
		select {
		case <-fresh:
		case <-r.done:
			return "", fmt.Errorf("node %d ended (%v) before it said %q: %s", n.number, r.cmd.ProcessState, prefix, r.lastLine())
		case <-ctx.Done():
			return "", fmt.Errorf("node %d did not say %q: %w", n.number, prefix, ctx.Err())
		}
	}
}

func (r *demoRun) lastLine() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// tell gives a node's process an order and waits for the answer. Each order is given once per process.
func (n *demoNode) tell(ctx context.Context, order string) error {
	if _, err := io.WriteString(n.run.in, order+"\n"); err != nil {
		return fmt.Errorf("node %d does not take orders: %w", n.number, err)
	}
	_, err := n.await(ctx, "control: "+order)
	return err
}

// kill ends a node's process without any warning, and waits for its end.
func (n *demoNode) kill() error {
	if err := n.run.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("node %d was gone before it was killed: %w", n.number, err)
	}
	<-n.run.done
	return nil
}

func (n *demoNode) pid() int { return n.run.cmd.Process.Pid }

// child is the node as waitServing takes it.
func (n *demoNode) child() *child { return &child{number: n.number, addrs: n.addrs} }

// alive reports whether the node's process runs.
func (n *demoNode) alive() bool {
	if n.run == nil {
		return false
	}
	select {
	case <-n.run.done:
		return false
	default:
		return true
	}
}

// demoGrace is how long the nodes may take to stop: they stop all at once, so nobody is there to hand shards to.
const demoGrace = 3 * time.Second

// stop ends all processes, by force after demoGrace, and removes the directory unless it is to be kept.
func (d *demoNodes) stop(keep bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), demoGrace)
	defer cancel()
	for _, n := range d.all {
		if n.alive() {
			_ = n.run.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	for _, n := range d.all {
		if n.run == nil {
			continue
		}
		select {
		case <-n.run.done:
		case <-ctx.Done():
			_ = n.run.cmd.Process.Kill()
			<-n.run.done
		}
		_ = n.run.in.Close()
	}
	close(d.over)
	if keep {
		return nil
	}
	return errors.Join(os.RemoveAll(d.dir))
}
