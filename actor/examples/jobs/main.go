// Command jobs runs jobs at their time, each at least once, though the process that was given them is gone: a queue is an object, its jobs are
// stored under the time at which they are due, and its alarm is that of the first.
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

// Job is something to do.
type Job struct {
	Name  string
	After int64 // milliseconds from now
	Fails int   // how often it fails before it succeeds
	Tries int   // so far
}

const (
	tries = 5                      // then a job is given up
	pause = 200 * time.Millisecond // between tries of one
)

// Queue is the class. Jobs are under job/TIME/NAME, what was done under done/NAME.
type Queue struct{ s *actor.State }

func NewQueue(_ context.Context, s *actor.State) (*Queue, error) { return &Queue{s}, nil }

// Add stores a job, in one batch with the alarm. A job of the same name and time replaces the other.
func (q *Queue) Add(ctx context.Context, j Job) error {
	return q.schedule(ctx, j, time.Now().Add(time.Duration(j.After)*time.Millisecond))
}

func (q *Queue) schedule(ctx context.Context, j Job, at time.Time) error {
	if err := q.s.Storage().Put(ctx, fmt.Sprintf("job/%016x/%s", at.UnixMilli(), j.Name), j); err != nil {
		return err
	}
	next, set, err := q.s.Storage().Alarm(ctx)
	if err != nil || set && !at.Before(next) {
		return err
	}
	return q.s.Storage().SetAlarm(ctx, at)
}

// Alarm runs the jobs that are due. What it stores takes effect with the end of the alarm, or not at all: then it runs again.
func (q *Queue) Alarm(ctx context.Context, _ actor.AlarmInfo) error {
	due, err := q.s.Storage().List(ctx, actor.ListOptions{Prefix: "job/", End: fmt.Sprintf("job/%016x", time.Now().UnixMilli()+1), Limit: 100})
	if err != nil {
		return err
	}
	for _, e := range due {
		var j Job
		_, err := q.s.Storage().Delete(ctx, e.Key)
		if err := errors.Join(err, e.Decode(&j)); err != nil {
			return err
		}
		if err := q.try(ctx, j); err != nil {
			return err
		}
	}
	return q.wake(ctx)
}

// try does a job; one that fails comes again.
func (q *Queue) try(ctx context.Context, j Job) error {
	j.Tries++
	switch {
	case j.Tries > j.Fails:
		return q.s.Storage().Put(ctx, "done/"+j.Name, fmt.Sprintf("done after %d tries", j.Tries))
	case j.Tries == tries:
		return q.s.Storage().Put(ctx, "done/"+j.Name, fmt.Sprintf("given up after %d tries", j.Tries))
	}
	return q.schedule(ctx, j, time.Now().Add(pause))
}

// wake sets the alarm to the first job.
func (q *Queue) wake(ctx context.Context) error {
	first, err := q.s.Storage().List(ctx, actor.ListOptions{Prefix: "job/", Limit: 1})
	if err != nil || len(first) == 0 {
		return err
	}
	var at int64
	_, err = fmt.Sscanf(first[0].Key, "job/%16x/", &at)
	return errors.Join(err, q.s.Storage().SetAlarm(ctx, time.UnixMilli(at)))
}

// Done is what became of a job; empty as long as nothing did.
func (q *Queue) Done(ctx context.Context, name string) (string, error) {
	s, _, err := actor.Get[string](ctx, q.s.Storage(), "done/"+name)
	return s, err
}

func main() {
	dir, err := os.MkdirTemp("", "jobs")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(context.Background(), dir, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run gives jobs to a node, stops it, and looks what another process has done with them.
func run(ctx context.Context, dir string, out io.Writer) error {
	jobs := []Job{{Name: "mail", After: 0}, {Name: "report", After: 300, Fails: 2}, {Name: "hopeless", After: 100, Fails: 100}}
	err := with(ctx, dir, func(q actor.Ref) (err error) {
		for _, j := range jobs {
			err = errors.Join(err, q.Call(ctx, "Add", j, nil))
		}
		return err
	})
	if err != nil {
		return err
	}
	return with(ctx, dir, func(q actor.Ref) error {
		for _, j := range jobs {
			done, err := "", error(nil)
			for ; done == "" && err == nil; time.Sleep(20 * time.Millisecond) {
				done, err = actor.Call[string](ctx, q, "Done", j.Name)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: %s\n", j.Name, done)
		}
		return nil
	})
}

func with(ctx context.Context, dir string, fn func(q actor.Ref) error) error {
	cfg := node.Config{Data: dir, Listen: "127.0.0.1:0"}
	return node.With(ctx, cfg, []actor.Class{actor.Define("Queue", NewQueue)}, func(_ context.Context, c *client.Client) error {
		return fn(c.Object("Queue", "nightly"))
	})
}
