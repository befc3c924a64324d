// Command lockservice shows what fencing tokens are for. A lock is given for a time; a worker that sleeps beyond its time still believes that it has
// the lock. The file that it writes to is an object, too, and refuses a token lower than one it has seen.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// Lock is the class of a lock.
type Lock struct{ s *actor.State }

func NewLock(_ context.Context, s *actor.State) (*Lock, error) { return &Lock{s}, nil }

// Grant is who has a lock.
type Grant struct {
	Holder string
	Token  uint64
	Until  time.Time
}

// Ask is who wants it, and for how many milliseconds.
type Ask struct {
	Holder string
	Millis int64
}

// Acquire gives the lock, with a token higher than all before, or says who has it.
func (l *Lock) Acquire(ctx context.Context, a Ask) (Grant, error) {
	g, _, err := actor.Get[Grant](ctx, l.s.Storage(), "grant")
	if err != nil {
		return g, err
	}
	now := time.Now()
	if now.Before(g.Until) && g.Holder != a.Holder {
		return g, actor.Fail("held", "%s has it for another %d ms", g.Holder, g.Until.Sub(now).Milliseconds()+1)
	}
	g = Grant{a.Holder, g.Token + 1, now.Add(time.Duration(a.Millis) * time.Millisecond)}
	return g, l.s.Storage().Put(ctx, "grant", g)
}

// File is the class of what the lock protects.
type File struct{ s *actor.State }

func NewFile(_ context.Context, s *actor.State) (*File, error) { return &File{s}, nil }

// Write is text under a token.
type Write struct {
	Token uint64
	Text  string
}

// Write stores the text, unless somebody with a newer token has written.
func (f *File) Write(ctx context.Context, w Write) error {
	old, _, err := actor.Get[Write](ctx, f.s.Storage(), "last")
	if err != nil {
		return err
	}
	if w.Token < old.Token {
		return actor.Fail("stale", "token %d is over: %d has written", w.Token, old.Token)
	}
	return f.s.Storage().Put(ctx, "last", w)
}

func (f *File) Read(ctx context.Context) (string, error) {
	w, _, err := actor.Get[Write](ctx, f.s.Storage(), "last")
	return w.Text, err
}

func main() {
	dir, err := os.MkdirTemp("", "lockservice")
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
	return node.With(ctx, cfg, []actor.Class{actor.Define("Lock", NewLock), actor.Define("File", NewFile)}, func(ctx context.Context, c *client.Client) error {
		return play(ctx, c, out)
	})
}

func play(ctx context.Context, c *client.Client, out io.Writer) error {
	lock, file := c.Object("Lock", "db"), c.Object("File", "db")
	sleepy, err := actor.Call[Grant](ctx, lock, "Acquire", Ask{"sleepy", 200})
	if err != nil {
		return err
	}
	_, err = actor.Call[Grant](ctx, lock, "Acquire", Ask{"quick", 1000})
	if e := (*actor.Error)(nil); !errors.As(err, &e) || e.App != "held" {
		return fmt.Errorf("the lock was given twice: %w", err)
	}
	fmt.Fprintln(out, "quick has to wait")
	for err != nil { // as a worker does: again, until it is free
		time.Sleep(20 * time.Millisecond)
		var g Grant
		if err = lock.Call(ctx, "Acquire", Ask{"quick", 1000}, &g); err == nil {
			err = file.Call(ctx, "Write", Write{g.Token, "by quick"}, nil)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	err = file.Call(ctx, "Write", Write{sleepy.Token, "by sleepy"}, nil)
	if e := (*actor.Error)(nil); !errors.As(err, &e) || e.App != "stale" {
		return fmt.Errorf("a stale writer was let in: %w", err)
	}
	fmt.Fprintln(out, "sleepy wakes up:", reason(err))
	text, err := actor.Call[string](ctx, file, "Read", nil)
	fmt.Fprintln(out, "the file was written", text)
	return err
}

// reason is an error's text without the object and its token.
func reason(err error) string {
	var e *actor.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
