//go:build linux

package nemesis

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is one node, which can be ended and started again. Its log has all its lives.
type process struct {
	c      *cluster
	number int // of its namespace and address, from 1
	args   []string
	log    string
	disk   *disk // nil: its directory is on the machine's own
	cmd    *exec.Cmd
	out    *watched
	ended  chan struct{} // closed when cmd has ended; its state is set then
}

// starter is the one thread that starts processes: the kernel ends a process when the thread that it is bound to ends.
var starter = sync.OnceValue(func() chan func() {
	todo := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range todo {
			f()
		}
	}()
	return todo
})

func startBound(c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := make(chan error)
	starter() <- func() { err <- c.Start() }
	return <-err
}

// in is a command within a namespace. It becomes that command, so its process ID is the command's.
func in(ns, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
}

func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fmt.Fprintf(log, "--- started at %s\n", time.Now().Format(time.StampMilli))
	name, args := p.c.binary, p.args
	if p.disk != nil {
		name, args = p.disk.mounted(name, args)
	}
	cmd, ended := in(net.node(p.number), name, args...), make(chan struct{})
	cmd.Env = append(os.Environ(), p.c.env...)
	p.out = newWatched()
	cmd.Stdout, cmd.Stderr = p.out, log
	if err := startBound(cmd); err != nil {
		t.Fatalf("node %d: %v", p.number, err)
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // its state tells
		close(ended)
	}()
}

// signal reaches the process that was started, or nobody.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill(t *testing.T) {
	t.Helper()
	p.running(t)
	p.signal(syscall.SIGKILL)
	<-p.ended
}

func (p *process) running(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("node %d has ended by itself: %v; see %s", p.number, p.cmd.ProcessState, p.log)
	default:
	}
}

// stop asks the process to stop, and wants it to do so with exit code 0.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.running(t)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("node %d ended with code %d after SIGTERM; see %s", p.number, code, p.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("node %d runs on 30 s after SIGTERM; see %s", p.number, p.log)
	}
}

// wantEnd wants the process to end by itself with an exit code, and its log's last words to contain these.
func (p *process) wantEnd(t *testing.T, limit time.Duration, code int, words ...string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		t.Fatalf("node %d still runs after %v; see %s", p.number, limit, p.log)
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := lines[len(lines)-1]
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("node %d ended with code %d, want %d: %s", p.number, got, code, last)
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			t.Errorf("node %d ended with %q; it should say %q", p.number, last, w)
		}
	}
}

func (p *process) waitServing(t *testing.T) {
	t.Helper()
	select {
	case <-p.out.serving:
	case <-p.ended:
		t.Fatalf("node %d ended before it served: %v; see %s", p.number, p.cmd.ProcessState, p.log)
	case <-time.After(40 * time.Second):
		t.Fatalf("node %d does not serve; see %s", p.number, p.log)
	}
}

// watched closes serving when the node says that it serves.
type watched struct {
	serving chan struct{}
	said    []byte
	done    bool
}

func newWatched() *watched { return &watched{serving: make(chan struct{})} }

func (w *watched) Write(b []byte) (int, error) { // by one goroutine of exec
	if w.done {
		return len(b), nil
	}
	w.said = append(w.said, b...)
	if w.done = bytes.Contains(w.said, []byte("serving at ")); w.done {
		close(w.serving)
	}
	return len(b), nil
}
