package cmd

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport/client"
)

func (a *app) callCommand() *cobra.Command {
	var f clientFlags
	var key string
	c := &cobra.Command{
		Use:   "call CLASS/KEY METHOD [JSON]",
		Short: "Call a method of an object and print its result as JSON",
		Long: `Call a method of an object and print its result as JSON.

The argument is one JSON value; a method without an argument takes none. Strings need their double quotes, so
quote them for the shell: '"text"'. Exit code 3 means that the call failed and may have run.
With --idempotency-key it can simply be repeated: it takes effect once, and the answer of the first time comes back.`,
		Example: fmt.Sprintf("  %s call Counter/hello Increment 1\n  %s call Counter/hello Get --server 127.0.0.1:7430", a.name, a.name),
		Args:    between(2, 3),
	}
	f.add(c)
	c.Flags().StringVar(&key, "idempotency-key", "", "name of this call: if it is repeated with the same name and argument it takes effect once")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := actor.ParseID(args[0])
		if err != nil {
			return usagef(c, "%v", err)
		}
		var arg []byte
		if len(args) == 3 {
			if arg = []byte(args[2]); !json.Valid(arg) {
				return usagef(c, "the argument %.100s is not JSON; a string needs double quotes within the shell's: '%q'", arg, args[2])
			}
		}
		var opts []actor.CallOption
		if c.Flags().Changed("idempotency-key") {
			if err := actor.CheckIdempotencyKey(key); err != nil {
				return usagef(c, "--idempotency-key: %s", err.Message)
			}
			opts = append(opts, actor.Idempotent(key))
		}
		ctx, cl, done, err := f.dial(c, client.Options{Timeout: f.timeout})
		if err != nil {
			return err
		}
		defer done()
		result, err := cl.CallJSON(ctx, id.Class, id.Key, args[1], arg, opts...)
		if err != nil {
			return err
		}
		if len(result) == 0 {
			result = []byte("null")
		}
		_, err = fmt.Fprintf(a.out, "%s\n", result)
		return err
	}
	return c
}
