package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

// cutOff takes an owner off the network while two of its events run, and heals the network again.
func (s *story) cutOff(ctx context.Context) error {
	step, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	n, counters, err := s.victim(step, nil)
	if err != nil {
		return err
	}
	storing, computing, err := s.twoObjects(step, n)
	if err != nil {
		return err
	}
	store := s.cl.Object(demoClass, storing).Start(step, "Store", nil)
	compute := s.cl.Object(demoClass, computing).Start(step, "Compute", nil)
	for _, key := range []string{storing, computing} {
		if _, err := n.await(step, demoClass+"/"+key+": running"); err != nil {
			return err
		}
	}
	_, before, err := s.owner(step, demoClass, storing, nil)
	if err != nil {
		return err
	}
	w := new(demoWatch)
	if err = n.tell(step, "cut"); err == nil {
		w = s.load.watch(counters) // not before: until the cut the old owner itself may answer
		err = s.load.await(step, w)
	}
	if err == nil { // one for all: who is asked asks every replica, and waits for the silent one
		_, _, err = s.owner(step, "Counter", demoKey(counters[0]), n)
	}
	if err := s.out.check(3, fmt.Sprintf("node %d is cut off: the majority serves its objects", n.number), err,
		"%d objects; next success of the first after %v, of the last after %v", len(counters), ms(w.first), ms(w.all)); err != nil {
		return err
	}
	if err := s.stale(step, n, storing, computing, before); err != nil {
		return err
	}
	if err := s.withheld(step, store, compute); err != nil {
		return err
	}
	began := time.Now()
	step, cancel = context.WithTimeout(ctx, demoWait)
	defer cancel()
	if err = n.tell(step, "heal"); err == nil {
		err = s.whole(step, 3)
	}
	if err == nil {
		err = s.through(step, n, storing)
	}
	return s.out.check(4, fmt.Sprintf("healed: all see three nodes, and node %d follows", n.number), err, "%v", ms(time.Since(began)))
}

// twoObjects are two that a node owns, on different shards or not.
func (s *story) twoObjects(ctx context.Context, n *demoNode) (a, b string, err error) {
	for i := range 200 {
		key := fmt.Sprintf("held-%d", i)
		owner, _, err := s.owner(ctx, demoClass, key, nil)
		switch {
		case err != nil:
			return "", "", err
		case owner != n:
		case a == "":
			a = key
		default:
			return a, key, nil
		}
	}
	return "", "", fmt.Errorf("node %d owns none of 200 objects", n.number)
}

// stale shows the new owner at work, and what then becomes of the two events that still run on the old one.
func (s *story) stale(ctx context.Context, n *demoNode, storing, computing string, before uint64) error {
	sum, err := actor.Call[int64](ctx, s.cl.Object(demoClass, storing), "Touch", nil)
	var now *demoNode
	var token uint64
	if err == nil {
		now, token, err = s.owner(ctx, demoClass, storing, n)
	}
	if err == nil && (sum != 1 || token <= before) {
		err = fmt.Errorf("the new owner holds token %d after %d and counts %d", token, before, sum)
	}
	if err != nil {
		return s.out.check(3, "a new owner writes to the object", err, "")
	}
	if err := s.out.check(3, "a new owner writes to the object", nil, "node %d, token %d after %d", now.number, token, before); err != nil {
		return err
	}
	var text string
	if err = n.tell(ctx, "go"); err == nil {
		text, err = n.await(ctx, demoClass+"/"+storing+": then ")
	}
	if err == nil && !strings.Contains(text, actor.MovedText) {
		err = fmt.Errorf("the old owner's event ended otherwise: %s", text)
	}
	if err := s.out.check(3, "the old owner's event touches storage and is refused", err, "as node %d shows it: %s", n.number, text); err != nil {
		return err
	}
	text, err = n.await(ctx, demoClass+"/"+computing+": computed ")
	if err == nil && text != "499999500000" {
		err = fmt.Errorf("it computed %s", text)
	}
	return s.out.check(3, "an event that touches no storage runs to its end", err, "as node %d shows it: computed %s", n.number, text)
}

// withheld shows what the callers of the two events heard: not the answer.
func (s *story) withheld(ctx context.Context, store, compute *actor.Pending) error {
	var seen []string
	for i, p := range []*actor.Pending{store, compute} {
		name := [...]string{"Store", "Compute"}[i]
		var n int64
		err := p.Wait(ctx, &n)
		e, ok := errors.AsType[*actor.Error](err)
		switch {
		case err == nil:
			return s.out.check(3, "no answer of the old owner reaches a caller", fmt.Errorf("%s's caller was told %d", name, n), "")
		case !ok || e.Outcome != actor.MayHaveRun:
			return s.out.check(3, "no answer of the old owner reaches a caller", fmt.Errorf("%s's caller heard neither silence nor doubt: %w", name, err), "")
		}
		seen = append(seen, err.Error())
	}
	return s.out.check(3, "no answer of the old owner reaches a caller", nil, "both callers hear that it may have run, the second: %s", seen[1])
}

