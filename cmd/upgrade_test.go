package cmd

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	upgradeFrom = flag.String("upgrade.from", "", "the revision whose binary TestUpgrade begins with: an ancestor of the commit that is checked out, such as HEAD~1")
	upgradeMay  = flag.Bool("upgrade.refused", false, "the versions differ in a format: take it for right that a node of the newer one refuses the older one's data by name")
)

// TestUpgrade puts a newer program in the place of an older one, node by node and under load, and then the older one back. The older one is built from a
// revision, the newer one from the files that are there. No call may fail, and the history must be linearizable. A version that cannot read what the other wrote
// must say so by name and leave it alone, so that the node can go on with the version that wrote it: on the way back always, on the way there
// only with -upgrade.refused.
func TestUpgrade(t *testing.T) {
	if *upgradeFrom == "" {
		t.Skip("-upgrade.from REV names the version to begin with; .ci/run upgrade gives one")
	}
	older, newer := buildRevision(t, *upgradeFrom), buildProgram(t, checkout(t))
	nodes := startNodesOf(t, older, 3)
	h := newHistory(t, nodes)
	h.waitForMore(t, 3*killCounters, "with all nodes of the older version")
	refused := h.replace(t, nodes, newer)
	if refused != "" && !*upgradeMay {
		t.Errorf("the newer version refuses what the older one wrote (if that is meant, give -upgrade.refused): %s", refused)
	}
	if refused == "" {
		h.waitForMore(t, 3*killCounters, "with all nodes of the newer version")
		refused = h.replace(t, nodes, older)
	}
	h.waitForMore(t, killCounters, "at the end")
	h.finish(t)
	if n := h.failed.Load(); n > 0 {
		t.Errorf("%d calls failed, the last one: %v", n, *h.lastErr.Load())
	}
	for _, n := range nodes {
		if strings.Contains(n.err.String(), "panic") || strings.Contains(n.err.String(), "a version that knows it must run here") || t.Failed() {
			t.Errorf("node %d, stderr:\n%s", n.number, n.err)
		}
	}
	if refused == "" {
		t.Logf("both ways, from %s and back", *upgradeFrom)
	}
}

// replace stops the nodes one after the other and starts them with another program. It ends at a node that refuses, which goes on with its own, and says why.
func (h *history) replace(t *testing.T, nodes []*nodeProcess, binary string) (refused string) {
	t.Helper()
	for _, n := range nodes {
		before, stopped := n.binary, time.Since(h.began)
		n.terminate(t)
		h.waitForMore(t, killCounters, "with one node of three stopped")
		n.binary = binary
		n.start(t)
		refused := n.waitServingOrRefused(t)
		if refused != "" {
			n.binary = before
			n.start(t)
			n.waitServing(t)
		}
		h.waitForMore(t, killCounters, "with two versions side by side")
		t.Logf("node %d: the longest that a caller waited: %v", n.number, h.longest(stopped).Round(time.Millisecond))
		if refused != "" {
			t.Logf("node %d was refused: %s", n.number, refused)
			return refused
		}
	}
	return ""
}

// waitServingOrRefused waits until the node serves, or has ended by itself and said that a format is not its own.
func (p *nodeProcess) waitServingOrRefused(t *testing.T) (refused string) {
	t.Helper()
	if p.out.wait(time.After(40*time.Second), p.ended, "serving at ") {
		return ""
	}
	select {
	case <-p.ended:
	default:
		t.Fatalf("node %d neither serves nor ends; stderr:\n%s", p.number, p.err)
	}
	all := strings.Split(strings.TrimSpace(p.err.String()), "\n")
	last := all[len(all)-1]
	if code := p.cmd.ProcessState.ExitCode(); code != exitError || !namesVersions(last) {
		t.Fatalf("node %d ended with exit code %d, and not with a line that names the format and the version to run; stderr:\n%s", p.number, code, p.err)
	}
	return last
}

// namesVersions tells an error that says what is not readable and what to do about it.
func namesVersions(line string) bool {
	return strings.HasPrefix(line, "ringfence: ") && strings.Contains(line, "format") && strings.Contains(line, "version")
}

// A data directory of another format is refused by name, and left as it is: with its own format it opens again.
func TestOtherFormat(t *testing.T) {
	n := startNodes(t, 1)[0]
	n.terminate(t)
	format := filepath.Join(n.args[2], "FORMAT")
	mine, err := os.ReadFile(format)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Replace(mine, []byte(" 2 "), []byte(" 7 "), 1)
	if bytes.Equal(mine, other) {
		t.Fatalf("%s holds %q, which does not say 2", format, mine)
	}
	write := func(b []byte) {
		if err := os.WriteFile(format, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(other)
	n.start(t)
	refused := n.waitServingOrRefused(t)
	for _, want := range []string{n.args[2], "format 7", "reads format 1 or 2", "run the version that wrote it"} {
		if !strings.Contains(refused, want) {
			t.Errorf("want %q in: %q", want, refused)
		}
	}
	write(mine)
	n.start(t)
	n.waitServing(t)
}

// checkout is the top directory of the git checkout that this test is in.
func checkout(t *testing.T) string {
	t.Helper()
	top, err := git(".", "rev-parse", "--show-toplevel")
	if err != nil {
		t.Fatalf("-upgrade.from needs a git checkout of this module, and here is none: %v", err)
	}
	return strings.TrimSpace(string(top))
}

// buildRevision builds the program as it was in a revision.
func buildRevision(t *testing.T, rev string) string {
	t.Helper()
	top := checkout(t)
	commit, err := git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		t.Fatalf("-upgrade.from=%s: there is no such commit in %s: a first commit has none before it, and a shallow clone not all of them: %v", rev, top, err)
	}
	id := strings.TrimSpace(string(commit))
	if _, err := git(top, "merge-base", "--is-ancestor", id, "HEAD"); err != nil {
		t.Fatalf("-upgrade.from=%s: %s is no ancestor of what is checked out: %v", rev, id, err)
	}
	archive, err := git(top, "archive", "--format=tar", id)
	if err != nil {
		t.Fatalf("-upgrade.from=%s: its files cannot be had: %v", rev, err)
	}
	dir := t.TempDir()
	if err := extract(dir, archive); err != nil {
		t.Fatalf("-upgrade.from=%s: %v", rev, err)
	}
	t.Logf("the older version is %s", id)
	return buildProgram(t, dir)
}

// buildProgram builds the stock binary of a tree.
func buildProgram(t *testing.T, tree string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ringfence")
	c := exec.Command("go", "build", "-o", binary, "./cmd/ringfence")
	c.Dir = tree
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", tree, err, out)
	}
	return binary
}

// git runs a command in a directory and returns what it printed.
func git(dir string, args ...string) ([]byte, error) {
	c := exec.Command("git", args...)
	c.Dir = dir
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		err = fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// extract writes the files of an archive into a directory.
func extract(dir string, archive []byte) error {
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeReg:
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644))
			}
		}
		if err != nil {
			return err
		}
	}
}
