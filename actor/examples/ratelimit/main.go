// Command ratelimit answers HTTP requests, five at once and then one in ten seconds for each user. A user's limit is an object, so it
// is one limit for all front ends of a cluster; it needs no storage, so it costs neither a disk nor a quorum.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

const (
	burst     = 5
	perSecond = 0.1
)

// Limit is the class: a bucket of tokens in memory. An object that moved, or was not used for a minute, begins with a full one.
type Limit struct {
	tokens float64
	at     time.Time
}

func NewLimit(context.Context, *actor.State) (*Limit, error) {
	return &Limit{tokens: burst, at: time.Now()}, nil
}

// Take takes a token, and returns 0, or else after how many milliseconds there will be one.
func (l *Limit) Take(context.Context) (int64, error) {
	now := time.Now()
	l.tokens = min(burst, l.tokens+now.Sub(l.at).Seconds()*perSecond)
	l.at = now
	if l.tokens < 1 {
		return int64((1-l.tokens)/perSecond*1000) + 1, nil
	}
	l.tokens--
	return 0, nil
}

// limited lets through to next what the user's limit allows. Who asks is what the header User says.
func limited(c *client.Client, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		wait, err := actor.Call[int64](ctx, c.Object("Limit", r.Header.Get("User")), "Take", nil)
		switch {
		case errors.Is(err, actor.ErrBadArgument):
			http.Error(w, "say who you are in the header User", http.StatusBadRequest)
		case err != nil: // a limiter that cannot be asked should not take the service down with it
			next.ServeHTTP(w, r)
		case wait > 0:
			w.Header().Set("Retry-After", strconv.FormatInt((wait+999)/1000, 10))
			http.Error(w, "slowly, please", http.StatusTooManyRequests)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func main() {
	dir, err := os.MkdirTemp("", "ratelimit")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(context.Background(), dir, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run starts a node and a web server in this process, and plays.
func run(ctx context.Context, dir string, out io.Writer) error {
	cfg := node.Config{Data: dir, Listen: "127.0.0.1:0"}
	return node.With(ctx, cfg, []actor.Class{actor.Define("Limit", NewLimit)}, func(ctx context.Context, c *client.Client) error {
		hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
		web := httptest.NewServer(limited(c, hello))
		defer web.Close()
		return play(ctx, web.URL, out)
	})
}

func play(ctx context.Context, url string, out io.Writer) error {
	for _, user := range []string{"ann", "ben", ""} {
		count := map[int]int{}
		for range 8 {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			req.Header.Set("User", user)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			count[resp.StatusCode]++
		}
		fmt.Fprintf(out, "%q: %v\n", user, count)
	}
	return nil
}