// through calls an object by way of one node alone; it was touched once before.
func (s *story) through(ctx context.Context, n *demoNode, key string) error {
	cl, err := dialServers(ctx, []string{n.addrs.listen}, client.Options{})
	if err != nil {
		return err
	}
	defer cl.Close()
	sum, err := actor.Call[int64](ctx, cl.Object(demoClass, key), "Touch", nil)
	if err == nil && sum != 2 {
		err = fmt.Errorf("%s/%s counts %d, want 2", demoClass, key, sum)
	}
	return err
}

// joined adds the fourth node.
func (s *story) joined(ctx context.Context) error {
	n := s.nodes.all[3]
	s.load.window()
	began := time.Now()
	err := s.nodes.start(n)
	owned := 0
	if err == nil {
		if err = s.whole(ctx, 4); err == nil {
			owned, err = s.share(ctx, n)
		}
	}
	if err == nil {
		err = s.noFailure()
	}
	_, longest, _ := s.load.window()
	return s.out.check(5, "a fourth node joins and takes its share; no call fails", err, "it owns %d of 64 shards after %v; longest wait of a caller %v", owned, ms(time.Since(began)), ms(longest))
}

func (s *story) noFailure() error {
	s.load.mu.Lock()
	defer s.load.mu.Unlock()
	if s.load.failed > 0 {
		return fmt.Errorf("%d calls failed, the last one: %w", s.load.failed, s.load.lastErr)
	}
	return nil
}

// share waits until a node owns at least half of what would be its equal share, or all that placement gives it, if that is less: it is even only by and large.
func (s *story) share(ctx context.Context, n *demoNode) (int, error) {
	for {
		st, err := s.status(ctx)
		if err != nil {
			return 0, err
		}
		owned := 0
		for _, m := range st.Nodes {
			if m.Addr == n.addrs.listen {
				owned = m.Owned
			}
		}
		placed, err := s.placed(ctx, n)
		if err == nil && owned > 0 && owned >= min(st.Shards/len(st.Nodes)/2, placed) {
			return owned, nil
		}
		if err := pauseFor(ctx, readyPause); err != nil {
			return owned, fmt.Errorf("node %d owns %d of %d shards; %s under way: %w", n.number, owned, st.Shards, plural(len(st.Moves), "move"), err)
		}
	}
}

// placed is for how many shards the members' placement prefers a node, 0 if it is no member.
func (s *story) placed(ctx context.Context, n *demoNode) (placed int, err error) {
	b, err := ask(ctx, s.cl, s.reachable(nil), "ring", nil)
	if err != nil {
		return 0, err
	}
	return node.Placed(b, n.addrs.listen)
}

func (s *story) status(ctx context.Context) (node.Status, error) {
	return statusFrom(ctx, s.cl, s.reachable(nil))
}

// left lets the second node go.
func (s *story) left(ctx context.Context) error {
	n := s.nodes.all[1]
	s.load.window()
	began := time.Now()
	body, err := node.NodeRequest(n.id)
	if err == nil {
		_, err = ask(ctx, s.cl, s.reachable(n), "leave", body)
	}
	if err == nil {
		select {
		case <-n.run.done:
			if code := n.run.cmd.ProcessState.ExitCode(); code != 0 {
				err = fmt.Errorf("its process ended with exit code %d: %s", code, n.run.lastLine())
			}
		case <-ctx.Done():
			err = fmt.Errorf("node %d has not left: %w", n.number, ctx.Err())
		}
	}
	if err == nil {
		err = s.gone(ctx, n)
	}
	if err == nil {
		err = s.noFailure()
	}
	_, longest, _ := s.load.window()
	return s.out.check(6, fmt.Sprintf("node %d leaves; no call fails", n.number), err, "gone after %v; longest wait of a caller %v", ms(time.Since(began)), ms(longest))
}

// gone waits until the cluster knows a node no more and serves every shard.
func (s *story) gone(ctx context.Context, n *demoNode) error {
	for {
		st, err := s.status(ctx)
		if err != nil {
			return err
		}
		there := false
		for _, m := range st.Nodes {
			there = there || m.ID == n.id
		}
		if !there && st.Unowned == 0 {
			return nil
		}
		if err := pauseFor(ctx, readyPause); err != nil {
			return fmt.Errorf("the cluster still knows node %d, or %d shards have no owner: %w", n.number, st.Unowned, err)
		}
	}
}
