//go:build linux

package nemesis

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

// What TestBytes puts into the cluster.
const (
	ballastObjects = 512
	ballastBytes   = 48 << 10 // each, of bytes that do not compress
)

// movedLimit is how much may be moved, of the least possible.
const movedLimit = 1.3

// metric reads one of the figures that a node gives as Prometheus text.
func (p *process) metric(name string) (float64, error) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get("http://" + nodeIP(p.number) + ":7422/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("node %d has no metric %s", p.number, name)
}

// sent watches how many bytes of snapshots each node has sent, those too that end meanwhile.
type sent struct {
	mu     sync.Mutex
	last   map[*process]float64
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func watchSent(t *testing.T, c *cluster) *sent {
	ctx, cancel := context.WithCancel(t.Context())
	s := &sent{last: map[*process]float64{}, cancel: cancel}
	s.look(c.all)
	all := c.all // nodes that join send nothing before they have joined
	s.done.Go(func() {
		for ctx.Err() == nil {
			s.look(all)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); s.done.Wait() })
	return s
}

func (s *sent) look(all []*process) {
	for _, p := range all {
		if n, err := p.metric("ringfence_snapshot_sent_bytes_total"); err == nil { // it may have ended
			s.mu.Lock()
			s.last[p] = n
			s.mu.Unlock()
		}
	}
}

func (s *sent) total() (sum float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.last {
		sum += n
	}
	return sum
}

// TestBytes joins and takes away nodes of a cluster that holds something, and counts what is sent for it: the least possible is the newcomer's share of
// all copies, or all copies of the one that leaves.
func TestBytes(t *testing.T) {
	needsNemesis(t)
	c := startCluster(t, 3, 64)
	cl, err := client.Dial(t.Context(), c.servers(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	var fillers sync.WaitGroup
	for i := range 8 {
		fillers.Go(func() {
			for o := i; o < ballastObjects; o += 8 {
				if _, err := actor.Call[int](t.Context(), cl.Object("Map", fmt.Sprint("ballast-", o)), "Put", map[string]any{"junk": junk(o)}); err != nil {
					t.Errorf("ballast %d: %v", o, err)
				}
			}
		})
	}
	fillers.Wait()
	const data = ballastObjects * ballastBytes
	r := results(t)
	t.Cleanup(func() { report.add(r) })
	r.calls += ballastObjects
	moved := func(what string, least float64, do func()) {
		s := watchSent(t, c)
		before := s.total()
		do()
		s.look(c.all)
		s.cancel()
		s.done.Wait()
		bytes := s.total() - before
		r.faults["planned change"]++
		remark(t, "%s: %.1f MB of snapshots sent, %.2f times the least possible", what, bytes/(1<<20), bytes/least)
		switch {
		case bytes > movedLimit*least:
			t.Errorf("%s: %.0f bytes were sent, and %.0f are the least possible", what, bytes, least)
		case bytes < least/2:
			t.Errorf("%s: %.0f bytes were sent, and %.0f had to be: something else fills replicas", what, bytes, least)
		}
	}
	moved("the fourth joins", data*3/4, func() { c.join(t, 4, c.data(4)); c.waitSettled(t, 2*time.Minute) })
	moved("the fifth joins", data*3/5, func() { c.join(t, 5, c.data(5)); c.waitSettled(t, 2*time.Minute) })
	leaver := c.nodes[1]
	held, err := leaver.metric("ringfence_shards_replicated")
	if err != nil {
		t.Fatal(err)
	}
	moved("one leaves", held*data/float64(c.shards), func() { c.leave(t, leaver); c.waitSettled(t, 2*time.Minute) })
	for o := range ballastObjects {
		began := time.Now()
		m, err := actor.Call[map[string][]byte](t.Context(), cl.Object("Map", fmt.Sprint("ballast-", o)), "Get", []string{"junk"})
		if err != nil || string(m["junk"]) != string(junk(o)) {
			t.Errorf("ballast %d is another: %d bytes, %v", o, len(m["junk"]), err)
			r.violations++
		}
		r.calls, r.longest = r.calls+1, max(r.longest, time.Since(began))
	}
}

// junk is different for each object.
func junk(o int) []byte {
	b := make([]byte, ballastBytes)
	x := uint64(o)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}
