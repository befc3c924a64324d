package cmd

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

func (a *app) statusCommand() *cobra.Command {
	var f clientFlags
	var asJSON bool
	c := &cobra.Command{Use: "status", Short: "Show the cluster and its nodes, as the first server that answers sees them", Args: exactly(0)}
	f.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cl, done, err := f.dial(c, client.Options{})
		if err != nil {
			return err
		}
		defer done()
		s, err := statusFrom(ctx, cl, f.servers)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.out, s)
		}
		return writeStatus(a.out, &s)
	}
	return c
}

func writeStatus(w io.Writer, s *node.Status) error {
	fmt.Fprintf(w, "cluster %s  epoch %d  shards %d  replicas %d  tolerates %d\n", s.Cluster, s.Epoch, s.Shards, s.Replicas, s.Tolerates)
	if s.Unowned > 0 {
		fmt.Fprintf(w, "%d shards have no owner that answers\n", s.Unowned)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tADDR\tSTATE\tVERSION\tOWNED")
	for _, n := range s.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\n", n.ID, n.Addr, n.State, n.Version, n.Owned)
	}
	if len(s.Moves) > 0 {
		fmt.Fprintln(t, "\nMOVING\tSTEP\tNODE")
		for _, m := range s.Moves {
			fmt.Fprintf(t, "%s\t%s\t%s\n", m.Group, m.Step, m.Node)
		}
	}
	return t.Flush()
}

func (a *app) whereCommand() *cobra.Command {
	var f clientFlags
	var asJSON bool
	c := &cobra.Command{Use: "where CLASS/KEY", Short: "Show which node owns an object, and where its copies are", Args: exactly(1)}
	f.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := actor.ParseID(args[0])
		if err != nil {
			return usagef(c, "%v", err)
		}
		question, err := msgpack.Marshal(node.WhereRequest{Class: id.Class, Key: id.Key})
		if err != nil {
			return err
		}
		ctx, cl, done, err := f.dial(c, client.Options{})
		if err != nil {
			return err
		}
		defer done()
		b, err := ask(ctx, cl, f.servers, "where", question)
		if err != nil {
			return err
		}
		where, err := node.DecodeWhere(b)
		if err != nil {
			return fmt.Errorf("the answer does not say where an object is: %w", err)
		}
		if asJSON {
			return writeJSON(a.out, where)
		}
		return writeWhere(a.out, &where)
	}
	return c
}

func writeWhere(w io.Writer, where *node.Where) error {
	fmt.Fprintf(w, "%s  shard %d  epoch %d  token %d\n", where.Object, where.Shard, where.Epoch, where.Token)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROLE\tID\tADDR")
	if where.Owner.ID == "" {
		fmt.Fprintln(t, "owner\tnot known now\t")
	} else {
		fmt.Fprintf(t, "owner\t%s\t%s\n", where.Owner.ID, where.Owner.Addr)
	}
	for _, r := range where.Replicas {
		fmt.Fprintf(t, "replica\t%s\t%s\n", r.ID, r.Addr)
	}
	return t.Flush()
}
