// Command chat keeps the history of chat rooms. A room is an object: what is said in it gets a number, in one order for all, and who was away
// asks for all after the last number that he has seen.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// Line is what somebody said.
type Line struct {
	Number uint64    `json:"number"`
	From   string    `json:"from"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
}

// keep is how many lines a room remembers.
const keep = 50

// Room is the class. Lines are under line/NUMBER; the number of the last is in memory, too.
type Room struct {
	s    *actor.State
	last uint64
}

// NewRoom finds the last number, if the room is not new.
func NewRoom(ctx context.Context, s *actor.State) (*Room, error) {
	r := &Room{s: s}
	lines, err := s.Storage().List(ctx, actor.ListOptions{Prefix: "line/", Reverse: true, Limit: 1})
	if err != nil || len(lines) == 0 {
		return r, err
	}
	_, err = fmt.Sscanf(lines[0].Key, "line/%x", &r.last)
	return r, err
}

func key(n uint64) string { return fmt.Sprintf("line/%016x", n) }

// Say adds a line, forgets the one that is too old now, and returns the number. The caller hears it when the line is durable.
func (r *Room) Say(ctx context.Context, l Line) (uint64, error) {
	if l.From == "" || l.Text == "" {
		return 0, actor.Fail("empty", "say something, and who says it")
	}
	l.Number, l.At = r.last+1, time.Now()
	if err := r.s.Storage().Put(ctx, key(l.Number), l); err != nil {
		return 0, err
	}
	r.last = l.Number
	if r.last > keep {
		if _, err := r.s.Storage().Delete(ctx, key(r.last-keep)); err != nil {
			return 0, err
		}
	}
	return l.Number, nil
}

// Since is the lines after a number, at most 20: who gets so many asks again.
func (r *Room) Since(ctx context.Context, number uint64) ([]Line, error) {
	entries, err := r.s.Storage().List(ctx, actor.ListOptions{Prefix: "line/", StartAfter: key(number), Limit: 20})
	lines := make([]Line, len(entries))
	for i, e := range entries {
		err = errors.Join(err, e.Decode(&lines[i]))
	}
	return lines, err
}

func main() {
	dir, err := os.MkdirTemp("", "chat")
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
	return node.With(ctx, cfg, []actor.Class{actor.Define("Room", NewRoom)}, func(ctx context.Context, c *client.Client) error {
		return play(ctx, c, out)
	})
}

// play lets three people talk at once, and a fourth read what they said.
func play(ctx context.Context, c *client.Client, out io.Writer) error {
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	for _, who := range []string{"ann", "ben", "cem"} {
		wg.Go(func() {
			room := c.Object("Room", "lobby") // a Ref of its own: his lines keep their order
			var said []*actor.Pending
			for i := range 20 {
				said = append(said, room.Start(ctx, "Say", Line{From: who, Text: fmt.Sprint("line ", i)}))
			}
			var err error
			for _, p := range said {
				err = errors.Join(err, p.Wait(ctx, nil))
			}
			errs <- err
		})
	}
	wg.Wait()
	for range 3 {
		if err := <-errs; err != nil {
			return err
		}
	}
	room, last, next := c.Object("Room", "lobby"), uint64(0), map[string]string{}
	var lines []Line
	for {
		page, err := actor.Call[[]Line](ctx, room, "Since", last)
		if err != nil || len(page) == 0 {
			fmt.Fprintf(out, "%d lines, from %d to %d, the last of ann: %s\n", len(lines), lines[0].Number, last, next["ann"])
			return err
		}
		lines, last = append(lines, page...), page[len(page)-1].Number
		for _, l := range page {
			next[l.From] = l.Text
		}
	}
}
