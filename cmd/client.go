package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/transport/client"
)

// defaultServers are the --listen addresses of the nodes that `up` starts.
const defaultServers = "127.0.0.1:7420,127.0.0.1:7430,127.0.0.1:7440"

// dialTimeout bounds the search for a node that answers: a cluster that is not there should not cost the whole --timeout.
const dialTimeout = 5 * time.Second

// clientFlags are those of every command that talks to a cluster.
type clientFlags struct {
	servers []string
	timeout time.Duration
}

func (f *clientFlags) add(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.servers, "server", strings.Split(defaultServers, ","), "`--listen addresses` of nodes, any of which will do")
	c.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "how long the command may take")
}

// check refuses what could only fail later, or for ever.
func (f *clientFlags) check(c *cobra.Command) error {
	if f.timeout <= 0 {
		return usagef(c, "--timeout %v: want a time above 0, such as 10s", f.timeout)
	}
	if len(f.servers) == 0 {
		return usagef(c, "--server: want at least one HOST:PORT")
	}
	for i, s := range f.servers {
		s = strings.TrimSpace(s)
		host, port, err := net.SplitHostPort(s)
		if err != nil || host == "" || port == "" {
			return usagef(c, "--server %q: want HOST:PORT, such as 127.0.0.1:7420", s)
		}
		f.servers[i] = s
	}
	return nil
}

// dial connects to the cluster. The returned context ends with --timeout; done closes the client.
func (f *clientFlags) dial(c *cobra.Command, opts client.Options) (ctx context.Context, cl *client.Client, done func(), err error) {
	if err := f.check(c); err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), f.timeout)
	cl, err = dialServers(ctx, f.servers, opts)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, cl, func() { cl.Close(); cancel() }, nil
}

func dialServers(ctx context.Context, servers []string, opts client.Options) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	cl, err := client.Dial(ctx, servers, &opts)
	if err != nil {
		return nil, fmt.Errorf("no cluster reached; give --server the --listen address of a node that runs:\n%w", err)
	}
	return cl, nil
}

// ask asks the servers in the order in which they were given, so that what one node knows can be asked of that one.
func ask(ctx context.Context, cl *client.Client, servers []string, name string, body []byte) ([]byte, error) {
	var all []string
	for _, s := range servers {
		b, err := cl.Request(ctx, s, name, body)
		if err == nil {
			return b, nil
		}
		all = append(all, err.Error())
	}
	return nil, fmt.Errorf("no node answered:\n%s", strings.Join(all, "\n"))
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
