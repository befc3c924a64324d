package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/cmd/gen"
)

func (a *app) genCommand() *cobra.Command {
	var o gen.Options
	c := &cobra.Command{
		Use:   "gen",
		Short: "Write typed stubs of the classes of a Go package",
		Long: `Write typed stubs of the classes of a Go package: for class Counter the type CounterRef, a reference that has the class's callable
methods, each also as StartNAME, which does not wait; and NewCounterRef, which makes one from a client or an object's state.

Without --type and --class it writes one file, such as counter_ref.go, for each class that a call of actor.Define in the package makes.
The names of files that changed are printed. The package need not compile yet, what it imports must. Meant for a line

    //go:generate go run github.com/ringfence/ringfence/cmd/ringfence gen

in the package, which ` + "`go generate`" + ` runs.`,
		Example: fmt.Sprintf("  %s gen\n  %s gen --package ./shop --type Cart,Stock --out shop/refs.go", a.name, a.name),
		Args:    exactly(0),
	}
	fl := c.Flags()
	fl.StringVar(&o.Dir, "package", ".", "the package's directory")
	fl.StringSliceVar(&o.Types, "type", nil, "Go types of the classes, as their constructors return them (default: of every class that the package defines)")
	fl.StringVar(&o.Class, "class", "", "only the class of this name; needed with --type if no actor.Define in the package names the class and its name is not the type's")
	fl.StringVar(&o.Out, "out", "", "one file for all stubs, in the package's directory (default: CLASS_ref.go for each, in lower case)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		changed, err := gen.Run(c.Context(), o)
		for _, name := range changed {
			if _, err := fmt.Fprintln(a.out, name); err != nil {
				return err
			}
		}
		return err
	}
	return c
}
