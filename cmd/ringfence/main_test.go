package main

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// `go run` of the stock binary prints a line that works as printed, and a SIGTERM to go run, which ends that alone, takes the cluster
// with it. What the commands do is tested in package cmd.
func TestGoRunUp(t *testing.T) {
	up := exec.Command("go", "run", "./cmd/ringfence", "up", "--nodes", "1", "--base-port", "0")
	up.Dir = filepath.Join("..", "..")
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string) // closed when neither go run nor up has its stdout open
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- strings.TrimSpace(s.Text())
		}
	}()
	call := next(t, lines, "go run ./cmd/ringfence call ")
	c := exec.Command("go", strings.Fields(call)[1:]...)
	c.Dir = up.Dir
	if b, err := c.CombinedOutput(); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("%s: %v\n%s", call, err, b)
	}
	if err := up.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if line := next(t, lines, ""); line != "" {
		t.Errorf("after the end: %s", line)
	}
	_ = up.Wait() // it was ended by a signal
}

// next returns the next line with the prefix; with none, it waits for the end of the output, which it expects within the time, too.
func next(t *testing.T, lines <-chan string, prefix string) string {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case line, open := <-lines:
			switch {
			case !open && prefix == "":
				return ""
			case !open:
				t.Fatalf("the output ended without a line that begins with %q", prefix)
			case prefix != "" && strings.HasPrefix(line, prefix):
				return line
			}
		case <-deadline:
			t.Fatalf("no line that begins with %q, and no end, within two minutes", prefix)
		}
	}
}
