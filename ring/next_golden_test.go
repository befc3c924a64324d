package ring

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNextScripts: each file of testdata/next is a story, a command a line, with what the planner does indented below it:
//
//	cluster NODES SHARDS REPLICAS    nodes 1…NODES form a cluster
//	admit N, leave N, lose N         what an operator, or time, asks of the sequencer
//	die N, back N                    the node is not heard of any more, or again
//	settle                           groups carry out what rings want, until nothing comes for a minute
//	until STEP                       the same, and it stops right after the first ring with such a step: no group has heard of it yet
//	joint 1, joint 0                 from now on a group's change of voters stays joint, or ends at once
//
// Every ring is checked as in the random test.
func TestNextScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/next/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if again := play(t, string(b)); again != got {
				t.Fatalf("the same story, told again:\n%s\nand before:\n%s", again, got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(b) {
				t.Errorf("-update writes what follows; look at what is different:\n%s", got)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	var out strings.Builder
	var c *toy
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") {
			continue // of an earlier run
		}
		out.WriteString(line + "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		var what string
		var n, shards, replicas int
		if _, err := fmt.Sscan(line, &what, &n, &shards, &replicas); what == "" || what == "cluster" && err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if what == "cluster" {
			c = newToy(t, 1, n, shards, replicas)
			continue
		}
		id := NodeID(n)
		var r *Ring
		var err error
		switch what {
		case "admit":
			c.alive[id] = true
			r, err = c.ring.Admit(Member{ID: id, Addr: fmt.Sprintf("h%d:1", id)})
		case "leave":
			r, err = c.ring.Leave(id)
		case "lose":
			r, err = c.ring.Lose(id, c.facts())
		case "die", "back":
			c.alive[id] = what == "back"
		case "settle":
			c.story(&out, "")
		case "until":
			c.story(&out, strings.TrimSpace(strings.TrimPrefix(line, what)))
		case "joint":
			c.joint = n == 1
		default:
			t.Fatalf("%q is no command", line)
		}
		if err != nil {
			fmt.Fprintf(&out, "  refused: %v\n", err)
		} else if r != nil {
			c.accept(r, line)
		}
	}
	return out.String()
}

// story lets all groups work and tells the steps, until nothing has come for a minute, or a step of the kind stop.
func (c *toy) story(out *strings.Builder, stop string) {
	const pause = 500 * time.Millisecond
	for last := c.now; c.now-last < time.Minute; c.now += pause {
		for range 3 {
			for i := range c.groups {
				c.work(i)
			}
		}
		r, steps := c.next()
		if r == nil {
			continue
		}
		last = c.now
		c.accept(r, "next")
		fmt.Fprintf(out, "  %v, ring %d:\n", c.now, r.Epoch())
		stopped := false
		for _, s := range steps {
			fmt.Fprintf(out, "    %s\n", s)
			stopped = stopped || s.Kind.String() == stop
		}
		if stopped {
			return
		}
	}
	for _, m := range c.ring.Members() {
		holds, owns := 0, 0
		for s := range c.ring.Shards() {
			a := c.ring.Shard(ShardID(s))
			if _, ok := a.On(m.ID); ok {
				holds++
			}
			if a.Replicas[0].Node == m.ID {
				owns++
			}
		}
		_, system := c.ring.system.On(m.ID)
		fmt.Fprintf(out, "  %v: member %s is %s, holds %d shards, is preferred for %d, system shard %v\n", c.now, m.ID, m.State, holds, owns, system)
	}
}
