// Command bank moves money between accounts, each a durable object, so that no money is ever lost or made: not if a call fails half-way, and not
// if a node dies. A transfer takes the money and notes that it is on its way in one batch; an alarm goes on where the call was cut off.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// Account is the class: a balance in cents, and the transfers that have left and not yet arrived, under out/ID.
type Account struct{ s *actor.State }

func NewAccount(_ context.Context, s *actor.State) (*Account, error) { return &Account{s}, nil }

func (a *Account) Balance(ctx context.Context) (int64, error) {
	n, _, err := actor.Get[int64](ctx, a.s.Storage(), "balance")
	return n, err
}

func (a *Account) Deposit(ctx context.Context, cents int64) (int64, error) {
	n, err := a.Balance(ctx)
	if err != nil {
		return 0, err
	}
	return n + cents, a.s.Storage().Put(ctx, "balance", n+cents)
}

// Transfer is money for another account. ID is the caller's, and names the transfer for ever.
type Transfer struct {
	ID, To string
	Cents  int64
}

// Send takes the money from this account, and brings it to the other one: at once if that can be reached, else later.
func (a *Account) Send(ctx context.Context, t Transfer) (int64, error) {
	n, err := a.Balance(ctx)
	if err != nil {
		return 0, err
	}
	if t.Cents <= 0 || n < t.Cents {
		return 0, actor.Fail("no-funds", "%s has %d cents, %d are wanted", a.s.ID().Key, n, t.Cents)
	}
	st := a.s.Storage()
	if err := st.PutMany(ctx, map[string]any{"balance": n - t.Cents, "out/" + t.ID: t}); err != nil {
		return 0, err
	}
	if err := st.SetAlarm(ctx, time.Now().Add(time.Second)); err != nil {
		return 0, err
	}
	return n - t.Cents, a.bring(ctx, t) // what is above is durable before this call leaves
}

// bring delivers a transfer. The key makes it happen once, however often it is tried.
func (a *Account) bring(ctx context.Context, t Transfer) error {
	err := a.s.Object("Account", t.To).Call(ctx, "Deposit", t.Cents, nil, actor.Idempotent(t.ID))
	if err != nil {
		a.s.Logger().Warn("a transfer waits", "id", t.ID, "cause", err)
		return nil // the alarm goes on
	}
	_, err = a.s.Storage().Delete(ctx, "out/"+t.ID)
	return err
}

// Alarm brings what is still on its way.
func (a *Account) Alarm(ctx context.Context, _ actor.AlarmInfo) error {
	for e, err := range a.s.Storage().All(ctx, actor.ListOptions{Prefix: "out/"}) {
		if err != nil {
			return err
		}
		var t Transfer
		if err := e.Decode(&t); err != nil {
			return err
		}
		if err := a.bring(ctx, t); err != nil {
			return err
		}
	}
	left, err := a.s.Storage().List(ctx, actor.ListOptions{Prefix: "out/", Limit: 1})
	if err != nil || len(left) == 0 {
		return err
	}
	return a.s.Storage().SetAlarm(ctx, time.Now().Add(time.Second))
}

func main() {
	dir, err := os.MkdirTemp("", "bank")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(context.Background(), dir, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run starts a node in this process, and plays.
func run(ctx context.Context, dir string, out io.Writer) error {
	cfg := node.Config{Data: dir, Listen: "127.0.0.1:0"}
	return node.With(ctx, cfg, []actor.Class{actor.Define("Account", NewAccount)}, func(ctx context.Context, c *client.Client) error {
		return play(ctx, c, out)
	})
}

func play(ctx context.Context, c *client.Client, out io.Writer) error {
	ann, ben := c.Object("Account", "ann"), c.Object("Account", "ben")
	if err := ann.Call(ctx, "Deposit", int64(100_00), nil, actor.Idempotent("salary")); err != nil {
		return err
	}
	for i := range 10 {
		t := Transfer{ID: fmt.Sprint("rent-", i), To: "ben", Cents: 7_00}
		if err := ann.Call(ctx, "Send", t, nil, actor.Idempotent(t.ID)); err != nil {
			return err
		}
	}
	err := ann.Call(ctx, "Send", Transfer{ID: "yacht", To: "ben", Cents: 1_000_000_00}, nil)
	fmt.Fprintln(out, "a yacht:", err)
	for _, r := range []actor.Ref{ann, ben} {
		cents, err := actor.Call[int64](ctx, r, "Balance", nil)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has %d.%02d\n", r.ID().Key, cents/100, cents%100)
	}
	return nil
}
