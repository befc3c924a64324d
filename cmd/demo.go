package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// demoTime is how long the whole demonstration may take.
const demoTime = 44 * time.Second

func (a *app) demoCommand() *cobra.Command {
	var keep, asJSON bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show in half a minute what a cluster survives, on this machine",
		Long: `Show in half a minute what a cluster survives, on this machine: nodes are killed, cut off, added and taken away under load.

Every node is a process of this binary. Each claim is checked as it is printed; one that does not hold ends the demonstration with
exit code 1.`,
		Args: exactly(0),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per claim")
	c.Flags().BoolVar(&keep, "keep", false, "keep the nodes' directory and say where it is")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := a.logger(c); err != nil {
			return err
		}
		level := a.level
		if !c.Flags().Changed("log-level") {
			level = "error" // a node that is cut off rightly warns of what the story tells
		}
		nodes, err := newDemoNodes(level, a.err)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), demoTime)
		defer cancel()
		s := &story{nodes: nodes, out: &claims{w: a.out, json: asJSON, began: time.Now()}}
		err = s.tell(ctx)
		if c.Context().Err() != nil {
			err = errors.New("the demonstration was interrupted")
		}
		err = errors.Join(err, nodes.stop(keep))
		if keep {
			fmt.Fprintf(a.err, "the nodes' data is in %s\n", nodes.dir)
		}
		return demoFailed(err)
	}
	return c
}

// demoFailed keeps the words of an error only. A failed call inside may say that its outcome is not known; that of the demonstration is:
// it failed, with exit code 1.
func demoFailed(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// claims prints what was claimed and found.
type claims struct {
	w     io.Writer
	json  bool
	began time.Time
	held  int
}

// claim is one line.
type claim struct {
	Step  int     `json:"step"`
	Claim string  `json:"claim"`
	OK    bool    `json:"ok"`
	Seen  string  `json:"seen"`
	At    float64 `json:"at_seconds"` // since the beginning
}

// check prints a claim with what was seen, and returns an error if it does not hold.
func (c *claims) check(step int, text string, err error, format string, args ...any) error {
	line := claim{Step: step, Claim: text, OK: err == nil, Seen: fmt.Sprintf(format, args...), At: float64(time.Since(c.began).Milliseconds()) / 1000}
	word := "ok"
	if err != nil {
		word, line.Seen = "FAILED", oneLine(err.Error())
	} else {
		c.held++
	}
	var write error
	if c.json {
		e := json.NewEncoder(c.w)
		e.SetEscapeHTML(false)
		write = e.Encode(line)
	} else {
		_, write = fmt.Fprintf(c.w, "%5.1fs  %d  %-6s  %-59s  %s\n", line.At, step, word, text, line.Seen)
	}
	if err != nil {
		return fmt.Errorf("a claim failed: %s: %w", text, err)
	}
	return write
}
