package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

// TestDemo runs the whole story and holds each of its lines against what it promises.
func TestDemo(t *testing.T) {
	if raceDetector {
		t.Skip("the story has 45 s, and a build with the race detector is several times slower; the plain build tells it in the same run of .ci/run")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := program(ctx, "demo", "--json")
	c.Env = append(c.Env, "TMPDIR="+dir)
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	if err != nil {
		t.Fatalf("%v after %v\n%s%s", err, took, &stdout, &stderr)
	}
	if took > 45*time.Second {
		t.Errorf("it took %v", took)
	}
	steps := map[int]bool{}
	for line := range strings.Lines(stdout.String()) {
		var k claim
		if err := json.Unmarshal([]byte(line), &k); err != nil || !k.OK || k.Claim == "" {
			t.Fatalf("line %q: %v", line, err)
		}
		steps[k.Step] = true
	}
	if len(steps) != 7 || !strings.Contains(stdout.String(), actor.MovedText) {
		t.Errorf("steps %v of\n%s", steps, &stdout)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	t.Logf("%v\n%s%s", took, &stdout, &stderr)
}

// TestDemoInterrupted: Ctrl-C ends the nodes and removes their directory.
func TestDemoInterrupted(t *testing.T) {
	dir := t.TempDir()
	c := program(t.Context(), "demo")
	c.Env = append(c.Env, "TMPDIR="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the first claim: the nodes run
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != exitError {
		t.Errorf("exit code %d", code)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestClaimFails: a claim that does not hold is printed as such and ends the story.
func TestClaimFails(t *testing.T) {
	var b strings.Builder
	c := &claims{w: &b, began: time.Now()}
	if err := c.check(2, "it holds", nil, "seen %d", 1); err != nil || c.held != 1 {
		t.Fatal(err)
	}
	if err := c.check(3, "it does not", syscall.EIO, "seen"); !errors.Is(err, syscall.EIO) || c.held != 1 {
		t.Fatal(err)
	}
	if s := b.String(); !strings.Contains(s, "ok") || !strings.Contains(s, "FAILED") || !strings.Contains(s, syscall.EIO.Error()) {
		t.Fatal(s)
	}
}

// TestDemoFailedExit: a claim that fails because of a call of unknown outcome is a failed claim, not an unknown one.
func TestDemoFailedExit(t *testing.T) {
	c := &claims{w: io.Discard, began: time.Now()}
	err := c.check(3, "it does not hold", &actor.Error{Code: actor.CodeDeadline, Outcome: actor.MayHaveRun, Message: "the time was up"}, "")
	if code := exitCode(err); code != exitUnknown {
		t.Fatalf("the claim's own error gives exit code %d: this test shows nothing", code)
	}
	if code := exitCode(demoFailed(err)); code != exitError {
		t.Errorf("exit code %d, want %d", code, exitError)
	}
	if demoFailed(nil) != nil {
		t.Error("a demonstration that went well failed")
	}
}

// TestLoadWatch: a success counts for a watch only if its call began after the watch did.
func TestLoadWatch(t *testing.T) {
	l := &demoLoad{}
	before := time.Now()
	w := l.watch([]int{1, 2})
	l.note(1, before.Add(-time.Second), nil)
	l.note(2, time.Now(), nil)
	l.note(1, time.Now(), actor.ErrMoved)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.await(ctx, w); err == nil {
		t.Fatal("counter 1 has not answered since")
	}
	l.note(1, time.Now(), nil)
	if err := l.await(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if l.acked[1] != 2 || l.acked[2] != 1 || l.unknown[1] != 1 || l.failed != 1 {
		t.Errorf("%v %v %d", l.acked[:3], l.unknown[:3], l.failed)
	}
}
