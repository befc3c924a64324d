package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childCommand is the hidden first argument with which this program runs one node of a system instead.
const childCommand = "run-node"

// readyLine begins the line that a node prints on stdout once it serves. What follows is the node's own.
const readyLine = "ready"

// nodes are what this program runs under childCommand, by system. A node reads its settings, one line of JSON, from stdin, serves until stdin ends, and may read more
// lines meanwhile.
var nodes = map[string]func(in *bufio.Scanner) error{
	"etcd":       runEtcd,
	"nats":       runNATS,
	"protoactor": runProtoActor,
}

// runNode is a child's main.
func runNode(args []string) error {
	if len(args) != 1 || nodes[args[0]] == nil {
		return fmt.Errorf("%s is for this program's own use", childCommand)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	return nodes[args[0]](in)
}

// readSettings takes the first line.
func readSettings(in *bufio.Scanner, into any) error {
	if !in.Scan() {
		return errors.Join(errors.New("no settings on stdin"), in.Err())
	}
	return json.Unmarshal(in.Bytes(), into)
}

// sayReady tells the parent that this node serves.
func sayReady(detail string) { fmt.Println(strings.TrimSpace(readyLine + " " + detail)) }

// untilEnd waits for the parent to close stdin, or to end.
func untilEnd(in *bufio.Scanner) {
	for in.Scan() {
	}
}

// family starts processes, all from one thread that lives as long as this process: the kernel ends a child when the thread that started it ends.
type family struct {
	starts chan func()
}

func newFamily() *family {
	f := &family{make(chan func())}
	go func() {
		runtime.LockOSThread()
		for start := range f.starts {
			start()
		}
	}()
	return f
}

// process is one child. err and what is after it are set before ended is closed.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *lastLine   // on stderr
	ready chan string // the rest of its ready line; closed when stdout ends
	ended chan struct{}
	err   error
}

// start runs a program. The first line on its stdout that contains marker says that it is ready, unless marker is empty; everything else it says goes to log.
func (f *family) start(name, marker string, log io.Writer, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), said: &lastLine{to: log}, ready: make(chan string, 1), ended: make(chan struct{})}
	p.cmd.SysProcAttr = boundToParent()
	p.cmd.Stderr = p.said
	if os.Getenv("GOGC") == "" {
		p.cmd.Env = append(os.Environ(), "GOGC="+gogc)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	f.starts <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s did not start: %w", name, err)
	}
	go p.watch(stdout, marker, log)
	return p, nil
}

// gogc is what a Ringfence node sets by default; the other systems' nodes that are written in Go get the same.
const gogc = "400"

func (p *process) watch(stdout io.Reader, marker string, log io.Writer) {
	ready := marker == ""
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if _, rest, ok := strings.Cut(line, marker); ok && !ready {
			ready = true
			p.ready <- strings.TrimSpace(rest)
		} else if line != "" {
			_, _ = io.WriteString(log, line) // a log that cannot be written is not worth a run
		}
		if err != nil {
			break
		}
	}
	close(p.ready)
	p.err = p.cmd.Wait()
	close(p.ended)
}

// waitReady waits for the ready line and returns the rest of it.
func (p *process) waitReady(ctx context.Context) (string, error) {
	select {
	case detail, ok := <-p.ready:
		if ok {
			return detail, nil
		}
		return "", fmt.Errorf("%s ended before it served: %w", p.name, p.howEnded())
	case <-ctx.Done():
		return "", fmt.Errorf("%s does not serve: %w", p.name, context.Cause(ctx))
	}
}

// howEnded waits for its end and says how it came.
func (p *process) howEnded() error {
	<-p.ended
	err := p.err
	if err == nil {
		err = errors.New("exit code 0")
	}
	return fmt.Errorf("%w; it said last: %q", err, p.said.get())
}

// lastLine passes on what is written, and keeps the last line that was not empty.
type lastLine struct {
	to io.Writer

	mu   sync.Mutex
	last string
}

func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			l.last = line
		}
	}
	_, _ = l.to.Write(b)
	return len(b), nil
}

func (l *lastLine) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// write sends a line of JSON to its stdin.
func (p *process) write(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = p.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("telling %s: %w", p.name, err)
	}
	return nil
}

// stopGrace is how long a process may take to stop by itself.
const stopGrace = 10 * time.Second

// processes are those of one cluster.
type processes []*process

// cpu is what all have used up to now, user and system.
func (ps processes) cpu() (sum time.Duration, err error) {
	for _, p := range ps {
		d, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.name, err)
		}
		sum += d
	}
	return sum, nil
}

// end stops all at once: stdin is closed and SIGTERM sent, and after stopGrace they are killed. It is no failure: data is thrown away next.
func (ps processes) end() {
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	for _, p := range ps {
		p.stdin.Close()
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	}
	var killed sync.Once
	for _, p := range ps {
		select {
		case <-p.ended:
		case <-grace.C:
			killed.Do(func() {
				for _, q := range ps {
					_ = q.cmd.Process.Kill()
				}
			})
			<-p.ended
		}
	}
}

// startNodes starts n nodes of a system of this program, hands each its settings and waits until all serve. It returns the rest of their ready lines. If it
// fails nothing is left running.
func startNodes(ctx context.Context, e env, system string, n int, settings func(i int) any) (ps processes, details []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("this program's own file is not known: %w", err)
	}
	defer func() {
		if err != nil {
			ps.end()
			ps = nil
		}
	}()
	for i := range n {
		p, err := e.family.start(fmt.Sprintf("%s node %d", system, i+1), readyLine, e.log, self, childCommand, system)
		if err != nil {
			return ps, nil, err
		}
		ps = append(ps, p)
		if err := p.write(settings(i)); err != nil {
			return ps, nil, err
		}
	}
	for _, p := range ps {
		detail, err := p.waitReady(ctx)
		if err != nil {
			return ps, nil, err
		}
		details = append(details, detail)
	}
	return ps, details, nil
}
