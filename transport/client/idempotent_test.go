package client

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
)

func TestIdempotentCallIsRepeated(t *testing.T) {
	f := newFakeCluster(t, 3)
	c := dial(t, f, nil)
	for _, method := range []string{"Flaky", "Unsure"} {
		key := "key of " + method
		if err := c.Object("Thing", "a").Call(t.Context(), method, 1, nil, actor.Idempotent(key)); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if _, err := c.CallJSON(t.Context(), "Thing", "b", method, []byte("1"), actor.Idempotent(key+" in JSON")); err != nil {
			t.Fatalf("%s in JSON: %v", method, err)
		}
		f.mu.Lock()
		for _, k := range []string{key, key + " in JSON"} {
			if g := f.keys[k]; len(g) != 2 || g[0] >= g[1] {
				t.Errorf("%s: sent in generations %v", k, g)
			}
		}
		f.mu.Unlock()
	}
	wantError(t, c.Object("Thing", "a").Call(t.Context(), "Flaky", 1, nil), actor.ErrUnreachable, actor.MayHaveRun)
	wantError(t, c.Object("Thing", "a").Call(t.Context(), "Cut", 1, nil), actor.ErrUnreachable, actor.MayHaveRun)
}

// Tried until the deadline, and then nobody knows.
func TestIdempotentCallAtTheDeadline(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantError(t, c.Object("Thing", "a").Call(ctx, "Cut", 1, nil, actor.Idempotent("k")), actor.ErrDeadline, actor.MayHaveRun)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls < 2 {
		t.Errorf("sent %d times", f.calls)
	}
}

// The owner compares arguments as they were sent.
func TestSameArgumentSameBytes(t *testing.T) {
	type arg struct {
		Strings map[string]string
		Any     map[string]any
		Bools   map[string]bool
	}
	var first []byte
	for range 50 {
		in := arg{map[string]string{}, map[string]any{}, map[string]bool{}}
		for i := range 10 {
			k := string(rune('a' + i))
			in.Strings[k], in.Any[k], in.Bools[k] = k, i, true
		}
		b, _, err := encode(in)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			t.Fatal("one value, two encodings")
		}
	}
}

func TestIdempotencyKeyIsChecked(t *testing.T) {
	f := newFakeCluster(t, 1)
	c := dial(t, f, nil)
	r := c.Object("Thing", "a")
	for _, key := range []string{"", strings.Repeat("k", actor.MaxIdempotencyKey+1), "a\x00", "\xff"} {
		wantError(t, r.Call(t.Context(), "Add", 1, nil, actor.Idempotent(key)), actor.ErrBadArgument, actor.DidNotRun, "idempotency key")
		wantError(t, r.Start(t.Context(), "Add", 1, actor.Idempotent(key)).Wait(t.Context(), nil), actor.ErrBadArgument, actor.DidNotRun)
	}
	if err := r.Call(t.Context(), "Add", 1, nil, actor.Idempotent(strings.Repeat("k", actor.MaxIdempotencyKey))); err != nil {
		t.Error(err)
	}
}
