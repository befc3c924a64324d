package nodetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node/nodetest"
)

const pageLimit = 100_000

// page is a class whose every state is a whole: a == b, and beside them no keys or all of 300.
type page struct{ st *actor.Storage }

func newPage(_ context.Context, s *actor.State) (*page, error) { return &page{s.Storage()}, nil }

// Turn goes on to the next state, number n: everything is removed, or 300 keys are added, and a and b become n in a transaction.
func (p *page) Turn(ctx context.Context, n int) error {
	if err := p.whole(ctx); err != nil {
		return err
	}
	if n%2 == 0 {
		if err := p.st.DeleteAll(ctx); err != nil {
			return err
		}
	} else {
		many := map[string]any{}
		for i := range 300 {
			many[fmt.Sprint("key ", i)] = strings.Repeat("x", 100)
		}
		if err := p.st.PutMany(ctx, many); err != nil {
			return err
		}
	}
	err := p.st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
		_ = tx.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error { return errors.Join(tx.Put(ctx, "a", -1), tx.Rollback()) })
		return errors.Join(tx.Put(ctx, "a", n), tx.Put(ctx, "b", n))
	})
	if err != nil {
		return err
	}
	return p.whole(ctx)
}

func (p *page) whole(ctx context.Context) error {
	a, _, err := actor.Get[int](ctx, p.st, "a")
	b, _, err2 := actor.Get[int](ctx, p.st, "b")
	keys := 0
	for _, err := range p.st.All(ctx, actor.ListOptions{Prefix: "key "}) {
		if err != nil {
			return err
		}
		keys++
	}
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if a != b || keys != 300*(a%2) {
		return actor.Fail("torn", "a is %d, b is %d, with %d keys", a, b, keys)
	}
	return nil
}

// Last is the number of the state.
func (p *page) Last(ctx context.Context) (int, error) {
	n, _, err := actor.Get[int](ctx, p.st, "a")
	return n, errors.Join(err, p.whole(ctx))
}

// Fill removes everything and stores size bytes.
func (p *page) Fill(ctx context.Context, size int) error {
	return errors.Join(p.st.DeleteAll(ctx), p.st.Put(ctx, "f", strings.Repeat("x", size)))
}

// TestConformanceStorageUnderKill: C-52, C-63, C-65, C-69, while the owner loses its power again and again.
func TestConformanceStorageUnderKill(t *testing.T) {
	if testing.Short() {
		t.Skip("kills and restarts nodes for seconds; go test without -short, and so .ci/run, does")
	}
	c := nodetest.Start(t, 3, actor.Define("Page", newPage, actor.StorageLimit(pageLimit)))
	ref := c.Client().Object("Page", "p")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	turn := make(chan error)
	stop := make(chan struct{})
	last := 0
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				turn <- nil
				return
			default:
			}
			if err := ref.Call(ctx, "Turn", n, nil, actor.Idempotent(fmt.Sprint("turn ", n))); err != nil {
				turn <- fmt.Errorf("turn %d: %w", n, err)
				return
			}
			last = n
		}
	}()
	for range 2 {
		owner := c.Owner("Page", "p")
		for before := seen(ctx, t, ref); seen(ctx, t, ref) < before+5; { // turns go on under this owner
		}
		c.Kill(owner)
		c.Restart(owner)
	}
	close(stop)
	if err := <-turn; err != nil {
		t.Fatal(err)
	}
	if n := seen(ctx, t, ref); n != last {
		t.Errorf("the last turn acknowledged is %d, stored is %d", last, n)
	}
	// What the object holds was counted through all of it: there is room for exactly the limit.
	const head, key = 5, 1 // of a long string, encoded; of its key
	fill := func(size int) error {
		return ref.Call(ctx, "Fill", size, nil, actor.Idempotent(fmt.Sprint("fill ", size)))
	}
	if err := fill(pageLimit - head - key + 1); !errors.Is(err, actor.ErrStorageFull) {
		t.Errorf("one byte too many: %v", err)
	}
	if err := fill(pageLimit - head - key); err != nil {
		t.Error(err)
	}
}

func seen(ctx context.Context, t *testing.T, ref actor.Ref) int {
	n, err := actor.Call[int](ctx, ref, "Last", nil, actor.Idempotent(fmt.Sprint("seen ", time.Now().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
