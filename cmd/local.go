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

// stopGrace is how long a child may take to stop cleanly before it is killed.
const stopGrace = 20 * time.Second

// local is a cluster of child processes of this binary, each running `node`.
type local struct {
	localOptions
	exe   string
	temp  bool        // dir goes away with the cluster
	all   []*child    // the first nodes, and those added later
	exits chan *child // each child when it has ended; what finds no room is dropped, as when children are started again

	mu sync.Mutex // of log

	begin chan func() // run on the thread that the children are bound to
	over  chan struct{}
}

// child is a node, which may be started more than once, each time as a new process. What is above mu does not change.
type child struct {
	number int // from 1
	addrs  nodeAddrs
	dir    string

	mu   sync.Mutex
	run  *process      // the newest; nil before the first
	used time.Duration // processor time of those that have ended
	last string        // the last line that one wrote to stderr
}

// process is one life of a child. err is set before done is closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // nil: it ended with exit code 0
}

type localOptions struct {
	nodes    int
	dir      string // empty: a temporary directory
	basePort int    // 0: any free ports
	level    string
	flags    []string  // of every node, beside its addresses
	env      []string  // beside this process's
	log      io.Writer // gets what the children write to stderr, each line with the node's number
}

// startLocal starts the processes; it does not wait until they serve. Stop the cluster in any case, unless there is an error.
func startLocal(o localOptions) (*local, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own file is not known: %w", err)
	}
	l := &local{localOptions: o, exe: exe, exits: make(chan *child, o.nodes), begin: make(chan func()), over: make(chan struct{})}
	addrs, err := localAddrs(o.nodes, o.basePort)
	if err != nil {
		return nil, err
	}
	if err := l.makeDirs(addrs); err != nil {
		return nil, err
	}
	go l.keep()
	for _, c := range l.all {
		if err := l.start(c); err != nil {
			return nil, errors.Join(err, l.stop())
		}
	}
	return l, nil
}

// makeDirs gives every node its directory, and refuses to make a cluster of another size out of one that is there.
func (l *local) makeDirs(addrs []nodeAddrs) error {
	if l.dir == "" {
		dir, err := os.MkdirTemp("", "ringfence-")
		if err != nil {
			return err
		}
		l.dir, l.temp = dir, true
	}
	there, err := filepath.Glob(filepath.Join(l.dir, "node*"))
	if err != nil {
		return err
	}
	if len(there) > 0 && len(there) != l.nodes {
		return fmt.Errorf("directory %s holds a cluster of %d nodes: give --nodes %d, or another directory", l.dir, len(there), len(there))
	}
	for _, a := range addrs {
		if err := l.add(a); err != nil {
			return err
		}
	}
	return nil
}

// add makes the directory of one more node.
func (l *local) add(a nodeAddrs) error {
	n := len(l.all) + 1
	c := &child{number: n, addrs: a, dir: filepath.Join(l.dir, "node"+strconv.Itoa(n))}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	l.all = append(l.all, c)
	return nil
}

// keep starts the children: the kernel ends a child when the thread that started it ends, so that thread must live as long as this
// process does.
func (l *local) keep() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-l.begin:
			f()
		case <-l.over:
			return
		}
	}
}

// start starts a child that does not run. One that was added to the first nodes joins them.
func (l *local) start(c *child) error {
	args := []string{"node", "--data", c.dir, "--listen", c.addrs.listen, "--gossip", c.addrs.gossip, "--http", c.addrs.http, "--log-level", l.level}
	if seeds := l.seeds(c); len(seeds) > 0 {
		args = append(args, "--join", strings.Join(seeds, ","))
		if c.number <= l.nodes {
			args = append(args, "--bootstrap-expect", strconv.Itoa(l.nodes))
		}
	}
	p := &process{cmd: exec.Command(l.exe, append(args, l.flags...)...), done: make(chan struct{})}
	p.cmd.SysProcAttr = boundToParent()
	p.cmd.Env = append(os.Environ(), l.env...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	l.begin <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("node %d did not start: %w", c.number, err)
	}
	c.mu.Lock()
	c.run = p
	c.mu.Unlock()
	go func() {
		l.forward(c, stderr)
		p.err = p.cmd.Wait()
		c.ended(p)
		select {
		case l.exits <- c:
		default:
		}
	}()
	return nil
}

// ended keeps what a process used, and tells those who wait for its end.
func (c *child) ended(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	close(p.done)
}

// now is the newest process, nil if none was started.
func (c *child) now() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// pid is that of the newest process, 0 if none was started.
func (c *child) pid() int {
	if p := c.now(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// alive reports whether a process runs.
func (c *child) alive() bool {
	p := c.now()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// seeds are the others' gossip addresses.
func (l *local) seeds(c *child) []string {
	var seeds []string
	for _, other := range l.all[:l.nodes] {
		if other != c {
			seeds = append(seeds, other.addrs.gossip)
		}
	}
	return seeds
}

// forward passes on what a child writes to stderr, line by line; a line that is too long is cut up.
func (l *local) forward(c *child, r io.Reader) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.last = string(line)
		c.mu.Unlock()
		l.say("node %d: %s", c.number, strings.TrimPrefix(string(line), "ringfence: "))
	}
}

func (l *local) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.log, format+"\n", args...)
}

func (c *child) lastLine() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimPrefix(c.last, "ringfence: ")
}

// howEnded says why a child whose newest process has ended did so.
func (c *child) howEnded() string {
	how := "it ended by itself"
	if p := c.now(); p != nil && p.err != nil {
		how = p.err.Error()
	}
	if last := c.lastLine(); last != "" {
		how += ": " + last
	}
	return how
}

// servers are the nodes' --listen addresses.
func (l *local) servers() []string {
	var all []string
	for _, c := range l.all {
		all = append(all, c.addrs.listen)
	}
	return all
}

// stop ends the children and waits for them: a request first, and force after stopGrace. It is called once.
func (l *local) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	for _, c := range l.all {
		c.signal(syscall.SIGTERM)
	}
	var failures []error
	for _, c := range l.all {
		p := c.now()
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			failures = append(failures, fmt.Errorf("node %d (pid %d) did not stop within %v and was killed", c.number, c.pid(), stopGrace))
			c.signal(syscall.SIGKILL)
			<-p.done
		}
	}
	return errors.Join(append(failures, l.clear())...)
}

// kill ends the children without any warning. It is called once, instead of stop.
func (l *local) kill() error {
	for _, c := range l.all {
		c.signal(syscall.SIGKILL)
	}
	for _, c := range l.all {
		if p := c.now(); p != nil {
			<-p.done
		}
	}
	return l.clear()
}

// clear lets go of what is left when no child runs any more.
func (l *local) clear() error {
	close(l.over)
	if l.temp {
		return os.RemoveAll(l.dir)
	}
	return nil
}

// signal reaches the newest process and no later one with the same number: os.Process knows when it has been waited for.
func (c *child) signal(s syscall.Signal) {
	if p := c.now(); p != nil {
		_ = p.cmd.Process.Signal(s) // an error says that it has ended
	}
}
