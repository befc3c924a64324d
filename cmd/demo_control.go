package cmd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
)

// demoClass is the class that `demo` brings beside Counter.
const demoClass = "DemoWitness"

// control is what `demo` does to one of its nodes: it writes lines to the process, and reads lines back. The lines to it are cut, heal and
// go; each is answered by "control: LINE".
type control struct {
	net  node.Switch
	open chan struct{} // closed by go: the events that wait go on

	mu  sync.Mutex
	out io.Writer
}

func newControl(out io.Writer) *control { return &control{open: make(chan struct{}), out: out} }

// run obeys until in ends.
func (c *control) run(in io.Reader) {
	lines := bufio.NewScanner(in)
	var once sync.Once
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "cut":
			c.net.Cut()
		case "heal":
			c.net.Heal()
		case "go":
			once.Do(func() { close(c.open) })
		default:
			c.say("control: %q is no command: want cut, heal or go", line)
			continue
		}
		c.say("control: %s", lines.Text())
	}
}

func (c *control) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// class is the witness, whose events tell the process's stdout what became of them.
func (c *control) class() actor.Class {
	return actor.Define(demoClass, func(_ context.Context, s *actor.State) (*witness, error) { return &witness{s, c}, nil })
}

type witness struct {
	s *actor.State
	c *control
}

// holdTime is the longest that an event waits for go.
const holdTime = 20 * time.Second

// Process is the number of the process that answers.
func (w *witness) Process(context.Context) (int, error) { return os.Getpid(), nil }

// Touch reads and writes storage.
func (w *witness) Touch(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, w.s.Storage(), "n")
	if err != nil {
		return 0, err
	}
	return n + 1, w.s.Storage().Put(ctx, "n", n+1)
}

// Store waits and then touches storage.
func (w *witness) Store(ctx context.Context) (int64, error) {
	if err := w.hold(); err != nil {
		return 0, err
	}
	n, err := w.Touch(ctx)
	if err != nil {
		w.c.say("%v: then %v", w.s.ID(), err)
		return 0, err
	}
	w.c.say("%v: then stored %d", w.s.ID(), n)
	return n, nil
}

// Compute waits and then only computes.
func (w *witness) Compute(context.Context) (int64, error) {
	if err := w.hold(); err != nil {
		return 0, err
	}
	sum := int64(0)
	for i := range int64(1_000_000) {
		sum += i
	}
	w.c.say("%v: computed %d", w.s.ID(), sum)
	return sum, nil
}

// hold takes no notice of the event's context: the demonstration is of code that goes on.
func (w *witness) hold() error {
	w.c.say("%v: running", w.s.ID())
	t := time.NewTimer(holdTime)
	defer t.Stop()
	select {
	case <-w.c.open:
		return nil
	case <-t.C:
		return actor.Fail("held", "nobody said go within %v", holdTime)
	}
}
