package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/actor"
)

// Exit codes.
const (
	exitError   = 1
	exitUsage   = 2
	exitUnknown = 3 // a call failed and may have run
)

// Main runs the command line with the given classes and ends the process. A class of the user's takes the place of a stock class of
// the same name that a command would bring.
func Main(classes ...actor.Class) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a := &app{name: filepath.Base(os.Args[0]), classes: withStock(classes), out: os.Stdout, err: os.Stderr}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// app is one run of the command line.
type app struct {
	name     string // of the binary, for usage lines
	classes  []actor.Class
	out, err io.Writer
	level    string
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(guardNumbers(args))
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.err, "ringfence: %s\n", oneLine(err.Error()))
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           a.name,
		Short:         "A self-hosted cluster of durable objects",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          needCommand,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&a.level, "log-level", "warn", "what to log on stderr: debug, info, warn or error")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usagef(c, "%v", err) })
	root.AddCommand(a.upCommand(), a.nodeCommand(), a.callCommand(), a.statusCommand(), a.whereCommand(), a.verifyCommand(), a.leaveCommand(), a.removeCommand(), a.benchCommand(), a.demoCommand(), a.genCommand(), a.versionCommand())
	return root
}

// needCommand is what a command does that only holds others.
func needCommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(c, "there is no command %q", args[0])
	}
	c.SetOut(c.ErrOrStderr())
	if err := c.Help(); err != nil {
		return err
	}
	return usagef(c, "a command is missing")
}

// usageError is the caller's mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(c *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...) + fmt.Sprintf(" (see %s --help)", c.CommandPath())}
}

// exactly and between are cobra's checks of the number of arguments, as usage errors that show the usage.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef(c, "%d arguments: want %s", len(args), c.UseLine())
		}
		return nil
	}
}

func exactly(n int) cobra.PositionalArgs { return between(n, n) }

func exitCode(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if e, ok := errors.AsType[*actor.Error](err); ok && e.Outcome != actor.DidNotRun && e.Outcome != actor.Ran {
		return exitUnknown
	}
	return exitError
}

// oneLine folds the lines of a longer error. One that ends in a colon announces those after it.
func oneLine(s string) string {
	var b strings.Builder
	for _, line := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || b.Len() == 0:
		case strings.HasSuffix(b.String(), ":"):
			b.WriteByte(' ')
		default:
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// guardNumbers keeps a negative JSON number from being read as a flag: no flag begins with a digit, and JSON may begin with a space.
func guardNumbers(args []string) []string {
	out := make([]string, len(args))
	for i, s := range args {
		if len(s) > 1 && s[0] == '-' && s[1] >= '0' && s[1] <= '9' {
			s = " " + s
		}
		out[i] = s
	}
	return out
}

func (a *app) logger(c *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.level)); err != nil {
		return nil, usagef(c, "--log-level %s: want debug, info, warn or error", a.level)
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})), nil
}
