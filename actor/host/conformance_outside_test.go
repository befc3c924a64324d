package host

import (
	"context"
	"errors"
	"testing"

	"github.com/ringfence/ringfence/actor"
)

// TestConformanceStorageOutside: rows of storage where another event runs meanwhile, or might.
func TestConformanceStorageOutside(t *testing.T) {
	conform(t, []row{
		{name: "C-55 what is written while a call is out is seen by who comes in", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				pending := outside(p).Start(ctx, "Slow", nil)
				var s string
				return s, errors.Join(p.st.Put(ctx, "n", 5), pending.Wait(ctx, &s))
			})
			call := w.send("o", "Do", "call")
			call.held()
			w.send("o", "Add", int64(1)).want(int64(6))
			l.sent()[0].reply("late")
			call.want("late")
			w.send("o", "Read", nil).want(int64(6))
		}},
		{name: "C-65 nobody comes in while a transaction is open", class: interleaved, test: func(t *testing.T, w *world, l *loop) {
			w.auto()
			w.does("call", func(ctx context.Context, p *probe) (string, error) {
				pending := outside(p).Start(ctx, "Slow", nil)
				err := p.st.Transaction(ctx, func(ctx context.Context, tx *actor.Tx) error {
					return errors.Join(tx.Put(ctx, "n", 5), expect(message(pending.Wait(ctx, nil)), textDurableInTx),
						expect(message(outside(p).Call(ctx, "Slow", nil, nil)), textDurableInTx),
						expect(message(p.s.Await(ctx, func(context.Context) error { return errors.New("it ran") })), textDurableInTx))
				})
				return "", err
			})
			w.send("o", "Do", "call").want("")
			w.send("o", "Read", nil).want(int64(5))
			if n := len(l.sent()); n != 1 {
				t.Errorf("%d calls went out", n)
			}
		}},
	})
}
