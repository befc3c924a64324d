package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

func (a *app) leaveCommand() *cobra.Command {
	var f clientFlags
	c := &cobra.Command{
		Use:   "leave [NODE]",
		Short: "Let a node leave the cluster: its replicas move elsewhere, then it ends",
		Long: `Let a node leave the cluster: its replicas move elsewhere, then its process ends by itself.

NODE is an ID as status prints it. Without it the one node that --server names leaves. The command waits until the node is gone, at
most --timeout; the node goes on leaving after that.`,
		Args: between(0, 1),
	}
	f.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 && len(f.servers) != 1 {
			return usagef(c, "which node is to leave? Give its ID, or exactly one --server")
		}
		return a.change(c, &f, "leave", args, "leaves")
	}
	return c
}

func (a *app) removeCommand() *cobra.Command {
	var f clientFlags
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Give up a dead node at once: its replicas are made anew on others",
		Long: `Give up a dead node at once, without waiting for --replace-after: its replicas are made anew on others.

NODE is an ID as status prints it. A node that is alive is not removed, nor one without which some shard would have no majority. Should the
node come back it is refused; its data directory must be wiped.`,
		Args: exactly(1),
	}
	f.add(c)
	c.RunE = func(c *cobra.Command, args []string) error { return a.change(c, &f, "remove", args, "is removed") }
	return c
}

// change asks for a node to go and waits until it is gone.
func (a *app) change(c *cobra.Command, f *clientFlags, request string, args []string, doing string) error {
	ctx, cl, done, err := f.dial(c, client.Options{})
	if err != nil {
		return err
	}
	defer done()
	s, err := statusFrom(ctx, cl, f.servers)
	if err != nil {
		return err
	}
	id := ""
	if len(args) > 0 {
		id = args[0]
	}
	var others []string
	for _, n := range s.Nodes {
		if id == "" && n.Addr == f.servers[0] {
			id = n.ID
		}
	}
	for _, n := range s.Nodes {
		if n.ID != id && n.State != "dead" {
			others = append(others, n.Addr)
		}
	}
	if id == "" {
		return fmt.Errorf("--server %s is no node's address as the cluster knows it: give the node's ID, as status prints it", f.servers[0])
	}
	body, err := node.NodeRequest(id)
	if err != nil {
		return usagef(c, "%v", err)
	}
	if _, err := ask(ctx, cl, others, request, body); err != nil {
		return err
	}
	return a.awaitGone(ctx, cl, others, id, doing)
}

// awaitGone waits until the cluster knows a node no more, and says how far it is.
func (a *app) awaitGone(ctx context.Context, cl *client.Client, servers []string, id, doing string) error {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	last := -1
	for {
		s, err := statusFrom(ctx, cl, servers)
		if err == nil {
			there := false
			for _, n := range s.Nodes {
				there = there || n.ID == id
			}
			if !there {
				fmt.Fprintf(a.out, "node %s is gone; %d nodes are left, epoch %d\n", id, len(s.Nodes), s.Epoch)
				return nil
			}
			if len(s.Moves) != last {
				last = len(s.Moves)
				fmt.Fprintf(a.err, "node %s %s: %s under way\n", id, doing, plural(last, "move"))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s is not gone yet; it goes on: watch it with status", id)
		case <-t.C:
		}
	}
}

func statusFrom(ctx context.Context, cl *client.Client, servers []string) (node.Status, error) {
	b, err := ask(ctx, cl, servers, "status", nil)
	if err != nil {
		return node.Status{}, err
	}
	s, err := node.DecodeStatus(b)
	if err != nil {
		err = fmt.Errorf("the answer is not a status: %w", err)
	}
	return s, err
}
