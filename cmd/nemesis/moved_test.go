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

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// nodeEnv makes the test binary a node's: the command line with one more class, as a user's own binary is.
const nodeEnv = "NEMESIS_NODE"

// watcher is a class whose event stays at its storage until that fails.
type watcher struct{ s *actor.State }

func watcherClass() actor.Class {
	return actor.Define("Watcher", func(_ context.Context, s *actor.State) (*watcher, error) { return &watcher{s}, nil })
}

// refusedWords begin the line that the watcher logs when its storage fails.
const refusedWords = "storage refused"

// Watch reads until that fails, and returns why.
func (w *watcher) Watch(ctx context.Context, limit time.Duration) (int, error) {
	for began := time.Now(); time.Since(began) < limit; {
		if _, _, err := actor.Get[int64](ctx, w.s.Storage(), "n"); err != nil {
			w.s.Logger().Warn(refusedWords, "at", int64(now()), "moved", errors.Is(err, actor.ErrMoved), "cause", err)
			return 0, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("storage never failed")
}

// TestMoved cuts an owner off whose object is at its storage: the next access fails, with the words that the hosted original has.
func TestMoved(t *testing.T) {
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
	for round := range rounds(3, 10) {
		key := fmt.Sprintf("w%d", round)
		ref := cl.Object("Watcher", key)
		ended := make(chan error, 1)
		go func() {
			_, err := actor.Call[int](t.Context(), ref, "Watch", 20*time.Second)
			ended <- err
		}()
		victim := c.runner(t, cl, key)
		pass(t, 500*time.Millisecond) // the event runs
		keys, from := u.ownedBy(victim), now()
		others := c.others(victim)
		mustDrop(t, victim, rules{in: others, out: others})
		cut := now()
		var told time.Duration
		select {
		case err = <-ended:
			told = now() - cut
		case <-time.After(10 * time.Second):
			t.Fatal("the event goes on in an owner that was cut off 10 s ago")
		}
		if !errors.Is(err, actor.ErrMoved) || !strings.Contains(err.Error(), actor.MovedText) {
			t.Errorf("the caller was told %v; want %q", err, actor.MovedText)
		}
		at := victim.storageRefused(t, key)
		remark(t, "an event of a cut-off owner lost its storage %v after the cut, and its caller heard so after %v", ms(at-cut), ms(told))
		if at-cut > refusalLimit {
			late(t, "storage failed %v after the cut, want %v at most", ms(at-cut), refusalLimit)
		}
		u.more(counters)
		u.fault("cut", from, keys)
		mustDrop(t, victim, rules{})
		c.waitWhole(t, 30*time.Second)
		u.more(2 * counters)
	}
	u.finish().wantOutages(t, silentLimit)
}

// runner is the node that owns an object.
func (c *cluster) runner(t *testing.T, cl *client.Client, key string) *process {
	t.Helper()
	for began := time.Now(); time.Since(began) < 10*time.Second; pass(t, 50*time.Millisecond) {
		body, err := msgpack.Marshal(node.WhereRequest{Class: "Watcher", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		b, err := cl.Request(t.Context(), "", "where", body)
		if err != nil {
			continue
		}
		w, err := node.DecodeWhere(b)
		for _, p := range c.nodes {
			if err == nil && w.Owner.Addr == listenAddr(p.number) {
				return p
			}
		}
	}
	t.Fatalf("nobody owns Watcher/%s", key)
	return nil
}

// storageRefused is when the watcher's storage failed, as it logged itself. It wants the words of ErrMoved there.
func (p *process) storageRefused(t *testing.T, key string) time.Duration {
	t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		text := string(line)
		if !strings.Contains(text, refusedWords) || !strings.Contains(text, "Watcher/"+key) {
			continue
		}
		if !strings.Contains(text, actor.MovedText) || !strings.Contains(text, "moved=true") {
			t.Errorf("storage failed with other words: %s", text)
		}
		var at int64
		if _, rest, ok := strings.Cut(text, " at="); !ok {
			t.Fatalf("no time: %s", text)
		} else if _, err := fmt.Sscan(rest, &at); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return time.Duration(at)
	}
	t.Fatalf("node %d: Watcher/%s logged no failure of its storage; see %s", p.number, key, p.log)
	return 0
}
