package cmd

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// story is one demonstration.
type story struct {
	nodes *demoNodes
	out   *claims
	cl    *client.Client
	load  *demoLoad
}

func (s *story) tell(ctx context.Context) error {
	for _, n := range s.nodes.all[:3] {
		if err := s.nodes.start(n); err != nil {
			return err
		}
	}
	if err := s.formed(ctx); err != nil {
		return err
	}
	defer func() { s.cl.Close() }()
	steps := []func(context.Context) error{s.routed, s.killed, s.cutOff, s.joined, s.left, s.counted}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		cancel()
		if s.load != nil {
			s.load.end()
		}
	}()
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) formed(ctx context.Context) error {
	began := time.Now()
	err := s.whole(ctx, 3)
	if err == nil {
		s.cl, err = dialServers(ctx, []string{s.nodes.all[0].addrs.listen, s.nodes.all[1].addrs.listen, s.nodes.all[2].addrs.listen}, client.Options{})
	}
	return s.out.check(1, "three nodes form one cluster", err, "%v", ms(time.Since(began)))
}

// whole waits until every node that runs sees n nodes up, every shard owned, and the same epoch.
func (s *story) whole(ctx context.Context, n int) error {
	for {
		epochs := map[uint64]bool{}
		for _, d := range s.nodes.all {
			if !d.alive() {
				continue
			}
			st, err := d.child().waitServing(ctx, n)
			if err != nil {
				return err
			}
			epochs[st.Epoch] = true
			for _, m := range st.Nodes {
				for _, d := range s.nodes.all {
					if d.addrs.listen == m.Addr {
						d.id = m.ID
					}
				}
			}
		}
		if len(epochs) == 1 {
			return nil
		}
		if err := pauseFor(ctx, readyPause); err != nil {
			return fmt.Errorf("the nodes know rings of %d epochs: %w", len(epochs), err)
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// owner asks the nodes that run and are not cut off which of them owns an object, until one knows.
func (s *story) owner(ctx context.Context, class, key string, not *demoNode) (*demoNode, uint64, error) {
	question, err := msgpack.Marshal(node.WhereRequest{Class: class, Key: key})
	if err != nil {
		return nil, 0, err
	}
	for {
		b, err := ask(ctx, s.cl, s.reachable(not), "where", question)
		if err == nil {
			where, err := node.DecodeWhere(b)
			if err != nil {
				return nil, 0, err
			}
			for _, n := range s.nodes.all {
				if n != not && where.Owner.ID != "" && n.addrs.listen == where.Owner.Addr {
					return n, where.Token, nil
				}
			}
		}
		if err := pauseFor(ctx, readyPause); err != nil {
			return nil, 0, fmt.Errorf("nobody knows the owner of %s/%s: %w", class, key, err)
		}
	}
}

func (s *story) reachable(not *demoNode) []string {
	var addrs []string
	for _, n := range s.nodes.all {
		if n != not && n.alive() {
			addrs = append(addrs, n.addrs.listen)
		}
	}
	return addrs
}

// routed calls several objects and holds the process that answers against the owner.
func (s *story) routed(ctx context.Context) error {
	answered := map[*demoNode][]string{}
	var err error
	for i := 0; i < 9 && err == nil; i++ {
		var n *demoNode
		var pid int
		key := fmt.Sprintf("object-%d", i)
		if n, _, err = s.owner(ctx, demoClass, key, nil); err != nil {
			break
		}
		if pid, err = actor.Call[int](ctx, s.cl.Object(demoClass, key), "Process", nil); err == nil && pid != n.pid() {
			err = fmt.Errorf("%s/%s is owned by node %d (pid %d), and pid %d answered", demoClass, key, n.number, n.pid(), pid)
		}
		answered[n] = append(answered[n], fmt.Sprint(i))
	}
	if err == nil && len(answered) < 2 {
		err = errors.New("one node answered for all nine objects")
	}
	var parts []string
	for n, keys := range answered {
		parts = append(parts, fmt.Sprintf("node %d answers object-{%s}", n.number, strings.Join(keys, ",")))
	}
	sort.Strings(parts)
	return s.out.check(1, "a call reaches its object's owner by ID alone", err, "%s", strings.Join(parts, ", "))
}

// owned are the counters that each node owns.
func (s *story) owned(ctx context.Context) (map[*demoNode][]int, error) {
	all := map[*demoNode][]int{}
	for i := range demoCounters {
		n, _, err := s.owner(ctx, "Counter", demoKey(i), nil)
		if err != nil {
			return nil, err
		}
		all[n] = append(all[n], i)
	}
	return all, nil
}

// victim is the owner of the most counters but for one node.
func (s *story) victim(ctx context.Context, not *demoNode) (*demoNode, []int, error) {
	all, err := s.owned(ctx)
	if err != nil {
		return nil, nil, err
	}
	var most *demoNode
	for _, n := range s.nodes.all {
		if n != not && len(all[n]) > 0 && (most == nil || len(all[n]) > len(all[most])) {
			most = n
		}
	}
	if most == nil {
		return nil, nil, errors.New("no other node owns a counter")
	}
	return most, all[most], nil
}

// demoWait bounds each single wait of the story.
const demoWait = 15 * time.Second

func (s *story) killed(ctx context.Context) error {
	s.load = &demoLoad{cl: s.cl}
	everything := make([]int, demoCounters)
	for i := range everything {
		everything[i] = i
	}
	all := s.load.watch(everything)
	s.load.begin(ctx)
	step, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	if err := s.load.await(step, all); err != nil {
		return s.out.check(2, "callers count on objects", err, "")
	}
	n, counters, err := s.victim(step, nil)
	if err != nil {
		return err
	}
	w := s.load.watch(counters)
	if err = n.kill(); err == nil {
		err = s.load.await(step, w)
	}
	if err := s.out.check(2, fmt.Sprintf("node %d is killed under load: others serve its objects", n.number), err,
		"%d objects; next success of the first after %v, of the last after %v", len(counters), ms(w.first), ms(w.all)); err != nil {
		return err
	}
	if err := s.countNow(ctx, 2, "nothing acknowledged is lost, nothing counted twice"); err != nil {
		return err
	}
	began := time.Now()
	step, cancel = context.WithTimeout(ctx, demoWait)
	defer cancel()
	if err = s.nodes.start(n); err == nil {
		err = s.whole(step, 3)
	}
	return s.out.check(2, fmt.Sprintf("node %d comes back from its directory", n.number), err, "%v", ms(time.Since(began)))
}

// countNow lets the callers pause, checks the counters and lets the callers go on.
func (s *story) countNow(ctx context.Context, step int, text string) error {
	s.load.end()
	limited, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	acked, unknown, err := s.load.check(limited)
	s.load.begin(ctx)
	return s.out.check(step, text, err, "%d increments acknowledged and there, %d of unknown outcome, each there at most once", acked, unknown)
}

func (s *story) counted(ctx context.Context) error {
	if err := s.countNow(ctx, 7, "at the end every counter is what its callers were told"); err != nil {
		return err
	}
	return s.out.check(7, "the story is over", nil, "%d claims held in %.1f s", s.out.held, time.Since(s.out.began).Seconds())
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
