package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// The tests drive the commands from outside: the test binary, started with this variable, is a user's own program, with one class
// of its own beside those that Main brings.
const asProgram = "RINGFENCE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		Main(actor.Define("Stuck", newStuck))
	}
	code := m.Run()
	if err := sharedCluster.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Stuck has a method that outlasts every caller's patience in these tests.
type Stuck struct{}

func newStuck(context.Context, *actor.State) (*Stuck, error) { return &Stuck{}, nil }

func (*Stuck) Wait(context.Context) error {
	<-time.After(20 * time.Second)
	return nil
}

// program is the command line with the given arguments, ready to start.
func program(ctx context.Context, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	c := exec.CommandContext(ctx, exe, args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	c.SysProcAttr = boundToParent()
	return c
}

// outcome is what a command left behind.
type outcome struct {
	code             int
	stdout, stderr   string
	took             time.Duration
	commandLineAsRun string
}

func runProgram(t *testing.T, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := program(ctx, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	began := time.Now()
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%q did not end within a minute; stderr: %s", args, stderr.String())
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(began), strings.Join(args, " ")}
}

// want checks the exit code, that stderr is one line of ours or nothing, and that it holds all the given texts.
func (o outcome) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("%s: exit code %d, want %d; stderr: %s", o.commandLineAsRun, o.code, code, o.stderr)
	}
	if code != 0 {
		if o.stdout != "" {
			t.Errorf("%s: an error, and yet on stdout: %s", o.commandLineAsRun, o.stdout)
		}
		if strings.Count(o.stderr, "\n") != 1 || !strings.HasPrefix(o.stderr, "ringfence: ") {
			t.Errorf("%s: want one line that begins with ringfence:, got\n%s", o.commandLineAsRun, o.stderr)
		}
	}
	for _, text := range texts {
		if !strings.Contains(o.stderr, text) {
			t.Errorf("%s: want %q in: %s", o.commandLineAsRun, text, o.stderr)
		}
	}
}

// result decodes stdout.
func (o outcome) result(t *testing.T, into any) {
	t.Helper()
	o.want(t, 0)
	if err := json.Unmarshal([]byte(o.stdout), into); err != nil {
		t.Fatalf("%s: stdout is not JSON: %v\n%s%s", o.commandLineAsRun, err, o.stdout, o.stderr)
	}
}

// cluster is a running `up`.
type cluster struct {
	cmd    *exec.Cmd
	out    *lines
	err    *lines
	ended  chan struct{}
	exit   error
	cancel context.CancelFunc

	pids    []int
	servers []string
	gossip  []string
	dir     string // of node 1
	calls   []string
	named   int // objects, by unused
}

// startUp runs `up`, on free ports unless told otherwise, and reads what it prints once it serves.
func startUp(args ...string) (*cluster, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{cmd: program(ctx, append([]string{"up", "--base-port", "0"}, args...)...), out: newLines(), err: newLines(), ended: make(chan struct{}), cancel: cancel}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.err
	if err := c.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		c.exit = c.cmd.Wait()
		close(c.ended)
	}()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	if !c.out.wait(deadline.C, c.ended, " status") {
		c.cmd.Process.Kill()
		<-c.ended
		cancel()
		return nil, fmt.Errorf("up does not serve; stdout:\n%s\nstderr:\n%s", c.out, c.err)
	}
	c.read()
	return c, nil
}

// read takes apart the table and the example lines.
func (c *cluster) read() {
	for line := range strings.Lines(c.out.String()) {
		f := strings.Fields(line)
		if isRow(line) {
			var pid int
			fmt.Sscan(f[4], &pid)
			c.pids, c.servers, c.gossip = append(c.pids, pid), append(c.servers, f[2]), append(c.gossip, f[3])
			if c.dir == "" {
				c.dir = f[5]
			}
		}
		if strings.HasPrefix(line, "  ") {
			c.calls = append(c.calls, strings.TrimSpace(line))
		}
	}
}

// isRow tells the table's lines, which begin with a node's number.
func isRow(line string) bool { return line[0] >= '1' && line[0] <= '9' }

// unused names an object that no test has called, also when tests are run more than once.
func (c *cluster) unused(class string) string {
	c.named++
	return fmt.Sprintf("%s/unused-%d", class, c.named)
}

func (c *cluster) server() string { return strings.Join(c.servers, ",") }

// stop ends the cluster as Ctrl-C does.
func (c *cluster) stop() error {
	defer c.cancel()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.ended:
	case <-time.After(60 * time.Second):
		c.cmd.Process.Kill()
		return fmt.Errorf("up did not stop; stderr:\n%s", c.err)
	}
	if c.exit != nil {
		return fmt.Errorf("up ended with %w; stderr:\n%s", c.exit, c.err)
	}
	return nil
}

// shared is one cluster for all tests that do not harm it.
type shared struct {
	once sync.Once
	c    *cluster
	err  error
}

var sharedCluster shared

func (s *shared) get(t *testing.T) *cluster {
	t.Helper()
	s.once.Do(func() { s.c, s.err = startUp() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.c
}

func (s *shared) stop() error {
	if s.c == nil {
		return nil
	}
	return s.c.stop()
}

// lines collects output and tells when a text has come.
type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed and replaced at every write
}

func newLines() *lines { return &lines{more: make(chan struct{})} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wait waits until a whole line with the text is there.
func (l *lines) wait(deadline <-chan time.Time, ended <-chan struct{}, text string) bool {
	for {
		l.mu.Lock()
		more, s := l.more, l.buf.String()
		l.mu.Unlock()
		if _, after, ok := strings.Cut(s, text); ok && strings.Contains(after, "\n") {
			return true
		}
		select {
		case <-more:
		case <-deadline:
			return false
		case <-ended:
			return false
		}
	}
}
