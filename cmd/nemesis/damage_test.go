//go:build linux

package nemesis

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// damage is something that a disk may do to a file while nobody looks.
type damage struct {
	name  string
	files string // of the data directory; the newest that is not empty is hit
	do    func(r *rand.Rand, b []byte) []byte
}

func flipBit(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for { // not in the room that is allocated in advance
		if bit := r.IntN(8 * len(b)); b[bit/8] != 0 {
			b[bit/8] ^= 1 << (bit % 8)
			return b
		}
	}
}

func zeroPage(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for {
		page := b[r.IntN(len(b)/4096+1)*4096:]
		if page = page[:min(len(page), 4096)]; !bytes.Equal(page, make([]byte, len(page))) {
			clear(page)
			return b
		}
	}
}

func cutOff(r *rand.Rand, b []byte) []byte {
	used := bytes.TrimRight(b, "\x00")
	return b[:r.IntN(len(used))]
}

var damages = []damage{
	{"bit flipped in the WAL", "db/*.log", flipBit},
	{"page of the WAL zeroed", "db/*.log", zeroPage},
	{"WAL cut off", "db/*.log", cutOff},
	{"bit flipped in a table", "db/*.sst", flipBit},
	{"table cut off", "db/*.sst", cutOff},
	{"bit flipped in the MANIFEST", "db/MANIFEST-*", flipBit},
	{"MANIFEST cut off", "db/MANIFEST-*", cutOff},
	{"bit flipped in the watermark", "WATERMARK", flipBit},
	{"watermark cut off", "WATERMARK", cutOff},
}

// TestDamage hits the files of a node that does not run, and starts it: it refuses its directory with words that help, or serves nothing that is not so.
func TestDamage(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	u := startUser(t, c)
	victim := c.nodes[2]
	u.more(8 * counters)
	for range rounds(1, 10) {
		for _, d := range damages {
			u.damage(victim, d)
			victim = c.nodes[len(c.nodes)-1]
		}
	}
	u.finish()
}

// damage does one damage. Who does not get through it is wiped, as it is told to, and comes back as another node.
func (u *user) damage(victim *process, d damage) {
	t, c := u.t, u.c
	t.Helper()
	from := now()
	victim.kill(t)
	path := newest(t, filepath.Join(victim.args[2], d.files))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	bad := d.do(rand.New(rand.NewPCG(seed, 0)), good)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	what := fmt.Sprintf("%s (%s, seed %d, %d → %d bytes)", d.name, filepath.Base(path), seed, len(good), len(bad))
	victim.start(t)
	select {
	case <-victim.out.serving:
		u.more(4 * counters)
		pass(t, time.Second) // it reads and writes what it has
	case <-victim.ended:
	case <-time.After(20 * time.Second):
		t.Errorf("%s: the node neither serves nor ends; see %s", what, victim.log)
	}
	u.fault("damage", from, nil)
	select {
	case <-victim.ended:
	default:
		regressed := bytes.Contains(victim.lines(t), []byte("has lost what it had written"))
		remark(t, "%s: the node goes on; it votes: %v", what, !regressed)
		if regressed {
			c.restartWiped(t, victim)
		}
		c.waitWhole(t, 30*time.Second)
		return
	}
	last := victim.lastWords(t)
	if code := victim.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(last, victim.args[2]) {
		t.Errorf("%s: the node ended with code %d, and its last words should name its directory: %s", what, code, last)
	}
	if strings.HasPrefix(last, "ringfence: ") { // it was not opened: undone, the damage never was
		remark(t, "%s: refused: %s", what, cause(last))
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		victim.start(t)
		victim.waitServing(t)
	} else {
		remark(t, "%s: the process ended when it came upon it: %s", what, cause(last))
		c.restartWiped(t, victim)
	}
	c.waitWhole(t, 30*time.Second)
}

// cause is the end of an error's text, where the cause stands.
func cause(words string) string {
	const enough = 140
	if len(words) > enough {
		return "… " + strings.ToValidUTF8(words[len(words)-enough:], "")
	}
	return words
}

func newest(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	for _, f := range slices.Backward(files) {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if len(bytes.TrimRight(b, "\x00")) > 64 {
			return f
		}
	}
	t.Fatalf("there is no %s with anything in it", pattern)
	return ""
}

// lines is what a process has logged since it was started last.
func (p *process) lines(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return b[bytes.LastIndex(b, []byte("--- started at ")):]
}

func (p *process) lastWords(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(p.lines(t))), "\n")
	return lines[len(lines)-1]
}
