package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/transport/client"
)

func (a *app) verifyCommand() *cobra.Command {
	var f clientFlags
	var dirs []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the guarantee was kept: one owner at a time, and copies that agree",
		Long: `Check, from what each replica recorded, that the guarantee was kept: that no two owners' batches interleave, that each token had one
holder and no batch of it is missing, that epochs never went back, that all copies saw the same take effect, and that there was one ring for each epoch.

Without --data the running cluster is asked: it goes on meanwhile. With --data the directories of nodes that do not run are read, and not
changed; then what is left of the logs is decided once more, and the copies are compared key by key.

The exit code is 1 if something is wrong. What could not be checked is told, and is no error.`,
		Args: exactly(0),
	}
	f.add(c)
	c.Flags().StringSliceVar(&dirs, "data", nil, "data `directories` of nodes that do not run, of one cluster, instead of --server")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		v, err := a.verify(c, &f, dirs)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(a.out, v)
		} else {
			err = writeVerification(a.out, v)
		}
		if err == nil && !v.OK {
			err = fmt.Errorf("the guarantee was not kept: %d violations", len(v.Violations))
		}
		return err
	}
	return c
}

func (a *app) verify(c *cobra.Command, f *clientFlags, dirs []string) (*node.Verification, error) {
	said := progressTo(a.err)
	if c.Flags().Changed("data") {
		if c.Flags().Changed("server") {
			return nil, usagef(c, "--data and --server: want one of them")
		}
		for i, d := range dirs {
			if dirs[i] = strings.TrimSpace(d); dirs[i] == "" {
				return nil, usagef(c, "--data: want at least one directory, and none that is empty")
			}
		}
		if len(dirs) == 0 {
			return nil, usagef(c, "--data: want at least one directory")
		}
		ctx := c.Context()
		if c.Flags().Changed("timeout") { // reading a lot of data may take long, and nobody waits for an answer
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, f.timeout)
			defer cancel()
		}
		return node.VerifyData(ctx, dirs, slog.New(slog.DiscardHandler), said)
	}
	ctx, cl, done, err := f.dial(c, client.Options{})
	if err != nil {
		return nil, err
	}
	defer done()
	var all []string
	for _, s := range f.servers {
		v, err := node.VerifyCluster(ctx, cl, s, said)
		if err == nil {
			return v, nil
		}
		all = append(all, err.Error())
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.New("no node answered:\n" + strings.Join(all, "\n"))
}

// progressPause is how long nothing is said of a verification's progress.
const progressPause = 2 * time.Second

// progressTo says now and then how far a verification is.
func progressTo(w io.Writer) node.Progress {
	last := time.Now()
	return func(done, total int, what string) {
		if time.Since(last) < progressPause {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "verified %d of %d; now %s\n", done, total, what)
	}
}

func writeVerification(w io.Writer, v *node.Verification) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SHARD\tCOPIES\tTOKENS\tBATCHES\tREFUSED\tFROM\tSINCE\tEQUAL\tLAST\tKEYS\tRESULT")
	for _, g := range v.Groups {
		result := "kept"
		if g.Copies == 0 {
			result = "not checked"
		}
		if g.Violations > 0 {
			result = fmt.Sprintf("%d VIOLATIONS", g.Violations)
		}
		equal := "-"
		if g.EqualTo > 0 {
			equal = fmt.Sprintf("%d-%d", g.EqualFrom, g.EqualTo)
		}
		since := g.Since
		if since == "" {
			since = "-"
		}
		keys := "-" // not looked at
		if g.Keys > 0 {
			keys = fmt.Sprint(g.Keys)
		}
		fmt.Fprintf(t, "%s\t%d/%d\t%d\t%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\n", strings.TrimPrefix(g.Group, "shard-"), g.Copies, g.Expected, g.Tokens, g.Batches, g.Refused,
			g.From, since, equal, g.Last, keys, result)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\ncluster %s  rings of epochs %d to %d\n", v.Cluster, v.Rings.From, v.Rings.To)
	for _, n := range v.Nodes {
		fmt.Fprintf(w, "node %s  %s\n", n.ID, n.From)
	}
	list := func(what string, lines []string) {
		if len(lines) == 0 {
			return
		}
		fmt.Fprintf(w, "\n%s:\n", what)
		for _, l := range lines {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
	list("not checked", v.Unchecked)
	list("violations", v.Violations)
	if v.OK {
		_, err := fmt.Fprintln(w, "\nkept: in all that was checked, each shard had one owner at a time, and its copies agree")
		return err
	}
	return nil
}
