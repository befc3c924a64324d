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
	dir   string
	temp  bool // dir goes away with the cluster
	nodes []*child
	exits chan *child // each child once, when it has ended; room for all

	mu  sync.Mutex
	log io.Writer

	release chan struct{} // ends the goroutine whose thread the children are bound to
}

// child is one process. pid and the fields before it do not change; err is set before done is closed.
type child struct {
	number int // from 1
	addrs  nodeAddrs
	dir    string
	cmd    *exec.Cmd
	pid    int

	done chan struct{}
	err  error // nil: it ended with exit code 0

	mu   sync.Mutex
	last string // the last line that it wrote to stderr
}

type localOptions struct {
	nodes    int
	dir      string // empty: a temporary directory
	basePort int    // 0: any free ports
	level    string
	log      io.Writer // gets what the children write to stderr, each line with the node's number
}

// startLocal starts the processes; it does not wait until they serve. Stop the cluster in any case, unless there is an error.
func startLocal(o localOptions) (*local, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own file is not known: %w", err)
	}
	l := &local{dir: o.dir, log: o.log, exits: make(chan *child, o.nodes), release: make(chan struct{})}
	addrs, err := localAddrs(o.nodes, o.basePort)
	if err != nil {
		return nil, err
	}
	if err := l.makeDirs(o, addrs); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go l.keep(exe, o.level, started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

// makeDirs gives every node its directory, and refuses to make a cluster of another size out of one that is there.
func (l *local) makeDirs(o localOptions, addrs []nodeAddrs) error {
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
	if len(there) > 0 && len(there) != o.nodes {
		return fmt.Errorf("directory %s holds a cluster of %d nodes: give --nodes %d, or another directory", l.dir, len(there), len(there))
	}
	for i, a := range addrs {
		c := &child{number: i + 1, addrs: a, dir: filepath.Join(l.dir, "node"+strconv.Itoa(i+1)), done: make(chan struct{})}
		if err := os.MkdirAll(c.dir, 0o755); err != nil {
			return err
		}
		l.nodes = append(l.nodes, c)
	}
	return nil
}

// keep starts the children and stays: the kernel ends a child when the thread that started it ends, so that thread must live as long
// as this process does.
func (l *local) keep(exe, level string, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, c := range l.nodes {
		if err := l.start(c, exe, level); err != nil {
			started <- fmt.Errorf("node %d did not start: %w", c.number, err)
			break
		}
	}
	close(started)
	<-l.release
}

func (l *local) start(c *child, exe, level string) error {
	args := []string{"node", "--data", c.dir, "--listen", c.addrs.listen, "--gossip", c.addrs.gossip, "--http", c.addrs.http, "--log-level", level}
	if seeds := l.seeds(c); len(seeds) > 0 {
		args = append(args, "--join", strings.Join(seeds, ","), "--bootstrap-expect", strconv.Itoa(len(l.nodes)))
	}
	c.cmd = exec.Command(exe, args...)
	c.cmd.SysProcAttr = boundToParent()
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.pid = c.cmd.Process.Pid
	go func() {
		l.forward(c, stderr)
		c.err = c.cmd.Wait()
		close(c.done)
		l.exits <- c
	}()
	return nil
}

// seeds are the others' gossip addresses.
func (l *local) seeds(c *child) []string {
	var seeds []string
	for _, other := range l.nodes {
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

// howEnded says why a child that has ended did.
func (c *child) howEnded() string {
	how := "it ended by itself"
	if c.err != nil {
		how = c.err.Error()
	}
	if last := c.lastLine(); last != "" {
		how += ": " + last
	}
	return how
}

// servers are the nodes' --listen addresses.
func (l *local) servers() []string {
	var all []string
	for _, c := range l.nodes {
		all = append(all, c.addrs.listen)
	}
	return all
}

// stop ends the children and waits for them: a request first, and force after stopGrace. It is called once.
func (l *local) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	for _, c := range l.nodes {
		c.signal(syscall.SIGTERM)
	}
	var failures []error
	for _, c := range l.nodes {
		if c.pid == 0 {
			continue
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			failures = append(failures, fmt.Errorf("node %d (pid %d) did not stop within %v and was killed", c.number, c.pid, stopGrace))
			c.signal(syscall.SIGKILL)
			<-c.done
		}
	}
	close(l.release)
	if l.temp {
		failures = append(failures, os.RemoveAll(l.dir))
	}
	return errors.Join(failures...)
}

// signal reaches the process that was started and no later one with the same number: os.Process knows when it has been waited for.
func (c *child) signal(s syscall.Signal) {
	if c.pid != 0 {
		_ = c.cmd.Process.Signal(s) // an error says that it has ended
	}
}
