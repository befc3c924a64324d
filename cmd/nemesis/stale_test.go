//go:build linux

package nemesis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// thinker is a class whose events compute for a while, and touch storage at their end or never.
type thinker struct{ s *actor.State }

func thinkerClasses() []actor.Class {
	make := func(_ context.Context, s *actor.State) (*thinker, error) { return &thinker{s}, nil }
	return []actor.Class{actor.Define("Thinker", make), actor.Define("StaleThinker", make, actor.AllowStaleReplies())}
}

// What thinkers log: that an event began, and how it ended.
const (
	thinkBegan = "thinking"
	thinkEnded = "thought"
)

// thought is what an event is to do.
type thought struct {
	Millis int64
	Touch  bool // storage, at the end
}

// Think computes, and returns 42.
func (k *thinker) Think(ctx context.Context, th thought) (int, error) {
	k.s.Logger().Warn(thinkBegan)
	select {
	case <-time.After(time.Duration(th.Millis) * time.Millisecond):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	var err error
	if th.Touch {
		err = k.s.Storage().Put(ctx, "n", 42)
	}
	k.s.Logger().Warn(thinkEnded, "at", int64(now()), "moved", errors.Is(err, actor.ErrMoved), "cause", err)
	return 42, err
}

// Stored is what an event left in storage.
func (k *thinker) Stored(ctx context.Context) (int, error) {
	n, _, err := actor.Get[int](ctx, k.s.Storage(), "n")
	return n, err
}

// TestStale is the promise that all this exists for, both ways: events run in an owner that is cut off. One that touches storage is refused it, in the
// words of the hosted original. One that does not ends unhindered, and its reply is held back, unless the class wants it to leave.
func TestStale(t *testing.T) {
	needsNemesis(t)
	c := newCluster(t, 16)
	c.binary, c.env = os.Args[0], []string{nodeEnv + "=1"}
	c.form(t, 3)
	cl, err := client.Dial(t.Context(), c.servers(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	u := startUser(t, c)
	for round := range rounds(2, 10) {
		for _, s := range []struct {
			name, class string
			touch       bool
			released    bool // the caller gets the reply
		}{
			{"touches storage", "Thinker", true, false},
			{"touches none", "Thinker", false, false},
			{"may answer late and touches storage", "StaleThinker", true, false},
			{"may answer late and touches none", "StaleThinker", false, true},
		} {
			t.Run(fmt.Sprintf("%s %d", s.name, round), func(t *testing.T) {
				key := fmt.Sprintf("k%d-%v", round, s.touch)
				ref := cl.Object(s.class, key)
				type answer struct {
					n   int
					err error
				}
				ended := make(chan answer, 1)
				go func() {
					n, err := actor.Call[int](t.Context(), ref, "Think", thought{4000, s.touch})
					ended <- answer{n, err}
				}()
				victim := c.logged(t, thinkBegan, s.class+"/"+key)
				keys, from := u.ownedBy(victim), now()
				others := c.others(victim)
				mustDrop(t, victim, rules{in: others, out: others})
				cut := now()
				// Another owner serves the object while the event runs in the old one.
				stored, err := actor.Call[int](t.Context(), c.clientOfOthers(t, victim).Object(s.class, key), "Stored", nil)
				took := now() - cut
				if err != nil || stored != 0 {
					t.Errorf("the new owner answered %d, %v", stored, err)
				}
				var a answer
				select {
				case a = <-ended:
				case <-time.After(20 * time.Second):
					t.Fatal("no answer to an event that thinks for 4 s")
				}
				line := victim.line(t, thinkEnded, s.class+"/"+key)
				switch {
				case s.touch && (!strings.Contains(line, actor.MovedText) || !strings.Contains(line, "moved=true")):
					t.Errorf("its storage said something else: %s", line)
				case !s.touch && !strings.Contains(line, "cause=<nil>"):
					t.Errorf("it did not end unhindered: %s", line)
				case s.released && (a.err != nil || a.n != 42):
					t.Errorf("its caller was told %d, %v, want 42", a.n, a.err)
				case !s.released && (!errors.Is(a.err, actor.ErrMoved) || !strings.Contains(a.err.Error(), actor.MovedText)):
					u.broken.Add(1)
					t.Errorf("its caller was told %d, %v, want %q", a.n, a.err, actor.MovedText)
				}
				u.fault("cut", from, keys)
				mustDrop(t, victim, rules{})
				c.waitWhole(t, 30*time.Second)
				if stored, err := actor.Call[int](t.Context(), ref, "Stored", nil); err != nil || stored != 0 {
					u.broken.Add(1)
					t.Errorf("the object has %d after it, %v; nothing was to be written", stored, err)
				}
				remark(t, "the new owner answered %v after the cut; the old one's event ended, and its caller was told %d, %v", ms(took), a.n, a.err)
			})
		}
	}
	u.finish().wantOutages(t, silentLimit)
}

// clientOfOthers is a client that asks all nodes but one.
func (c *cluster) clientOfOthers(t *testing.T, but *process) *client.Client {
	t.Helper()
	var servers []string
	for _, p := range c.nodes {
		if p != but {
			servers = append(servers, listenAddr(p.number))
		}
	}
	cl, err := client.Dial(t.Context(), servers, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// logged is the node in whose log an object has said something, which may take a moment.
func (c *cluster) logged(t *testing.T, words, object string) *process {
	t.Helper()
	for began := time.Now(); time.Since(began) < 10*time.Second; pass(t, 20*time.Millisecond) {
		for _, p := range c.nodes {
			if p.find(t, words, object) != "" {
				return p
			}
		}
	}
	t.Fatalf("no node logged %q of %s", words, object)
	return nil
}

// line is what a node has logged of an object, which may take a moment.
func (p *process) line(t *testing.T, words, object string) string {
	t.Helper()
	for began := time.Now(); time.Since(began) < 10*time.Second; pass(t, 20*time.Millisecond) {
		if l := p.find(t, words, object); l != "" {
			return l
		}
	}
	t.Fatalf("node %d logged no %q of %s; see %s", p.number, words, object, p.log)
	return ""
}

func (p *process) find(t *testing.T, words, object string) string {
	t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte(words)) && bytes.Contains(line, []byte(object)) && bytes.HasSuffix(line, []byte("\n")) {
			return string(line)
		}
	}
	return ""
}
